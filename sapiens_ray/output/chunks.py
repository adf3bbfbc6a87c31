"""All rows of an output as tables of a few columns, file after file, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray.output.done import list_units
from sapiens_ray.output.layout import data_file
from sapiens_ray.output.where import where_of
from sapiens_ray.storage import Folder
from sapiens_ray.storage.parquet import batches_of_groups, open_parquet, read_groups
from sapiens_ray.units import UnitName

Fields = tuple[str, ...]  # of the structs in a column of lists; empty for the whole column
Columns = Mapping[str, Fields]

ROWS_AT_A_TIME, BYTES_AT_A_TIME = 16_384, 64 << 20  # of a table; a row group is not divided
SMALL_FILE = 4096  # rows: such files are read before their turn
LISTINGS_IN_VAIN = 10
AHEAD_LOCAL, AHEAD_REMOTE = 2, 16  # files that are read before their turn


class Progress:
    """How far an output has been read while a run may merge its files. Files may overlap; their common rows are the
    same."""

    def __init__(self) -> None:
        self._reached: dict[int, int] = {}  # shard -> the index after its last row
        self._vanished_at: dict[int, int] | None = None
        self._times = 0

    def units_left(self, folder: Folder) -> list[UnitName]:
        """The files with rows that have not been read."""
        return [unit for unit in list_units(folder) if unit.stop > self._reached.get(unit.shard, 0)]

    def pass_by(self, unit: UnitName, place: int, rows: int) -> int:
        """Count the rows from this place of a file on. Returns how many of them had been read before."""
        first = unit.start + place
        reached = self._reached.get(unit.shard, 0)
        self._reached[unit.shard] = max(reached, first + rows)
        return min(rows, max(0, reached - first))

    def vanished(self) -> None:
        """Call it inside `except FileNotFoundError`, before a new listing. Raises that error if nothing was read since
        the last ten times."""
        self._times = self._times + 1 if self._vanished_at == self._reached else 1
        self._vanished_at = dict(self._reached)
        if self._times > LISTINGS_IN_VAIN:
            raise


def read_chunks(folder: Folder, columns: Columns) -> Iterator[pa.Table]:
    """All rows in order, each once, as tables of at most 16,384 rows and about 64 MB (or one row group), without the
    columns that their file lacks; of a `ChosenRows` those that meet its condition.

    A run may merge files meanwhile: then the new listing is continued after the last row. Raises FileNotFoundError if a
    file is gone and no other has its rows.
    """
    where = where_of(folder)
    if where is not None:
        columns = {**columns, **dict.fromkeys(where.read_columns, ())}
    read = Progress()
    while True:
        try:
            for unit, place, table in _in_order(folder, columns, read.units_left(folder)):
                fresh = table.slice(read.pass_by(unit, place, table.num_rows))
                if fresh.num_rows:
                    yield fresh if where is None else fresh.filter(pa.array(where.mask(fresh)))
            return
        except FileNotFoundError:
            read.vanished()


Placed = tuple[int, pa.Table]  # the place of a table's first row in its file, and the table


def _in_order(folder: Folder, columns: Columns, units: Sequence[UnitName]) -> Iterator[tuple[UnitName, int, pa.Table]]:
    """The tables of all files. The next files are read meanwhile, unless they are large."""
    ahead = AHEAD_REMOTE if folder.remote else AHEAD_LOCAL
    waiting: deque[tuple[UnitName, Future[list[Placed]] | None]] = deque()
    with ThreadPoolExecutor(ahead, thread_name_prefix="read") as pool:
        try:
            for unit in units:
                small = unit.stop - unit.start <= SMALL_FILE
                waiting.append((unit, pool.submit(_tables, folder, unit, columns) if small else None))
                if len(waiting) > ahead:
                    yield from _next(folder, columns, *waiting.popleft())
            while waiting:
                yield from _next(folder, columns, *waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _next(
    folder: Folder, columns: Columns, unit: UnitName, tables: Future[list[Placed]] | None
) -> Iterator[tuple[UnitName, int, pa.Table]]:
    for place, table in _stream(folder, unit, columns) if tables is None else tables.result():
        yield unit, place, table


def _tables(folder: Folder, unit: UnitName, columns: Columns) -> list[Placed]:
    return list(_stream(folder, unit, columns))


def _stream(folder: Folder, unit: UnitName, columns: Columns) -> Iterator[Placed]:
    with folder.open(data_file(unit)) as stream, open_parquet(stream) as file:
        leaves = leaves_of(file.schema, columns)
        for place, groups in batches_of_groups(file.metadata, set(leaves), ROWS_AT_A_TIME, BYTES_AT_A_TIME):
            table = read_groups(folder, data_file(unit), file, groups, leaves)
            yield place, table.replace_schema_metadata(None)


def leaves_of(schema: pq.ParquetSchema, columns: Columns) -> list[str]:
    """The Parquet columns to read: all of a column, or the named fields of the structs in it, where there are any.

    In Parquet, `persons.list.element.scores.list.element` is a column of its own.
    """
    found = []
    for position in range(len(schema)):
        path = schema.column(position).path
        owners = [column for column in columns if path == column or path.startswith(f"{column}.")]
        if not owners:
            continue
        column = max(owners, key=len)  # names may have dots
        fields = columns[column]
        if not fields or set(fields) & set(path.removeprefix(column).split(".")):
            found.append(path)
    return found
