"""Removes rows: the error rows of an output, or the whole output."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray.errors import OutputError
from sapiens_ray.execution.attempts import forget
from sapiens_ray.output.done import list_units
from sapiens_ray.output.layout import (
    JOB_FILE,
    PICTURES,
    PLAN_FILE,
    SUMMARY_FILE,
    data_file,
    data_units,
    entries_files,
    has_results,
    picture_file,
)
from sapiens_ray.output.schema import ERRORS_KEY, labels_in, read_errors
from sapiens_ray.output.writing import copy_rows, file_writer
from sapiens_ray.storage import Folder, translate_errors
from sapiens_ray.storage.parquet import open_parquet, read_table
from sapiens_ray.units import UnitName


def drop_error_rows(output: Folder) -> None:
    """Remove the error rows from the files, so that their images count as not done.

    A file is split into files of the remaining rows, which are published before the old file is removed. Until then
    readers skip them, since the old file holds the same rows. Records of images that kill their worker are deleted.
    """
    with translate_errors(OutputError, f"output.uri: cannot remove the error rows of {output.uri}"):
        forget(output)
        with ThreadPoolExecutor(output.threads) as pool:
            list(pool.map(lambda unit: _drop_error_rows(output, unit), list_units(output)))


def _drop_error_rows(output: Folder, unit: UnitName) -> None:
    with output.open(data_file(unit)) as stream, open_parquet(stream) as file:
        schema = file.schema_arrow
        if not read_errors(schema.metadata):
            return
        kinds = file.read(columns=["error_kind"], use_threads=False)["error_kind"].to_pylist()
        bad = [position for position, kind in enumerate(kinds) if kind is not None]
        edges = [-1, *bad, len(kinds)]
        clean = schema.with_metadata({**schema.metadata, ERRORS_KEY: b"{}"})
        for before, after in itertools.pairwise(edges):
            if after > before + 1:
                start, stop = unit.start + before + 1, unit.start + after
                part = UnitName(unit.shard, start, stop, unit.last and after == len(kinds))
                _copy_rows(file, before + 1, after, clean, output, part)
    output.delete(data_file(unit))


def _copy_rows(file: pq.ParquetFile, start: int, stop: int, schema: pa.Schema, output: Folder, part: UnitName) -> None:
    """Publish the rows [start, stop) of a file as a separate file."""
    with output.replacing(data_file(part)) as temporary, file_writer(temporary, schema) as writer:
        copy_rows(file, writer, schema, start, stop)


def delete_results(output: Folder) -> None:
    """Delete everything that runs wrote to an output, and nothing else. Does nothing if the folder is not an output.

    For each file of labels, the pictures that its rows name are deleted first, then the file. The files that mark the
    folder as an output are deleted last, so an interrupted deletion can be repeated.
    """
    if not has_results(output):
        return
    with translate_errors(OutputError, f"output.uri: cannot empty {output.uri}"):
        with ThreadPoolExecutor(output.threads) as pool:
            for unit in data_units(output):
                list(pool.map(output.delete, _pictures_of(output, unit)))
                output.delete(data_file(unit))
        for file in (PLAN_FILE, JOB_FILE, SUMMARY_FILE):
            output.delete(file)
        for file in entries_files(output):
            output.delete(file)
        forget(output)


def _pictures_of(output: Folder, unit: UnitName) -> Iterator[str]:
    """The pictures of the rows of a file. A row names that of the first task; the others have the same file name,
    also where an earlier version named them."""
    try:
        table = read_table(output, data_file(unit), ["visualization"])
    except (FileNotFoundError, pa.ArrowException):
        return
    if "visualization" not in table.column_names:
        return
    columns = [labels.column for labels in labels_in(table.schema)]
    for name in table["visualization"].to_pylist():
        folder, _, rest = (name or "").removeprefix(f"{PICTURES}/").partition("/")
        if name and len(columns) > 1 and folder in columns:
            yield from (picture_file(f"{column}/{rest}") for column in columns)
        elif name:
            yield name
