"""Statistics of float maps: from the numbers beside the maps, without decoding one."""

from __future__ import annotations

import pyarrow as pa

from sapiens_ray.pages import Block, Histogram, Note, Section, Table
from sapiens_ray.reporting.chunks import Columns
from sapiens_ray.reporting.numbers import Spread
from sapiens_ray.reporting.tasks import Result, RowValues, TaskStatistics, floats, good_rows
from sapiens_ray.reporting.words import HUNDREDTHS, between, linear_edges, spread_row
from sapiens_ray.tasks.stored import StoredLabels


class DepthStatistics(TaskStatistics):
    """Ranges of relative depth over the foreground, and how many photos have none."""

    digits = {"range of depth": 3}  # noqa: RUF012

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
        nulls = Note(
            f"{self.near.missing:,} of {self.photos:,} photos ({100 * found['share_without_foreground']:.1f} %) have no depth "
            "range: no foreground, or its mask was missing. Depth is relative: values of two photos cannot be compared."
        )
        rows = [
            spread_row("nearest", self.near, 3),
            spread_row("farthest", self.far, 3),
            spread_row("range", self.range, 3),
        ]
        columns = ["", "least", "5 %", "median", "95 %", "most", "missing"]
        blocks: list[Block] = [nulls, Table("Depth over the foreground", columns, rows, right=range(1, 7))]
        if self.range.count:
            edges = linear_edges(self.range.least, self.range.most, 24)
            blocks.append(
                Histogram(
                    "Farthest minus nearest",
                    self.range.shares(edges),
                    between(edges, 3),
                    (f"{edges[0]:.3g}", f"{edges[-1]:.3g}"),
                    f"Median {found['range']['median']:.3g}. A flat map (0) shows no shape.",
                )  # fmt: skip
            )
        return [self.section(f"{self.column}: depth", blocks)]


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
        title = f"{self.column}: normals"
        if not self.length.count:
            text = (
                f"{self.photos:,} photos have normals. Their quality cannot be told: there is no column "
                f"{self.column}_length, or no photo has a foreground. Outputs of earlier versions lack it."
            )
            return [self.section(title, [Note(text, "aside")])]
        histogram = Histogram(
            "Mean length of the vectors before they are scaled", self.length.shares(HUNDREDTHS[::5]),
            [f"{edge:.2f}" for edge in HUNDREDTHS[:-1:5]], ("0", "1 and above"), f"Median {self.length.result()['median']:.2f}. Short vectors are unsure.",
        )  # fmt: skip
        columns = ["", "least", "5 %", "median", "95 %", "most", "missing"]
        table = Table("Spread over photos", columns, [spread_row("length", self.length, 3)], right=range(1, 7))
        nulls = Note(f"{self.length.missing:,} of {self.photos:,} photos have no length: no foreground.", "aside")
        return [self.section(title, [nulls, histogram, table])]
