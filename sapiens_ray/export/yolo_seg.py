"""YOLO's format for instance segmentation: one line per object, with its outline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sapiens_ray.export.base import Export, Exported, Option, Options, one_of, value_of
from sapiens_ray.export.person_masks import POSE, SEG, person_masks
from sapiens_ray.export.polygons import joined, outlines
from sapiens_ray.export.yolo import VAL, WITH_IMAGES, LinesOf, leave_out, write_dataset
from sapiens_ray.imaging.images import histogram
from sapiens_ray.output.reading import labels_of
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.stored import StoredClassMap, StoredPersons
from sapiens_ray.units import Row


def _pixels(text: str) -> int:
    pixels = int(text)
    if pixels < 1:
        raise ValueError("should be at least 1")
    return pixels


MIN_PIXELS = Option(
    "min_pixels", "connected parts with fewer pixels are left out, and such holes filled; default 32", 32, _pixels
)
PERSONS = Option("persons", "an object is a whole person, not a connected part of a class", False, flag=True)


def export_yolo_seg(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write a folder that Ultralytics trains a segmentation model on (`yolo.py`), of one task with class maps.

    An object is a connected part of a class. With `persons` it is a person: parts that something else divides are
    joined by lines without area, and so are holes with the outline around them. Raises ConfigError for a wrong option,
    OutputError if there are no labels.
    """
    every = labels_of(source)
    pose = one_of(every, StoredPersons, value_of(options, POSE), POSE) if value_of(options, PERSONS) else None
    masks = person_masks(every, pose, value_of(options, SEG)) if pose else None
    classes = masks.classes if masks else one_of(every, StoredClassMap, value_of(options, SEG), SEG)
    lost = Counter[str]()
    least = value_of(options, MIN_PIXELS)
    if value_of(options, PERSONS):
        if masks is None:
            return Exported(left_out=dict.fromkeys((one.column for one in every), "persons take a pose and a seg task"))
        left_out = leave_out(every, [classes, pose], "the persons of one task")
        columns, names = masks.columns, ["person"]

        def person_lines(row: Row) -> Iterator[list[float]]:
            instances = masks.instances(row)
            for number in range(1, len(masks.persons.persons(row)) + 1):
                polygons = _outlines(instances == number, least, lost)
                if polygons:
                    yield _line(0, joined(polygons), row)

        lines: LinesOf = person_lines
    else:
        left_out = leave_out(every, [classes], "the classes of one task")
        if classes is None:
            return Exported(left_out=left_out)
        columns = [classes.column]
        ids = [number for number in range(len(classes.class_names)) if number != classes.background]
        names = [classes.class_names[number] for number in ids]

        def class_lines(row: Row) -> Iterator[list[float]]:
            class_map = classes.class_map(row)
            counts = histogram(class_map)
            for number, class_id in enumerate(ids):
                if counts[class_id]:
                    for polygon in _outlines(class_map == class_id, least, lost):
                        yield _line(number, polygon, row)

        lines = class_lines
    done = write_dataset(source, target, columns, lines, {"names": dict(enumerate(names))}, options)
    assert classes is not None
    if lost.total():
        filled, dropped = lost["filled"], lost["dropped"]
        small = f"of fewer than {least} pixels: holes that were filled: {filled}; parts that were left out: {dropped}"
        done.notes.append(f"{classes.column}: {small}")
    return replace(done, left_out=left_out)


EXPORT = Export(
    "a folder to train YOLO on outlines of classes or persons",
    export_yolo_seg,
    (PERSONS, MIN_PIXELS, WITH_IMAGES, VAL, SEG, POSE),
)


def _outlines(mask: np.ndarray, least: int, lost: Counter[str]) -> list[np.ndarray]:
    found = outlines(mask, least)
    lost.update(filled=found.filled, dropped=found.dropped)
    return found.polygons


def _line(number: int, polygon: np.ndarray, row: Row) -> list[float]:
    """The class, and x, y of each point of an outline as shares of the photo."""
    shares = polygon / (row["width"], row["height"])
    return [number, *np.clip(shares, 0, 1).reshape(-1).tolist()]
