from __future__ import annotations

import numpy as np
import pytest

from sapiens_ray.reporting.numbers import Spread
from sapiens_ray.reporting.words import linear_histogram, log_histogram, unit_histogram


def spread_of(values) -> Spread:
    spread = Spread()
    spread.add(np.array(values, np.float64))
    return spread


def test_a_few_numbers_far_away_leave_the_bars_to_the_others():
    values = np.geomspace(50, 800, 1000)
    plain = log_histogram("sizes", spread_of(values), 0, " px")
    outliers = log_histogram("sizes", spread_of([0, 1e-5, *values, 1e9]), 0, " px")
    assert sum(height > 0.02 for height in outliers.heights) == 24, "sizes fill all bars"
    assert outliers.heights == pytest.approx(plain.heights, abs=0.01)
    assert outliers.ends == ("51 px and less", "791 px and more")
    assert (outliers.labels[0], outliers.labels[1]) == ("57 and less", "57 to 64")
    assert outliers.labels[-1] == "705 and more" and sum(outliers.heights) == pytest.approx(1)


def test_without_outliers_the_ends_are_plain():
    histogram = log_histogram("ratio", spread_of([2.0, 2.0]), 2)
    assert histogram.ends == ("2.00", "2.20") and sum(histogram.heights) == 1
    histogram = linear_histogram("range", spread_of([3.0]), 1)
    assert histogram.ends == ("3.0", "4.0") and histogram.labels[0].startswith("3.0 to ")


@pytest.mark.parametrize("draw", [log_histogram, linear_histogram])
@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0, 2.0, np.inf], [np.inf], [np.nan], []])
def test_values_without_a_middle_are_counted_all_the_same(draw, values):
    histogram = draw("any", spread_of(values), 2)
    known = sum(not np.isnan(value) for value in values)
    assert sum(histogram.heights) == pytest.approx(1 if known else 0)
    assert "nan" not in " ".join([*histogram.ends, *histogram.labels])


def test_the_last_bar_of_lengths_says_that_it_holds_what_is_above():
    histogram = unit_histogram("length", spread_of([0.5, 1.4]))
    assert (histogram.labels[-1], histogram.ends) == ("0.95 and more", ("0.00", "1.00 and more"))
    histogram = unit_histogram("confidence", spread_of([0.5, 1.0]))
    assert (histogram.labels[-1], histogram.ends) == ("0.95 to 1.00", ("0.00", "1.00"))
