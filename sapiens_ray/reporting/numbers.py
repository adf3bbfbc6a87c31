"""Numbers of millions of rows in bounded memory: their spread, and the rows with the smallest ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

KEPT = 100_000  # values of a spread
PARTS = 1_000  # arrays that hold them: one per value would take ten times as much
QUANTILES = {"p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}


class Spread:
    """Count, range, mean and quantiles of numbers. NaN counts as missing.

    Quantiles and histograms are exact up to 100,000 values; of more, they are those of a uniform random sample of
    that size: the values with the smallest of as many random keys (seeded, so that the same output gives the same).
    """

    def __init__(self, seed: int = 0) -> None:
        self.count = self.missing = 0
        self.least, self.most, self.total = np.inf, -np.inf, 0.0
        self._random = np.random.default_rng(seed)
        self._values: list[np.ndarray] = []
        self._keys: list[np.ndarray] = []
        self._held, self._limit = 0, np.inf

    def add(self, values: np.ndarray) -> None:
        """values: any shape, any real dtype."""
        flat = np.asarray(values, np.float64).reshape(-1)
        known = flat[~np.isnan(flat)]
        self.count += len(known)
        self.missing += len(flat) - len(known)
        if not len(known):
            return
        self.least, self.most = min(self.least, float(known.min())), max(self.most, float(known.max()))
        self.total += float(known.sum())
        keys = self._random.random(len(known))
        chosen = keys < self._limit
        self._values.append(known[chosen])
        self._keys.append(keys[chosen])
        self._held += int(chosen.sum())
        if self._held > 2 * KEPT:
            self._drop()
        elif len(self._values) > PARTS:
            self._values, self._keys = [np.concatenate(self._values)], [np.concatenate(self._keys)]

    def _drop(self) -> None:
        values, keys = np.concatenate(self._values), np.concatenate(self._keys)
        if len(keys) > KEPT:
            kept = np.argpartition(keys, KEPT)[:KEPT]
            values, keys = values[kept], keys[kept]
            self._limit = float(keys.max())
        self._values, self._keys, self._held = [values], [keys], len(keys)

    @property
    def sample(self) -> np.ndarray:
        """The values, or 100,000 of them, as float64, in no order."""
        if not self._held:
            return np.empty(0)
        self._drop()
        return self._values[0]

    def result(self) -> dict[str, Any]:
        """As JSON values; quantiles by linear interpolation. Without values all but the counts are null."""
        names = ("min", *QUANTILES, "max", "mean")
        if not self.count:
            return {"count": 0, "missing": self.missing, **dict.fromkeys(names)}
        found = np.quantile(self.sample, list(QUANTILES.values()))
        inner = {name: float(value) for name, value in zip(QUANTILES, found, strict=True)}
        mean = self.total / self.count
        return {
            "count": self.count,
            "missing": self.missing,
            "min": self.least,
            **inner,
            "max": self.most,
            "mean": mean,
        }

    def shares(self, edges: Sequence[float] | np.ndarray) -> list[float]:
        """The share of the values between every two edges; those outside count for the first and the last bin."""
        sample = self.sample
        if not len(sample):
            return [0.0] * (len(edges) - 1)
        counts, _ = np.histogram(np.clip(sample, edges[0], edges[-1]), edges)
        shares: list[float] = (counts / len(sample)).tolist()
        return shares


class Lowest:
    """The rows with the smallest keys, at most `limit`. Rows whose key is NaN are left out."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._tables: list[pa.Table] = []
        self._keys: list[np.ndarray] = []
        self._held, self._bound = 0, np.inf

    def add(self, table: pa.Table, keys: np.ndarray) -> None:
        """keys: one number per row. All tables have the same columns."""
        chosen = np.flatnonzero(keys <= self._bound)  # not NaN
        if not len(chosen) or not self.limit:
            return
        # `take` copies: a slice would hold on to all columns of its chunk.
        self._tables.append(table.take(pa.array(chosen)))
        self._keys.append(np.asarray(keys, np.float64)[chosen])
        self._held += len(chosen)
        if self._held > 2 * self.limit + 1000:
            self._drop()

    def _drop(self) -> None:
        table, keys = pa.concat_tables(self._tables).combine_chunks(), np.concatenate(self._keys)
        order = np.argsort(keys, kind="stable")[: self.limit]
        if len(order) == self.limit:
            self._bound = float(keys[order[-1]])
        self._tables, self._keys, self._held = [table.take(pa.array(order))], [keys[order]], len(order)

    def table(self) -> pa.Table | None:
        """The rows, smallest key first; None without rows."""
        if not self._tables:
            return None
        self._drop()
        return self._tables[0]


def row_keys(shards: np.ndarray, indices: np.ndarray, seed: int) -> np.ndarray:
    """A random number from 0 to 1 per row that depends on its place in the plan and the seed alone, so that it does not
    matter how rows are spread over files: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
    generators, 2014). N float64."""
    with np.errstate(over="ignore"):
        state = (shards.astype(np.uint64) << np.uint64(32)) + indices.astype(np.uint64) + np.uint64(1)
        state = (state + np.uint64(seed) * np.uint64(0x632BE59BD9B4E019)) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = state ^ (state >> np.uint64(31))
    return (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53)
