"""Reading labels: every row once, maps decoded and resized on request."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray.errors import OutputError
from sapiens_ray.output.chunks import Progress, leaves_of
from sapiens_ray.output.done import with_units
from sapiens_ray.output.layout import DATA, PLAN_FILE, data_file
from sapiens_ray.output.schema import labels_in
from sapiens_ray.output.where import Where, choose, where_of
from sapiens_ray.storage import Folder
from sapiens_ray.storage.parquet import group_spans, open_parquet, read_groups, read_table
from sapiens_ray.tasks.stored import AsArrays, Decoder, MapColumn, MapSize, StoredLabels
from sapiens_ray.units import Row, UnitName

if TYPE_CHECKING:
    import pandas

FILES_AT_A_TIME = 16  # in `read_labels`; their compressed content is in memory


@dataclass(frozen=True)
class Part:
    """A file to read. skip: its first rows, which the file before it has as well."""

    unit: UnitName
    skip: int


def parts_of(units: Sequence[UnitName]) -> list[Part]:
    """The files in order, so that each row is read once."""
    parts = []
    reached: dict[int, int] = {}
    for unit in units:
        parts.append(Part(unit, max(0, reached.get(unit.shard, 0) - unit.start)))
        reached[unit.shard] = max(unit.stop, reached.get(unit.shard, 0))
    return parts


@dataclass(frozen=True)
class Selection:
    """The files and columns to read.

    columns: only these; None for all. maps: the columns to decode. lists: the columns of nested lists to turn into
    arrays. size: see `read_frame`.
    """

    folder: Folder
    parts: list[Part]
    columns: list[str] | None
    maps: dict[str, MapColumn]
    lists: dict[str, AsArrays]
    size: MapSize

    @property
    def decoders(self) -> dict[str, Decoder]:
        return {name: column.decoder(self.size) for name, column in self.maps.items()}

    @property
    def read_columns(self) -> list[str] | None:
        """The columns to read: the requested ones, and the size of the photo if maps are decoded."""
        if self.columns is None or not self.maps:
            return self.columns
        return list(dict.fromkeys([*self.columns, "width", "height"]))

    def read(self, part: Part) -> pa.Table:
        """The chosen rows of one file, not decoded."""
        where = where_of(self.folder)
        name = data_file(part.unit)
        if where is None:
            return read_table(self.folder, name, self.read_columns).slice(part.skip).replace_schema_metadata(None)
        with self.folder.open(name) as stream, open_parquet(stream) as file:
            chosen = where.mask(_condition_of(self.folder, part.unit, file, where))
            chosen[: part.skip] = False
            spans = [span for span in group_spans(file.metadata) if chosen[span[1] : span[2]].any()]
            columns = file.schema_arrow.names if self.read_columns is None else self.read_columns
            leaves = leaves_of(file.schema, dict.fromkeys(columns, ()))
            table = read_groups(self.folder, name, file, [group for group, _, _ in spans], leaves)
            kept = np.concatenate([chosen[start:stop] for _, start, stop in spans] or [np.zeros(0, bool)])
        return table.select(columns).filter(pa.array(kept)).replace_schema_metadata(None)


def read_frame(folder: Folder, columns: Sequence[str] | None, decode: bool, size: MapSize) -> pandas.DataFrame:
    """The labels of an output folder as a DataFrame; see `sapiens_ray.read_labels`."""

    def load(units: list[UnitName]) -> tuple[Selection, pa.Table]:
        selection = select(folder, units, columns, decode, size)
        with ThreadPoolExecutor(min(FILES_AT_A_TIME, os.cpu_count() or 1), thread_name_prefix="read") as pool:
            tables = list(pool.map(selection.read, selection.parts))
        return selection, pa.concat_tables(tables, promote_options="default")

    selection, table = with_units(folder, load)
    frame = table.to_pandas(use_threads=False)
    for name, decoder in selection.decoders.items():
        cells = zip(frame[name], frame["width"], frame["height"], strict=True)
        frame[name] = [decoded(cell, width, height, decoder) for cell, width, height in cells]
    for name, as_arrays in selection.lists.items():
        frame[name] = [None if cell is None else as_arrays(cell) for cell in frame[name]]
    return frame if selection.columns is None else frame[selection.columns]


def select(
    folder: Folder, units: list[UnitName], columns: Sequence[str] | None, decode: bool, size: MapSize
) -> Selection:
    """What to read. Raises OutputError if there are no labels, or no such column."""
    if not units:
        raise no_labels(folder)
    schema = schema_of(folder, units[0])
    wanted = list(columns) if columns is not None else None
    unknown = [column for column in wanted or [] if column not in schema.names]
    if unknown:
        raise OutputError(f"{folder.uri} has no column {unknown[0]!r}; it has {', '.join(schema.names)}")
    labels = labels_in(schema) if decode else []
    chosen = {name: column for name, column in map_columns(labels).items() if wanted is None or name in wanted}
    lists = {name: arrays for name, arrays in list_columns(labels).items() if wanted is None or name in wanted}
    return Selection(folder, parts_of(units), wanted, chosen, lists, size)


def no_labels(folder: Folder) -> OutputError:
    """The error for a folder without labels."""
    parent, _, name = folder.uri.rstrip("/").rpartition("/")
    if name == DATA and parent and not parent.endswith("/"):  # not the root, nor a bucket
        with contextlib.suppress(Exception):  # of the storage
            if Folder(parent, folder.options).exists(PLAN_FILE):
                return OutputError(f"{folder.uri} is the part of an output that holds its files; read {parent}")
    why = f"no files in {folder.join(DATA)}"
    with contextlib.suppress(Exception):
        if folder.exists(PLAN_FILE):
            why = "no image of its job has a row yet; `sapiens-ray status` tells how far it is"
    return OutputError(f"{folder.uri} holds no labels: {why}")


def map_columns(labels: Sequence[StoredLabels]) -> dict[str, MapColumn]:
    """All columns with encoded maps."""
    return {name: column for one in labels for name, column in one.maps.items()}


def list_columns(labels: Sequence[StoredLabels]) -> dict[str, AsArrays]:
    """All columns with nested lists, and what makes arrays of them."""
    return {name: as_arrays for one in labels for name, as_arrays in one.lists.items()}


def schema_in(folder: Folder) -> pa.Schema:
    """The Arrow schema of the files of an output. Raises OutputError if it holds none."""

    def first(units: list[UnitName]) -> pa.Schema:
        if not units:
            raise no_labels(folder)
        return schema_of(folder, units[0])

    return with_units(folder, first)


def schema_of(folder: Folder, unit: UnitName) -> pa.Schema:
    """The Arrow schema of the file of a unit."""
    with folder.open(data_file(unit)) as stream:
        return pq.read_schema(stream)


def labels_of(folder: Folder) -> list[StoredLabels]:
    """The stored labels of an output folder. Raises OutputError if it holds none."""
    return labels_in(schema_in(folder))


def chosen_rows(folder: Folder, where: str | None) -> Folder:
    """The folder, of which readers see only the rows that meet a condition in SQL; None for all. Raises OutputError if
    it holds no labels, ConfigError for a wrong condition."""
    return folder if where is None else choose(folder, where, schema_in(folder))


def iterate_rows(folder: Folder, columns: list[str]) -> Iterator[Row]:
    """All rows in order, each once, with a few in memory at a time; of a `ChosenRows` those that meet its condition."""
    for batch in iterate_batches(folder, columns, 16):
        yield from batch.to_pylist()


def iterate_batches(folder: Folder, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    """As `iterate_rows`, in batches made of at most so many rows. Of a `ChosenRows`, only row groups with a chosen row
    are read.

    A run may merge files meanwhile: then the new listing is continued after the last row. Raises FileNotFoundError if a
    file is gone and no other has its rows.
    """
    where = where_of(folder)
    read = Progress()
    while True:
        try:
            for unit in read.units_left(folder):
                with folder.open(data_file(unit)) as stream, open_parquet(stream) as file:
                    chosen = None if where is None else where.mask(_condition_of(folder, unit, file, where))
                    for start, batch in _batches(file, chosen, columns, rows):
                        skip = read.pass_by(unit, start, batch.num_rows)
                        kept = None if chosen is None else chosen[start + skip : start + batch.num_rows]
                        fresh = batch.slice(skip)
                        yield fresh if kept is None else fresh.filter(pa.array(kept))
            return
        except FileNotFoundError:
            read.vanished()


def _batches(
    file: pq.ParquetFile, chosen: np.ndarray | None, columns: list[str], rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of a file with the place of their first row; without row groups in which no row is chosen."""
    for group, start, stop in group_spans(file.metadata):
        if chosen is not None and not chosen[start:stop].any():
            continue
        at = start
        for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=columns, use_threads=False):
            yield at, batch
            at += batch.num_rows


def _condition_of(folder: Folder, unit: UnitName, file: pq.ParquetFile, where: Where) -> pa.Table:
    """The columns of a file that a condition names."""
    leaves = leaves_of(file.schema, dict.fromkeys(where.read_columns, ()))
    return read_groups(folder, data_file(unit), file, range(file.metadata.num_row_groups), leaves)


def decoded(cell: object, width: float, height: float, decoder: Decoder) -> np.ndarray | None:
    """A cell of a column of maps as an array; None for an error row, which has no map."""
    return decoder(cell, int(width), int(height)) if isinstance(cell, bytes) else None
