"""Statistics of pointmaps and mattes: from the numbers beside the maps, without decoding one."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa

from sapiens_ray.output.chunks import Columns
from sapiens_ray.pages import Block, Note, Section
from sapiens_ray.reporting.numbers import Spread
from sapiens_ray.reporting.tasks import Result, RowValues, TaskStatistics, floats, good_rows
from sapiens_ray.reporting.words import linear_histogram, spread_table, unit_histogram
from sapiens_ray.tasks.stored import StoredLabels


class PointmapStatistics(TaskStatistics):
    """Distances of the foreground in metres, and focal lengths."""

    digits: ClassVar[dict[str, int]] = {"distance, m": 2, "focal length, px": 0}

    def __init__(self, labels: StoredLabels) -> None:
        super().__init__(labels)
        self.photos = 0
        self.nearest, self.distance, self.farthest, self.focal = Spread(), Spread(), Spread(), Spread()

    @property
    def columns(self) -> Columns:
        return {f"{self.column}_{name}": () for name in ("min_m", "depth_m", "max_m", "focal_px")}

    def add(self, table: pa.Table) -> RowValues:
        good = good_rows(table)
        found = [floats(table, name) for name in self.columns]
        self.photos += int(good.sum())
        for spread, values in zip((self.nearest, self.distance, self.farthest, self.focal), found, strict=True):
            spread.add(values[good])
        return RowValues(measures=dict(zip(self.digits, (found[1], found[3]), strict=True)))

    def result(self) -> Result:
        return {
            "task": self.labels.kind,
            "photos": self.photos,
            "share_without_foreground": self.distance.missing / self.photos if self.photos else 0.0,
            "min_m": self.nearest.result(),
            "depth_m": self.distance.result(),
            "max_m": self.farthest.result(),
            "focal_px": self.focal.result(),
        }

    def sections(self) -> list[Section]:
        nulls = Note(
            f"{self.distance.missing:,} of {self.photos:,} photos have no distance: no foreground, or its mask was "
            "missing. The distance of a photo is the median of z over its foreground."
        )
        spreads = {
            "nearest, m": (self.nearest, 2),
            "distance, m": (self.distance, 2),
            "farthest, m": (self.farthest, 2),
            "focal length, pixels": (self.focal, 0),
        }
        blocks: list[Block] = [nulls, spread_table("Over the foreground", spreads)]
        if self.distance.count:
            blocks.append(linear_histogram("Distance in metres", self.distance, 2))
        return [self.section("Points", blocks)]


class MattingStatistics(TaskStatistics):
    """Shares of the photos that persons cover."""

    digits: ClassVar[dict[str, int]] = {"share of the photo": 3}

    def __init__(self, labels: StoredLabels) -> None:
        super().__init__(labels)
        self.photos = 0
        self.share = Spread()

    @property
    def columns(self) -> Columns:
        return {f"{self.column}_share": ()}

    def add(self, table: pa.Table) -> RowValues:
        good, share = good_rows(table), floats(table, f"{self.column}_share")
        self.photos += int(good.sum())
        self.share.add(share[good])
        return RowValues(measures={"share of the photo": share})

    def result(self) -> Result:
        return {"task": self.labels.kind, "photos": self.photos, "share": self.share.result()}

    def sections(self) -> list[Section]:
        blocks: list[Block] = [spread_table("Share of the photo that persons cover", {"share": (self.share, 3)})]
        if self.share.count:
            blocks.append(unit_histogram("Mean of alpha", self.share))
        return [self.section("Mattes", blocks)]
