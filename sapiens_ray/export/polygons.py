"""Masks as polygons, for formats that have nothing else. Holes are filled, and outlines are simplified."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

TOLERANCE = 1 / 1000  # of the longer side of the photo: less than a pixel of the images that models are trained on


@dataclass
class Outlines:
    """polygons: each N x 2 float64 (x, y) in pixels, largest first, N >= 3. holes: how many were filled. dropped: how
    many parts were too small."""

    polygons: list[np.ndarray] = field(default_factory=list)
    holes: int = 0
    dropped: int = 0


def outlines(mask: np.ndarray, least: int) -> Outlines:
    """One polygon for each connected part of a mask, through the centres of the pixels on its border.

    mask: H x W bool. least: parts with fewer pixels (holes filled) are dropped, and so are those without area, such as
    a line of single pixels. The centre of the upper left pixel is (0.5, 0.5), so positions divided by the size of the
    photo are those of YOLO. No point of an outline is farther from its polygon than 1/1000 of the longer side of the
    photo.
    """
    found = Outlines()
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    part = np.ascontiguousarray(mask[y : y + height, x : x + width]).view(np.uint8)
    contours, hierarchy = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(x, y))
    parents: list[int] = hierarchy[0, :, 3].tolist() if len(contours) else []
    kept: list[tuple[float, np.ndarray]] = []
    used: set[int] = set()
    for number, (contour, parent) in enumerate(zip(contours, parents, strict=True)):
        if parent >= 0:
            continue
        area = cv2.contourArea(contour)
        pixels = area + len(contour) / 2 + 1  # Pick's theorem: the points of the grid inside and on a polygon
        if pixels < least or area == 0:
            found.dropped += 1
            continue
        simple = cv2.approxPolyDP(contour, TOLERANCE * max(mask.shape), closed=True)
        kept.append((area, (simple if len(simple) > 2 else contour).reshape(-1, 2) + 0.5))
        used.add(number)
    found.holes = sum(parent in used for parent in parents)
    found.polygons = [polygon for _, polygon in sorted(kept, key=lambda one: -one[0])]
    return found


def joined(polygons: list[np.ndarray]) -> np.ndarray:
    """One polygon of several: each is visited from the nearest point of those before, there and back along one line,
    which has no area. polygons: at least one, each N x 2."""
    whole = polygons[0]
    for other in polygons[1:]:
        distances = ((whole[:, None] - other[None]) ** 2).sum(-1)
        start, end = np.unravel_index(distances.argmin(), distances.shape)
        detour = [other[end:], other[: end + 1]]
        whole = np.concatenate([whole[: start + 1], *detour, whole[start:]])
    return whole
