"""The job file: one YAML, one pydantic model, unknown keys refused.

Imports neither ray nor torch, so that a bad file is refused in a fraction of a second.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from sapiens_ray.errors import ConfigError
from sapiens_ray.raw_job import apply_override, expand_environment, read_yaml, resolve_paths
from sapiens_ray.tasks.depth import DepthOptions
from sapiens_ray.tasks.features import FeaturesOptions
from sapiens_ray.tasks.foreground import Mask
from sapiens_ray.tasks.normal import NormalOptions
from sapiens_ray.tasks.options import PoolOptions, Section
from sapiens_ray.tasks.persons import DetectorOptions
from sapiens_ray.tasks.pose import PoseOptions
from sapiens_ray.tasks.seg import SegOptions


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
    """The pictures beside the Parquet files."""

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
    opacity: float = Field(0.5, ge=0, le=1, description="Weight of the class colours over the photo.")
    keypoint_score: float = Field(0.3, description="Keypoints with a lower score are not drawn.")


class Output(Section):
    """Where the labels go."""

    uri: str = Field(min_length=1, description="Folder, local or any fsspec URL. Relative to the YAML.")
    visualize: Visualize = Field(Visualize(), description="The pictures.")
    storage_options: dict[str, Any] = Field({}, repr=False, description="Passed to fsspec. Never written or logged.")


TaskOptions = Annotated[
    SegOptions | DepthOptions | NormalOptions | PoseOptions | FeaturesOptions,
    Field(discriminator="task", description="What to predict, and with which checkpoint."),
]
_TASKS: dict[str, type[BaseModel]] = {
    "seg": SegOptions, "depth": DepthOptions, "normal": NormalOptions, "pose": PoseOptions, "features": FeaturesOptions,
}  # fmt: skip


class Job(Section):
    """One labelling job. `sapiens-ray schema` prints this as a JSON schema for editors."""

    name: str = Field("", description="For people; the default is the name of the YAML file.")
    input: Input
    output: Output
    tasks: list[TaskOptions] = Field(min_length=1, description="What to predict.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the models run; auto: on GPUs if the cluster has any, else on CPUs."
    )
    cache: str | None = Field(
        None,
        min_length=1,
        description="Folder, local or any fsspec URL, where compiled code (`compile:`) is kept for other nodes and "
        "later jobs; opened with the storage_options of the output. Default: each node keeps its own. Code in it is "
        "run: trust whoever may write there.",
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
    image_timeout_s: float = Field(
        600,
        gt=0,
        description="Seconds that one image may take in one stage (a batch: as many times that). Then its worker is "
        "ended, and an image that is found to be the cause becomes an error row.",
    )
    storage_retry_s: float = Field(
        120,
        ge=0,
        description="Seconds for which a request to a remote storage is repeated when it fails in a way that may pass.",
    )
    max_error_fraction: float = Field(
        1.0,
        ge=0,
        le=1,
        description="The job ends with exit code 1 if more than this share of its rows are "
        "errors. Everything written is kept.",
    )

    @field_validator("tasks")
    @classmethod
    def _find_seg(cls, tasks: list[TaskOptions]) -> list[TaskOptions]:
        """Settle which seg task gives foreground and boxes."""
        segs = [task.column for task in tasks if isinstance(task, SegOptions)]
        settled: list[TaskOptions] = []
        for number, task in enumerate(tasks):
            if isinstance(task, DepthOptions | NormalOptions):
                mask = task.mask
                if mask.source == "auto":
                    mask = mask.model_copy(update={"source": "seg", "seg": segs[0]} if segs else {"source": "none"})
                elif mask.source == "seg":
                    mask = mask.model_copy(update={"seg": _seg_named(mask.seg, segs, f"[{number}].mask")})
                task = task.model_copy(update={"mask": mask})
            elif isinstance(task, PoseOptions) and task.boxes.source == "seg":
                seg = _seg_named(task.boxes.seg, segs, f"[{number}].boxes")
                task = task.model_copy(update={"boxes": task.boxes.model_copy(update={"seg": seg})})
            settled.append(task)
        return settled

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
            raw = read_yaml(file.read_bytes())
        except FileNotFoundError:
            raise ConfigError(f"{file}: no such job file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: cannot be read: {error}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(raw, dict):
            raise ConfigError(f"{file}: a job file is a mapping with `input`, `output` and `tasks`")
        raw = resolve_paths(expand_environment(raw, str(file)), file.resolve().parent)
        for override in overrides:
            apply_override(raw, override)
        if not raw.get("name"):
            raw["name"] = file.stem
        return cls.parse(raw, source=str(file))

    @classmethod
    def parse(cls, raw: dict[str, Any], source: str = "job") -> Job:
        """Validate a plain dict; relative paths are relative to the current folder."""
        try:
            return cls.model_validate(resolve_paths(raw, Path.cwd()))
        except ValidationError as error:
            lines = [f"{source}: {_explain(item)}" for item in error.errors()]
            raise ConfigError("\n".join(lines)) from None

    @property
    def detectors(self) -> list[DetectorOptions]:
        """The distinct person detectors of the tasks: two tasks with the same one share what it finds."""
        found = [task.boxes.detector for task in self.tasks if isinstance(task, PoseOptions)]
        return list({detector.carried: detector for detector in found if detector is not None}.values())

    @property
    def models(self) -> list[PoolOptions]:
        """Everything that holds a model in actors: the tasks, then the detectors."""
        return [*self.tasks, *self.detectors]

    @property
    def box_columns(self) -> list[str]:
        """Input columns that tasks take boxes from."""
        columns = [task.boxes.column for task in self.tasks if isinstance(task, PoseOptions)]
        return list(dict.fromkeys(column for column in columns if column))

    @property
    def masks(self) -> list[Mask]:
        """The distinct masks that the user brings."""
        masks = [task.mask for task in self.tasks if isinstance(task, DepthOptions | NormalOptions)]
        return list({mask.carried: mask for mask in masks if mask.carried}.values())

    @property
    def label_columns(self) -> list[str]:
        """Input columns that tasks read boxes or masks from, beside the passthrough columns."""
        return list(dict.fromkeys([*self.box_columns, *(mask.column for mask in self.masks if mask.column)]))

    def public_dict(self) -> dict[str, Any]:
        """The resolved job without storage options, which may hold credentials."""
        dump = self.model_dump(mode="json")
        dump["input"].pop("storage_options")
        dump["output"].pop("storage_options")
        dump["input"]["uri"] = [without_secrets(uri) for uri in dump["input"]["uri"]]
        dump["tasks"] = without_secrets(dump["tasks"])
        dump["cache"] = without_secrets(dump["cache"])
        return dump

    def result_settings(self, model_hashes: list[str]) -> dict[str, Any]:
        """What decides the content of the rows; two runs may share an output only if this is equal.

        model_hashes: SHA-256 of each of `models`. The input may grow and pictures may change; neither is in here,
        nor is how fast the job runs.
        """
        detectors = [detector.carried for detector in self.detectors]
        of_detector = dict(zip(detectors, model_hashes[len(self.tasks) :], strict=True))
        tasks = []
        for task, digest in zip(self.tasks, model_hashes, strict=False):
            settings = {**task.result_settings(), "sha256": digest}
            if isinstance(task, PoseOptions) and task.boxes.detector:
                settings["detector_sha256"] = of_detector[task.boxes.detector.carried]
            tasks.append(settings)
        reading = {name: getattr(self.input, name) for name in ("include", "image_column", "id_column", "columns")}
        return {"tasks": without_secrets(tasks), "max_pixels": self.max_pixels, "input": reading}


def without_secrets(value: Any) -> Any:
    """URLs without user, password and query, where signatures stand, also inside of lists and mappings."""
    if isinstance(value, dict):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return _without_secrets(value) if isinstance(value, str) else value


def _without_secrets(uri: str) -> str:
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


def _explain(item: Any) -> str:
    """One line for one pydantic error: the field, what is wrong, and the mend."""
    loc = tuple(part for number, part in enumerate(item["loc"]) if not (number == 2 and item["loc"][0] == "tasks"))
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    if item["type"] == "extra_forbidden":
        known = _known_keys(item["loc"][:-1])
        close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if item["type"] == "missing":
        return f"{where}: is missing"
    if item["type"] == "union_tag_not_found":
        given = item.get("input")
        return f"{where}.task: is missing" if isinstance(given, dict) else f"{where}: should be a mapping with `task`"
    if item["type"] == "union_tag_invalid":
        tag = item["ctx"]["tag"]
        close = difflib.get_close_matches(tag, list(_TASKS), n=1)
        return f"{where}.task: {tag!r} is none of {', '.join(_TASKS)}" + (
            f"; did you mean {close[0]!r}?" if close else ""
        )
    plain = {
        "model_type": "should be a mapping of `key: value` lines",
        "model_attributes_type": "should be a mapping of `key: value` lines",
        "dict_type": "should be a mapping of `key: value` lines",
        "list_type": "should be a list, each entry on a line that begins with `- `",
        "string_pattern_mismatch": f"does not have the right form, {item.get('ctx', {}).get('pattern')}",
    }
    message = plain.get(item["type"]) or item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if message.startswith("["):  # a validator of the whole list named the entry
        return f"{where}{message}"
    got = item.get("input")
    secret = "storage_options" in item["loc"]
    shown = f" (got {got!r})" if (not secret and isinstance(got, str | int | float | bool)) or got is None else ""
    return f"{where}: {message}{shown}" if where else message


def _seg_named(name: str | None, segs: list[str], where: str) -> str:
    """The column of the seg task that is meant. Raises ValueError if there is none."""
    if name is None and segs:
        return segs[0]
    if name in segs:
        return str(name)
    there = f"they are {', '.join(segs)}" if segs else "add one to `tasks`"
    raise ValueError(f"{where}: the job has no seg task{f' named {name!r}' if name else ''}; {there}")


def _known_keys(loc: tuple[Any, ...]) -> list[str]:
    """The keys of the section at a place in the job."""
    section: type[BaseModel] = Job
    for part in loc:
        if part in _TASKS and section is Job:
            section = _TASKS[part]
        elif isinstance(part, str) and part != "tasks":
            annotation = section.model_fields[part].annotation
            kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
            section = next(kind for kind in kinds if issubclass(kind, BaseModel))
    hidden = {"source"}  # follows from the others
    return [key for key in section.model_fields if key not in hidden]
