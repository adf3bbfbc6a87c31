"""Outputs whose rows a test chooses, written as plain Parquet files, with or without columns of confidence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from sapiens_ray.imaging.images import encode_png
from sapiens_ray.imaging.maps import encode_npy
from sapiens_ray.job.config import Job
from sapiens_ray.output.schema import ERRORS_KEY, output_schema
from sapiens_ray.planning.plan import Plan, Shard, save_plan
from sapiens_ray.storage import Folder
from sapiens_ray.tasks import make_task
from sapiens_ray.units import UnitName
from tests.conftest import photo

Row = dict[str, Any]
TASKS = [
    {"task": "seg", "checkpoint": "/models/seg.pt2"},
    {"task": "depth", "checkpoint": "/models/depth.pt2"},
    {"task": "normal", "checkpoint": "/models/normal.pt2"},
    {"task": "pose", "keypoints": 17, "boxes": {"column": "boxes"}, "checkpoint": "/models/pose.pt2"},
]
LATER = ("seg_confidence", "seg_confidence_p05", "seg_class_confidence", "normal_length")  # than the first outputs
LATER_OF_PERSONS = ("score", "visible")


def schema(confidence: bool = True, tasks: Sequence[Row] = TASKS) -> pa.Schema:
    """The columns of a job with these tasks. confidence: as outputs have them that know confidence."""
    job = Job.parse({"input": {"uri": "/photos"}, "output": {"uri": "/labels"}, "tasks": list(tasks)})
    found = output_schema([make_task(options) for options in job.tasks], pa.schema([]), {})
    if confidence:
        return found
    person = found.field("persons").type.value_type
    before = pa.struct([one for one in person if one.name not in LATER_OF_PERSONS])
    fields = [pa.field("persons", pa.list_(before)) if one.name == "persons" else one for one in found]
    return pa.schema([one for one in fields if one.name not in LATER], metadata=found.metadata)


def write_rows(folder: Path, rows: Sequence[Row], files: int = 1, confidence: bool = True) -> Folder:
    """Write an output with one complete shard per file, with `plan.parquet` and `job.yaml`."""
    output = Folder(str(folder))
    (folder / "data").mkdir(parents=True)
    shards = []
    for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        placed = [{**rows[place], "shard": number, "index": index} for index, place in enumerate(part)]
        write_file(folder, UnitName(number, 0, len(placed), True), placed, confidence)
        shards.append(Shard(number, "images", "/photos", f"/photos#{number}", images=len(placed)))
    save_plan(Plan(shards, 64, pa.schema([])), output)
    job = Job.parse({"name": "made", "input": {"uri": "/photos"}, "output": {"uri": str(folder)}, "tasks": TASKS})
    models = [{"checkpoint": task["checkpoint"], "sha256": f"{place}" * 64} for place, task in enumerate(TASKS)]
    record = {"job": job.public_dict(), "fingerprint": "abc", "models": models, "versions": {"torch": "2.9"}}
    output.write("job.yaml", yaml.safe_dump(record).encode())
    return output


def write_file(folder: Path, unit: UnitName, rows: Sequence[Row], confidence: bool = True) -> None:
    """Write the file of a unit, in row groups of 16."""
    kinds = [row["error_kind"] for row in rows if row.get("error_kind")]
    found = schema(confidence)
    metadata = {**found.metadata, ERRORS_KEY: json.dumps({kind: kinds.count(kind) for kind in set(kinds)})}
    table = pa.Table.from_pylist(list(rows), found.with_metadata(metadata))
    pq.write_table(table, folder / "data" / unit.file, row_group_size=16)


def error_row(image_id: str, kind: str = "corrupt", message: str = "cannot be decoded") -> Row:
    return {"image_id": image_id, "uri": f"/photos/{image_id}", "error_kind": kind, "error": message}


def random_row(image_id: str, random: np.random.Generator) -> Row:
    """A row with labels but without maps; null confidence where there is no foreground."""
    classes = np.flatnonzero(random.random(28) < 0.3)
    area = random.dirichlet(np.ones(max(1, len(classes))))[: len(classes)]
    foreground = bool((classes > 0).any())
    row = {
        "image_id": image_id, "uri": f"/photos/{image_id}", "width": int(random.integers(50, 4000)),
        "height": int(random.integers(50, 4000)), "seg_classes": classes.tolist(), "seg_area": area.tolist(),
        "seg_confidence": random.random() if foreground else None,
        "seg_confidence_p05": random.random() if foreground else None,
        "seg_class_confidence": [random.random() if random.random() < 0.8 else None for _ in classes],
        "depth_min": random.random() if foreground else None, "normal_length": random.random() if foreground else None,
        "persons": [random_person(random) for _ in range(random.integers(0, 4))],
    }  # fmt: skip
    return {**row, "depth_max": None if row["depth_min"] is None else row["depth_min"] + random.random()}


def random_person(random: np.random.Generator) -> Row:
    x, y, width, height = random.uniform(1, 900, 4)
    scores = random.uniform(0, 1.1, 17)
    return {
        "box": [x, y, x + width, y + height], "box_score": random.random() if random.random() < 0.5 else None,
        "keypoints": random.uniform(0, 900, (17, 2)).tolist(), "scores": scores.tolist(), "score": random.random(),
        "visible": int((scores >= 0.3).sum()),
    }  # fmt: skip


def labelled_photo(folder: Path, name: str, seed: int) -> Row:
    """A photo on the disk, and its row with maps: class 3 on the left half, class 21 on the right."""
    width, height = 120, 160
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", photo(width, height, seed))[1].tobytes())
    row = random_row(name, np.random.default_rng(seed))
    classes = np.full((height, width), 3, np.uint8)
    classes[:, width // 2 :] = 21
    depth = np.tile(np.linspace(0, 1, 48, dtype=np.float16), (64, 1))
    normal = np.zeros((64, 48, 3), np.float16)
    normal[..., 2] = 1
    points = plane(width, height, 48, 64)
    alpha = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (64, 1))
    person = {**random_person(np.random.default_rng(seed)), "box": [10, 10, 110, 150]}
    person["keypoints"] = np.random.default_rng(seed).uniform(10, 110, (17, 2)).tolist()
    person["scores"] = [0.9] * 17
    return {
        **row, "uri": str(path), "width": width, "height": height, "seg": encode_png(classes), "seg_classes": [3, 21],
        "seg_area": [0.5, 0.5], "seg_class_confidence": [0.5, 0.75], "seg_confidence": 0.6, "seg_confidence_p05": 0.3,
        "depth": encode_npy(depth), "depth_min": 0.0, "depth_max": 1.0, "normal": encode_npy(normal),
        "normal_length": 0.8, "persons": [person], "pointmap": encode_npy(points), "pointmap_depth_m": 2.5,
        "pointmap_min_m": 2.0, "pointmap_max_m": 3.0, "pointmap_focal_px": 150.0, "pointmap_scale": 0.7,
        "matting": encode_png(alpha), "matting_share": 0.5,
    }  # fmt: skip


def plane(width: int, height: int, columns: int, rows: int, focal: float = 150) -> np.ndarray:
    """What a camera with this focal length, in pixels of a width x height photo, sees of a plane that is 2 m away at
    the left and 3 m at the right: rows x columns x 3 float32 points in metres."""
    down, across = np.mgrid[:rows, :columns] + 0.5
    z = 2 + across / columns
    x, y = (across / columns - 0.5) * width * z / focal, (down / rows - 0.5) * height * z / focal
    return np.dstack([x, y, z]).astype(np.float32)
