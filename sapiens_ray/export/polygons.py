"""Masks as polygons, for formats that have nothing else. Outlines are simplified; holes are cut in along a line.

A polygon that visits the outline of a part and then that of its hole, there and back along one line, covers the part
without the hole: programs that fill polygons, such as OpenCV's `fillPoly`, count how often its edge is crossed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

TOLERANCE = 1 / 1000  # of the longer side of the photo: less than a pixel of the images that models are trained on

STARTS, ENDS = 2048, 16  # points between which the shortest line from a polygon to another one is looked for


@dataclass
class Outlines:
    """polygons: each N x 2 float64 (x, y) in pixels, largest first, N >= 3. filled: how many holes were too small.
    dropped: how many parts were, or had no area."""

    polygons: list[np.ndarray] = field(default_factory=list)
    filled: int = 0
    dropped: int = 0


def outlines(mask: np.ndarray, least: int) -> Outlines:
    """One polygon for each connected part of a mask, through the centres of the pixels on its border.

    mask: H x W bool. least: parts with fewer pixels (counted with their holes) are dropped, and so are those without
    area, such as a line of single pixels. Holes with fewer pixels are filled. The centre of the upper left pixel is
    (0.5, 0.5), so positions divided by the size of the photo are those of YOLO. No point of an outline is farther from
    its polygon than 1/1000 of the longer side of the photo.
    """
    found = Outlines()
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    part = np.ascontiguousarray(mask[y : y + height, x : x + width]).view(np.uint8)
    contours, hierarchy = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(x, y))
    parents: list[int] = hierarchy[0, :, 3].tolist() if len(contours) else []
    tolerance = TOLERANCE * max(mask.shape)
    sizes: dict[int, float] = {}
    rings: dict[int, list[np.ndarray]] = {}  # of each part that is kept: its outline, then those of its holes
    for number, (contour, parent) in enumerate(zip(contours, parents, strict=True)):
        area = cv2.contourArea(contour)
        if parent < 0 and area > 0 and area + len(contour) / 2 + 1 >= least:  # Pick: grid points inside and on it
            sizes[number], rings[number] = area, [_simple(contour, tolerance)]
        elif parent < 0:
            found.dropped += 1
    for contour, parent in zip(contours, parents, strict=True):
        if parent not in rings:
            continue
        if cv2.contourArea(contour) - len(contour) / 2 + 1 >= least:  # Pick: grid points inside of it
            rings[parent].append(_simple(contour, tolerance))
        else:
            found.filled += 1
    order = sorted(rings, key=lambda number: -sizes[number])
    found.polygons = [joined(rings[number]) for number in order]
    return found


def _simple(contour: np.ndarray, tolerance: float) -> np.ndarray:
    simple = cv2.approxPolyDP(contour, tolerance, closed=True)
    ring: np.ndarray = (simple if len(simple) > 2 else contour).reshape(-1, 2) + 0.5
    return ring


def joined(polygons: list[np.ndarray]) -> np.ndarray:
    """One polygon of several: all but the first are visited from the nearest of its points, there and back along one
    line, which has no area. polygons: at least one, each N x 2.

    Of polygons with many points, some of them are tried, so that a map of noise does not take minutes.
    """
    first = polygons[0]
    skip = -(-len(first) // STARTS)
    visits: list[tuple[int, np.ndarray]] = []
    for other in polygons[1:]:
        step = -(-len(other) // ENDS)
        distances = ((first[::skip, None] - other[None, ::step]) ** 2).sum(-1)
        start, end = np.unravel_index(distances.argmin(), distances.shape)
        visits.append((int(start) * skip, np.roll(other, -int(end) * step, axis=0)))
    pieces, at = [], 0
    for start, other in sorted(visits, key=lambda visit: visit[0]):
        pieces += [first[at : start + 1], other, other[:1]]
        at = start
    return np.concatenate([*pieces, first[at:]])
