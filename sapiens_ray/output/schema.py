"""The columns of the output: those of every row and those that tasks add; and the metadata of the files."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import pyarrow as pa

from sapiens_ray.errors import ConfigError
from sapiens_ray.tasks import AnyTask, StoredLabels, stored, stored_labels
from sapiens_ray.tasks.network import LITE
from sapiens_ray.tasks.sections import Settings

TaskTable = dict[str, stored.About]  # column of a task -> its description in the metadata of the files

HEAD = [
    pa.field("image_id", pa.string()),
    pa.field("shard", pa.int32()),
    pa.field("index", pa.int32()),
    pa.field("uri", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("error_kind", pa.string()),
    pa.field("error", pa.string()),
    pa.field("visualization", pa.string()),
]
# The fields of HEAD that a unit has from the first stage on.
READ_FIELDS = [field for field in HEAD if field.name in ("index", "image_id", "uri", "error_kind", "error")]
ERRORS_KEY = b"sapiens_ray.errors"
JOB_KEY = b"sapiens_ray.job"


def output_schema(
    tasks: Sequence[AnyTask], extra: pa.Schema, job: Settings, begun: pa.Schema | None = None
) -> pa.Schema:
    """The Arrow schema of every file under `data/`: head, tasks, passthrough columns, and metadata.

    `job` (fingerprint, models, versions) is stored as JSON under `sapiens_ray.job`, with each task's class
    names. begun: the schema of the files that the output holds. An earlier version may have written them, whose tasks
    had fewer columns; they stay as they were begun, since shards of some files with a column and some without could not
    be merged. Raises ConfigError if two columns would have the same name.
    """
    labels = [_fields(task, extra, begun) for task in tasks]
    _refuse_same_names(labels, extra)
    fields = [*HEAD, *itertools.chain(*labels), *extra]
    about = {**job, "tasks": about_tasks(tasks)}
    return pa.schema(fields, metadata={JOB_KEY: json.dumps(about)})


def _fields(task: AnyTask, extra: pa.Schema, begun: pa.Schema | None) -> list[pa.Field]:
    """The columns of a task; in an output that was begun, those that it has, of the types that it has."""
    if begun is None:
        return task.fields
    there = set(begun.names) - set(extra.names)  # an input column may have the name of one that came later
    return [begun.field(field.name) for field in task.fields if field.name in there]


def _refuse_same_names(labels: Sequence[Sequence[pa.Field]], extra: pa.Schema) -> None:
    """Raise ConfigError, with the field of the job file, if two columns would have the same name."""
    owners = dict.fromkeys((*(field.name for field in HEAD), "key"), "every row has it")
    passed = [field for field in extra if field.name != "key"]
    given = [("input.columns", passed), *((f"tasks[{number}].name", fields) for number, fields in enumerate(labels))]
    for setting, fields in given:
        for field in fields:
            if field.name in owners:
                raise ConfigError(
                    f"{setting}: {field.name!r} is already a column of the output ({owners[field.name]}); choose "
                    "another name"
                )
            owners[field.name] = f"from {setting}"


def about_tasks(tasks: Sequence[AnyTask]) -> TaskTable:
    """Column of each task to its kind (under `task`) and the other metadata that readers of the column need."""
    return {task.column: {"task": task.options.task, **_recipe(task), **task.metadata} for task in tasks}


def _recipe(task: AnyTask) -> stored.About:
    """The recipe of the checkpoint, where it is not that of Sapiens-Lite."""
    name = task.options.recipe.name
    return {} if name == LITE else {"recipe": name}


def labels_in(schema: pa.Schema) -> list[StoredLabels]:
    """The stored labels of every task, from the schema of a file."""
    about: TaskTable = json.loads((schema.metadata or {}).get(JOB_KEY, b"{}")).get("tasks", {})
    return [stored_labels(column, one) for column, one in about.items()]


def with_errors(schema: pa.Schema, kinds: dict[str, int]) -> pa.Schema:
    """The schema with the count of error rows by kind, so that they can be counted without reading the rows."""
    return schema.with_metadata({**schema.metadata, ERRORS_KEY: json.dumps(kinds)})


def read_errors(metadata: dict[bytes, bytes] | None) -> dict[str, int]:
    """Error rows by kind, from the metadata of a file."""
    return dict(json.loads((metadata or {}).get(ERRORS_KEY, b"{}")))
