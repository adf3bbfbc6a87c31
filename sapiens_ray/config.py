"""The job file: one YAML, one pydantic model, unknown keys refused.

Imports neither ray nor torch, so that a bad file is refused in a fraction of a second.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from sapiens_ray.errors import ConfigError
from sapiens_ray.tasks.options import Section
from sapiens_ray.tasks.seg import SegOptions

ENV_PATTERN = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
# Fields that hold a path or URI: relative ones are relative to the YAML.
PATH_FIELDS = (("input", "uri"), ("output", "uri"), ("tasks", "checkpoint"))


class Input(Section):
    """Which images to label."""

    uri: list[str] = Field(
        description="Folder (searched recursively), image, *.tar / *.tar.gz, *.parquet, or a .txt / .csv / "
        ".jsonl list; globs and {000..099} ranges are expanded; one or several; local or any fsspec URL "
        "such as s3://bucket/photos. Relative paths are relative to the YAML."
    )
    format: Literal["auto", "images", "webdataset", "parquet", "list"] = Field(
        "auto", description="How to read `uri`; auto goes by the suffix."
    )
    include: list[str] = Field(
        [],
        description="Only files (or tar members) whose relative path matches one of these patterns, "
        "such as '*.jpg' or 'train/*'. Empty: every suffix that OpenCV reads.",
    )
    image_column: str | None = Field(
        None,
        description="Parquet: column of image bytes or struct<bytes,path>; csv and jsonl: column of "
        "paths. Default: 'image', or the only column that can be meant.",
    )
    id_column: str | None = Field(
        None, description="Parquet and lists: column whose value becomes `image_id`. Default: the path."
    )
    columns: list[str] = Field([], description="Parquet and lists: columns to carry over into the output.")
    shard_size: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="Folders and lists: images a shard, which is one output file. Fixed by the first run of an output.",
    )
    storage_options: dict[str, Any] = Field(
        {}, repr=False, description="Passed to fsspec, e.g. {endpoint_url: '${S3_ENDPOINT}'}. Never written or logged."
    )

    @field_validator("uri", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("uri")
    @classmethod
    def _not_empty(cls, value: list[str]) -> list[str]:
        if not value or any(not uri for uri in value):
            raise ValueError("name at least one folder, file or glob")
        return value


class Visualize(Section):
    """The pictures `[photo | overlay]` beside the Parquet files."""

    fraction: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the images that get a picture, chosen by "
        "a hash of image_id: the same ones in every run. 0 for none.",
    )
    max_side: int = Field(1280, ge=16, le=16384, description="Longest side of each panel in pixels.")
    format: Literal["jpg", "png"] = Field("jpg", description="File type of the pictures.")
    quality: int = Field(90, ge=1, le=100, description="JPEG quality.")
    opacity: float = Field(0.5, ge=0, le=1, description="Weight of the label colours over the photo.")


class Output(Section):
    """Where the labels go."""

    uri: str = Field(min_length=1, description="Folder, local or any fsspec URL. Relative to the YAML.")
    visualize: Visualize = Field(Visualize(), description="The pictures.")
    storage_options: dict[str, Any] = Field({}, repr=False, description="Passed to fsspec. Never written or logged.")


TaskOptions = Annotated[SegOptions, Field(description="What to predict, and with which checkpoint.")]


class Job(Section):
    """One labelling job. `sapiens-ray schema` prints this as a JSON schema for editors."""

    name: str = Field("", description="For people; the default is the name of the YAML file.")
    input: Input
    output: Output
    tasks: list[TaskOptions] = Field(min_length=1, description="What to predict.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the models run; auto: on GPUs if the cluster has any, else on CPUs."
    )
    unit_size: int = Field(
        64,
        ge=1,
        le=4096,
        description="Images that travel, are written, and are redone together; a multiple "
        "of the batch size keeps batches full. Fixed by the first run of an output.",
    )
    max_pixels: int = Field(
        134_217_728, ge=1, description="Images with more pixels than this become error rows, undecoded."
    )
    max_error_fraction: float = Field(
        1.0,
        ge=0,
        le=1,
        description="The job ends with exit code 1 if more than this share of its rows are "
        "errors. Everything written is kept.",
    )

    @model_validator(mode="after")
    def _column_names(self) -> Job:
        names = [task.column for task in self.tasks]
        doubled = {name for name in names if names.count(name) > 1}
        if doubled:
            raise ValueError(f"tasks: two tasks would write column {doubled.pop()!r}; tell them apart by `name:`")
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str], overrides: list[str] | tuple[str, ...] = ()) -> Job:
        """Read a YAML job file, expand `${ENV}`, apply `key.sub=value` overrides and validate.

        Relative paths in the file are relative to the file, those in overrides to the current folder.
        Raises ConfigError with one line for each thing that is wrong.
        """
        file = Path(path)
        try:
            raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{file}: no such job file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: cannot be read: {error}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(raw, dict):
            raise ConfigError(f"{file}: a job file is a mapping with `input`, `output` and `tasks`")
        raw = _resolve_paths(_expand(raw, str(file)), file.resolve().parent)
        for override in overrides:
            _apply_override(raw, override)
        if not raw.get("name"):
            raw["name"] = file.stem
        return cls.parse(raw, source=str(file))

    @classmethod
    def parse(cls, raw: dict[str, Any], source: str = "job") -> Job:
        """Validate a plain dict; relative paths are relative to the current folder."""
        try:
            return cls.model_validate(_resolve_paths(raw, Path.cwd()))
        except ValidationError as error:
            lines = [f"{source}: {_explain(item)}" for item in error.errors()]
            raise ConfigError("\n".join(lines)) from None

    def public_dict(self) -> dict[str, Any]:
        """The resolved job without storage options, which may hold credentials."""
        dump = self.model_dump(mode="json")
        dump["input"].pop("storage_options")
        dump["output"].pop("storage_options")
        dump["input"]["uri"] = [_without_secrets(uri) for uri in dump["input"]["uri"]]
        return dump

    def result_settings(self, model_hashes: list[str]) -> dict[str, Any]:
        """What decides the content of the rows; two runs may share an output only if this is equal.

        The input may grow and pictures may change; neither is in here, nor is how fast the job runs.
        """
        tasks = [
            {**task.result_settings(), "sha256": digest} for task, digest in zip(self.tasks, model_hashes, strict=True)
        ]
        reading = {name: getattr(self.input, name) for name in ("include", "image_column", "id_column", "columns")}
        return {"tasks": tasks, "max_pixels": self.max_pixels, "input": reading}


def _without_secrets(uri: str) -> str:
    """A URL without user, password and query, where signatures stand."""
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return uri
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def fingerprint(settings: dict[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of `Job.result_settings`."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def difference(old: Any, new: Any, path: str = "") -> list[str]:
    """Readable lines for every leaf in which two nested settings differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [line for key in keys for line in difference(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for i, (a, b) in pairs for line in difference(a, b, f"{path}[{i}]")]
    return [] if old == new else [f"{path}: was {old!r}, now {new!r}"]


def _expand(value: Any, source: str, where: str = "") -> Any:
    """Replace ${NAME} and ${NAME:-default} in every string."""
    if isinstance(value, dict):
        return {key: _expand(item, source, f"{where}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, source, f"{where}[{i}]") for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        if name in os.environ:
            return os.environ[name]
        if default is not None:
            return default
        raise ConfigError(
            f"{source}: {where}: environment variable {name} is not set; export it, or write ${{{name}:-default}}"
        )

    return ENV_PATTERN.sub(replace, value)


def _absolute(uri: Any, base: Path) -> Any:
    if not isinstance(uri, str) or not uri or "://" in uri:
        return uri
    expanded = os.path.expanduser(uri)
    return os.path.normpath(expanded if os.path.isabs(expanded) else base / expanded) + (
        os.sep if uri.endswith("/") else ""
    )


def _resolve_paths(raw: dict[str, Any], base: Path) -> dict[str, Any]:
    """Make the path fields absolute; leaves anything oddly shaped for validation to refuse."""
    resolved = dict(raw)
    for section, field in PATH_FIELDS:
        value = resolved.get(section)
        if isinstance(value, dict) and field in value:
            item = value[field]
            new = [_absolute(uri, base) for uri in item] if isinstance(item, list) else _absolute(item, base)
            resolved[section] = {**value, field: new}
        elif isinstance(value, list):
            resolved[section] = [
                {**item, field: _absolute(item[field], base)} if isinstance(item, dict) and field in item else item
                for item in value
            ]
    return resolved


def _apply_override(raw: dict[str, Any], override: str) -> None:
    """Apply one `--set a.b.0.c=value`; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write it as key=value, such as output.uri=/data/labels")
    try:
        value = _expand(yaml.safe_load(text), "--set", key)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML: {' '.join(str(error).split())}") from None
    parts = key.split(".")
    if any(parts[0] == section and parts[-1] == field for section, field in PATH_FIELDS):
        base = Path.cwd()
        value = [_absolute(uri, base) for uri in value] if isinstance(value, list) else _absolute(value, base)
    here: Any = raw
    for part in parts[:-1]:
        if isinstance(here, list):
            if not part.isdigit() or int(part) >= len(here):
                raise ConfigError(f"--set {key}: {part!r} is not one of the {len(here)} entries, numbered from 0")
            here = here[int(part)]
        elif isinstance(here, dict):
            if here.get(part) is None:
                here[part] = {}
            here = here[part]
        else:
            raise ConfigError(f"--set {key}: {part!r} lies inside a plain value")
    last = parts[-1]
    if isinstance(here, list):
        if not last.isdigit() or int(last) >= len(here):
            raise ConfigError(f"--set {key}: {last!r} is not one of the {len(here)} entries, numbered from 0")
        here[int(last)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise ConfigError(f"--set {key}: {last!r} lies inside a plain value")


def _explain(item: Any) -> str:
    """One line for one pydantic error: the field, what is wrong, and the mend."""
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"]).lstrip(".")
    if item["type"] == "extra_forbidden":
        known = _known_keys(item["loc"][:-1])
        close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if item["type"] == "missing":
        return f"{where}: is missing"
    plain = {
        "model_type": "should be a mapping of `key: value` lines",
        "dict_type": "should be a mapping of `key: value` lines",
        "list_type": "should be a list, each entry on a line that begins with `- `",
        "string_pattern_mismatch": f"does not have the right form, {item.get('ctx', {}).get('pattern')}",
    }
    message = plain.get(item["type"]) or item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    got = item.get("input")
    secret = "storage_options" in item["loc"]
    shown = f" (got {got!r})" if (not secret and isinstance(got, str | int | float | bool)) or got is None else ""
    return f"{where}: {message}{shown}" if where else message


def _known_keys(loc: tuple[Any, ...]) -> list[str]:
    sections: dict[str, type[BaseModel]] = {"input": Input, "output": Output, "tasks": SegOptions}
    if not loc:
        return list(Job.model_fields)
    if loc[-1] == "visualize":
        return list(Visualize.model_fields)
    return list(sections.get(str(loc[0]), Job).model_fields)
