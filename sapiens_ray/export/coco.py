"""COCO JSON: keypoints of pose, run-length masks of segmentation. One file a task, written as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np

from sapiens_ray.export import Exported, labelled, tasks_of
from sapiens_ray.images import decode_map
from sapiens_ray.storage import Folder

KEYPOINT_SCORE = 0.3  # Sapiens-Lite draws keypoints from here on


def export_coco(source: Folder, target: Folder, keypoint_score: float = KEYPOINT_SCORE) -> Exported:
    """Write `<column>.json` for every pose and seg task; every image that has labels is in `images`.

    Keypoints are those of the Parquet file, whatever their score; visibility is 2 from `keypoint_score` on and
    0 below, and `keypoint_scores` holds the scores. Segmentation has one annotation a class and image, background
    left out, category ids being class ids. Raises OutputError if there are no labels.
    """
    left_out: dict[str, str] = {}
    done = Exported(left_out=left_out)
    for column, about in tasks_of(source).items():
        if about["task"] not in ("pose", "seg"):
            left_out[column] = f"COCO has no {about['task']}"
            continue
        done = Exported(left_out=left_out)  # every task's file has the same images
        pose = about["task"] == "pose"
        with target.replacing(f"{column}.json") as path, path.open("w", encoding="utf-8") as file:
            file.write('{"info": ' + json.dumps({"description": f"{column} of {source.uri}"}))
            file.write(', "categories": ' + json.dumps(_person(about) if pose else _classes(about)))
            _write_list(file, "images", _images(labelled(source, [], done)))
            rows = labelled(source, [column])
            _write_list(file, "annotations", _persons(rows, column, keypoint_score) if pose else _masks(rows, column))
            file.write("}\n")
    return done


def _images(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows, 1):
        yield {"id": number, "file_name": row["image_id"], "width": row["width"], "height": row["height"]}


def _person(about: dict[str, Any]) -> list[dict[str, Any]]:
    skeleton = [[start + 1, end + 1] for start, end in about["keypoint_links"]]  # COCO counts from 1
    return [{"id": 1, "name": "person", "supercategory": "person", "keypoints": about["keypoint_names"],
             "skeleton": skeleton}]  # fmt: skip


def _classes(about: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"id": number, "name": name} for number, name in enumerate(about["class_names"]) if number]


def _persons(rows: Iterable[dict[str, Any]], column: str, least: float) -> Iterator[dict[str, Any]]:
    found = 0
    for number, row in enumerate(rows, 1):
        for person in row[column]:
            found += 1
            x1, y1, x2, y2 = person["box"]
            seen = [2 if score >= least else 0 for score in person["scores"]]
            points = [[*place, visible] for place, visible in zip(person["keypoints"], seen, strict=True)]
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
            yield annotation if person["box_score"] is None else {**annotation, "score": person["box_score"]}


def _masks(rows: Iterable[dict[str, Any]], column: str) -> Iterator[dict[str, Any]]:
    from pycocotools import mask as coco_mask

    found = 0
    for number, row in enumerate(rows, 1):
        class_map = decode_map(row[column])
        for present in np.flatnonzero(np.bincount(class_map.reshape(-1))):
            if present == 0:
                continue
            found += 1
            encoded = coco_mask.encode(np.asfortranarray(class_map == present).view(np.uint8))
            yield {
                "id": found,
                "image_id": number,
                "category_id": int(present),
                "iscrowd": 0,
                "bbox": coco_mask.toBbox(encoded).tolist(),
                "area": int(coco_mask.area(encoded)),
                "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")},
            }


def _write_list(file: IO[str], name: str, items: Iterable[dict[str, Any]]) -> None:
    """Write a list one item a line, without holding it."""
    file.write(f', "{name}": [')
    for number, item in enumerate(items):
        file.write((",\n" if number else "\n") + json.dumps(item))
    file.write("]")
