"""`job.yaml` in an output folder: which job made the labels, with which models and versions."""

from __future__ import annotations

import contextlib
from typing import Any

import yaml

from sapiens_ray.errors import OutputError
from sapiens_ray.output.layout import JOB_FILE
from sapiens_ray.storage import Folder
from sapiens_ray.storage.uris import absolute

Record = dict[str, Any]


def read_record(output: Folder) -> Record | None:
    """What `save_job` wrote, or None if there is no such file. Raises OutputError for a file of something else."""
    if not output.exists(JOB_FILE):
        return None
    try:
        record = yaml.safe_load(output.read(JOB_FILE))
    except (yaml.YAMLError, UnicodeDecodeError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("job"), dict):
        raise foreign(output)
    return record


def input_uris(output: Folder) -> list[str]:
    """The input of the job that made an output, by names that do not depend on links; empty if nothing tells it."""
    with contextlib.suppress(OutputError, OSError, KeyError, TypeError):
        record = read_record(output)
        return [absolute(uri) for uri in record["job"]["input"]["uri"]] if record else []
    return []


def foreign(output: Folder) -> OutputError:
    """The error for a `job.yaml` that this project did not write."""
    return OutputError(f"output.uri: {output.join(JOB_FILE)} was not written by sapiens-ray")
