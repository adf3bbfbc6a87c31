"""Sapiens-Lite's own files, for scripts that were written for its output folders."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from sapiens_ray.export import Exported, tasks_of, write_each
from sapiens_ray.images import decode_map
from sapiens_ray.maps import decode_npy, encode_npy
from sapiens_ray.reading import full_depth, full_normals
from sapiens_ray.storage import Folder


def export_lite(source: Folder, target: Folder) -> Exported:
    """Write a folder for each task's column, and in it for every image that has labels:

    seg       `<stem>.npy` bool H x W, class > 0, and `<stem>_seg.npy` int64 H x W
    depth     `<stem>.npy` float32 H x W
    normal    `<stem>.npy` float32 H x W x 3, unit length
    pose      `<stem>.json`, `{"instance_info": [{"keypoints": [[x, y], …], "keypoint_scores": […]}, …]}`
    features  `<stem>.npy` float32 C x 64 x 64, if feature maps were saved

    Raises OutputError if there are no labels.
    """
    done = Exported()
    columns: dict[str, dict[str, Any]] = {}
    for column, about in tasks_of(source).items():
        if about["task"] != "features":
            columns[column] = about
        elif about["save"] != "mean":
            columns[f"{column}_map"] = {**about, "folder": column}
        else:
            done.left_out[column] = "only mean features were saved; Sapiens-Lite's files hold the map (`save: map`)"

    def write(row: dict[str, Any], name: str) -> None:
        for column, about in columns.items():
            folder = about.get("folder", column)
            for ending, data in _files(about["task"], row[column], row["width"], row["height"]):
                target.write(f"{folder}/{name}{ending}", data, durable=False)

    if columns:
        write_each(source, list(columns), done, write)
    return done


def _files(task: str, cell: Any, width: int, height: int) -> list[tuple[str, bytes]]:
    """(ending, content) of the files of one image."""
    if task == "seg":
        class_map = decode_map(cell)
        return [(".npy", encode_npy(class_map > 0)), ("_seg.npy", encode_npy(class_map.astype(np.int64)))]
    if task == "depth":
        return [(".npy", encode_npy(full_depth(cell, width, height)))]
    if task == "normal":
        return [(".npy", encode_npy(full_normals(cell, width, height)))]
    if task == "features":
        return [(".npy", encode_npy(decode_npy(cell).astype(np.float32)))]
    info = [{"keypoints": person["keypoints"], "keypoint_scores": person["scores"]} for person in cell]
    return [(".json", json.dumps({"instance_info": info}, indent="\t").encode())]
