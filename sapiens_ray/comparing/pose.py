"""Persons: matched by their boxes, then compared keypoint by keypoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sapiens_ray.comparing.pairing import TaskPair
from sapiens_ray.comparing.tasks import Incomparable, Result, TaskComparison, number
from sapiens_ray.evaluation.keypoint_metrics import oks
from sapiens_ray.pages import Block, Table
from sapiens_ray.pages.blocks import Cell
from sapiens_ray.reporting.numbers import Spread
from sapiens_ray.reporting.words import log_histogram, spread_table
from sapiens_ray.tasks.confidence import VISIBLE
from sapiens_ray.tasks.stored import StoredPersons
from sapiens_ray.units import Row

LEAST_IOU = 0.5  # of the boxes of one person
STORED = ("box", "box_score", "keypoints", "scores")  # outputs of earlier versions have no more


@dataclass(frozen=True)
class MatchedPersons:
    """One image. distances: P x K float64 pixels for the P persons in both, NaN where a keypoint does not count.
    diagonals: P, of the boxes in A. similarities: P OKS, NaN where no keypoint counts."""

    distances: np.ndarray
    diagonals: np.ndarray
    similarities: np.ndarray
    only_in_a: int
    only_in_b: int


class PersonComparison(TaskComparison):
    """Distances of keypoints with a score of 0.3 or more in both, OKS, persons in one output only.

    The difference of an image is the mean over its persons of the distance as a share of the box's diagonal, at most 1;
    a person in one output only counts as 1.
    """

    difference_name: ClassVar[str] = "keypoint distance / box diagonal (1 for a person in one output only)"
    digits: ClassVar[int] = 4

    def __init__(self, pair: TaskPair) -> None:
        super().__init__(pair)
        assert isinstance(pair.a, StoredPersons) and isinstance(pair.b, StoredPersons)
        self.a, self.b = pair.a, pair.b
        of_a, of_b = self.a.keypoint_names, self.b.keypoint_names
        self.names = [name for name in of_a if name in of_b]
        self._in_a, self._in_b = [of_a.index(name) for name in self.names], [of_b.index(name) for name in self.names]
        sigmas = self.a.keypoint_sigmas
        self._sigmas = np.array(sigmas)[self._in_a] if sigmas else None
        self.pixels, self.share, self.similarity = Spread(), Spread(), Spread()
        self.matched = self.only_in_a = self.only_in_b = self.images_with_other_persons = 0
        self.sums = np.zeros((3, len(self.names)))  # of each keypoint: how many, pixels, shares

    def are_identical(self, a: Row, b: Row) -> bool:
        first, second = a.get(self.a.column) or [], b.get(self.b.column) or []
        return [[one[key] for key in STORED] for one in first] == [[one[key] for key in STORED] for one in second]

    def compare(self, a: Row, b: Row) -> tuple[float, Any]:
        if not self.names:
            raise Incomparable("A and B have no keypoint of one name")
        first, second = a[self.a.column], b[self.b.column]
        pairs = match_boxes(_boxes(first), _boxes(second))
        distances = np.full((len(pairs), len(self.names)), np.nan)
        diagonals, similarities = np.zeros(len(pairs)), np.full(len(pairs), np.nan)
        for at, (one, other) in enumerate(pairs):
            distances[at], diagonals[at], similarities[at] = self._person(first[one], second[other])
        only = len(first) - len(pairs), len(second) - len(pairs)
        values = MatchedPersons(distances, diagonals, similarities, *only)
        return _difference(values), values

    def _person(self, a: Row, b: Row) -> tuple[np.ndarray, float, float]:
        """Distances (K, NaN where a keypoint does not count), diagonal of the box in A, and OKS of one person."""
        (points, scores), (others, other_scores) = _keypoints(a, self._in_a), _keypoints(b, self._in_b)
        counts = (scores >= np.float32(VISIBLE)) & (other_scores >= np.float32(VISIBLE))
        distances = np.where(counts, np.linalg.norm(points - others, axis=1), np.nan)
        width, height = np.maximum(np.subtract(a["box"][2:], a["box"][:2]), 0)
        similarity = float("nan")
        if counts.any() and self._sigmas is not None:
            area = np.array([width * height])
            similarity = float(oks(points[counts], others[None, counts], area, self._sigmas[counts])[0])
        return distances, float(np.hypot(width, height)), similarity

    def count(self, values: MatchedPersons) -> None:
        shares = _shares(values)
        self.matched += len(values.diagonals)
        self.only_in_a += values.only_in_a
        self.only_in_b += values.only_in_b
        self.images_with_other_persons += bool(values.only_in_a or values.only_in_b)
        counted = ~np.isnan(shares)
        self.pixels.add(values.distances[counted])
        self.share.add(shares[counted])
        self.similarity.add(values.similarities)
        self.sums += [counted.sum(0), np.nansum(values.distances, 0), np.nansum(shares, 0)]

    def _of_keypoints(self) -> list[Result]:
        rows = zip(self.names, *self.sums.tolist(), strict=True)
        return [
            {
                "name": name, "count": int(count), "mean_pixels": pixels / count if count else None,
                "mean_share": share / count if count else None,
            }
            for name, count, pixels, share in rows
        ]  # fmt: skip

    def numbers(self) -> Result:
        return {
            "persons": {"in_both": self.matched, "only_in_a": self.only_in_a, "only_in_b": self.only_in_b},
            "images_with_other_persons": self.images_with_other_persons,
            "distance_pixels": self.pixels.result(),
            "distance_share": self.share.result(),
            "oks": self.similarity.result(),
            "keypoints": self._of_keypoints(),
        }

    def headline(self) -> str:
        found = self.pixels.result()
        if not found["count"]:
            return ""
        return f"keypoints {found['mean']:.2f} pixels apart on average, median {found['median']:.2f}"

    def facts(self) -> Sequence[tuple[str, Cell]]:
        found = self.numbers()
        share = found["distance_share"]["mean"]
        return [
            ("persons in both", self.matched),
            ("persons only in A", self.only_in_a),
            ("persons only in B", self.only_in_b),
            ("mean distance", number(found["distance_pixels"]["mean"], 2, " pixels")),
            ("mean distance / diagonal", number(share, 4)),
            ("mean OKS", number(found["oks"]["mean"], 4)),
        ]

    def blocks(self) -> list[Block]:
        if not self.pixels.count:
            return []
        spreads = {
            "distance in pixels": (self.pixels, 2), "share of the box's diagonal": (self.share, 4),
            "OKS of a person": (self.similarity, 4),
        }  # fmt: skip
        blocks: list[Block] = [spread_table("Keypoints with a score of 0.3 or more in both", spreads)]
        if self.pixels.most > 0:
            blocks.append(log_histogram("Keypoints by distance, in pixels (logarithmic)", self.pixels, 2))
        ordered = sorted(self._of_keypoints(), key=lambda one: -(one["mean_share"] or 0))
        rows: list[list[Cell]] = [
            [one["name"], one["count"], number(one["mean_pixels"], 2), number(one["mean_share"], 4)]
            for one in ordered
            if one["count"]
        ]
        titles = ["keypoint", "compared", "mean pixels", "mean share"]
        table = Table("Keypoints, farthest apart first", titles, rows, right=(1, 2, 3), fold="Keypoint by keypoint")
        return [*blocks, table]


def _shares(values: MatchedPersons) -> np.ndarray:
    """The distances as shares of the diagonals, P x K; NaN for a box without size."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray = values.distances / np.where(values.diagonals > 0, values.diagonals, np.nan)[:, None]
    return found


def _difference(values: MatchedPersons) -> float:
    """See PersonComparison; 0 if nobody is in either."""
    of_persons = [float(one[~np.isnan(one)].mean()) if (~np.isnan(one)).any() else 0.0 for one in _shares(values)]
    alone = values.only_in_a + values.only_in_b
    persons = len(of_persons) + alone
    return (sum(min(1.0, one) for one in of_persons) + alone) / persons if persons else 0.0


def _boxes(persons: Sequence[Row]) -> np.ndarray:
    return np.array([one["box"] for one in persons], np.float64).reshape(-1, 4)


def _keypoints(person: Row, places: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """K x 2 float64 pixels, and K float32 scores."""
    points = np.array(person["keypoints"], np.float64).reshape(-1, 2)[places]
    return points, np.array(person["scores"], np.float32)[places]


def match_boxes(a: np.ndarray, b: np.ndarray, least: float = LEAST_IOU) -> list[tuple[int, int]]:
    """Pairs of rows of N x 4 and M x 4 boxes (x1, y1, x2, y2) that show one person, each row at most once.

    Equal boxes keep their order. Others are matched greedily, the largest IoU first, down to `least`.
    """
    if a.shape == b.shape and (a == b).all():
        return [(at, at) for at in range(len(a))]
    overlap = box_iou(a, b)
    pairs = []
    while overlap.size and overlap.max() >= least:
        one, other = np.unravel_index(int(overlap.argmax()), overlap.shape)
        pairs.append((int(one), int(other)))
        overlap[one, :] = overlap[:, other] = -1
    return sorted(pairs)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of N x 4 and M x 4 boxes (x1, y1, x2, y2): N x M float64, 0 where both have no area."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.maximum(high - low, 0).prod(-1)
    areas_a, areas_b = ((np.maximum(one[:, 2:] - one[:, :2], 0)).prod(-1) for one in (a, b))
    union = areas_a[:, None] + areas_b[None] - inside
    found: np.ndarray = np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)
    return found
