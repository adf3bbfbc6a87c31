"""Depth and normals, over the foreground where A has a class map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from sapiens_ray.comparing.pairing import TaskPair
from sapiens_ray.comparing.tasks import Incomparable, Result, TaskComparison, number, steps_of
from sapiens_ray.evaluation.depth_metrics import fit_scale_shift
from sapiens_ray.evaluation.normal_metrics import (
    LIMITS,
    angle_counts,
    angle_quantile,
    angle_scores,
    angular_errors,
    valid_normals,
)  # fmt: skip
from sapiens_ray.evaluation.result import defined
from sapiens_ray.imaging.maps import decode_npy, resize
from sapiens_ray.pages import Block, Note
from sapiens_ray.pages.blocks import Cell
from sapiens_ray.reporting.numbers import Spread
from sapiens_ray.reporting.words import spread_table
from sapiens_ray.tasks.stored import StoredClassMap
from sapiens_ray.units import Row


class MapComparison(TaskComparison):
    """What depth and normals share. mask: the class map of A whose foreground counts; None for all pixels."""

    def __init__(self, pair: TaskPair, mask: StoredClassMap | None) -> None:
        super().__init__(pair)
        self.mask = mask

    @property
    def needs(self) -> list[str]:
        return [self.mask.column] if self.mask else []

    def maps(self, a: Row, b: Row) -> tuple[np.ndarray, np.ndarray]:
        """The maps of A and B at the size of that of A; a map of another size is resized bilinearly."""
        first, second = decode_npy(a[self.pair.a.column]), decode_npy(b[self.pair.b.column])
        if first.shape != second.shape:
            second = resize(second, first.shape[1], first.shape[0])
        return first, second

    def foreground(self, a: Row, height: int, width: int) -> np.ndarray:
        """Which pixels count, height x width bool."""
        if self.mask is None:
            return np.ones((height, width), bool)
        classes = self.mask.class_map(a)
        small = cv2.resize(classes, (width, height), interpolation=cv2.INTER_NEAREST)
        found: np.ndarray = small != self.mask.background
        return found

    def over(self) -> Note:
        """Which pixels count, in words."""
        where = f"the foreground of {self.mask.column} in A" if self.mask else "all pixels: A has no class map"
        return Note(f"Over {where}.", "aside")


@dataclass(frozen=True)
class DepthNumbers:
    """One image. rmse: after the fit, as a share of A's range. correlation: of Pearson; NaN for a flat map.
    largest: |A - B| of the stored maps over all pixels. turned: whether B grows where A falls."""

    rmse: float
    correlation: float
    largest: float
    turned: bool


class DepthComparison(MapComparison):
    """B after a least-squares fit of scale and shift to A: relative depth has no unit."""

    difference_name: ClassVar[str] = "RMSE after fit (share of A's range)"
    digits: ClassVar[int] = 4

    def __init__(self, pair: TaskPair, mask: StoredClassMap | None) -> None:
        super().__init__(pair, mask)
        self.rmse, self.correlation, self.largest = Spread(), Spread(), Spread()
        self.turned = 0

    def compare(self, a: Row, b: Row) -> tuple[float, Any]:
        first, second = (one.astype(np.float64) for one in self.maps(a, b))
        finite = np.isfinite(first) & np.isfinite(second)
        counted = finite & self.foreground(a, *first.shape)
        if not counted.any():
            raise Incomparable("there is no foreground with depth")
        largest = float(np.abs(first - second)[finite].max())
        values = depth_numbers(first[counted], second[counted], largest)
        return values.rmse, values

    def count(self, values: DepthNumbers) -> None:
        for spread, value in (
            (self.rmse, values.rmse), (self.correlation, values.correlation), (self.largest, values.largest),
        ):  # fmt: skip
            spread.add(np.array([value]))
        self.turned += values.turned

    def numbers(self) -> Result:
        return {
            "mask": self.mask.column if self.mask else None,
            "rmse_share": self.rmse.result(),
            "correlation": self.correlation.result(),
            "largest_raw_difference": self.largest.result(),
            "negative_scale": self.turned,
        }

    def headline(self) -> str:
        found = self.rmse.result()
        return f"RMSE {found['mean']:.2%} of the range after a fit" if found["count"] else ""

    def facts(self) -> Sequence[tuple[str, Cell]]:
        found = self.numbers()
        return [
            ("mean RMSE / range", number(found["rmse_share"]["mean"], 4)),
            ("mean correlation", number(found["correlation"]["mean"], 4)),
            ("largest raw difference", number(found["largest_raw_difference"]["max"], 4)),
        ]

    def blocks(self) -> list[Block]:
        blocks: list[Block] = [self.over()]
        if self.turned:
            blocks.append(Note(f"In {self.turned:,} images B grows where A falls: the fit has a negative scale."))
        spreads = {
            "RMSE after fit / range": (self.rmse, 4), "correlation": (self.correlation, 4),
            "largest raw difference": (self.largest, 4),
        }  # fmt: skip
        return [*blocks, spread_table("Spread over images", spreads)]


def depth_numbers(a: np.ndarray, b: np.ndarray, largest: float) -> DepthNumbers:
    """Compare N float64 values of B with those of A, after a fit of B to A. Where both are flat, the RMSE is 0. Raises
    Incomparable if only A is flat: it has no range of which the RMSE could be a share."""
    scale, shift = fit_scale_shift(b, a)
    extent = float(np.ptp(a))
    if extent == 0 and np.ptp(b) > 0:
        raise Incomparable("the depth of A is flat")
    rmse = float(np.sqrt(np.mean((scale * b + shift - a) ** 2)))
    centred_a, centred_b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((centred_a @ centred_a) * (centred_b @ centred_b)))
    correlation = float(centred_a @ centred_b) / spread if spread > 0 else float("nan")
    return DepthNumbers(rmse / extent if extent else 0.0, correlation, largest, scale < 0)


class NormalComparison(MapComparison):
    """Angles between the vectors of A and B, over the pixels of all images."""

    difference_name: ClassVar[str] = "mean angle (degrees)"
    digits: ClassVar[int] = 2

    def __init__(self, pair: TaskPair, mask: StoredClassMap | None) -> None:
        super().__init__(pair, mask)
        self.counts = angle_counts(np.empty(0))
        self.of_images = Spread()

    def compare(self, a: Row, b: Row) -> tuple[float, Any]:
        first, second = self.maps(a, b)
        counted = self.foreground(a, *first.shape[:2]) & valid_normals(first) & valid_normals(second)
        if not counted.any():
            raise Incomparable("there is no foreground with normals")
        first, second = first[counted], second[counted]
        counts = 0 * self.counts
        for part in steps_of(len(first)):
            counts += angle_counts(angular_errors(first[part], second[part]))
        return float(counts[1] / counts[0]), counts

    def count(self, values: np.ndarray) -> None:
        self.counts += values
        self.of_images.add(np.array([values[1] / values[0]]))

    def numbers(self) -> Result:
        mean, median, below, *_ = angle_scores(self.counts).tolist()
        return {
            "mask": self.mask.column if self.mask else None,
            "pixels": int(self.counts[0]),
            "mean_degrees": defined(mean),
            "median_degrees": defined(median),
            "p95_degrees": defined(angle_quantile(self.counts, 0.95)),
            "share_above_5_degrees": defined(1 - below),
            "image_mean_degrees": self.of_images.result(),
        }

    def headline(self) -> str:
        found = self.numbers()
        return "" if found["mean_degrees"] is None else f"normals {found['mean_degrees']:.2f} degrees apart on average"

    def facts(self) -> Sequence[tuple[str, Cell]]:
        found = self.numbers()
        return [
            ("mean angle", number(found["mean_degrees"], 2, "°")),
            ("median angle", number(found["median_degrees"], 2, "°")),
            ("95 % are below", number(found["p95_degrees"], 2, "°")),
            (f"share of {LIMITS[0]:.0f}° and more", number(found["share_above_5_degrees"], 4)),
        ]

    def blocks(self) -> list[Block]:
        return [self.over(), spread_table("Spread over images", {"mean angle in degrees": (self.of_images, 2)})]
