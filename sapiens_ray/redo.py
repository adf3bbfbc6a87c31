"""Taking rows back: the error rows of an output, or all of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray.attempts import forget
from sapiens_ray.done import list_units
from sapiens_ray.errors import OutputError
from sapiens_ray.plan import ENTRIES_FOLDER, PLAN_FILE
from sapiens_ray.rows import ERRORS_KEY, read_errors, tasks_in
from sapiens_ray.sink import copy_rows, file_writer
from sapiens_ray.storage import Folder, asking
from sapiens_ray.summary import JOB_FILE, SUMMARY_FILE
from sapiens_ray.units import UnitName


def drop_error_rows(output: Folder) -> None:
    """Cut the error rows out of the files, so that their images count as not done.

    A file becomes the files of what is left of it, which are published before it is removed: until then readers skip
    them, since they lie inside it. What earlier runs learned of images that kill their worker is forgotten.
    """
    with asking(OutputError, f"output.uri: cannot take back the error rows of {output.uri}"):
        forget(output)
        with ThreadPoolExecutor(16 if output.remote else 4) as pool:
            list(pool.map(lambda unit: _drop_error_rows(output, unit), list_units(output)))


def _drop_error_rows(output: Folder, unit: UnitName) -> None:
    with output.open(f"data/{unit.file}") as stream, pq.ParquetFile(stream) as file:
        schema = file.schema_arrow
        if not read_errors(schema.metadata):
            return
        kinds = file.read(columns=["error_kind"])["error_kind"].to_pylist()
        bad = [position for position, kind in enumerate(kinds) if kind is not None]
        edges = [-1, *bad, len(kinds)]
        clean = schema.with_metadata({**schema.metadata, ERRORS_KEY: b"{}"})
        for before, after in itertools.pairwise(edges):
            if after > before + 1:
                start, stop = unit.start + before + 1, unit.start + after
                part = UnitName(unit.shard, start, stop, unit.last and after == len(kinds))
                _copy_rows(file, before + 1, after, clean, output, part)
    output.delete(f"data/{unit.file}")


def _copy_rows(file: pq.ParquetFile, start: int, stop: int, schema: pa.Schema, output: Folder, part: UnitName) -> None:
    """Publish the rows [start, stop) of a file as one of its own."""
    with output.replacing(f"data/{part.file}") as temporary, file_writer(temporary, schema) as writer:
        copy_rows(file, writer, schema, start, stop)


def delete_results(output: Folder) -> None:
    """Remove what runs wrote to an output, and nothing else. Nothing at all where no run has been.

    Of each file of labels the pictures that its rows name go first, then the file; then what makes the folder an
    output. Whatever is left when this is cut off is harmless, and taken by the next time.
    """
    if not has_results(output):
        return
    with asking(OutputError, f"output.uri: cannot empty {output.uri}"):
        with ThreadPoolExecutor(16 if output.remote else 4) as pool:
            for file in output.files("data"):
                if UnitName.parse(file):
                    list(pool.map(output.delete, _pictures_of(output, file)))
                    output.delete(f"data/{file}")
        for file in (PLAN_FILE, JOB_FILE, SUMMARY_FILE):
            output.delete(file)
        for file in output.files(ENTRIES_FOLDER):
            if file.startswith("entries-"):
                output.delete(f"{ENTRIES_FOLDER}/{file}")
        forget(output)


def _pictures_of(output: Folder, file: str) -> Iterator[str]:
    """The pictures of the rows of a file: of each the first task's is named, those of the others have like names."""
    try:
        with output.open(f"data/{file}") as stream:
            table = pq.read_table(stream, columns=["visualization"])
    except (FileNotFoundError, pa.ArrowException):
        return
    columns = list(tasks_in(table.schema))
    for name in table["visualization"].to_pylist():
        folder, _, rest = (name or "").removeprefix("visualizations/").partition("/")
        if name and len(columns) > 1 and folder in columns:
            yield from (f"visualizations/{column}/{rest}" for column in columns)
        elif name:
            yield name


def has_results(output: Folder) -> bool:
    """Whether a run has written to this folder."""
    with asking(OutputError, f"output.uri: cannot read {output.uri}"):
        return any(output.exists(file) for file in (JOB_FILE, PLAN_FILE))
