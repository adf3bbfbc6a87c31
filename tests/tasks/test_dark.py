"""DARK decoding against a plain float64 reference that blurs whole maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from sapiens_ray.tasks.dark import decode_heatmaps


def plain_decode(heatmap: np.ndarray) -> tuple[np.ndarray, float]:
    """One h x w map to (x, y) and score, step by step as published, in float64."""
    values = heatmap.astype(np.float64)
    h, w = values.shape
    y, x = np.unravel_index(values.argmax(), values.shape)
    score = values[y, x]
    if score <= 0:
        return np.array([-1.0, -1.0]), score
    offsets = np.arange(-5, 6)
    kernel = np.exp(-(offsets**2) / 8.0)
    kernel /= kernel.sum()
    padded = np.pad(values, 5)
    blurred = np.zeros_like(values)
    for down, weight_y in enumerate(kernel):
        for right, weight_x in enumerate(kernel):
            blurred += weight_y * weight_x * padded[down : down + h, right : right + w]
    if blurred.max() <= 0:
        return np.array([x, y], float), score  # nothing to refine
    blurred *= score / blurred.max()
    logs = np.pad(np.log(np.clip(blurred, 1e-3, 50)), 1, mode="edge")

    def at(right: int, down: int) -> float:
        return logs[y + 1 + down, x + 1 + right]

    gradient = np.array([at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)]) / 2
    dxx = at(1, 0) - 2 * at(0, 0) + at(-1, 0)
    dyy = at(0, 1) - 2 * at(0, 0) + at(0, -1)
    dxy = (at(1, 1) - at(1, 0) - at(0, 1) + 2 * at(0, 0) - at(-1, 0) - at(0, -1) + at(-1, -1)) / 2
    hessian = np.array([[dxx, dxy], [dxy, dyy]]) + np.finfo(np.float32).eps * np.eye(2)
    step = -np.linalg.solve(hessian, gradient)
    return np.array([x, y]) + step, score


def bump(h: int, w: int, x: float, y: float, sigma: float, height: float) -> np.ndarray:
    rows, columns = np.mgrid[:h, :w]
    return (height * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))).astype(np.float32)


@st.composite
def heatmaps(draw: st.DrawFn) -> np.ndarray:
    h, w = draw(st.integers(2, 40)), draw(st.integers(2, 30))
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    kind = draw(st.sampled_from(["bump", "border", "ties", "noise", "low", "negative", "lonely", "high"]))
    place = random.uniform(0, w - 1), random.uniform(0, h - 1)
    if kind == "border":
        place = random.choice([0, w - 1]), random.choice([0, h - 1])
    heights = {"low": 10 ** random.uniform(-5, -2), "high": random.uniform(20, 200)}
    map_ = bump(h, w, *place, random.uniform(1, 7), heights.get(kind, random.uniform(0.05, 1.5)))
    if kind == "ties":  # as bfloat16 leaves them: steps of 1/64
        map_ = np.round(map_ * 64) / 64
    if kind == "noise":
        map_ += random.normal(0, 0.02, map_.shape).astype(np.float32)
    if kind == "negative":
        map_ -= map_.max() + np.float32(random.choice([0, 0.01]))
    if kind == "lonely":
        map_ = np.full((h, w), -1, np.float32)
        map_[h // 2, w // 2] = 0.1
    return map_.astype(np.float32)


@settings(max_examples=300, deadline=None)
@given(heatmaps())
@example(np.full((9, 7), 0.5, np.float32))  # flat
@example(np.full((32, 24), -0.01, np.float32))
@example(np.zeros((32, 24), np.float32))
@example(bump(256, 192, 100.3, 60.7, 6, 0.9))
def test_decoding_equals_the_plain_reference(heatmap):
    (points,) = decode_heatmaps(torch.from_numpy(heatmap)[None, None])[0].numpy()
    place, score = plain_decode(heatmap)
    assert points[2] == score
    # Where the Hessian is nearly singular, a long step may differ only by rounding in float64.
    length = np.abs(place - points[:2]).max()
    assert length <= 1e-6 * (1 + np.abs(place).max()), (place, points)
    assert np.isfinite(points).all()


@pytest.mark.parametrize("height", [0.0, -0.3])
def test_a_map_without_positive_values_has_a_score_and_no_position(height):
    map_ = np.full((256, 192), height - 1, np.float32)
    map_[40, 60] = height
    assert decode_heatmaps(torch.from_numpy(map_)[None, None]).tolist() == [[[-1, -1, np.float32(height)]]]


def test_a_gaussian_is_found_to_a_thousandth():
    for x, y in ((50.0, 50.0), (50.25, 120.5), (100.49, 3.2), (188.7, 250.9)):
        found = decode_heatmaps(torch.from_numpy(bump(256, 192, x, y, 6, 0.8))[None, None])[0, 0]
        inside = 12 < x < 180 and 12 < y < 244
        assert abs(found[0] - x) < (1e-3 if inside else 1.5) and abs(found[1] - y) < (1e-3 if inside else 1.5)


def test_maps_do_not_depend_on_each_other():
    random = np.random.default_rng(0)
    maps = np.stack([[bump(64, 48, *random.uniform(5, 40, 2), 4, 1) for _ in range(5)] for _ in range(3)])
    together = decode_heatmaps(torch.from_numpy(maps))
    alone = [[decode_heatmaps(torch.from_numpy(one)[None, None])[0, 0] for one in person] for person in maps]
    assert torch.equal(together, torch.stack([torch.stack(person) for person in alone]))


def test_the_first_of_equal_peaks_is_taken():
    map_ = np.maximum(bump(64, 48, 30, 10, 3, 1), bump(64, 48, 8, 50, 3, 1))
    found = decode_heatmaps(torch.from_numpy(map_)[None, None])[0, 0]
    assert (found[:2] - torch.tensor([30.0, 10.0])).abs().max() < 1e-3


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 40), st.integers(3, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_the_middle_one_of_tied_peaks_is_taken(h, w, count, seed):
    random = np.random.default_rng(seed)
    heatmap = random.uniform(0, 0.5, (h, w)).astype(np.float32)
    ties = random.choice(h * w, min(count, h * w), replace=False)
    heatmap.reshape(-1)[ties] = 0.75
    y, x = np.unravel_index(np.sort(ties), (h, w))
    distance = (y - y.mean()) ** 2 + (x - x.mean()) ** 2
    middle = np.flatnonzero(distance <= distance.min() + 1e-9)
    maps = torch.from_numpy(heatmap)[None, None]
    first = decode_heatmaps(maps)[0, 0].numpy()
    found = decode_heatmaps(maps, middle_of_ties=True)[0, 0].numpy()
    assert found[2] == first[2] == 0.75
    # The step starts from the chosen cell, as if that cell alone were the maximum by the smallest margin.
    candidates = []
    for number in middle:
        alone = heatmap.copy()
        alone[y[number], x[number]] = np.nextafter(np.float32(0.75), np.float32(1))
        candidates.append(decode_heatmaps(torch.from_numpy(alone)[None, None])[0, 0].numpy())
    cells = np.stack([x[middle], y[middle]], 1)
    steps = np.abs(np.array(candidates)[:, :2] - cells).max(1)
    assume(steps.max() < 3)  # longer ones come from nearly singular Hessians and depend on the last bit
    assert any(np.allclose(found[:2], one[:2], atol=1e-2) for one in candidates), (found, candidates)


def test_the_middle_of_a_flat_peak():
    heatmap = torch.zeros(1, 1, 9, 9)
    heatmap[0, 0, 2:7, 3:6] = 1.0
    assert decode_heatmaps(heatmap)[0, 0, :2].tolist() != [4, 4]
    assert decode_heatmaps(heatmap, middle_of_ties=True)[0, 0].tolist() == pytest.approx([4, 4, 1], abs=1e-6)
