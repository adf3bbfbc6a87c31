"""Points in the space of the camera: their size, the focal length, colours of distances, and a view from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapiens_ray.tasks.points import at_photo_size, focal_length, nearness, turned_view
from tests.reporting.made import plane

sides = st.integers(2, 40)


@settings(max_examples=25)
@given(sides, sides, sides, sides, st.integers(0, 99))
def test_points_are_blurred_only_where_they_are_enlarged(rows, columns, height, width, seed):
    """Against torch in float64: four times the 3 x 3 Gaussian with sigma 0.8, mirrored at the border."""
    points = np.random.default_rng(seed).normal(3, 1, (rows, columns, 3)).astype(np.float32)
    wanted = torch.from_numpy(points).permute(2, 0, 1)[:, None].double()
    if height > rows or width > columns:
        line = torch.exp(-(torch.arange(-1, 2.0).double() ** 2) / (2 * 0.8**2))
        kernel = torch.outer(line, line) / line.sum() ** 2
        for _ in range(4):
            padded = torch.nn.functional.pad(wanted, (1, 1, 1, 1), "reflect")
            wanted = torch.nn.functional.conv2d(padded, kernel[None, None])
    wanted = torch.nn.functional.interpolate(wanted, (height, width), mode="bilinear", align_corners=False)
    found = at_photo_size(points, width, height)
    assert found.dtype == np.float32 and found.shape == (height, width, 3)
    assert np.abs(found - wanted[:, 0].permute(1, 2, 0).numpy()).max() < 1e-3


@settings(max_examples=25)
@given(st.floats(50, 5000), st.integers(20, 4000), st.integers(20, 4000), st.integers(0, 99))
def test_the_focal_length_of_a_camera_is_found(focal, width, height, seed):
    points = plane(width, height, 30, 40, focal)
    random = np.random.default_rng(seed)
    inside = random.random((40, 30)) < 0.5
    inside[0, 0] = inside[-1, -1] = True
    assert focal_length(points, inside, width, height) == pytest.approx(focal, rel=1e-3)
    # A part that was cut out: its middle is not that of the photo.
    part = points[10:, :20]
    cut = focal_length(part, inside[10:, :20], width * 20 // 30 or 1, height * 30 // 40 or 1)
    assert cut == pytest.approx(focal, rel=0.06), "whole pixels of small photos"
    # The points that count have the least sum of squared distances.
    noisy = points + random.normal(0, 0.01, points.shape).astype(np.float32)
    found = focal_length(noisy, inside, width, height)
    rows, columns = np.nonzero(inside & (noisy[..., 2] > 0))
    pixels = np.stack([(columns + 0.5) * width / 30, (rows + 0.5) * height / 40], 1)
    slopes = noisy[rows, columns, :2].astype(np.float64) / noisy[rows, columns, 2:]
    design = np.zeros((2 * len(rows), 3))
    design[:, 0], design[::2, 1], design[1::2, 2] = slopes.ravel(), 1, 1
    solved = np.linalg.lstsq(design, pixels.ravel(), rcond=None)[0][0]
    assert found == pytest.approx(solved, rel=1e-4)


def test_points_that_no_camera_sees_have_no_focal_length():
    points, everywhere = plane(120, 160, 48, 64), np.ones((64, 48), bool)
    assert focal_length(points, ~everywhere, 120, 160) is None
    assert focal_length(points * [1, 1, -1], everywhere, 120, 160) is None, "behind the camera"
    assert focal_length(points * [-1, -1, 1], everywhere, 120, 160) is None, "mirrored"
    assert focal_length(np.ones((64, 48, 3), np.float32), everywhere, 120, 160) is None, "one point"


def test_distances_are_coloured_by_their_inverse():
    z = np.array([[1, 2, 4, 100]], np.float32)
    inside = np.array([[True, True, True, False]])
    near, ends = nearness(z, inside)
    assert ends == pytest.approx((1 / 0.99, 1 / 0.255), rel=1e-6), "quantiles of 1, 0.5, 0.25"
    assert near[0] == pytest.approx([1, (0.5 - 0.255) / (0.99 - 0.255), 0, 0], abs=1e-6)
    assert nearness(z, ~inside & inside) == (pytest.approx(np.zeros((1, 4))), None)
    flat, ends = nearness(np.full((2, 2), 3, np.float32), np.ones((2, 2), bool))
    assert (flat == 0.5).all() and ends == pytest.approx((3, 3))


def test_near_points_hide_far_ones_seen_from_the_right():
    """A red wall 2 m away in front of the left half of a blue one 4 m away: from the right, more of the blue one shows
    beside the right edge of the red one, and this is left of where it was."""
    across, down = np.meshgrid(np.linspace(-1, 1, 200), np.linspace(-1, 1, 200))
    far = np.stack([across.ravel(), down.ravel(), np.full(across.size, 4.0)], 1)
    near = np.stack([across.ravel() / 4 - 0.25, down.ravel() / 2, np.full(across.size, 2.0)], 1)
    points = np.concatenate([near, far])
    colours = np.repeat(np.array([[0, 0, 255], [255, 0, 0]], np.uint8), across.size, 0)
    paper = np.full((120, 100, 3), 100, np.uint8)
    for order in (slice(None), slice(None, None, -1)):
        picture = turned_view(points[order], colours[order], paper)
        assert picture.shape == paper.shape and (paper == 100).all()
        red, blue = (picture == [0, 0, 255]).all(2), (picture == [255, 0, 0]).all(2)
        assert (red | blue | (picture == 100).all(2)).all()
        assert np.nonzero(red)[1].mean() < np.nonzero(blue)[1].mean() - 10
        assert red.sum() > 0.9 * (np.ptp(np.nonzero(red)[0]) * np.ptp(np.nonzero(red)[1])) * 0.7, "without holes"
        assert np.nonzero(blue)[1].max() > 90 and np.nonzero(red)[1].min() < 10, "the points fill the picture"
    assert (turned_view(points[:0], colours[:0], paper) == paper).all()
    assert (turned_view(points[:1], colours[:1], paper) == [0, 0, 255]).all(2).sum() >= 1
