"""Rows of an output by their place in the plan, with a few of them in memory at a time."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray.errors import OutputError
from sapiens_ray.output.done import list_units
from sapiens_ray.output.layout import data_file
from sapiens_ray.storage import Folder
from sapiens_ray.storage.parquet import open_parquet
from sapiens_ray.units import Row, UnitName

ROWS = 16  # read together
MERGES = 10  # during one row: with the next one, a file is really gone


class Cells:
    """Reads single rows. Rows in ascending order are read as a stream; a step back opens its row group anew, so that
    an output in another order takes longer, and no more memory. Close it, or use it as a context."""

    def __init__(self, folder: Folder, columns: Sequence[str]) -> None:
        self._folder, self._columns = folder, [*dict.fromkeys(["index", *columns])]
        self._units = list_units(folder)
        self._open: _OpenFile | None = None

    def __enter__(self) -> Cells:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def row(self, shard: int, index: int) -> Row:
        """The columns of one row, without those that its file lacks. Raises OutputError if the row is gone."""
        for _ in range(MERGES):
            try:
                return self._read(shard, index)
            except FileNotFoundError:  # merged meanwhile
                self._close()
                self._units = list_units(self._folder)
        return self._read(shard, index)

    def _read(self, shard: int, index: int) -> Row:
        if self._open is None or not self._open.holds(shard, index):
            self._close()
            self._open = _OpenFile(self._folder, self._unit_of(shard, index), self._columns)
        row = self._open.row(index)
        if row["index"] != index:
            raise OutputError(f"{self._folder.uri}: {data_file(self._open.unit)} does not hold what its name says")
        return row

    def _unit_of(self, shard: int, index: int) -> UnitName:
        after = bisect.bisect_right(self._units, (shard, index), key=lambda unit: (unit.shard, unit.start))
        for unit in reversed(self._units[max(0, after - 2) : after]):  # two files may overlap
            if unit.shard == shard and unit.start <= index < unit.stop:
                return unit
        raise OutputError(f"{self._folder.uri}: the row {index} of shard {shard} is gone; was it labelled again?")

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


class _OpenFile:
    """A file of labels, and how far it has been read. Its rows are consecutive."""

    def __init__(self, folder: Folder, unit: UnitName, columns: Sequence[str]) -> None:
        self.unit = unit
        self._stack = ExitStack()
        stream = self._stack.enter_context(folder.open(data_file(unit)))
        self._file: pq.ParquetFile = self._stack.enter_context(open_parquet(stream))
        there = set(self._file.schema_arrow.names)
        self._columns = [name for name in columns if name in there]
        counts = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = unit.start + np.cumsum([0, *counts])  # indices of the first rows of the groups, and the end
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: pa.RecordBatch | None = None
        self._first = self._stop = 0  # indices of the rows of the batch

    def holds(self, shard: int, index: int) -> bool:
        return self.unit.shard == shard and self.unit.start <= index < self.unit.stop

    def row(self, index: int) -> Row:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        if index < self._first or self._stop < self._starts[group] or self._batch is None:
            self._begin(group)
        while index >= self._stop:
            self._batch = next(self._batches)
            self._first, self._stop = self._stop, self._stop + self._batch.num_rows
        assert self._batch is not None
        found: Row = self._batch.slice(index - self._first, 1).to_pylist()[0]
        return found

    def _begin(self, group: int) -> None:
        """Read from the beginning of a row group on."""
        groups = range(group, self._file.num_row_groups)
        self._batches = self._file.iter_batches(ROWS, row_groups=groups, columns=self._columns, use_threads=False)
        self._batch = None
        self._first = self._stop = int(self._starts[group])

    def close(self) -> None:
        self._stack.close()
