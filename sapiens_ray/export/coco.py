"""COCO JSON: keypoints of persons, run-length encoded masks of classes. One file per task, written as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import IO

import cv2
import numpy as np

from sapiens_ray.export.base import Export, Exported, Option, Options, labelled, place_of, score_of, value_of
from sapiens_ray.export.json_text import json_text
from sapiens_ray.export.person_masks import SEG, PersonMasks, person_masks
from sapiens_ray.imaging.images import histogram
from sapiens_ray.output.reading import labels_of
from sapiens_ray.storage import Folder
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.tasks.stored import StoredClassMap, StoredPersons
from sapiens_ray.units import Row

MIN_SCORE = Option(
    "min_score",
    "keypoints with a lower score are marked as not labelled (visibility 0); default 0.3",
    0.3,  # Sapiens-Lite draws keypoints with at least this score
    score_of,
)


PLACE = ["shard", "index"]


class Numbers:
    """The ids of images: the labelled rows that an output has at one time, counted from 1. Rows that a run writes later
    have none, and are left out, so that all lists of all files have the same images."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._places = np.unique(np.fromiter((_packed(row) for row in rows), np.int64))

    def numbered(self, rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
        """The rows that have an id, with it. rows: with `shard` and `index`."""
        for row in rows:
            number = int(np.searchsorted(self._places, _packed(row)))
            if number < len(self._places) and self._places[number] == _packed(row):
                yield number + 1, row


def _packed(row: Row) -> int:
    """Shard and index, of 32 bits each, as one number in their order."""
    shard, index = place_of(row)
    return shard << 32 | index


def export_coco(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write `<column>.json` for every task with persons or class maps. `images` lists every image that has labels.

    All keypoints of the Parquet file are written; visibility is 2 for scores of at least `min_score` and 0 below, and
    `keypoint_scores` holds the scores. Class maps give one annotation per class and image, without background;
    category ids are class ids. Where the output has class maps, persons have `segmentation` and `area` of their part
    of the foreground (`tasks/instances.py`). Raises OutputError if there are no labels.
    """
    least = value_of(options, MIN_SCORE)
    left_out: dict[str, str] = {}
    done = Exported(left_out=left_out)
    numbers: Numbers | None = None
    every = labels_of(source)
    for labels in every:
        if not isinstance(labels, StoredPersons | StoredClassMap):
            left_out[labels.column] = f"COCO has no {labels.kind}"
            continue
        if numbers is None:
            numbers = Numbers(labelled(source, PLACE, done))
        if isinstance(labels, StoredPersons):
            masks = person_masks(every, labels, value_of(options, SEG))
            rows = numbers.numbered(labelled(source, [*PLACE, *(masks.columns if masks else labels.columns)]))
            categories, annotations = _person(labels), _persons(rows, labels, least, masks, done)
        else:
            rows = numbers.numbered(labelled(source, [*PLACE, labels.column]))
            categories, annotations = _classes(labels), _masks(rows, labels)
        with target.replacing(f"{labels.column}.json") as path, path.open("w", encoding="utf-8") as file:
            file.write('{"info": ' + json.dumps({"description": f"{labels.column} of {redact_uri(source.uri)}"}))
            file.write(', "categories": ' + json.dumps(categories))
            write_list(file, "images", _images(numbers.numbered(labelled(source, PLACE))))
            write_list(file, "annotations", annotations)
            file.write("}\n")
    return done


EXPORT = Export("COCO JSON of keypoints and class masks", export_coco, (MIN_SCORE, SEG))


def _images(rows: Iterable[tuple[int, Row]]) -> Iterator[Row]:
    for number, row in rows:
        yield {"id": number, "file_name": row["image_id"], "width": row["width"], "height": row["height"]}


def _person(labels: StoredPersons) -> list[Row]:
    skeleton = [[start + 1, end + 1] for start, end in labels.keypoint_links]  # COCO counts from 1
    return [{"id": 1, "name": "person", "supercategory": "person", "keypoints": labels.keypoint_names,
             "skeleton": skeleton}]  # fmt: skip


def _classes(labels: StoredClassMap) -> list[Row]:
    names = enumerate(labels.class_names)
    return [{"id": number, "name": name} for number, name in names if number != labels.background]


def _persons(
    rows: Iterable[tuple[int, Row]], labels: StoredPersons, least: float, masks: PersonMasks | None, done: Exported
) -> Iterator[Row]:
    found = without = 0
    for number, row in rows:
        instances = masks.instances(row) if masks else None
        for place, person in enumerate(labels.persons(row), 1):
            found += 1
            x1, y1, x2, y2 = person["box"]
            seen = [2 if score >= least else 0 for score in person["scores"]]
            points = [[*point, visible] for point, visible in zip(person["keypoints"], seen, strict=True)]
            annotation = {
                "id": found,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "num_keypoints": sum(map(bool, seen)),
                "keypoints": [value for point in points for value in point],
                "keypoint_scores": person["scores"],
            }
            if person["box_score"] is not None:
                annotation["score"] = person["box_score"]
            if instances is not None:
                mask = instances == place
                without += not mask.any()
                annotation |= _segmentation(mask) if mask.any() else {}
            yield annotation
    if without and masks:
        done.notes.append(
            f"{labels.column}: {without} of {found} persons have no pixel of the foreground of {masks.classes.column}; "
            "their area is that of the box"
        )


def _masks(rows: Iterable[tuple[int, Row]], labels: StoredClassMap) -> Iterator[Row]:
    found = 0
    for number, row in rows:
        class_map = labels.class_map(row)
        for present in np.flatnonzero(histogram(class_map)).tolist():
            if present == labels.background:
                continue
            found += 1
            mask = class_map == present
            x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
            bbox = [float(x), float(y), float(width), float(height)]
            yield {"id": found, "image_id": number, "category_id": present, "iscrowd": 0, "bbox": bbox,
                   **_segmentation(mask)}  # fmt: skip


def _segmentation(mask: np.ndarray) -> Row:
    """`segmentation`, as compressed run lengths, and `area` in pixels. mask: H x W bool."""
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(mask).view(np.uint8))
    return {
        "area": int(coco_mask.area(encoded)),
        "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")},
    }


def write_list(file: IO[str], name: str, items: Iterable[Row]) -> None:
    """Write a list, one item per line, without keeping it in memory. Numbers that JSON does not have are null."""
    file.write(f', "{name}": [')
    for number, item in enumerate(items):
        file.write((",\n" if number else "\n") + json_text(item))
    file.write("]")
