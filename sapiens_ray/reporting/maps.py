"""Statistics of float maps: from the numbers beside the maps, without decoding one."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa

from sapiens_ray.output.chunks import Columns
from sapiens_ray.pages import Block, Note, Section
from sapiens_ray.pages.render import percent
from sapiens_ray.reporting.numbers import Spread
from sapiens_ray.reporting.tasks import Result, RowValues, TaskStatistics, floats, good_rows
from sapiens_ray.reporting.words import linear_histogram, spread_table
from sapiens_ray.tasks.stored import StoredLabels


class DepthStatistics(TaskStatistics):
    """Ranges of relative depth over the foreground, and how many photos have none."""

    digits: ClassVar[dict[str, int]] = {"range of depth": 3}

    def __init__(self, labels: StoredLabels) -> None:
        super().__init__(labels)
        self.photos = 0
        self.near, self.far, self.range = Spread(), Spread(), Spread()

    @property
    def columns(self) -> Columns:
        return {f"{self.column}_min": (), f"{self.column}_max": ()}

    def add(self, table: pa.Table) -> RowValues:
        good = good_rows(table)
        near, far = floats(table, f"{self.column}_min"), floats(table, f"{self.column}_max")
        self.photos += int(good.sum())
        for spread, values in ((self.near, near), (self.far, far), (self.range, far - near)):
            spread.add(values[good])
        return RowValues(measures={"range of depth": far - near})

    def result(self) -> Result:
        return {
            "task": self.labels.kind,
            "photos": self.photos,
            "share_without_foreground": self.near.missing / self.photos if self.photos else 0.0,
            "min": self.near.result(),
            "max": self.far.result(),
            "range": self.range.result(),
        }

    def sections(self) -> list[Section]:
        found = self.result()
        share = percent(found["share_without_foreground"])
        nulls = Note(
            f"{self.near.missing:,} of {self.photos:,} photos ({share}) have no depth range: no foreground, or its "
            "mask was missing. Depth is relative: values of two photos cannot be compared."
        )
        spreads = {"nearest": (self.near, 3), "farthest": (self.far, 3), "range": (self.range, 3)}
        blocks: list[Block] = [nulls, spread_table("Depth over the foreground", spreads)]
        if self.range.count:
            summary = f"Median {found['range']['median']:.3g}. A flat map (0) shows no shape."
            blocks.append(linear_histogram("Farthest minus nearest", self.range, 3, summary))
        return [self.section("Depth", blocks)]


class NormalStatistics(TaskStatistics):
    """Mean length of the raw vectors, where the output has it: short vectors are unsure."""

    confidence_name = "mean length of the vectors"

    def __init__(self, labels: StoredLabels) -> None:
        super().__init__(labels)
        self.photos = 0
        self.length = Spread()

    @property
    def columns(self) -> Columns:
        return {f"{self.column}_length": ()}

    def add(self, table: pa.Table) -> RowValues:
        good = good_rows(table)
        length = floats(table, f"{self.column}_length")
        self.photos += int(good.sum())
        self.length.add(length[good])
        return RowValues(confidence=length)

    def result(self) -> Result:
        missing = self.length.missing / self.photos if self.photos else 0.0
        told = bool(self.length.count)
        return {
            "task": self.labels.kind,
            "photos": self.photos,
            "share_without_foreground": missing if told else None,
            "length": self.length.result(),
        }

    def sections(self) -> list[Section]:
        title = "Normals"
        if not self.length.count:
            text = (
                f"{self.photos:,} photos have normals. Their quality cannot be told: there is no column "
                f"{self.column}_length, or no photo has a foreground. Outputs of earlier versions lack it."
            )
            return [self.section(title, [Note(text, "aside")])]
        summary = f"Median {self.length.result()['median']:.2f}. Short vectors are unsure."
        histogram = linear_histogram("Mean length of the vectors before they are scaled", self.length, 2, summary)
        table = spread_table("Spread over photos", {"length": (self.length, 3)})
        nulls = Note(f"{self.length.missing:,} of {self.photos:,} photos have no length: no foreground.", "aside")
        return [self.section(title, [nulls, histogram, table])]
