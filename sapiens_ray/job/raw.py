"""The job file before validation: environment variables, relative paths, and `--set` overrides."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from sapiens_ray.errors import ConfigError
from sapiens_ray.job.messages import explain_yaml
from sapiens_ray.models.catalogue import is_name
from sapiens_ray.tasks.repositories import is_folder

Yaml = Any  # a value in a YAML file
RawJob = dict[str, Yaml]

ENV_PATTERN = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
# Fields that hold a path or URI: relative ones are relative to the YAML.
PATH_FIELDS = (
    ("input", "uri"),
    ("output", "uri"),
    ("tasks", "checkpoint"),
    ("tasks", "mask", "folder"),
    ("tasks", "boxes", "detector"),
    ("tasks", "boxes", "detector", "model"),
    ("tasks", "boxes", "detector", "checkpoint"),
    ("tasks", "boxes", "coco"),
    ("tasks", "boxes", "coco", "file"),
    ("tasks", "boxes", "coco", "detections"),
    ("tasks", "boxes", "coco", "images"),
    ("cache",),
)
# Of these, only what looks like a path is one; other values are names.
NAME_FIELDS = ("detector", "model")


MAX_BYTES = 1 << 20
MAX_NODES = 100_000


class _Loader(yaml.SafeLoader):
    """Loads YAML. Refuses tags that build objects, and duplicate keys, of which PyYAML would use the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Yaml, Yaml]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is there twice", key.start_mark)
            seen.add(key.value if isinstance(key.value, str) else id(key))
        return super().construct_mapping(node, deep)


def read_yaml(data: bytes) -> Yaml:
    """The values in a job file. Raises yaml.YAMLError, also for a file that is too large, as text or after its
    anchors are expanded."""
    if len(data) > MAX_BYTES:
        raise yaml.YAMLError(f"it has {len(data)} bytes; the limit is {MAX_BYTES}")
    try:
        value = yaml.load(data.decode("utf-8"), _Loader)  # a SafeLoader
        _count(value, [MAX_NODES])
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except UnicodeDecodeError:
        raise
    except (TypeError, ValueError) as error:  # impossible dates, numbers of 5,000 digits, lists as keys
        raise yaml.YAMLError(str(error)) from None
    return value


def _count(value: Yaml, left: list[int]) -> None:
    left[0] -= 1
    if left[0] < 0:
        raise yaml.YAMLError(f"it has more than {MAX_NODES} values after its anchors are expanded")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _count(item, left)


def expand_environment(value: Yaml, source: str, where: str = "") -> Yaml:
    """Replace ${NAME} and ${NAME:-default} in every string."""
    if isinstance(value, dict):
        return {key: expand_environment(item, source, f"{where}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list):
        return [expand_environment(item, source, f"{where}[{i}]") for i, item in enumerate(value)]
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


def absolute(uri: Yaml, base: Path, field: str) -> Yaml:
    """The value of a field that holds a path, relative to a folder; URLs, names of checkpoints and what is no text
    stay."""
    if not isinstance(uri, str) or not uri or "://" in uri or (field == "checkpoint" and is_name(uri)):
        return uri
    if field in NAME_FIELDS and not is_folder(uri):
        return uri
    expanded = os.path.expanduser(uri)
    return os.path.normpath(expanded if os.path.isabs(expanded) else base / expanded) + (
        os.sep if uri.endswith("/") else ""
    )


def resolve_paths(raw: RawJob, base: Path) -> RawJob:
    """Make the path fields absolute; leave values of a wrong type for validation to refuse."""
    for fields in PATH_FIELDS:
        raw = _with_absolute(raw, fields, base)
    return raw


def _with_absolute(value: Yaml, fields: tuple[str, ...], base: Path, field: str = "") -> Yaml:
    if isinstance(value, list):
        return [_with_absolute(item, fields, base, field) for item in value]
    if not fields:
        return absolute(value, base, field)
    if isinstance(value, dict) and fields[0] in value:
        return {**value, fields[0]: _with_absolute(value[fields[0]], fields[1:], base, fields[0])}
    return value


def apply_override(raw: RawJob, override: str) -> None:
    """Apply one `--set a.b.0.c=value`; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write it as key=value, such as output.uri=/data/labels")
    try:
        value = expand_environment(read_yaml(text.encode()), "--set", key)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is {explain_yaml(error, text.encode())}") from None
    parts = re.sub(r"\[(\d+)\]", r".\1", key).split(".")  # messages write tasks[0].mode
    if any(parts[0] == fields[0] and parts[-1] == fields[-1] for fields in PATH_FIELDS):
        base = Path.cwd()
        one = parts[-1]
        value = _with_absolute(value, (), base, one)
    here: Yaml = raw
    for part in parts[:-1]:
        if isinstance(here, list):
            if not part.isdigit() or int(part) >= len(here):
                raise _no_entry(key, part, here)
            here = here[int(part)]
        elif isinstance(here, dict):
            if here.get(part) is None:
                here[part] = {}
            here = here[part]
        else:
            raise ConfigError(f"--set {key}: {part!r} is below a plain value, not in a mapping or list")
    last = parts[-1]
    if isinstance(here, list):
        if not last.isdigit() or int(last) >= len(here):
            raise _no_entry(key, last, here)
        here[int(last)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise ConfigError(f"--set {key}: {last!r} is below a plain value, not in a mapping or list")


def _no_entry(key: str, part: str, entries: list[Yaml]) -> ConfigError:
    known = ", ".join(map(str, range(len(entries)))) if len(entries) < 4 else f"0 to {len(entries) - 1}"
    have = f"its entries are {known}" if len(entries) != 1 else "its only entry is 0"
    return ConfigError(f"--set {key}: there is no entry {part}; " + (have if entries else "the list is empty"))
