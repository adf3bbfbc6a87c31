"""The fit of scale and shift, and the errors after it: cases by hand, and numpy's least squares as reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sapiens_ray.evaluation.depth_metrics import depth_errors, fit_scale_shift, valid_depth


def test_depth_that_differs_by_scale_and_shift_has_no_error():
    prediction = np.array([0.1, 0.2, 0.4, 0.9])
    errors = depth_errors(prediction, 3 * prediction + 2)
    assert (errors.scale, errors.shift) == pytest.approx((3, 2))
    assert errors.rmse == pytest.approx(0, abs=1e-12) and errors.abs_rel == pytest.approx(0, abs=1e-12)
    assert errors.deltas == (1, 1, 1) and errors.raised == 0


def test_errors_by_hand():
    # The best line through (0, 1), (0, 3), (1, 4), (1, 8) goes through the means 2 and 6: p = 4 x + 2.
    errors = depth_errors(np.array([0, 0, 1, 1]), np.array([1, 3, 4, 8]))
    assert (errors.scale, errors.shift) == pytest.approx((4, 2))
    assert errors.rmse == pytest.approx(np.sqrt((1 + 1 + 4 + 4) / 4))
    assert errors.abs_rel == pytest.approx((1 / 1 + 1 / 3 + 2 / 4 + 2 / 8) / 4)
    # Ratios 2, 1.5, 1.5, 1.333 against 1.25, 1.5625, 1.953.
    assert errors.deltas == (0, 0.75, 0.75)


def test_fitted_depth_below_zero_is_raised_to_a_thousandth_of_the_median():
    # The line is 8.5 - 4.5 x: 8.5, 4 and -0.5. The median of the truth is 1.
    errors = depth_errors(np.array([0, 1, 2]), np.array([10, 1, 1]))
    assert (errors.scale, errors.shift) == pytest.approx((-4.5, 8.5)) and errors.raised == pytest.approx(1 / 3)
    assert errors.rmse == pytest.approx(np.sqrt((1.5**2 + 3**2 + 0.999**2) / 3))
    assert errors.abs_rel == pytest.approx((0.15 + 3 + 0.999) / 3)


def test_constant_depth_becomes_the_mean_and_no_depth_is_refused():
    assert fit_scale_shift(np.full(3, 0.5), np.array([1, 2, 6])) == (0, 3)
    with pytest.raises(ValueError, match="no pixels"):
        depth_errors(np.empty(0), np.empty(0))


def test_what_counts_as_data():
    truth = np.array([[1, 0, np.nan, np.inf, -1]], np.float32)
    assert valid_depth(truth).tolist() == [[True, False, False, False, False]]
    assert valid_depth(np.array([[0, 7]], np.uint16)).tolist() == [[False, True]]


values = st.floats(0.125, 8, width=32)


@given(st.integers(2, 30).flatmap(lambda n: st.tuples(arrays(np.float32, n, elements=values),
                                                      arrays(np.float32, n, elements=values))))  # fmt: skip
def test_the_fit_is_that_of_numpy_and_errors_are_those_of_the_formulas(pair):
    prediction, truth = pair
    p, g = prediction.astype(np.float64), truth.astype(np.float64)
    scale, shift = fit_scale_shift(prediction, truth)
    matrix = np.stack([p, np.ones_like(p)], 1)
    solution = np.linalg.lstsq(matrix, g, rcond=None)[0]
    best = np.sum((matrix @ solution - g) ** 2)
    assert np.sum((scale * p + shift - g) ** 2) == pytest.approx(best, rel=1e-6, abs=1e-9)
    fitted = np.maximum(scale * p + shift, 1e-3 * np.median(g))
    errors = depth_errors(prediction, truth)
    assert errors.rmse == pytest.approx(np.sqrt(np.mean((fitted - g) ** 2)))
    assert errors.abs_rel == pytest.approx(np.mean(np.abs(fitted - g) / g))
    for share, limit in zip(errors.deltas, (1.25, 1.25**2, 1.25**3), strict=True):
        assert share == np.mean(np.maximum(fitted / g, g / fitted) < limit)
