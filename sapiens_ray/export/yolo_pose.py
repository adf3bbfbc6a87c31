"""YOLO's format for pose: one line per person, with its box and its keypoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sapiens_ray.export.base import Export, Exported, Option, Options, one_of, score_of, value_of
from sapiens_ray.export.person_masks import POSE
from sapiens_ray.export.yolo import VAL, WITH_IMAGES, leave_out, write_dataset
from sapiens_ray.output.reading import labels_of
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.stored import StoredPersons
from sapiens_ray.units import Row

MIN_SCORE = Option("min_score", "keypoints with a lower score are written as 0 0 0; default 0.3", 0.3, score_of)
LABELLED = 2.0  # the visibility of a keypoint that is there; Sapiens does not tell hidden ones from visible ones


def export_yolo_pose(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write a folder that Ultralytics trains a pose model on (`yolo.py`), of one task with persons.

    Raises ConfigError for a wrong option, OutputError if there are no labels.
    """
    every = labels_of(source)
    labels = one_of(every, StoredPersons, value_of(options, POSE), POSE)
    left_out = leave_out(every, [labels], "the persons of one task")
    if labels is None:
        return Exported(left_out=left_out)
    least = value_of(options, MIN_SCORE)
    outside = 0

    def lines(row: Row) -> Iterator[list[float]]:
        nonlocal outside
        for person in labels.persons(row):
            line = person_line(person, row["width"], row["height"], least)
            outside += line is None
            if line is not None:
                yield line

    points = labels.keypoint_names
    about = {
        "kpt_shape": [len(points), 3],
        "flip_idx": labels.keypoint_swap,
        "names": {0: "person"},
        "kpt_names": {0: points},
    }
    done = write_dataset(source, target, [labels.column], lines, about, options)
    if outside:
        done.notes.append(f"{labels.column}: persons left out, whose box lies outside of the photo: {outside}")
    done.notes.append(f"{labels.column}: YOLO has no scores; keypoints below {least:g} are written as absent")
    return replace(done, left_out=left_out)


EXPORT = Export("a folder to train YOLO on keypoints", export_yolo_pose, (MIN_SCORE, WITH_IMAGES, VAL, POSE))


def person_line(person: Row, width: int, height: int, least: float) -> list[float] | None:
    """Class 0, centre and size of the box, then x, y and visibility of each keypoint; None if the box has no part in
    the photo. Positions are shares of the photo.

    The box is cut at the edges of the photo. Keypoints outside of it, or with a score below `least`, are 0, 0, 0.
    """
    size = np.array([width, height], np.float64)
    corners = np.clip(np.array(person["box"], np.float64).reshape(2, 2) / size, 0, 1)
    extent = corners[1] - corners[0]
    if (extent <= 0).any():
        return None
    points = np.array(list(person["keypoints"]), np.float64).reshape(-1, 2) / size
    there = (np.array(person["scores"]) >= least) & (points >= 0).all(1) & (points <= 1).all(1)
    triples = np.where(there[:, None], np.column_stack([points, np.full(len(points), LABELLED)]), 0)
    return [0.0, *corners.mean(0).tolist(), *extent.tolist(), *triples.reshape(-1).tolist()]
