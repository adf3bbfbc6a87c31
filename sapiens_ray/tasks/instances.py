"""Which person each foreground pixel shows: the foreground of a class map, split by the skeletons of the persons.

A heuristic, which neither model was trained for: a pixel belongs to the nearest skeleton, among the persons in whose
box it lies. It is right where persons stand apart or beside each other. Where one stands before another, the border
between them runs halfway between their limbs, not along an outline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import Field, PrivateAttr

from sapiens_ray.imaging.images import histogram
from sapiens_ray.tasks.confidence import VISIBLE
from sapiens_ray.tasks.crops import PADDING
from sapiens_ray.tasks.foreground import background_of, foreground_column
from sapiens_ray.tasks.sections import Choice, GivesColumn

GRID = 1024  # cells along the longer side of the photo, at most: distances are measured between cells
OUTSIDE = np.float32(1e5)  # cells; more than any distance, so that persons with the cell in their box come first
NOBODY = np.float32(np.inf)

Links = Sequence[Sequence[int]]
Area = tuple[int, int, int, int]  # left, top, right, bottom of cells; the last two are not part of it


class Instances(Choice):
    """`none`, `seg` or `{seg: name}`."""

    words = ("none", "seg")
    keys = ("seg",)

    source: Literal["none", "seg"] = "none"
    seg: str | None = Field(None, description="Name of the seg task of the same job whose foreground is split.")
    _background: int = PrivateAttr(0)  # of the seg task; a setting of that task, not of the instances

    @property
    def background(self) -> int:
        return self._background

    def settled(self, tasks: Sequence[GivesColumn], where: str) -> Instances:
        """With the name of the seg task. Raises ValueError if there is no such task."""
        if self.source == "none":
            return self
        settled = self.model_copy(update={"seg": foreground_column(self.seg, tasks, where)})
        settled._background = background_of(str(settled.seg), tasks)
        return settled


def split(foreground: np.ndarray, persons: Sequence[Mapping[str, Any]], links: Links) -> np.ndarray:
    """The instance map: H x W uint8 (uint16 for more than 255 persons), 0 for nobody, i for `persons[i - 1]`.

    foreground: H x W bool. persons: `box` (x1, y1, x2, y2), `keypoints` (K x 2) and `scores` (K), in pixels of the
    photo. links: pairs of keypoints.

    The skeleton of a person are its keypoints with a score of 0.3 or more and the links between two of them; of a
    person without any, the centre of its box. A foreground pixel belongs to the nearest skeleton of the persons in
    whose box it lies; where it lies in none, of those in whose box grown by 1.25, as for the pose model, it lies;
    else to nobody. Of equal distances the earlier person counts.

    Distances are taken on a grid of 1024 cells along the longer side at most, so the border between two persons is
    exact to one cell (4 pixels of a photo of 4096); that of the foreground stays exact to the pixel. But for
    one pass over the pixels, the time grows with the cells in the boxes.
    """
    height, width = foreground.shape
    step = -(-max(height, width) // GRID)
    cells = _owners(persons, links, -(-width // step), -(-height // step), step)
    size = (cells.shape[1] * step, cells.shape[0] * step)
    pixels = cells if step == 1 else cv2.resize(cells, size, interpolation=cv2.INTER_NEAREST)[:height, :width]
    owners: np.ndarray = np.multiply(pixels, foreground)
    return owners


def areas(instances: np.ndarray, count: int) -> list[int]:
    """The number of pixels of each of `count` persons in an instance map."""
    small = instances.dtype == np.uint8
    counts = histogram(instances) if small else np.bincount(instances.reshape(-1), minlength=count + 1)
    found: list[int] = counts[1 : count + 1].tolist()
    return found


def _owners(
    persons: Sequence[Mapping[str, Any]], links: Links, columns: int, rows: int, step: int
) -> np.ndarray[Any, np.dtype[np.uint8 | np.uint16]]:
    """rows x columns: the person to whom each cell of step x step pixels would belong, were it foreground."""
    owners: np.ndarray[Any, np.dtype[np.uint8 | np.uint16]]
    owners = np.zeros((rows, columns), np.uint8 if len(persons) < 256 else np.uint16)
    nearest = np.full((rows, columns), NOBODY, np.float32)
    for number, person in enumerate(persons, 1):
        box = np.asarray(person["box"], np.float64)
        inside = _cells_in(box, columns, rows, step)
        reach = _cells_in(_grown(box), columns, rows, step)
        left, top, right, bottom = reach
        if left >= right or top >= bottom:
            continue
        canvas = _without_skeleton(person, links, box, reach, step)
        beyond = np.full(canvas.shape, OUTSIDE, np.float32)
        beyond[inside[1] - top : inside[3] - top, inside[0] - left : inside[2] - left] = 0
        distance = cv2.add(beyond, cv2.distanceTransform(canvas, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
        here = slice(top, bottom), slice(left, right)
        closer = distance < nearest[here]
        nearest[here][closer] = distance[closer]
        owners[here][closer] = number
    return owners


def _grown(box: np.ndarray) -> np.ndarray:
    """The box, PADDING times as wide and high, around its centre."""
    margin = (box[2:] - box[:2]) * ((PADDING - 1) / 2)
    return np.concatenate([box[:2] - margin, box[2:] + margin])


def _cells_in(box: np.ndarray, columns: int, rows: int, step: int) -> Area:
    """The cells whose centres lie in a box."""
    x1, y1, x2, y2 = (box / step - 0.5).tolist()
    left, top = min(max(0, math.ceil(x1)), columns), min(max(0, math.ceil(y1)), rows)
    return left, top, max(left, min(math.floor(x2) + 1, columns)), max(top, min(math.floor(y2) + 1, rows))


def _without_skeleton(person: Mapping[str, Any], links: Links, box: np.ndarray, reach: Area, step: int) -> np.ndarray:
    """uint8, of the size of `reach`: 0 on the skeleton, 255 elsewhere. A keypoint outside the grown box is a mistake,
    and does not count."""
    left, top, right, bottom = reach
    canvas = np.full((bottom - top, right - left), 255, np.uint8)
    points = np.asarray(person["keypoints"], np.float64).reshape(-1, 2)
    grown = _grown(box)
    seen = np.asarray(person["scores"]) >= np.float32(VISIBLE)
    seen &= ((points >= grown[:2]) & (points <= grown[2:])).all(1)
    places = np.floor((np.where(seen[:, None], points, 0) + 0.5) / step).astype(int) - (left, top)
    for place in places[seen].tolist():
        cv2.line(canvas, place, place, 0)
    for start, end in links:
        if seen[start] and seen[end]:
            cv2.line(canvas, places[start].tolist(), places[end].tolist(), 0)
    if canvas.all():  # no keypoint, or none in the photo
        x, y = np.floor((box[:2] + box[2:]) / (2 * step)).astype(int).tolist()
        canvas[min(max(y, top), bottom - 1) - top, min(max(x, left), right - 1) - left] = 0
    return canvas
