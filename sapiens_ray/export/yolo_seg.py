"""YOLO's format for instance segmentation: one line per object, with its outline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sapiens_ray.export.base import Export, Exported, Option, Options, one_of, value_of
from sapiens_ray.export.person_masks import POSE, SEG, person_masks
from sapiens_ray.export.polygons import joined, outlines
from sapiens_ray.export.yolo import VAL, WITH_IMAGES, LinesOf, leave_out, write_dataset
from sapiens_ray.imaging.images import histogram
from sapiens_ray.output.reading import labels_of
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.stored import StoredClassMap, StoredLabels, StoredPersons
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


@dataclass(frozen=True)
class Objects:
    """What the lines of label files show. taken: the tasks that are read. names: of the classes in YOLO. one: what the
    others are left out for."""

    taken: list[StoredLabels]
    columns: list[str]
    names: list[str]
    lines_of: LinesOf
    one: str


def export_yolo_seg(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write a folder that Ultralytics trains a segmentation model on (`yolo.py`), of one task with class maps.

    An object is a connected part of a class. With `persons` it is a person: parts that something else divides are
    joined by lines without area, and so are holes with the outline around them. Raises ConfigError for a wrong option,
    OutputError if there are no labels.
    """
    every = labels_of(source)
    least, lost = value_of(options, MIN_PIXELS), Counter[str]()
    whole = value_of(options, PERSONS)
    objects = (_persons if whole else _classes)(every, options, least, lost)
    if objects is None:
        why = "persons take a pose and a seg task" if whole else "it has no class map"
        return Exported(left_out=dict.fromkeys((one.column for one in every), why))
    done = write_dataset(
        source, target, objects.columns, objects.lines_of, {"names": dict(enumerate(objects.names))}, options
    )
    if lost.total():
        filled, dropped = lost["filled"], lost["dropped"]
        lost_parts = f"holes that were filled: {filled}; parts that were left out: {dropped}"
        done.notes.append(f"{objects.taken[0].column}: of fewer than {least} pixels or without area: {lost_parts}")
    return replace(done, left_out=leave_out(every, objects.taken, objects.one))


EXPORT = Export(
    "a folder to train YOLO on outlines of classes or persons",
    export_yolo_seg,
    (PERSONS, MIN_PIXELS, WITH_IMAGES, VAL, SEG, POSE),
)


def _classes(every: Sequence[StoredLabels], options: Options | None, least: int, lost: Counter[str]) -> Objects | None:
    """The connected parts of classes; YOLO's class 0 is the first one that is not the background."""
    classes = one_of(every, StoredClassMap, value_of(options, SEG), SEG)
    if classes is None:
        return None
    ids = [number for number in range(len(classes.class_names)) if number != classes.background]

    def lines_of(row: Row) -> Iterator[list[float]]:
        class_map = classes.class_map(row)
        counts = histogram(class_map)
        for number, class_id in enumerate(ids):
            if counts[class_id]:
                for polygon in _outlines(class_map == class_id, least, lost):
                    yield _line(number, polygon, row)

    names = [classes.class_names[number] for number in ids]
    return Objects([classes], [classes.column], names, lines_of, "the classes of one task")


def _persons(every: Sequence[StoredLabels], options: Options | None, least: int, lost: Counter[str]) -> Objects | None:
    """Whole persons, with a line for each that has pixels."""
    persons = one_of(every, StoredPersons, value_of(options, POSE), POSE)
    masks = person_masks(every, persons, value_of(options, SEG)) if persons else None
    if masks is None:
        return None

    def lines_of(row: Row) -> Iterator[list[float]]:
        instances = masks.instances(row)
        for number in range(1, len(masks.persons.persons(row)) + 1):
            polygons = _outlines(instances == number, least, lost)
            if polygons:
                yield _line(0, joined(polygons), row)

    return Objects([masks.classes, masks.persons], masks.columns, ["person"], lines_of, "the persons of one task")


def _outlines(mask: np.ndarray, least: int, lost: Counter[str]) -> list[np.ndarray]:
    found = outlines(mask, least)
    lost.update(filled=found.filled, dropped=found.dropped)
    return found.polygons


def _line(number: int, polygon: np.ndarray, row: Row) -> list[float]:
    """The class, and x, y of each point of an outline as shares of the photo."""
    shares = polygon / (row["width"], row["height"])
    return [number, *np.clip(shares, 0, 1).reshape(-1).tolist()]
