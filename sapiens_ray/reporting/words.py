"""Numbers and texts that several parts of the report show in the same way."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from sapiens_ray.pages import Histogram, Table
from sapiens_ray.pages.blocks import Cell
from sapiens_ray.reporting.numbers import Spread

BINS = 24
MIDDLE = (0.005, 0.995)  # quantiles: the bars of a histogram lie between them
UNIT_EDGES = np.linspace(0, 1, 21)
SHOWN = ("min", "p05", "median", "p95", "max")


def spread_table(caption: str, spreads: Mapping[str, tuple[Spread, int]], last: str = "missing") -> Table:
    """A row per spread, with so many digits behind the point. last: the heading of what has no number."""
    rows: list[list[Cell]] = []
    for name, (spread, digits) in spreads.items():
        found = spread.result()
        values = [None if found[key] is None else f"{found[key]:.{digits}f}" for key in SHOWN]
        rows.append([name, *values, found["missing"]])
    return Table(caption, ["", "least", "5 %", "median", "95 %", "most", last], rows, right=range(1, 7))


def unit_histogram(caption: str, spread: Spread, summary: str = "") -> Histogram:
    """Numbers from 0 to 1; larger ones count for the last bar."""
    return _histogram(caption, spread, UNIT_EDGES, 2, "", summary)


def log_histogram(caption: str, spread: Spread, digits: int, unit: str = "", summary: str = "") -> Histogram:
    """Positive numbers, in bars that grow by a factor, which together cover a factor of 1.1 at least. They cover all
    but the outermost 1 %: one box without an area would leave one bar for all others."""
    low, high = _range(spread.sample[spread.sample > 0], MIDDLE)
    return _histogram(caption, spread, np.geomspace(low, max(high, low * 1.1), BINS + 1), digits, unit, summary)


def linear_histogram(caption: str, spread: Spread, digits: int, summary: str = "") -> Histogram:
    """Numbers in bars of one width, from the smallest to the largest finite one."""
    low, high = _range(spread.sample, (0, 1))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    return _histogram(caption, spread, edges, digits, "", summary)


def _range(values: np.ndarray, quantiles: tuple[float, float]) -> tuple[float, float]:
    """Two quantiles of the finite values; 1 and 1 without any."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 1.0, 1.0
    low, high = np.quantile(finite, quantiles)
    return float(low), float(high)


def _histogram(caption: str, spread: Spread, edges: np.ndarray, digits: int, unit: str, summary: str) -> Histogram:
    """The first and the last bar hold what is outside of the edges as well, and say so."""
    numbers = [f"{edge:.{digits}f}" for edge in edges]
    labels = [f"{low} to {high}" for low, high in itertools.pairwise(numbers)]
    first, last = f"{numbers[0]}{unit}", f"{numbers[-1]}{unit}"
    if spread.least < edges[0]:
        first, labels[0] = f"{first} and less", f"{numbers[1]} and less"
    if spread.most > edges[-1]:
        last, labels[-1] = f"{last} and more", f"{numbers[-2]} and more"
    return Histogram(caption, spread.shares(edges), labels, (first, last), summary)
