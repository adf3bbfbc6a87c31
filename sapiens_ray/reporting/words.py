"""Numbers and texts that several parts of the report show in the same way."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from sapiens_ray.pages import Histogram, Table
from sapiens_ray.pages.blocks import Cell
from sapiens_ray.reporting.numbers import Spread

BINS = 24
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
    top = "1" if spread.most <= 1 else "1 and above"
    return Histogram(caption, spread.shares(UNIT_EDGES), _between(UNIT_EDGES, 2), ("0", top), summary)


def log_histogram(caption: str, spread: Spread, digits: int, unit: str = "", summary: str = "") -> Histogram:
    """Positive numbers, in bars that grow by a factor, which together cover a factor of 1.1 at least."""
    low = max(spread.least, 1e-9)
    edges = np.geomspace(low, max(spread.most, low * 1.1), BINS + 1)
    return _histogram(caption, spread, edges, digits, unit, summary)


def linear_histogram(caption: str, spread: Spread, digits: int, summary: str = "") -> Histogram:
    """Numbers in bars of one width."""
    most = spread.most if spread.most > spread.least else spread.least + 1
    return _histogram(caption, spread, np.linspace(spread.least, most, BINS + 1), digits, "", summary)


def _histogram(caption: str, spread: Spread, edges: np.ndarray, digits: int, unit: str, summary: str) -> Histogram:
    ends = (f"{edges[0]:.{digits}f}{unit}", f"{edges[-1]:.{digits}f}{unit}")
    return Histogram(caption, spread.shares(edges), _between(edges, digits), ends, summary)


def _between(edges: np.ndarray, digits: int) -> list[str]:
    """The label of every bin."""
    return [f"{low:.{digits}f} to {high:.{digits}f}" for low, high in itertools.pairwise(edges)]
