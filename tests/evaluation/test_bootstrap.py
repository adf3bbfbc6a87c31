"""Intervals over images."""

from __future__ import annotations

import numpy as np
import pytest

from sapiens_ray.evaluation.bootstrap import intervals


def mean_of(values: np.ndarray):
    return lambda weights: np.array([weights @ values / weights.sum()])


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(3).normal(10, 2, 400)
    ((low, high),) = intervals(mean_of(values), 400, 2000, 0)
    error = values.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.02)


def test_resamples_draw_as_many_images_as_there_are_and_a_seed_repeats_them():
    seen: list[np.ndarray] = []
    intervals(lambda weights: [seen.append(weights), np.zeros(1)][1], 7, 20, 5)
    assert len(seen) == 20 and all(one.sum() == 7 and len(one) == 7 for one in seen)
    values = np.arange(7.0)
    assert intervals(mean_of(values), 7, 50, 5) == intervals(mean_of(values), 7, 50, 5)
    assert intervals(mean_of(values), 7, 50, 5) != intervals(mean_of(values), 7, 50, 6)


def test_no_interval_where_there_is_nothing_to_resample():
    assert intervals(mean_of(np.ones(1)), 1, 100, 0) is None
    assert intervals(mean_of(np.ones(9)), 9, 0, 0) is None
    (nothing,) = intervals(lambda weights: np.array([np.nan]), 9, 10, 0)
    assert np.isnan(nothing).all()
    # Resamples in which the metric is not defined are left out.
    ((low, high),) = intervals(lambda weights: np.array([1.0 if weights[0] else np.nan]), 3, 50, 0)
    assert (low, high) == (1, 1)
