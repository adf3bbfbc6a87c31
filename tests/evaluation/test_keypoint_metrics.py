"""OKS and OKS-NMS."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sapiens_ray.evaluation.keypoint_metrics import oks, oks_nms


def test_oks_by_hand():
    keypoints = np.array([[0.0, 0], [10, 0]])
    others = np.array([[[3.0, 4], [10, 0]], [[0, 0], [10, 0]]])
    # exp(-25 / (2 * 100 * (2 * 0.05)^2)) = exp(-12.5)
    assert oks(keypoints, others, np.array([100.0, 1]), np.array([0.05, 0.1])) == pytest.approx(
        [(math.exp(-12.5) + 1) / 2, 1]
    )


def test_nms_drops_those_that_are_similar_to_a_better_one():
    base = np.random.default_rng(0).uniform(0, 100, (17, 2))
    persons = np.stack([base + 0.1, base, base + 200, base + 200.1])
    sigmas, areas = np.full(17, 0.05), np.full(4, 10000.0)
    assert oks_nms(persons, np.array([0.5, 0.9, 0.1, 0.2]), areas, sigmas) == [1, 3]
    assert oks_nms(persons, np.array([0.5, 0.9, 0.1, 0.2]), areas, sigmas, limit=1.0) == [1, 0, 3, 2]
    assert oks_nms(persons, np.full(4, 0.5), areas, sigmas) == [0, 2]
    assert oks_nms(np.empty((0, 17, 2)), np.empty(0), np.empty(0), sigmas) == []


@given(arrays(np.float64, (5, 3, 2), elements=st.floats(0, 4)), arrays(np.float64, 5, elements=st.floats(0, 1)))
def test_nms_against_the_definition(persons, scores):
    sigmas, areas = np.array([0.3, 0.5, 1.0]), np.arange(1.0, 6)
    kept = oks_nms(persons, scores, areas, sigmas, 0.5)

    def similarity(one: int, other: int) -> float:
        squared = [math.dist(a, b) ** 2 for a, b in zip(persons[one], persons[other], strict=True)]
        area = (areas[one] + areas[other]) / 2
        each = [math.exp(-d / (2 * area * (2 * sigma) ** 2)) for d, sigma in zip(squared, sigmas, strict=True)]
        return sum(each) / len(each)

    wanted: list[int] = []
    for number in sorted(range(5), key=lambda number: -scores[number]):
        if all(similarity(better, number) <= 0.5 + 1e-12 for better in wanted):
            wanted.append(number)
    assert kept == wanted
