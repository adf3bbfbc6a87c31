"""Angles between normals, and what is added up over images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sapiens_ray.evaluation.normal_metrics import EDGES, angle_counts, angle_scores, angular_errors, valid_normals


def turned(degrees: np.ndarray) -> np.ndarray:
    """Vectors that are turned from (0, 0, 1) by these angles."""
    radians = np.radians(degrees)
    return np.stack([np.sin(radians), np.zeros_like(radians), np.cos(radians)], -1)


def test_angles_by_hand():
    degrees = np.array([0, 1e-6, 5, 11.25, 45, 90, 180])
    found = angular_errors(turned(degrees) * 3, np.broadcast_to([0, 0, 0.5], (7, 3)))
    assert found == pytest.approx(degrees, abs=1e-9)
    assert angular_errors(np.array([[1.0, 2, 3]]), np.array([[3.0, -2, 1]]))[0] == pytest.approx(
        np.degrees(np.arccos(2 / 14))
    )


def test_a_vector_of_length_0_is_90_degrees_off():
    nothing, up = np.zeros((2, 3)), np.array([[0, 0, 1.0], [0, -2, 0]])
    assert angular_errors(nothing, up).tolist() == angular_errors(up, -nothing).tolist() == [90, 90]


def test_scores_by_hand():
    counts = angle_counts(np.array([1.0, 2.05, 6, 12, 23])) + angle_counts(np.array([31.0, 180]))
    mean, median, *shares = angle_scores(counts)
    assert mean == pytest.approx(255.05 / 7)
    assert median == pytest.approx(12, abs=0.1)
    assert shares == pytest.approx([2 / 7, 3 / 7, 4 / 7, 5 / 7])
    assert np.isnan(angle_scores(angle_counts(np.empty(0)))).all()


def test_what_counts_as_data():
    truth = np.array([[[0, 0, 1], [0, 0, 0], [np.nan, 0, 1], [np.inf, 0, 0], [0, -2, 0]]], np.float32)
    assert valid_normals(truth).tolist() == [[True, False, False, False, True]]


@given(arrays(np.float64, st.integers(1, 200), elements=st.floats(0, 180)))
def test_scores_are_those_of_all_angles(degrees):
    mean, median, *shares = angle_scores(angle_counts(degrees))
    assert mean == pytest.approx(degrees.mean())
    assert shares == pytest.approx([np.mean(degrees < limit) for limit in (5, 11.25, 22.5, 30)])
    ordered = np.sort(degrees)  # the median lies between the two middle angles, which may be far apart
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    width = np.diff(EDGES)[np.clip(np.searchsorted(EDGES, [low, high], side="right") - 1, 0, len(EDGES) - 2)]
    assert low - width[0] <= median <= high + width[1]


vectors = arrays(np.float32, (5, 3), elements=st.floats(-2, 2, width=32).map(lambda x: x if abs(x) > 0.1 else 0.5))


@given(vectors, vectors)
def test_angles_are_those_of_the_arc_cosine(one, other):
    a, b = one.astype(np.float64), other.astype(np.float64)
    cosine = np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert angular_errors(one, other) == pytest.approx(np.degrees(np.arccos(np.clip(cosine, -1, 1))), abs=2e-5)
