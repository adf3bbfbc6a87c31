"""Outputs of made-up groups: class maps with two classes of body parts, and persons with skeletons of 17 keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sapiens_ray.labels import body_parts, keypoints
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.instances import areas, split
from sapiens_ray.tasks.stored import instances_column
from tests.evaluation.labelled import png, write_labels

WIDTH, HEIGHT = 200, 160
FACE, TORSO = (body_parts().names.index(name) for name in ("Face_Neck", "Torso"))
SEG = {"task": "seg"}
POSE = {"task": "pose", "keypoints": 17}
Row = dict[str, Any]


def paint(class_map: np.ndarray, x: int) -> Row:
    """Paint a person of 40 x 120 pixels, and give it: its face is a disc, its body a rectangle with a hole."""
    cv2.rectangle(class_map, (x, 50), (x + 39, 139), TORSO, -1)
    cv2.rectangle(class_map, (x + 18, 100), (x + 21, 139), 0, -1)  # between the legs
    cv2.circle(class_map, (x + 20, 35), 14, FACE, -1)
    class_map[70:74, x + 18 : x + 22] = 0
    points = np.full((17, 2), -50.0)
    seen = np.array([[20, 35], [8, 55], [31, 55], [9, 95], [30, 95], [9, 135], [30, 135]])
    points[[0, 5, 6, 11, 12, 13, 14]] = seen + np.array([x, 0])
    scores = np.where(points[:, 0] > -50, 0.875, 0.125)
    return {
        "box": [x - 2.0, 18.0, x + 42.0, 142.0], "box_score": 0.75, "keypoints": points.tolist(),
        "scores": scores.tolist(), "score": 0.625, "visible": 7,
    }  # fmt: skip


def row(image_id: str, places: Sequence[int], stored: bool = False) -> Row:
    """A row with a person at each place. stored: with the columns of `instances: seg`."""
    class_map = np.zeros((HEIGHT, WIDTH), np.uint8)
    persons = [paint(class_map, x) for x in places]
    made = {
        "image_id": image_id, "width": WIDTH, "height": HEIGHT, "uri": f"/photos/{image_id}", "seg": png(class_map),
        "seg_classes": np.unique(class_map).tolist(), "persons": persons,
    }  # fmt: skip
    if stored:
        found = instance_map(made)
        for person, pixels in zip(persons, areas(found, len(persons)), strict=True):
            person["seg_area"] = pixels
        made[instances_column("persons")] = png(found)
    return made


def class_map_of(made: Row) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(made["seg"], np.uint8), cv2.IMREAD_UNCHANGED)


def instance_map(made: Row) -> np.ndarray:
    return split(class_map_of(made) > 0, made["persons"], keypoints(17).links)


def write_group(folder: Path, rows: Sequence[Row], stored: bool = False) -> Folder:
    """An output with seg and pose. stored: begun with `instances: seg`."""
    pose = {**POSE, "instances": {"seg": "seg"}} if stored else POSE
    return write_labels(folder, [SEG, pose], rows)


def broken(image_id: str) -> Row:
    return {"image_id": image_id, "error_kind": "corrupt", "width": None, "height": None}
