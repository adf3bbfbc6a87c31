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
def test_polygons_of_small_photos_are_the_mask_without_holes(mask):
    """1/1000 of 90 pixels is a tenth of a pixel: only lines without area are missing."""
    found = outlines(mask, 1)
    again, filled = rasterised(found.polygons, mask.shape), without_holes(mask)
    assert not (again & ~filled).any()
    parts, labels = cv2.connectedComponents(filled.view(np.uint8), connectivity=8)
    missing = np.unique(labels[filled & ~again])
    for part in missing:
        thin = labels == part
        assert not again[thin].any(), "the whole part is missing, since it has no area"
        assert not cv2.erode(thin.view(np.uint8), np.ones((2, 2), np.uint8), borderValue=0).any()
    assert all(len(polygon) >= 3 and polygon.min() >= 0.5 for polygon in found.polygons)
    sizes = [cv2.contourArea(polygon.astype(np.float32)) for polygon in found.polygons]
    assert sizes == sorted(sizes, reverse=True)
    assert len(found.polygons) + found.dropped >= parts - 1


@given(blobs(), st.integers(1, 200))
def test_small_parts_are_dropped_and_counted(mask, least):
    every, found = outlines(mask, 1), outlines(mask, least)
    kept = [polygon for polygon in every.polygons if rasterised([polygon], mask.shape).sum() >= least]
    assert len(found.polygons) == len(kept)
    assert found.dropped - every.dropped == len(every.polygons) - len(kept)


def test_outlines_of_a_large_photo_are_simplified_within_their_tolerance():
    """2000 pixels: no point moves by more than 2. So pixels differ along the outline alone."""
    height, width = 1500, 2000
    y, x = np.mgrid[:height, :width]
    angle = np.arctan2(y - 750, x - 1000)
    mask = np.hypot(y - 750, x - 1000) < 500 + 60 * np.sin(5 * angle) + 3 * np.sin(90 * angle)
    mask[700:760, 900:1000] = False
    found = outlines(mask, 32)
    filled = without_holes(mask)
    again = rasterised(found.polygons, mask.shape)
    (contour,), _ = cv2.findContours(filled.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    assert found.holes == 1 and len(found.polygons) == 1 and len(found.polygons[0]) < len(contour) / 8
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
    found = outlines(mask, 1)
    assert (len(found.polygons), found.holes, found.dropped) == (2, 2, 0)
    assert np.array_equal(rasterised(found.polygons, mask.shape), without_holes(mask))
    assert outlines(np.zeros((4, 4), bool), 1).polygons == []


@given(blobs())
def test_joined_polygons_cover_the_same_pixels_and_lines_between_them(mask):
    polygons = outlines(mask, 4).polygons
    if not polygons:
        return
    whole = joined(polygons)
    assert len(whole) == sum(map(len, polygons)) + 2 * (len(polygons) - 1)
    apart, together = rasterised(polygons, mask.shape), rasterised([whole], mask.shape)
    lines = np.zeros(mask.shape, np.uint8)
    points = whole.astype(np.int32)
    for start, end in zip(points, np.roll(points, -1, 0), strict=True):
        cv2.line(lines, start.tolist(), end.tolist(), 1)
    assert not (together & ~apart & ~(lines > 0)).any(), "more only along the lines"
