"""The statistics of a task: the interface, and that of tasks about which nothing more is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sapiens_ray.output.chunks import Columns
from sapiens_ray.pages import Block, Section
from sapiens_ray.tasks.stored import StoredLabels

Result = dict[str, Any]  # as JSON values
USUAL = ("seg", "depth", "normal", "pointmap", "matting", "persons")  # columns of tasks without a name of their own


@dataclass
class RowValues:
    """What the gallery shows of the rows of a table: one value per row, NaN where there is none.

    confidence: larger where the labels are surer, on any scale; None if the task has none. masks: bit k is set where
    class k occurs. measures: by name.
    """

    confidence: np.ndarray | None = None
    masks: np.ndarray | None = None
    measures: dict[str, np.ndarray] = field(default_factory=dict)


class TaskStatistics:
    """Counts labels of one task, table by table.

    The base class serves tasks without statistics. Tables lack columns that their file lacks, and hold nulls for error
    rows.
    """

    confidence_name = ""  # what the confidence is, in words; empty without
    digits: ClassVar[dict[str, int]] = {}  # behind the point, by measure

    def __init__(self, labels: StoredLabels) -> None:
        self.labels = labels
        self.column = labels.column

    @classmethod
    def fits(cls, labels: StoredLabels, schema: pa.Schema) -> bool:
        """Whether files of this schema have the columns that cannot be missed. A task of another package may store
        class maps or persons without the columns beside them."""
        return True

    @property
    def columns(self) -> Columns:
        """The columns to read of all rows. Never maps: they are a thousand times as large."""
        return {}

    def add(self, table: pa.Table) -> RowValues:
        """Count the rows of a table, which has `width`, `height` and `error_kind` as well."""
        return RowValues()

    def result(self) -> Result:
        """The statistics as JSON values."""
        return {"task": self.labels.kind}

    def sections(self) -> list[Section]:
        """The statistics as parts of the page; none without statistics."""
        return []

    def section(self, title: str, blocks: Sequence[Block]) -> Section:
        """A part of the page with these blocks, and the column in its title where that is not the usual one."""
        if self.column not in USUAL:
            title = f"{title}: {self.column}"
        return Section(title, f"task-{self.column.replace('_', '-')}", blocks)


def floats(table: pa.Table, column: str) -> np.ndarray:
    """A column of numbers as N float64; null, and a column that is not there, become NaN."""
    if column not in table.column_names:
        return np.full(table.num_rows, np.nan)
    values = pc.cast(table[column], pa.float64())
    numbers: np.ndarray = values.to_numpy(zero_copy_only=False)
    return numbers


def lengths(lists: pa.ChunkedArray) -> np.ndarray:
    """How many items each list has, 0 for null; N int64."""
    counts: np.ndarray = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    return counts


def items(lists: pa.ChunkedArray) -> np.ndarray:
    """The items of all lists, one after the other; null becomes NaN."""
    flat = pc.list_flatten(lists)
    values: np.ndarray = flat.to_numpy(zero_copy_only=False) if isinstance(flat, pa.Array) else flat.to_numpy()
    return values


def good_rows(table: pa.Table) -> np.ndarray:
    """Which rows have labels, N bool."""
    good: np.ndarray = table["error_kind"].is_null().to_numpy()
    return good
