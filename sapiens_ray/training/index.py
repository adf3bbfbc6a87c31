"""Which rows a data set has, and where they are: built from the names and footers of the label files."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sapiens_ray.errors import OutputError
from sapiens_ray.output.chunks import leaves_of
from sapiens_ray.output.done import with_units
from sapiens_ray.output.layout import data_file
from sapiens_ray.output.reading import Part, no_labels, parts_of
from sapiens_ray.output.schema import read_errors
from sapiens_ray.output.where import where_of
from sapiens_ray.storage import Folder
from sapiens_ray.storage.parquet import group_spans, open_parquet, read_groups
from sapiens_ray.units import UnitName


@dataclass(frozen=True)
class Group:
    """Rows of one row group: images [start, stop) of a shard, of which `chosen` are in the data set.

    chosen: places in the group, ascending; None for all.
    """

    shard: int
    start: int
    stop: int
    chosen: np.ndarray | None

    def __len__(self) -> int:
        return self.stop - self.start if self.chosen is None else len(self.chosen)


class RowIndex:
    """The rows of an output that have labels and meet its condition, in the order of the output.

    16 bytes for each row group, and 4 for each row of a group that has others as well: a hundred million rows take some
    megabytes. Groups are known by the images in them, not by their file: a run may merge files while they are read.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._spans = np.array([(one.shard, one.start, one.stop) for one in groups], np.int32).reshape(-1, 3)
        self._chosen = {number: one.chosen for number, one in enumerate(groups) if one.chosen is not None}
        self.sizes = np.array([len(one) for one in groups], np.int64)  # rows of each group
        self._stops = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return int(self._stops[-1]) if len(self._stops) else 0

    @property
    def groups(self) -> int:
        return len(self._spans)

    def group(self, number: int) -> Group:
        shard, start, stop = (int(value) for value in self._spans[number])
        return Group(shard, start, stop, self._chosen.get(number))

    def locate(self, row: int) -> tuple[int, int]:
        """The group of a row of the data set, and which of the group's chosen rows it is."""
        number = int(np.searchsorted(self._stops, row, side="right"))
        return number, row - int(self._stops[number] - self.sizes[number])


def index_rows(folder: Folder) -> RowIndex:
    """Read the footers of all label files, and of files with error rows the columns that tell which these are. Of a
    `ChosenRows`, the columns of its condition are read, too.

    Raises OutputError if there are no rows with labels.
    """

    def read(units: list[UnitName]) -> RowIndex:
        if not units:
            raise no_labels(folder)
        with ThreadPoolExecutor(folder.threads, thread_name_prefix="index") as pool:
            found = list(pool.map(lambda part: _groups_of(folder, part), parts_of(units)))
        return RowIndex([group for groups in found for group in groups])

    index = with_units(folder, read)
    if not len(index):
        why = "meets the condition" if where_of(folder) else "has labels: all are error rows"
        raise OutputError(f"no row of {folder.uri} {why}")
    return index


def _groups_of(folder: Folder, part: Part) -> list[Group]:
    unit, where = part.unit, where_of(folder)
    with folder.open(data_file(unit)) as stream, open_parquet(stream) as file:
        spans = list(group_spans(file.metadata))
        rows = file.metadata.num_rows
        chosen = np.ones(rows, bool)
        if where is not None or read_errors(file.schema_arrow.metadata):
            needed = ["error_kind", *(where.read_columns if where else ())]
            leaves = leaves_of(file.schema, dict.fromkeys(needed, ()))
            table: pa.Table = read_groups(folder, data_file(unit), file, range(len(spans)), leaves)
            chosen = table["error_kind"].is_null().to_numpy()
            if where is not None:
                chosen = chosen & where.mask(table)
    found = []
    for _, first, after in spans:
        start = max(first, part.skip)
        if start < after and chosen[start:after].any():
            some = None if chosen[start:after].all() else np.flatnonzero(chosen[start:after]).astype(np.int32)
            found.append(Group(unit.shard, unit.start + start, unit.start + after, some))
    return found
