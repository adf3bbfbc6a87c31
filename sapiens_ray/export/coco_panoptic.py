"""COCO's panoptic format: every pixel has one segment, as the colour of a PNG; a JSON file says what the segments are.

Format: https://cocodataset.org/#format-data, section 4. The id of a segment is R + 256 G + 65536 B of its pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import cv2
import numpy as np

from sapiens_ray.export.base import Export, Exported, Option, Options, labelled, one_of, value_of
from sapiens_ray.export.coco import PLACE, Numbers, write_list
from sapiens_ray.export.filenames import RowNames
from sapiens_ray.export.person_masks import POSE, SEG, PersonMasks, person_masks
from sapiens_ray.imaging.images import encode_png
from sapiens_ray.output.reading import labels_of
from sapiens_ray.storage import Folder
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.tasks.stored import StoredClassMap, StoredPersons
from sapiens_ray.units import Row

PERSONS = Option("persons", "a segment is a whole person, not a class", False, flag=True)


def export_coco_panoptic(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write `panoptic_<column>.json` and a folder of PNGs of the same name, for one task with class maps.

    If the output has persons, too, a segment is one class of one person (`isthing` 1), or a whole person with
    `persons`. Foreground of nobody is a segment with `iscrowd` 1. Else a segment is a class (`isthing` 0). The
    background has id 0, which COCO does not score. Raises ConfigError for a wrong option, OutputError if there are no
    labels.
    """
    done = Exported()
    every = labels_of(source)
    pose = one_of(every, StoredPersons, value_of(options, POSE), POSE)
    masks = person_masks(every, pose, value_of(options, SEG)) if pose else None
    classes = masks.classes if masks else one_of(every, StoredClassMap, value_of(options, SEG), SEG)
    whole = bool(value_of(options, PERSONS))
    for labels in every:
        if labels not in (classes, pose):
            one = isinstance(labels, StoredClassMap | StoredPersons)
            done.left_out[labels.column] = "one task is written at a time" if one else f"COCO has no {labels.kind}"
    if classes is None or (whole and masks is None):
        missing = classes or pose
        if missing:
            done.left_out[missing.column] = "it takes class maps" if missing is pose else "there are no persons"
        return done
    name = f"panoptic_{classes.column}"
    numbers = Numbers(labelled(source, PLACE, done))
    categories = [{"id": 1, "name": "person", "isthing": 1}] if whole else _categories(classes, masks is not None)
    with target.replacing(f"{name}.json") as path, path.open("w", encoding="utf-8") as file:
        about = {"description": f"{classes.column} of {redact_uri(source.uri)}"}
        file.write('{"info": ' + json.dumps(about) + ', "categories": ' + json.dumps(categories))
        write_list(file, "images", _images(source, numbers))
        write_list(file, "annotations", _annotations(source, target, numbers, classes, masks, whole, done))
        file.write("}\n")
    return done


EXPORT = Export(
    "COCO panoptic JSON and PNGs, a segment per class and person", export_coco_panoptic, (PERSONS, SEG, POSE)
)


def _categories(classes: StoredClassMap, are_things: bool) -> list[Row]:
    return [
        {"id": number, "name": name, "isthing": int(are_things), "color": colour}
        for number, (name, colour) in enumerate(zip(classes.class_names, classes.class_colours_rgb, strict=True))
        if number != classes.background
    ]


def _images(source: Folder, numbers: Numbers) -> Iterator[Row]:
    for number, row in numbers.numbered(labelled(source, PLACE)):
        yield {"id": number, "file_name": row["image_id"], "width": row["width"], "height": row["height"]}


def _annotations(
    source: Folder,
    target: Folder,
    numbers: Numbers,
    classes: StoredClassMap,
    masks: PersonMasks | None,
    whole: bool,
    done: Exported,
) -> Iterator[Row]:
    """Write the PNG of each image, and give its annotation."""
    names = RowNames(source)
    columns = [*PLACE, classes.column, *(masks.columns if masks else [])]
    for number, row in numbers.numbered(labelled(source, list(dict.fromkeys(columns)))):
        name, renamed = names.of(row)
        done.renamed += renamed
        class_map = classes.class_map(row)
        persons = masks.instances(row) if masks else np.zeros(class_map.shape, np.uint8)
        ids = segment_ids(class_map, persons, classes.background, whole)
        target.write(f"panoptic_{classes.column}/{name}.png", encode_ids(ids), durable=False)
        segments = segments_of(ids, whole, crowd=masks is not None)
        yield {"image_id": number, "file_name": f"{name}.png", "segments_info": segments}


def segment_ids(class_map: np.ndarray, persons: np.ndarray, background: int, whole: bool) -> np.ndarray:
    """H x W int32: 0 on the background, else 1 + class + 256 * person; with `whole` all foreground has class 0.

    class_map: H x W uint8. persons: H x W, 0 for nobody.
    """
    classes = np.zeros_like(class_map) if whole else class_map
    ids: np.ndarray = persons.astype(np.int32) * 256 + classes + 1
    ids[class_map == background] = 0
    return ids


def encode_ids(ids: np.ndarray) -> bytes:
    """A PNG whose colours are R + 256 G + 65536 B = id."""
    planes = np.ascontiguousarray(ids, "<i4").view(np.uint8).reshape(*ids.shape, 4)  # R, G, B, 0
    return encode_png(cv2.cvtColor(planes, cv2.COLOR_RGBA2BGR))


def segments_of(ids: np.ndarray, whole: bool, crowd: bool) -> list[Row]:
    """`segments_info` of one image. crowd: foreground of nobody is a crowd."""
    found = []
    x, y, width, height = cv2.boundingRect((ids > 0).view(np.uint8))
    part = ids[y : y + height, x : x + width]
    for number in np.flatnonzero(np.bincount(part.reshape(-1))).tolist():
        if number == 0:
            continue
        mask = (part == number).view(np.uint8)
        left, top, across, down = cv2.boundingRect(mask)
        person, category = divmod(number - 1, 256)
        found.append(
            {
                "id": number,
                "category_id": 1 if whole else category,
                "area": cv2.countNonZero(mask),
                "bbox": [x + left, y + top, across, down],
                "iscrowd": int(crowd and person == 0),
                **({"person": person - 1} if person else {}),
            }
        )
    return found
