"""Writing results: one file per unit, whole or not at all, under a name that identifies the unit.

A retried or late write replaces a file by an equal one, so writing twice is the same as writing once. Pictures are
published before the file that names them.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray.errors import StorageError
from sapiens_ray.output.error_rows import count_errors, examples_in
from sapiens_ray.output.layout import data_file, picture_file
from sapiens_ray.output.lock import require_held
from sapiens_ray.output.schema import labels_in, read_errors, with_errors
from sapiens_ray.storage import Folder, stamp, translate_errors
from sapiens_ray.storage.parquet import leaf_paths, open_parquet
from sapiens_ray.units import Picture, Unit, UnitName, UnitReport

LARGE_ROW = 4 << 20  # bytes


def write_unit(
    unit: Unit, pictures: Sequence[Picture], schema: pa.Schema, output: Folder, run: str | None = None
) -> UnitReport:
    """Write a finished unit.

    run: the run that must hold the output (`lock.py`). Raises JobError if another one does.
    """
    started = time.perf_counter()
    name = unit.name
    table = file_table(unit, schema)
    errors = count_errors(table)
    schema = with_errors(schema, errors)
    with translate_errors(StorageError, f"cannot write {name.file} and its pictures to {output.uri}"):
        if output.remote:
            buffer = pa.BufferOutputStream()
            _write_table(table, buffer, schema, name)
            _publish_pictures(pictures, output, run)
            output.write(data_file(name), memoryview(buffer.getvalue()))
        else:  # a buffer would copy everything as it grows, and once more at the end
            with output.replacing(data_file(name)) as temporary:
                _write_table(table, temporary, schema, name)
                _publish_pictures(pictures, output, run)
    seconds = {**unit.seconds, "write": time.perf_counter() - started}
    return UnitReport(name.file, table.num_rows, errors, seconds, list(unit.notes), 0, examples_in(table), unit.device)


def _write_table(table: pa.Table, where: Path | pa.NativeFile, schema: pa.Schema, name: UnitName) -> None:
    is_shard = name.start == 0 and name.last
    with file_writer(where, schema, compress_maps=is_shard) as writer:
        writer.write_table(table)


def _publish_pictures(pictures: Sequence[Picture], output: Folder, run: str | None) -> None:
    """Write the pictures, before the file that names them. Raises JobError if another run holds the output."""
    if run is not None:
        require_held(output, run)
    if pictures:
        with ThreadPoolExecutor(output.threads if output.remote else 1) as pool:
            list(pool.map(lambda one: output.write(picture_file(one.name), one.data, durable=False), pictures))
    if run is not None and pictures:  # writing them took time
        require_held(output, run)


def file_table(unit: Unit, schema: pa.Schema) -> pa.Table:
    """The unit's rows with the columns of its file, in order."""
    rows = unit.rows
    indices = rows["index"].to_pylist()
    if indices != list(range(unit.start, unit.start + len(indices))):
        raise RuntimeError(f"unit {unit.name.file} holds rows {indices[:3]}...: a stage lost or moved images")
    columns = []
    for field in schema:
        if field.name == "shard":
            columns.append(pa.array([unit.shard] * rows.num_rows, pa.int32()))
        elif field.name in rows.column_names:
            columns.append(rows[field.name].cast(field.type))
        else:
            columns.append(pa.nulls(rows.num_rows, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def merge_shard(output: Folder, parts: Sequence[UnitName], run: str | None = None) -> UnitName | None:
    """Merge the files of a complete shard into one, row group by row group, then remove them. Returns the file.

    None, and the files stay, if rows are large: a thousand feature maps are 17 GB, and writing them a second time takes
    as long as all else.

    At every moment each row is in a published file; until the parts are deleted, readers skip those whose rows are
    all in the merged one (`done.current`). run: the run that must hold the output.
    """
    ordered = sorted(parts)
    merged = UnitName(ordered[0].shard, 0, ordered[-1].stop, True)
    if len(ordered) == 1:
        return merged
    # A merge that was killed after it published is tried again, and finds some of its parts deleted.
    if not output.exists(data_file(merged)):
        if _are_apart(ordered) and _have_large_rows(output, ordered[0]):
            return None
        _write_merged(output, ordered, merged, run)
    for part in ordered:
        if part != merged:
            output.delete(data_file(part))
    return merged


def _are_apart(ordered: Sequence[UnitName]) -> bool:
    """Whether no row is in two of the files."""
    return all(one.stop == other.start for one, other in itertools.pairwise(ordered))


def _have_large_rows(output: Folder, part: UnitName) -> bool:
    size, _ = stamp(output.join(data_file(part)), output.options)
    return size > LARGE_ROW * (part.stop - part.start)


def _write_merged(output: Folder, ordered: Sequence[UnitName], merged: UnitName, run: str | None) -> None:
    """Parts may overlap if two attempts cut their units at different places; the rows are the same in both."""
    reached = 0
    skip: dict[UnitName, int] = {}
    errors: Counter[str] = Counter()
    for part in ordered:
        if part.start > reached:
            raise RuntimeError(f"{part.file} does not start where the file before it ends, at image {reached}")
        skip[part] = reached - part.start
        reached = max(reached, part.stop)
        with output.open(data_file(part)) as stream, open_parquet(stream) as file:
            errors.update(read_errors(file.schema_arrow.metadata))
            schema = file.schema_arrow
    schema = with_errors(schema, dict(errors))
    with output.replacing(data_file(merged)) as temporary, file_writer(temporary, schema) as writer:
        for part in ordered:
            with output.open(data_file(part)) as stream, open_parquet(stream) as file:
                copy_rows(file, writer, schema, skip[part], part.stop - part.start)
        if run is not None:
            require_held(output, run)


def copy_rows(file: pq.ParquetFile, writer: pq.ParquetWriter, schema: pa.Schema, start: int, stop: int) -> None:
    """Write the rows [start, stop) of a file, with one row group in memory at a time."""
    first = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        inside = (max(start - first, 0), min(stop - first, count))
        if inside[0] < inside[1]:
            writer.write_table(
                file.read_row_group(group, use_threads=False).slice(inside[0], inside[1] - inside[0]).cast(schema)
            )
        first += count


def file_writer(where: Path | pa.NativeFile, schema: pa.Schema, compress_maps: bool = True) -> pq.ParquetWriter:
    """A writer with zstd for columns that it makes smaller, dictionaries only where values repeat, and statistics of
    all columns but encoded maps.

    compress_maps: False for a file that will soon be merged with others: it would only be decompressed then.
    """
    stored = labels_in(schema)
    maps = {column for labels in stored for column in labels.maps}
    encoded = {column for labels in stored for column in labels.compressed} if compress_maps else maps
    leaves = leaf_paths(schema)  # dotted paths: in Parquet, the leaves of lists and structs are separate columns
    return pq.ParquetWriter(
        where,
        schema,
        compression={path: "none" if path in encoded else "zstd" for path in leaves},
        use_dictionary=["error_kind"],
        write_statistics=[path for path in leaves if path not in maps],
    )
