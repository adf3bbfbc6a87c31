"""Numbers and texts that several parts of the report show in the same way."""

from __future__ import annotations

import numpy as np

from sapiens_ray.pages.blocks import Cell
from sapiens_ray.reporting.numbers import Spread

HUNDREDTHS = np.linspace(0, 1, 101)


def spread_row(name: Cell, spread: Spread, digits: int) -> list[Cell]:
    """A row of a table: name, least, 5 %, median, 95 %, most, missing."""
    found = spread.result()
    values = [found[key] for key in ("min", "p05", "median", "p95", "max")]
    return [name, *(None if value is None else f"{value:.{digits}f}" for value in values), found["missing"]]


def log_edges(least: float, most: float, bins: int) -> np.ndarray:
    """The edges of bins that grow by a factor, from positive numbers; at least a factor of 1.1 in all."""
    low = max(least, 1e-9)
    return np.geomspace(low, max(most, low * 1.1), bins + 1)


def linear_edges(least: float, most: float, bins: int) -> np.ndarray:
    """The edges of bins of one width."""
    return np.linspace(least, most if most > least else least + 1, bins + 1)


def between(edges: np.ndarray, digits: int) -> list[str]:
    """The label of every bin."""
    return [f"{low:.{digits}f} to {high:.{digits}f}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
