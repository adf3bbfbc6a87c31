"""The statistics of all rows of an output, in one pass, and the rows that the page shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sapiens_ray.output.chunks import Columns
from sapiens_ray.output.schema import HEAD
from sapiens_ray.reporting.maps import DepthStatistics, NormalStatistics
from sapiens_ray.reporting.numbers import Spread
from sapiens_ray.reporting.points import MattingStatistics, PointmapStatistics
from sapiens_ray.reporting.pose import PersonStatistics
from sapiens_ray.reporting.rows import ShownRows
from sapiens_ray.reporting.seg import ClassStatistics
from sapiens_ray.reporting.tasks import TaskStatistics, floats
from sapiens_ray.tasks.depth import StoredDepth
from sapiens_ray.tasks.matting import StoredMatting
from sapiens_ray.tasks.normal import StoredNormal
from sapiens_ray.tasks.pointmap import StoredPointmap
from sapiens_ray.tasks.stored import StoredClassMap, StoredLabels, StoredPersons

Progress = Callable[[int], None]  # called with the number of rows that were read

_KINDS: tuple[tuple[type[StoredLabels], type[TaskStatistics]], ...] = (
    (StoredClassMap, ClassStatistics), (StoredPersons, PersonStatistics), (StoredDepth, DepthStatistics),
    (StoredNormal, NormalStatistics), (StoredPointmap, PointmapStatistics), (StoredMatting, MattingStatistics),
    (StoredLabels, TaskStatistics),
)  # fmt: skip


def statistics_of(labels: StoredLabels, schema: pa.Schema) -> TaskStatistics:
    """The statistics for the stored labels of a task, by what they are and not by the name of the task. schema: of the
    files. Labels without the columns that statistics need have none."""
    fitting = (kind for stored, kind in _KINDS if isinstance(labels, stored) and kind.fits(labels, schema))
    return next(fitting)(labels)


class Statistics:
    """Statistics of an output: `add` every table of rows, then read `result` and the parts. schema: of its files."""

    def __init__(self, labels: Sequence[StoredLabels], schema: pa.Schema, shown: ShownRows) -> None:
        self.tasks = [statistics_of(one, schema) for one in labels]
        self.shown = shown
        self.images = 0
        self.errors: Counter[str] = Counter()
        self.widths, self.heights, self.megapixels, self.aspects = Spread(), Spread(), Spread(), Spread()

    @property
    def columns(self) -> Columns:
        """The columns of rows to read."""
        found: dict[str, tuple[str, ...]] = {field.name: () for field in HEAD}
        for task in self.tasks:
            found.update(task.columns)
        return found

    def add_all(self, tables: Iterable[pa.Table], progress: Progress = lambda rows: None) -> None:
        """Count all tables. progress: called after each."""
        for table in tables:
            if table.num_rows:
                self.add(table)
            progress(self.images)

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table with the columns of `columns`."""
        self.images += table.num_rows
        for one in pc.value_counts(table["error_kind"].drop_null()).to_pylist():
            self.errors[one["values"]] += one["counts"]
        width, height = floats(table, "width"), floats(table, "height")
        self.widths.add(width)
        self.heights.add(height)
        with np.errstate(divide="ignore", invalid="ignore"):
            self.megapixels.add(width * height / 1e6)
            self.aspects.add(width / height)
        self.shown.add(table, {task.column: task.add(table) for task in self.tasks})

    def result(self) -> dict[str, Any]:
        """All statistics as JSON values; `docs/report.md` describes them."""
        return {
            "images": self.images,
            "ok": self.images - sum(self.errors.values()),
            "errors": dict(sorted(self.errors.items())),
            "photos": {
                "width": self.widths.result(),
                "height": self.heights.result(),
                "megapixels": self.megapixels.result(),
                "aspect": self.aspects.result(),
            },
            "tasks": {task.column: task.result() for task in self.tasks},
        }
