"""Features: cosine similarity of the mean vectors, and of the maps where both outputs have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sapiens_ray.comparing.pairing import TaskPair
from sapiens_ray.comparing.tasks import Incomparable, Result, TaskComparison, number
from sapiens_ray.imaging.maps import decode_npy
from sapiens_ray.pages import Block
from sapiens_ray.pages.blocks import Cell
from sapiens_ray.reporting.numbers import Spread
from sapiens_ray.reporting.words import spread_table
from sapiens_ray.tasks.features import StoredFeatures
from sapiens_ray.units import Row


@dataclass(frozen=True)
class VectorNumbers:
    """One image: cosine of the vectors and of the maps (NaN if not stored), and the largest |A - B| of all numbers."""

    mean: float
    map: float
    largest: float


class FeatureComparison(TaskComparison):
    """Only features of one model, or of models of one size, can be compared."""

    difference_name: ClassVar[str] = "1 - cosine similarity"
    digits: ClassVar[int] = 6

    def __init__(self, pair: TaskPair) -> None:
        super().__init__(pair)
        assert isinstance(pair.a, StoredFeatures) and isinstance(pair.b, StoredFeatures)
        self.means = pair.a.has_mean and pair.b.has_mean
        self.maps = pair.a.has_map and pair.b.has_map
        self._names = [(pair.a.column, pair.b.column)] if self.means else []
        self._map_names = [(pair.a.map_column, pair.b.map_column)] if self.maps else []
        self.mean, self.map, self.largest = Spread(), Spread(), Spread()

    @property
    def columns(self) -> tuple[list[str], list[str]]:
        both = [*self._names, *self._map_names]
        return [one for one, _ in both], [other for _, other in both]

    def are_identical(self, a: Row, b: Row) -> bool:
        return bool(self._names or self._map_names) and super().are_identical(a, b)

    def compare(self, a: Row, b: Row) -> tuple[float, Any]:
        vectors = [(np.array(a[one], np.float64), np.array(b[other], np.float64)) for one, other in self._names]
        maps = [
            (decode_npy(a[one]).astype(np.float64), decode_npy(b[other]).astype(np.float64))
            for one, other in self._map_names
        ]
        if not vectors and not maps:
            raise Incomparable("one output has mean vectors, the other has maps")
        for one, other in (*vectors, *maps):
            if one.shape != other.shape:
                raise Incomparable(f"features of {_shape(one)} and {_shape(other)}: the models differ in size")
        mean, of_map = (cosine(*pairs[0]) if pairs else float("nan") for pairs in (vectors, maps))
        largest = max(float(np.abs(one - other).max()) for one, other in (*vectors, *maps))
        # Rounding may give a cosine a little above 1.
        return max(0.0, 1 - (mean if vectors else of_map)), VectorNumbers(mean, of_map, largest)

    def count(self, values: VectorNumbers) -> None:
        for spread, value in ((self.mean, values.mean), (self.map, values.map), (self.largest, values.largest)):
            spread.add(np.array([value]))

    def numbers(self) -> Result:
        return {
            "cosine": self.mean.result(),
            "map_cosine": self.map.result() if self.maps else None,
            "largest_difference": self.largest.result(),
        }

    def headline(self) -> str:
        found = (self.mean if self.means else self.map).result()
        return f"cosine similarity {found['mean']:.4f} on average" if found["count"] else ""

    def facts(self) -> Sequence[tuple[str, Cell]]:
        cosine_of = (self.mean if self.means else self.map).result()
        return [
            ("mean cosine similarity", number(cosine_of["mean"], 6)),
            ("largest difference", number(self.largest.result()["max"], 6)),
        ]

    def blocks(self) -> list[Block]:
        spreads = {}
        if self.means:
            spreads["cosine of the mean vectors"] = (self.mean, 6)
        if self.maps:
            spreads["cosine of the maps"] = (self.map, 6)
        return [spread_table("Spread over images", {**spreads, "largest difference": (self.largest, 6)})]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The cosine of the angle between two arrays, taken as vectors: 1, without rounding, if they are equal, and 0 if
    one of them is 0."""
    if np.array_equal(a, b):
        return 1.0
    one, other = a.reshape(-1), b.reshape(-1)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else 0.0


def _shape(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape))
