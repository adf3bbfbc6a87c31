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

ROWS_AT_A_TIME = 16_384
AHEAD_LOCAL, AHEAD_REMOTE = 2, 16  # files that are read before their turn


def read_chunks(folder: Folder, columns: Columns) -> Iterator[pa.Table]:
    """All rows in order, each once, as tables of at most 16,384 rows (or one row group), without the columns that their
    file lacks; of a `ChosenRows` those that meet its condition.

    columns: `index` and others. A run may merge files meanwhile: then the new listing is continued after the last row.
    Raises FileNotFoundError if files go on vanishing.
    """
    where = where_of(folder)
    if where is not None:
        columns = {**columns, **dict.fromkeys(where.columns, ())}
    reached: dict[int, int] = {}  # shard -> the index after its last row
    for attempt in range(10):
        try:
            for table in _unread(folder, columns, reached):
                yield table if where is None else table.filter(pa.array(where.mask(table)))
            return
        except FileNotFoundError:
            if attempt == 9:
                raise


def _unread(folder: Folder, columns: Columns, reached: dict[int, int]) -> Iterator[pa.Table]:
    """The rows after those that were reached. Files may overlap; their common rows are the same."""
    units = [unit for unit in list_units(folder) if unit.stop > reached.get(unit.shard, 0)]
    for unit, table in _in_order(folder, columns, units):
        start = reached.get(unit.shard, 0)
        first = table["index"][0].as_py() if table.num_rows else 0
        fresh = table.slice(max(0, start - first)) if first < start else table
        if fresh.num_rows:
            reached[unit.shard] = first + table.num_rows
            yield fresh


def _in_order(folder: Folder, columns: Columns, units: Sequence[UnitName]) -> Iterator[tuple[UnitName, pa.Table]]:
    """The tables of all files. The next files are read meanwhile, unless they are large."""
    ahead = AHEAD_REMOTE if folder.remote else AHEAD_LOCAL
    waiting: deque[tuple[UnitName, Future[list[pa.Table]] | None]] = deque()
    with ThreadPoolExecutor(ahead, thread_name_prefix="read") as pool:
        try:
            for unit in units:
                small = unit.stop - unit.start <= ROWS_AT_A_TIME
                waiting.append((unit, pool.submit(_tables, folder, unit, columns) if small else None))
                if len(waiting) > ahead:
                    yield from _next(folder, columns, *waiting.popleft())
            while waiting:
                yield from _next(folder, columns, *waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _next(
    folder: Folder, columns: Columns, unit: UnitName, tables: Future[list[pa.Table]] | None
) -> Iterator[tuple[UnitName, pa.Table]]:
    for table in _stream(folder, unit, columns) if tables is None else tables.result():
        yield unit, table


def _tables(folder: Folder, unit: UnitName, columns: Columns) -> list[pa.Table]:
    return list(_stream(folder, unit, columns))


def _stream(folder: Folder, unit: UnitName, columns: Columns) -> Iterator[pa.Table]:
    with folder.open(data_file(unit)) as stream, open_parquet(stream) as file:
        leaves = leaves_of(file.schema, columns)
        for groups in batches_of_groups(file.metadata, ROWS_AT_A_TIME):
            table = read_groups(folder, data_file(unit), file, groups, leaves)
            yield table.replace_schema_metadata(None)


def leaves_of(schema: pq.ParquetSchema, columns: Columns) -> list[str]:
    """The Parquet columns to read: all of a column, or the named fields of the structs in it, where there are any.

    In Parquet, `persons.list.element.scores.list.element` is a column of its own.
    """
    found = []
    for position in range(len(schema)):
        path = schema.column(position).path
        column, *rest = path.split(".")
        fields = columns.get(column)
        if fields is not None and (not fields or set(fields) & set(rest)):
            found.append(path)
    return found
