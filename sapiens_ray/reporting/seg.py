"""Statistics of class maps: from the columns beside the maps, without decoding one."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyarrow as pa

from sapiens_ray.output.chunks import Columns
from sapiens_ray.pages import Bar, Bars, Block, HeatTable, Note, Section
from sapiens_ray.pages.gallery import CLASS_BITS
from sapiens_ray.pages.render import percent
from sapiens_ray.reporting.numbers import Spread
from sapiens_ray.reporting.tasks import Result, RowValues, TaskStatistics, floats, good_rows, items, lengths
from sapiens_ray.reporting.words import spread_table, unit_histogram
from sapiens_ray.tasks.stored import StoredClassMap, StoredLabels

SHOWN = 40  # classes in the heat table


class ClassStatistics(TaskStatistics):
    """Share of photos and of pixels per class, which classes occur together, confidence per class.

    Confidence is null in photos without foreground, and there are no such columns in
    outputs of earlier versions.
    """

    labels: StoredClassMap
    confidence_name = "confidence"
    digits: ClassVar[dict[str, int]] = {"classes": 0}

    def __init__(self, labels: StoredClassMap) -> None:
        super().__init__(labels)
        count = len(labels.class_names)
        self.photos = 0  # with labels
        self.with_class = np.zeros(count, np.int64)
        self.pixels = np.zeros(count)  # a class's share of a photo times the pixels of that photo, summed
        self.all_pixels = 0.0
        self.together = np.zeros((count, count), np.int64)
        self.class_confidence, self.class_rows = np.zeros(count), np.zeros(count, np.int64)
        self.confidence, self.low = Spread(), Spread()

    @classmethod
    def fits(cls, labels: StoredLabels, schema: pa.Schema) -> bool:
        return {f"{labels.column}_classes", f"{labels.column}_area"} <= set(schema.names)

    @property
    def columns(self) -> Columns:
        endings = ("classes", "area", "confidence", "confidence_p05", "class_confidence")
        return {f"{self.column}_{ending}": () for ending in endings}

    def add(self, table: pa.Table) -> RowValues:
        count = len(self.with_class)
        lists = table[f"{self.column}_classes"]
        per_row = lengths(lists)
        rows = np.repeat(np.arange(table.num_rows), per_row)
        classes = items(lists).astype(np.int64)
        areas = items(table[f"{self.column}_area"]).astype(np.float64)
        good = good_rows(table)
        size = np.where(good, floats(table, "width") * floats(table, "height"), 0.0)
        self.photos += int(good.sum())
        self.all_pixels += float(np.nansum(size))
        self.with_class += np.bincount(classes, minlength=count)
        self.pixels += np.bincount(classes, areas * size[rows], minlength=count)
        present = np.zeros((table.num_rows, count), np.int64)  # floats would go to BLAS, whose threads wait for cores
        present[rows, classes] = 1
        self.together += present.T @ present
        self._add_class_confidence(table, classes)
        confidence = floats(table, f"{self.column}_confidence")
        self.confidence.add(confidence[good])
        self.low.add(floats(table, f"{self.column}_confidence_p05")[good])
        bits = np.where(classes < CLASS_BITS, np.left_shift(1, np.minimum(classes, CLASS_BITS)), 0)
        masks = np.bincount(rows, bits, minlength=table.num_rows).astype(np.int64)  # sums below 2^53 are exact
        return RowValues(confidence, masks, {"classes": per_row.astype(np.float64)})

    def _add_class_confidence(self, table: pa.Table, classes: np.ndarray) -> None:
        column = f"{self.column}_class_confidence"
        if column not in table.column_names:
            return
        values = items(table[column]).astype(np.float64)
        if len(values) != len(classes):  # some rows lack the list: their classes cannot be told from those of others
            has = table[column].is_valid()
            classes = items(table[f"{self.column}_classes"].filter(has)).astype(np.int64)
        known = ~np.isnan(values)
        self.class_confidence += np.bincount(classes[known], values[known], minlength=len(self.with_class))
        self.class_rows += np.bincount(classes[known], minlength=len(self.with_class))

    def result(self) -> Result:
        classes = []
        for number, name in enumerate(self.labels.class_names):
            rows = int(self.class_rows[number])
            classes.append({
                "id": number,
                "name": name,
                "photos": int(self.with_class[number]),
                "share_of_photos": _share(self.with_class[number], self.photos),
                "share_of_pixels": _share(self.pixels[number], self.all_pixels),
                "confidence": float(self.class_confidence[number] / rows) if rows else None,
            })  # fmt: skip
        return {
            "task": self.labels.kind,
            "photos": self.photos,
            "classes": classes,
            "together": self.together.tolist(),
            "confidence": self.confidence.result(),
            "confidence_p05": self.low.result(),
        }

    def sections(self) -> list[Section]:
        found = self.result()["classes"]
        colours = self.labels.class_colours_rgb
        present = [one for one in found if one["photos"]]
        blocks: list[Block] = []
        for key, caption in (("share_of_photos", "Photos in which a class occurs"), ("share_of_pixels", "Pixels")):
            ordered = sorted(present, key=lambda one: -one[key])
            most = max((one[key] for one in ordered), default=0) or 1
            rows = [Bar(one["name"], one[key] / most, percent(one[key]), colours[one["id"]]) for one in ordered]
            blocks.append(Bars(caption, ("class", "share"), rows))
        blocks += self._of_confidence(present)
        blocks.append(self._heat(present))
        absent = [one["name"] for one in found if not one["photos"]]
        if absent:
            blocks.append(Note(f"In no photo: {', '.join(absent)}.", "aside"))
        return [self.section("Classes", blocks)]

    def _of_confidence(self, present: list[Result]) -> list[Block]:
        if not self.confidence.count:
            text = (
                f"There is no confidence: no column {self.column}_confidence, or no foreground in any photo. Outputs "
                "of earlier versions lack it."
            )
            return [Note(text, "aside")]
        colours = self.labels.class_colours_rgb
        sure = sorted((one for one in present if one["confidence"] is not None), key=lambda one: one["confidence"])
        rows = [Bar(one["name"], one["confidence"], f"{one['confidence']:.2f}", colours[one["id"]]) for one in sure]
        median = self.confidence.result()["median"]
        summary = f"Mean of the largest softmax probability over the foreground; median {median:.2f}."
        spreads = {"confidence": (self.confidence, 3), "5 % quantile inside a photo": (self.low, 3)}
        return [
            unit_histogram("Confidence of photos", self.confidence, summary),
            spread_table("Spread over photos", spreads),
            Bars("Confidence by class, least first", ("class", "mean over photos"), rows),
        ]

    def _heat(self, present: list[Result]) -> HeatTable:
        ordered = sorted(present, key=lambda one: -one["photos"])
        shown = [one for one in ordered if one["id"] != self.labels.background][:SHOWN]
        ids = [one["id"] for one in shown]
        values = [[_share(self.together[a, b], self.with_class[a]) if a != b else None for b in ids] for a in ids]
        names = [one["name"] for one in shown]
        caption = "Of the photos with the class on the left, the share (%) that has the one above"
        return HeatTable(caption, names, names, values)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
