"""Class maps, pixel by pixel. Classes are matched by name, since tables of models differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sapiens_ray.comparing.pairing import TaskPair
from sapiens_ray.comparing.tasks import Incomparable, Result, TaskComparison, number
from sapiens_ray.evaluation.result import defined
from sapiens_ray.evaluation.segmentation_metrics import class_counts, class_scores, pair_counts
from sapiens_ray.pages import Block, Note, Table, Text
from sapiens_ray.pages.blocks import Cell
from sapiens_ray.pages.render import percent
from sapiens_ray.reporting.numbers import Spread
from sapiens_ray.reporting.words import spread_table
from sapiens_ray.tasks.stored import StoredClassMap
from sapiens_ray.units import Row

UNKNOWN = -1  # of an id without a name
SWAPS = 10  # pairs of classes that are shown


@dataclass(frozen=True)
class Pixels:
    """One image. confusion: K x K int64, pixels by the class in A (row) and in B. iou: mean over classes."""

    confusion: np.ndarray
    iou: float
    agreement: float


class ClassComparison(TaskComparison):
    """Share of pixels that agree, IoU per class, mIoU over the classes that both tables have."""

    difference_name: ClassVar[str] = "share of pixels that differ"
    digits: ClassVar[int] = 4

    def __init__(self, pair: TaskPair) -> None:
        super().__init__(pair)
        assert isinstance(pair.a, StoredClassMap) and isinstance(pair.b, StoredClassMap)
        self.a, self.b = pair.a, pair.b
        of_a, of_b = self.a.class_names, self.b.class_names
        self.names = list(dict.fromkeys([*of_a, *of_b]))
        self.shared = np.array([name in of_a and name in of_b for name in self.names])
        colours = {**dict(zip(of_b, self.b.class_colours_rgb, strict=False))}
        colours.update(zip(of_a, self.a.class_colours_rgb, strict=False))
        self.colours = [colours.get(name) for name in self.names]
        self._ids = _positions(of_a, self.names), _positions(of_b, self.names)
        self.confusion = np.zeros((len(self.names), len(self.names)), np.int64)
        self.iou, self.agreement = Spread(), Spread()

    @property
    def columns(self) -> tuple[list[str], list[str]]:
        return [self.pair.a.column], [self.pair.b.column]

    def compare(self, a: Row, b: Row) -> tuple[float, Any]:
        first, second = self.a.class_map(a), self.b.class_map(b)
        if first.shape != second.shape:
            raise Incomparable("the class maps have different sizes")
        confusion = self._confusion(pair_counts(first, second))
        agreement = float(np.trace(confusion) / confusion.sum())
        return 1 - agreement, Pixels(confusion, self._mean_iou(confusion), agreement)

    def _confusion(self, counts: np.ndarray) -> np.ndarray:
        """From pixels by the ids in A and B, 256 x 256, to pixels by the names. Raises Incomparable."""
        ids_a, ids_b = np.nonzero(counts)
        at_a, at_b = self._ids[0][ids_a], self._ids[1][ids_b]
        if (at_a == UNKNOWN).any() or (at_b == UNKNOWN).any():
            raise Incomparable("a class map has a class without a name")
        confusion = np.zeros_like(self.confusion)
        np.add.at(confusion, (at_a, at_b), counts[ids_a, ids_b])
        return confusion

    def _mean_iou(self, confusion: np.ndarray) -> float:
        """Over the classes of both tables that occur in A or B; NaN if there are none."""
        iou = class_scores(class_counts(confusion)).iou[self.shared]
        known = iou[~np.isnan(iou)]
        return float(known.mean()) if known.size else float("nan")

    def count(self, values: Pixels) -> None:
        self.confusion += values.confusion
        self.iou.add(np.array([values.iou]))
        self.agreement.add(np.array([values.agreement]))

    def _classes(self) -> list[Result]:
        counts = class_counts(self.confusion)
        iou = class_scores(counts).iou
        return [
            {
                "name": name, "iou": defined(iou[at]) if self.shared[at] else None, "pixels_in_a": int(counts[1, at]),
                "pixels_in_b": int(counts[2, at]), "pixels_in_both": int(counts[0, at]),
                "only_in": None if self.shared[at] else "a" if name in self.a.class_names else "b",
            }
            for at, name in enumerate(self.names)
        ]  # fmt: skip

    def _swaps(self) -> list[Result]:
        """The pairs of different classes with most pixels."""
        off = self.confusion.copy()
        np.fill_diagonal(off, 0)
        order = np.argsort(-off, axis=None, kind="stable")[:SWAPS]
        pairs = [np.unravel_index(at, off.shape) for at in order]
        return [
            {"a": self.names[row], "b": self.names[column], "pixels": int(off[row, column])}
            for row, column in pairs
            if off[row, column]
        ]

    def numbers(self) -> Result:
        total = int(self.confusion.sum())
        return {
            "mean_iou": defined(self._mean_iou(self.confusion)),
            "pixels": total,
            "pixel_agreement": float(np.trace(self.confusion) / total) if total else None,
            "image_mean_iou": self.iou.result(),
            "image_agreement": self.agreement.result(),
            "classes": self._classes(),
            "swaps": self._swaps(),
        }

    def headline(self) -> str:
        found = self.numbers()
        if found["mean_iou"] is None:
            return ""
        return f"mIoU {found['mean_iou']:.4f}, {found['pixel_agreement']:.2%} of the pixels agree"

    def facts(self) -> list[tuple[str, Cell]]:
        found = self.numbers()
        return [
            ("mIoU over all images", number(found["mean_iou"], 4)),
            ("pixels that agree", number(found["pixel_agreement"], 4)),
        ]

    def blocks(self) -> list[Block]:
        blocks: list[Block] = []
        for side, where in (("a", "A"), ("b", "B")):
            only = [one["name"] for one in self._classes() if one["only_in"] == side]
            if only:
                text = f"Only the table of {where} has {', '.join(only)}. Not in the mIoU; their pixels do not agree."
                blocks.append(Note(text, "aside"))
        spreads = {"mIoU of an image": (self.iou, 4), "share of pixels that agree": (self.agreement, 4)}
        rows: list[list[Cell]] = [
            [Text(one["name"], swatch=colour), number(one["iou"], 4), one["pixels_in_a"], one["pixels_in_b"]]
            for one, colour in zip(self._classes(), self.colours, strict=True)
            if one["pixels_in_a"] or one["pixels_in_b"]
        ]
        blocks.append(spread_table("Spread over images", spreads))
        total = max(1, int(self.confusion.sum()))
        swaps: list[list[Cell]] = [
            [one["a"], one["b"], one["pixels"], percent(one["pixels"] / total)] for one in self._swaps()
        ]
        if swaps:
            caption = "Most frequent disagreements"
            blocks.append(Table(caption, ["class in A", "class in B", "pixels", "of all"], swaps, right=(2, 3)))
        blocks.append(Table("Classes", ["class", "IoU", "pixels in A", "pixels in B"], rows, right=range(1, 4)))
        return blocks


def _positions(names: list[str], positions: list[str]) -> np.ndarray:
    """From the class ids of a table to positions in a list of names, 256 int64; UNKNOWN for other ids."""
    found = np.full(256, UNKNOWN, np.int64)
    found[: len(names)] = [positions.index(name) for name in names]
    return found
