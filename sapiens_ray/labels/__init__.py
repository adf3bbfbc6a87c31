"""Class and keypoint tables as data files, and how to read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class ClassTable:
    """Classes of a segmentation model, in the order of its logits.

    `colours` are RGB, 0 to 255. `swap_pairs` are pairs of class ids that are swapped in a mirrored image.
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    swap_pairs: tuple[tuple[int, int], ...]


@cache
def body_parts(count: int = 28) -> ClassTable:
    """The body-part classes of segmentation, 28 of Sapiens or 29 of Sapiens2; class 0 is the background."""
    table = json.loads((files(__package__) / f"body_parts_{count}.json").read_text(encoding="utf-8"))
    return ClassTable(
        names=tuple(entry["name"] for entry in table["classes"]),
        colours=tuple(_rgb(entry["colour"]) for entry in table["classes"]),
        swap_pairs=tuple((left, right) for left, right in table["swap_pairs"]),
    )


@dataclass(frozen=True)
class KeypointTable:
    """Keypoints of a pose model, in the order of its heatmaps.

    `swap`: the partner of each keypoint in a mirrored image, itself if it has none. `groups`: body, feet, face,
    left_hand, right_hand or extra. `sigmas`: COCO's falloff constants for OKS; empty if they are not known. `links`:
    pairs of keypoints, in drawing order. Colours are RGB, 0 to 255.
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    swap: tuple[int, ...]
    groups: tuple[str, ...]
    sigmas: tuple[float, ...]
    links: tuple[tuple[int, int], ...]
    link_colours: tuple[tuple[int, int, int], ...]


@cache
def keypoints(count: int) -> KeypointTable:
    """The table of 17 (COCO), 133 (COCO-WholeBody) or 308 (Goliath) keypoints."""
    table = json.loads((files(__package__) / f"keypoints_{count}.json").read_text(encoding="utf-8"))
    points, links = table["keypoints"], table["links"]
    return KeypointTable(
        names=tuple(point["name"] for point in points),
        colours=tuple(_rgb(point["colour"]) for point in points),
        swap=tuple(point["swap"] for point in points),
        groups=tuple(point["group"] for point in points),
        sigmas=tuple(point["sigma"] for point in points),
        links=tuple((link["from"], link["to"]) for link in links),
        link_colours=tuple(_rgb(link["colour"]) for link in links),
    )


def known_keypoints(names: Sequence[str]) -> KeypointTable | None:
    """The table with exactly these keypoints, in this order; None for keypoints of somebody's own."""
    table = keypoints(len(names)) if len(names) in KEYPOINT_COUNTS else None
    return table if table is not None and table.names == tuple(names) else None


CLASSES = {"seg": body_parts}  # task -> table of its classes
CLASS_COUNTS = (28, 29)
KEYPOINT_COUNTS = (17, 133, 308)


def class_names(task: str, count: int = 28) -> list[str]:
    """List the classes of a task: the name of class 0, of class 1, ...

    count: 28 for models of Sapiens, 29 for those of Sapiens2.

    >>> class_names("seg")[21]
    'Torso'
    >>> class_names("seg", 29)[22]
    'Torso'

    Raises ValueError for a task without classes, and for another count.
    """
    if task in CLASSES and count not in CLASS_COUNTS:
        listed = " and ".join(map(str, CLASS_COUNTS))
        raise ValueError(f"class_names({task!r}, {count!r}): the numbers of classes of the models are {listed}")
    if task not in CLASSES:
        listed = ", ".join(map(repr, CLASSES))
        raise ValueError(f"class_names({task!r}): the tasks with classes are {listed}; for pose see keypoint_names")
    return list(CLASSES[task](count).names)


def keypoint_names(count: int) -> list[str]:
    """List the keypoints of a pose model with 17, 133 or 308 of them.

    Their order is that of `persons[0]["keypoints"]` and of its scores.

    >>> keypoint_names(308)[:3]
    ['nose', 'left_eye', 'right_eye']

    Raises ValueError for another count.
    """
    return list(_keypoints("keypoint_names", count).names)


def keypoint_links(count: int) -> list[tuple[int, int]]:
    """List the links of a skeleton of 17, 133 or 308 keypoints: pairs of indices from 0.

    They are in drawing order, and index `keypoint_names(count)` and `persons[0]["keypoints"]`. In the JSON files of
    COCO, and so in those of `export --format coco`, the indices of `skeleton` start at 1.

    >>> keypoint_links(17)[0]  # left_ankle to left_knee
    (15, 13)

    Raises ValueError for another count.
    """
    return list(_keypoints("keypoint_links", count).links)


def _keypoints(function: str, count: int) -> KeypointTable:
    if count not in KEYPOINT_COUNTS:
        listed = ", ".join(map(str, KEYPOINT_COUNTS))
        raise ValueError(f"{function}({count!r}): the numbers of keypoints of the pose models are {listed}")
    return keypoints(int(count))


def _rgb(colour: str) -> tuple[int, int, int]:
    """#rrggbb to (r, g, b)."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
