"""Files that describe classes and keypoints: what stands in one takes the place of its name in the job.

So the settings of an output, its metadata and its `job.yaml` say what the labels are, whatever becomes of the file.
"""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from sapiens_ray import storage
from sapiens_ray.errors import ConfigError
from sapiens_ray.job.messages import explain_yaml
from sapiens_ray.job.raw import MAX_BYTES, RawJob, Yaml, read_yaml
from sapiens_ray.storage import StorageOptions
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.tasks import TASKS

Files = dict[tuple[int, str], str]  # number of a task and field -> the file, for messages


def with_label_files(raw: RawJob, source: str) -> tuple[RawJob, Files]:
    """The job with the content of its label files, and where that came from. source: the job file, for messages.

    Raises ConfigError if a file cannot be read, or is not YAML. What it says is checked with the rest of the job.
    """
    tasks = raw.get("tasks")
    if not isinstance(tasks, list):
        return raw, {}
    files: Files = {}
    options = _storage_options(raw)
    read = []
    for number, task in enumerate(tasks):
        found = dict(task) if isinstance(task, dict) else task
        for field in _fields(task):
            if isinstance(task.get(field), str):
                where = f"{source}: tasks[{number}].{field}"
                found[field] = _content(task[field], where, options)
                files[number, field] = redact_uri(task[field])
        read.append(found)
    return {**raw, "tasks": read}, files


def named(files: Files, loc: Sequence[int | str]) -> str:
    """The file to which a place in a job belongs, for the end of a message; empty if it is the job file itself."""
    file = files.get((loc[1], str(loc[3]))) if len(loc) > 3 and isinstance(loc[1], int) else None
    return f" (in {file})" if file else ""


def _fields(task: Yaml) -> Sequence[str]:
    kind = TASKS.get(task["task"]) if isinstance(task, dict) and isinstance(task.get("task"), str) else None
    return kind.options.label_files if kind else ()


def _storage_options(raw: RawJob) -> StorageOptions:
    given = raw.get("input")
    options = given.get("storage_options") if isinstance(given, dict) else None
    return options if isinstance(options, dict) else {}


def _content(uri: str, where: str, options: StorageOptions) -> Yaml:
    name = redact_uri(uri)
    if not uri:
        raise ConfigError(f"{where}: is empty; name a file, or write a mapping")
    options = options if storage.is_remote(uri) else {}
    try:
        with storage.translate_errors(ConfigError, f"{where}: cannot read {name}"):
            size, _ = storage.stamp(uri, options)
            data = storage.read_bytes(uri, options) if size <= MAX_BYTES else b""
    except ConfigError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise ConfigError(f"{where}: {name} does not exist; give the path (relative to the job file) or URL of a "
                              "YAML file") from None  # fmt: skip
        if isinstance(error.__cause__, IsADirectoryError):
            raise ConfigError(f"{where}: {name} is a folder; name a YAML file") from None
        raise
    if size > MAX_BYTES:
        raise ConfigError(f"{where}: {name} has {size} bytes; a file of names has at most {MAX_BYTES}")
    try:
        content = read_yaml(data)
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: {name} is not YAML: it holds no text in UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: {name}: {explain_yaml(error, data)}") from None
    if not isinstance(content, dict | list):
        raise ConfigError(f"{where}: {name} holds neither a list of names nor a mapping with `names`")
    return content
