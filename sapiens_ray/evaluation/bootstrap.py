"""Intervals by resampling images (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, percentile method).

What a metric needs is computed once per image. A resample says how often each image counts, so nothing is read again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sapiens_ray.units import Tell

Statistic = Callable[[np.ndarray], np.ndarray]  # how often each image counts (N int64) -> M metrics (float64, or NaN)
Interval = tuple[float, float]
LEVEL = 95  # per cent


def intervals(
    statistic: Statistic,
    images: int,
    times: int,
    seed: int,
    progress: Tell = lambda what, done, total: None,
) -> list[Interval] | None:
    """The interval of each of the M metrics: the percentiles 2.5 and 97.5 over `times` resamples.

    A resample draws as many images as there are, with replacement. Resamples in which a metric is NaN are left out of
    its interval, which is (NaN, NaN) if none is left. None without resamples, or with less than two images.
    """
    if times < 1 or images < 2:
        return None
    random = np.random.default_rng(seed)
    drawn = []
    for number in range(times):
        progress("resamples drawn", number, times)
        drawn.append(statistic(np.bincount(random.integers(images, size=images), minlength=images)))
    return [_interval(values) for values in np.array(drawn, np.float64).T]


def _interval(values: np.ndarray) -> Interval:
    defined = values[~np.isnan(values)]
    if not defined.size:
        return float("nan"), float("nan")
    rest = (100 - LEVEL) / 2
    low, high = np.percentile(defined, [rest, 100 - rest])
    return float(low), float(high)
