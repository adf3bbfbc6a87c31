"""Row groups of an output, read by the images in them, while a run may merge the files."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray.output.chunks import leaves_of
from sapiens_ray.output.done import list_units
from sapiens_ray.output.layout import data_file
from sapiens_ray.storage import Folder
from sapiens_ray.storage.forks import keep_connections
from sapiens_ray.storage.parquet import group_spans, open_parquet, read_groups
from sapiens_ray.training.index import Group
from sapiens_ray.units import UnitName

OPEN_FILES = 8
Opened = tuple[IO[bytes], pq.ParquetFile]


class GroupReader:
    """Reads columns of row groups. Keeps a few files open, and the last group, for each process by itself: open files
    are neither pickled nor shared with a forked process, which would move their place."""

    def __init__(self, folder: Folder, columns: Sequence[str]) -> None:
        self._folder = folder
        self._columns = dict.fromkeys(columns, ())
        keep_connections()
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder, "_columns": self._columns}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._units: dict[int, list[UnitName]] = {}  # by shard
        self._open: OrderedDict[UnitName, Opened] = OrderedDict()
        self._last: tuple[tuple[int, int], pa.Table] | None = None

    def read(self, group: Group) -> pa.Table:
        """The chosen rows of a group, all columns that were asked for. Raises FileNotFoundError if no file has them."""
        if self._process != os.getpid():
            self._forget()
        place = (group.shard, group.start)
        if self._last is None or self._last[0] != place:
            table = self._table(group)
            self._last = (place, table if group.chosen is None else table.take(pa.array(group.chosen)))
        return self._last[1]

    def _table(self, group: Group) -> pa.Table:
        if not self._units:
            self._list()
        try:
            return self._read(group)
        except FileNotFoundError:  # merged since the listing
            self._list()
            return self._read(group)

    def _list(self) -> None:
        self._close()
        self._units = {}
        for unit in list_units(self._folder):
            self._units.setdefault(unit.shard, []).append(unit)

    def _read(self, group: Group) -> pa.Table:
        unit = self._unit_of(group)
        _, file = self._opened(unit)
        start, stop = group.start - unit.start, group.stop - unit.start
        spans = [span for span in group_spans(file.metadata) if span[1] < stop and span[2] > start]
        leaves = leaves_of(file.schema, self._columns)
        numbers = [number for number, _, _ in spans]
        table: pa.Table = read_groups(self._folder, data_file(unit), file, numbers, leaves)
        first = spans[0][1]
        return table.slice(start - first, stop - start)

    def _unit_of(self, group: Group) -> UnitName:
        for unit in self._units.get(group.shard, ()):
            if unit.start <= group.start and group.stop <= unit.stop:
                return unit
        raise FileNotFoundError(f"{self._folder.uri}: no file has images {group.start} to {group.stop} of its shard")

    def _opened(self, unit: UnitName) -> Opened:
        if unit not in self._open:
            stream = self._folder.open(data_file(unit))
            self._open[unit] = (stream, open_parquet(stream))
            while len(self._open) > OPEN_FILES:
                _close(self._open.popitem(last=False)[1])
        self._open.move_to_end(unit)
        return self._open[unit]

    def _close(self) -> None:
        while self._open:
            _close(self._open.popitem()[1])


def _close(opened: Opened) -> None:
    stream, file = opened
    file.close()
    stream.close()
