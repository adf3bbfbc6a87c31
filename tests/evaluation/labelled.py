"""Outputs with labels that a test chooses, written with the schema and the writer of real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import yaml
from pydantic import TypeAdapter

from sapiens_ray.job.config import Job
from sapiens_ray.output.schema import output_schema
from sapiens_ray.output.writing import write_unit
from sapiens_ray.storage import Folder
from sapiens_ray.tasks import make_task
from sapiens_ray.units import Unit

TaskOptions = TypeAdapter(Job.model_fields["tasks"].annotation)
Labels = Mapping[str, Any]


def write_labels(
    folder: Path, tasks: Sequence[Labels], rows: Sequence[Labels], checkpoint: str = "model.pt2", unit_size: int = 64
) -> Folder:
    """An output with these rows. tasks: their options. A row without image_id, width or height gets some; its error
    kind is `corrupt` if it is named. `job.yaml` holds the options, as a run writes it."""
    output = Folder(str(folder))
    options = TaskOptions.validate_python([{"checkpoint": checkpoint, **one} for one in tasks])
    made = [make_task(one) for one in options]
    schema = output_schema(made, pa.schema([]), {})
    whole = [{"width": 8, "height": 6, "uri": "", "error_kind": None, **row} for row in rows]
    for start in range(0, len(whole), unit_size):
        part = whole[start : start + unit_size]
        columns = {
            field.name: pa.array([row.get(field.name) for row in part], field.type)
            for field in schema
            if field.name not in ("shard", "index")
        }
        columns["index"] = pa.array(range(start, start + len(part)), pa.int32())
        last = start + unit_size >= len(whole)
        write_unit(Unit(0, start, last, pa.table(columns)), [], schema, output)
    record = {"job": {"tasks": [one.model_dump(mode="json") for one in options]}}
    (folder / "job.yaml").write_text(yaml.safe_dump(record))
    return output


def png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


def person(keypoints: np.ndarray, scores: object = 0.9, box_score: float | None = None) -> dict[str, Any]:
    """A person of a row. keypoints: K x 2. The box is their extent."""
    points = np.asarray(keypoints, float)
    return {
        "box": [*points.min(0), *points.max(0)],
        "box_score": box_score,
        "keypoints": points.tolist(),
        "scores": np.broadcast_to(scores, len(points)).tolist(),
    }
