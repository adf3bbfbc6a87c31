"""Statistics of persons: how many, how large, and the score of every keypoint."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sapiens_ray.labels import known_keypoints
from sapiens_ray.output.chunks import Columns
from sapiens_ray.pages import Bar, Bars, Block, Note, Section, Svg, Table
from sapiens_ray.pages.render import percent
from sapiens_ray.reporting.figure import draw_figure, places
from sapiens_ray.reporting.numbers import Spread
from sapiens_ray.reporting.tasks import Result, RowValues, TaskStatistics, good_rows, items, lengths
from sapiens_ray.reporting.words import log_histogram, spread_table, unit_histogram
from sapiens_ray.tasks.confidence import SCORED, VISIBLE
from sapiens_ray.tasks.stored import StoredLabels, StoredPersons

MOST_PERSONS = 10  # in one bar of the histogram: so many or more


class PersonStatistics(TaskStatistics):
    """Persons per photo, sizes of boxes, scores of persons and keypoints.

    The score of a person is the column `score`; in outputs that lack it, it is computed in the same way: the mean of
    the keypoint scores above 0.2, times the score of the box where there is one. The confidence of a photo is the
    lowest score of its persons.
    """

    labels: StoredPersons
    confidence_name = "lowest score of a person"
    digits: ClassVar[dict[str, int]] = {"persons": 0}

    def __init__(self, labels: StoredPersons) -> None:
        super().__init__(labels)
        count = len(labels.keypoint_names)
        self.photos = self.persons = 0
        self.per_photo = np.zeros(MOST_PERSONS + 1, np.int64)
        self.sides, self.shares, self.box_scores = Spread(), Spread(), Spread()
        self.scores, self.visible = Spread(), Spread()
        self.keypoint_total, self.keypoint_seen = np.zeros(count), np.zeros(count, np.int64)
        self.with_keypoints = 0

    @classmethod
    def fits(cls, labels: StoredLabels, schema: pa.Schema) -> bool:
        persons = schema.field(labels.column).type if labels.column in schema.names else pa.null()
        if not (pa.types.is_list(persons) and pa.types.is_struct(persons.value_type)):
            return False
        return all(persons.value_type.get_field_index(name) >= 0 for name in ("box", "scores"))

    @property
    def columns(self) -> Columns:
        return {self.column: ("box", "box_score", "scores", "score", "visible")}

    def add(self, table: pa.Table) -> RowValues:
        good = good_rows(table)
        counts = lengths(table[self.column])
        self.photos += int(good.sum())
        self.persons += int(counts.sum())
        self.per_photo += np.bincount(np.minimum(counts[good], MOST_PERSONS), minlength=MOST_PERSONS + 1)
        persons = pc.list_flatten(table[self.column]).combine_chunks()
        rows = np.repeat(np.arange(table.num_rows), counts)
        confidence = np.full(table.num_rows, np.nan)
        if len(persons):
            self._add_boxes(persons, table, rows)
            scores = self._add_scores(persons)
            some = np.flatnonzero(counts)
            confidence[some] = np.fmin.reduceat(scores, np.concatenate([[0], np.cumsum(counts[some])[:-1]]))
        measured = np.where(good, counts, np.nan)
        return RowValues(confidence, None, {"persons": measured})

    def _add_boxes(self, persons: pa.StructArray, table: pa.Table, rows: np.ndarray) -> None:
        boxes = items(pa.chunked_array([pc.struct_field(persons, "box")])).reshape(-1, 4).astype(np.float64)
        areas = np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)
        photo = table["width"].to_numpy().astype(np.float64) * table["height"].to_numpy()
        self.sides.add(np.sqrt(areas))
        self.shares.add(np.minimum(areas / photo[rows], 1.0))
        self.box_scores.add(_numbers(persons, "box_score"))

    def _add_scores(self, persons: pa.StructArray) -> np.ndarray:
        """Count the scores of keypoints. Returns the score of every person, N float64."""
        count = len(self.keypoint_total)
        lists = pa.chunked_array([pc.struct_field(persons, "scores")])
        whole = lengths(lists) == count
        values = items(lists.filter(pa.array(whole))).astype(np.float32).reshape(-1, count)
        self.keypoint_total += np.nansum(values, 0, dtype=np.float64)
        self.keypoint_seen += (values >= np.float32(VISIBLE)).sum(0)
        self.with_keypoints += len(values)
        stored = np.stack([_numbers(persons, "score"), _numbers(persons, "visible")])
        computed = np.full_like(stored, np.nan)
        computed[:, whole] = of_persons(values, _numbers(persons, "box_score")[whole])
        scores: np.ndarray
        scores, visible = np.where(np.isnan(stored), computed, stored)
        self.scores.add(scores)
        self.visible.add(visible)
        return scores

    def result(self) -> Result:
        people = max(1, self.with_keypoints)
        keypoints = [
            {
                "name": name,
                "mean_score": float(self.keypoint_total[number] / people) if self.with_keypoints else None,
                "visible": float(self.keypoint_seen[number] / people) if self.with_keypoints else None,
            }
            for number, name in enumerate(self.labels.keypoint_names)
        ]
        return {
            "task": self.labels.kind,
            "photos": self.photos,
            "persons": self.persons,
            "persons_per_photo": self.per_photo.tolist(),
            "box_side_px": self.sides.result(),
            "box_share_of_photo": self.shares.result(),
            "box_score": self.box_scores.result(),
            "score": self.scores.result(),
            "visible_keypoints": self.visible.result(),
            "keypoints": keypoints,
        }

    def sections(self) -> list[Section]:
        found = self.result()
        most = max(self.per_photo.max(), 1)
        last = int(np.flatnonzero(self.per_photo).max(initial=0))
        bars = [
            Bar(f"{number}{' or more' if number == MOST_PERSONS else ''}", float(photos / most), f"{photos:,}")
            for number, photos in enumerate(self.per_photo[: last + 1])
        ]
        blocks: list[Block] = [Bars("Persons per photo", ("persons", "photos"), bars)]
        if not self.persons:
            return [self.section("Persons", [*blocks, Note("Nobody was found in any photo.")])]
        side, share = found["box_side_px"]["median"], found["box_share_of_photo"]["median"]
        summary = f"Median {side:.0f} pixels, {percent(share)} of the photo."
        sides = log_histogram("Sizes of boxes: square root of the area", self.sides, 0, " px", summary)
        summary = (
            "Mean of the keypoint scores above 0.2, times the score of the box where there is one; median "
            f"{found['score']['median']:.2f}."
        )
        scores = unit_histogram("Scores of persons", self.scores, summary)
        spreads = {
            "score": (self.scores, 2),
            "score of the box": (self.box_scores, 2),
            "visible keypoints": (self.visible, 0),
        }
        spread = spread_table("Spread over persons", spreads)
        return [self.section("Persons", [*blocks, sides, scores, spread, *self._of_keypoints(found)])]

    def _of_keypoints(self, found: Result) -> list[Block]:
        points = found["keypoints"]
        if not self.with_keypoints:
            return []
        means = [one["mean_score"] for one in points]
        ordered = sorted(points, key=lambda one: one["mean_score"])
        bars = [
            Bar(one["name"], min(1.0, max(0.0, one["mean_score"])), f"{one['mean_score']:.2f}") for one in ordered[:12]
        ]
        least = Bars("Keypoints with the lowest mean score", ("keypoint", "score"), bars)
        rows = [[one["name"], f"{one['mean_score']:.3f}", f"{100 * one['visible']:.0f} %"] for one in points]
        columns = ["keypoint", "mean score", f"score {VISIBLE:g} or more"]
        table = Table("All keypoints", columns, rows, right=(1, 2), fold=f"All {len(points)} keypoints as a table")
        return [*self._figure(means), least, table]

    def _figure(self, means: list[float | None]) -> list[Block]:
        """The person, if all keypoints have a place on it: those of a user's own may be of anything."""
        names = self.labels.keypoint_names
        if known_keypoints(names) is None and len(places(names)) < len(names):
            return []
        caption = "Mean score of every keypoint: orange is 0, blue is 1; names in tooltips, and in the table"
        drawn = draw_figure(names, self.labels.keypoint_links, means)
        return [Svg(caption, drawn, "The person faces you: the right of the person is on the left.")]


def of_persons(scores: np.ndarray, box_scores: np.ndarray) -> np.ndarray:
    """`score` and `visible` of N persons, 2 x N float64: `tasks.confidence.of_person` for all at once. scores: N x K
    float32. box_scores: N, NaN for a box without one."""
    counted = scores > np.float32(SCORED)
    means = np.where(counted, scores, 0).sum(1, dtype=np.float64) / np.maximum(counted.sum(1), 1)
    visible = (scores >= np.float32(VISIBLE)).sum(1)
    return np.stack([means * np.where(np.isnan(box_scores), 1.0, box_scores), visible])


def _numbers(persons: pa.StructArray, name: str) -> np.ndarray:
    """A field of all persons, N float64; NaN for null, and where the output has no such field."""
    if persons.type.get_field_index(name) < 0:
        return np.full(len(persons), np.nan)
    values: np.ndarray = pc.cast(pc.struct_field(persons, name), pa.float64()).to_numpy(zero_copy_only=False).copy()
    return values
