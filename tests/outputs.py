"""Outputs for tests that read them: a plan and files of labels, without a model or a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from sapiens_ray.output.lock import _this_process
from sapiens_ray.output.schema import READ_FIELDS, output_schema
from sapiens_ray.output.writing import write_unit
from sapiens_ray.planning.plan import Plan, Shard, save_plan
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.seg import SegResult
from sapiens_ray.units import Unit, UnitReport

Image = tuple[str, str | None, str | None]  # image_id, error_kind, error


def certain(class_map: np.ndarray) -> SegResult:
    """What is kept of logits that leave no doubt."""
    return SegResult(class_map, class_map, np.ones(class_map.shape, np.float32))


def write_unit_of(
    output: Folder, images: Sequence[Image], shard: int = 0, start: int = 0, last: bool = True
) -> UnitReport:
    """Write the file of a unit without labels."""
    columns = {
        "index": list(range(start, start + len(images))),
        "image_id": [image_id for image_id, _, _ in images],
        "uri": [f"/photos/{image_id}" for image_id, _, _ in images],
        "error_kind": [kind for _, kind, _ in images],
        "error": [error for _, _, error in images],
    }
    rows = pa.table({field.name: pa.array(columns[field.name], field.type) for field in READ_FIELDS})
    return write_unit(Unit(shard, start, last, rows), [], output_schema([], pa.schema([]), {}), output)


def write_output(folder: Path, *shards: Sequence[Image]) -> Folder:
    """An output with one complete file per shard."""
    output = Folder(str(folder))
    plan = [
        Shard(number, "images", "/photos", f"/photos#{number}", images=len(one)) for number, one in enumerate(shards)
    ]
    save_plan(Plan(plan, 64, pa.schema([])), output)
    for number, one in enumerate(shards):
        write_unit_of(output, one, shard=number)
    return output


def write_lock(output: Folder, **changes: object) -> None:
    """Write a lock as a run leaves it that was killed; by default that of this process."""
    found = {"run": "another", "beat": 7, **_this_process(), "since": "2026-01-31T12:00:00Z",
             "at": "2026-01-31T12:34:56Z", **changes}  # fmt: skip
    Path(output.uri).mkdir(exist_ok=True)
    (Path(output.uri) / "lock.json").write_text(json.dumps(found))
