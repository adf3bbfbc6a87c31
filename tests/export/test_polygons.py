"""Masks as polygons, rasterised back."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.export.polygons import TOLERANCE, joined, outlines


def without_holes(mask: np.ndarray) -> np.ndarray:
    """The mask with every part of the background filled that does not reach the edge."""
    framed = np.pad(~mask, 1, constant_values=True).view(np.uint8)
    _, parts = cv2.connectedComponents(framed, connectivity=4)
    return (parts != parts[0, 0])[1:-1, 1:-1]


def rasterised(polygons: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """As Ultralytics makes masks: positions cut to whole pixels, the outline itself included."""
    canvas = np.zeros(shape, np.uint8)
    for polygon in polygons:
        cv2.fillPoly(canvas, [polygon.astype(np.int32)], 1)
    return canvas > 0


def edges(polygons: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The pixels that lines between the points of polygons touch: what joins rings may cross a hole."""
    lines = np.zeros(shape, np.uint8)
    for polygon in polygons:
        points = polygon.astype(np.int32)
        for start, end in zip(points.tolist(), np.roll(points, -1, 0).tolist(), strict=True):
            cv2.line(lines, start, end, 1)
    return lines > 0


@st.composite
def blobs(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = np.zeros((height, width), np.uint8)
    for number in range(draw(st.integers(0, 8))):
        middle = (int(random.integers(width)), int(random.integers(height)))
        size = (int(random.integers(0, 30)), int(random.integers(0, 30)))
        cv2.ellipse(mask, middle, size, float(random.uniform(0, 180)), 0, 360, int(number % 3 != 2), -1)
    return mask > 0


@given(blobs())
def test_polygons_of_small_photos_are_the_mask(mask):
    """1/1000 of 90 pixels is a tenth of a pixel: only lines without area are missing."""
    found = outlines(mask, 1)
    again = rasterised(found.polygons, mask.shape)
    assert not (again & ~mask & ~edges(found.polygons, mask.shape)).any() and found.filled == 0
    parts, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    missing = np.unique(labels[mask & ~again])
    for part in missing:
        thin = labels == part
        assert not again[thin].any(), "the whole part is missing, since it has no area"
        assert not cv2.erode(thin.view(np.uint8), np.ones((2, 2), np.uint8), borderValue=0).any()
    assert all(len(polygon) >= 3 and polygon.min() >= 0.5 for polygon in found.polygons)
    assert len(found.polygons) + found.dropped == parts - 1


@given(blobs(), st.integers(1, 200))
def test_small_parts_are_dropped_and_small_holes_filled(mask, least):
    every, found = outlines(mask, 1), outlines(mask, least)
    expected = np.zeros(mask.shape, bool)
    filled = kept = 0
    count, parts = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    for number in range(1, count):
        part = parts == number
        solid = without_holes(part)
        if solid.sum() < least or not rasterised(outlines(part, 1).polygons, mask.shape).any():
            continue
        kept += 1
        holes, labels = cv2.connectedComponents((solid & ~part).view(np.uint8), connectivity=4)
        for hole in range(1, holes):
            small = (labels == hole).sum() < least
            part |= (labels == hole) & small
            filled += small
        expected |= part
    differ = rasterised(found.polygons, mask.shape) != expected
    assert not (differ & ~edges(found.polygons, mask.shape)).any() and not (differ & expected).any()
    assert (len(found.polygons), found.filled) == (kept, filled)
    assert found.dropped - every.dropped == len(every.polygons) - kept


def test_outlines_of_a_large_photo_are_simplified_within_their_tolerance():
    """2000 pixels: no point moves by more than 2. So pixels differ along the outline alone."""
    height, width = 1500, 2000
    y, x = np.mgrid[:height, :width]
    angle = np.arctan2(y - 750, x - 1000)
    mask = np.hypot(y - 750, x - 1000) < 500 + 60 * np.sin(5 * angle) + 3 * np.sin(90 * angle)
    filled = mask.copy()
    mask[700:705, 900:906] = False
    found = outlines(mask, 32)
    again = rasterised(found.polygons, mask.shape)
    (contour,), _ = cv2.findContours(filled.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    assert found.filled == 1 and len(found.polygons) == 1 and len(found.polygons[0]) < len(contour) / 8
    differ = again != filled
    assert differ.sum() <= len(contour) * (TOLERANCE * width + 1)
    near = cv2.distanceTransform(1 - cv2.drawContours(np.zeros(mask.shape, np.uint8), [contour], 0, 1), cv2.DIST_L2, 5)
    assert near[differ].max() <= TOLERANCE * width + 1
    assert (again & filled).sum() / (again | filled).sum() > 0.99


def test_holes_and_islands_inside_of_them():
    mask = np.zeros((60, 60), bool)
    mask[5:55, 5:55] = True
    mask[10:30, 10:30] = mask[40:50, 40:50] = False
    mask[15:25, 15:25] = True
    found = outlines(mask, 50)
    assert (len(found.polygons), found.filled, found.dropped) == (2, 0, 0)
    assert np.array_equal(rasterised(found.polygons, mask.shape), mask)
    whole = rasterised([joined(found.polygons)], mask.shape)
    assert (whole != mask).sum() == 5, "a line over the hole joins the island"
    found = outlines(mask, 101)
    mask[40:50, 40:50], mask[15:25, 15:25] = True, False
    assert (len(found.polygons), found.filled, found.dropped) == (1, 1, 1)
    assert np.array_equal(rasterised(found.polygons, mask.shape), mask)
    assert outlines(np.zeros((4, 4), bool), 1).polygons == []


@given(blobs())
def test_joined_polygons_cover_the_same_pixels_and_lines_between_them(mask):
    polygons = outlines(mask, 4).polygons
    if not polygons:
        return
    whole = joined(polygons)
    assert len(whole) == sum(map(len, polygons)) + 2 * (len(polygons) - 1)
    apart, together = rasterised(polygons, mask.shape), rasterised([whole], mask.shape)
    assert not (apart & ~together).any(), "nothing is missing"
    assert not (together & ~apart & ~edges([whole], mask.shape)).any(), "more only along the lines"
