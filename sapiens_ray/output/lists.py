"""Lists of images that a job takes as its input: .txt, .csv, .jsonl and .parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray.errors import ConfigError
from sapiens_ray.storage import Folder
from sapiens_ray.units import Row

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])  # as in Hugging Face datasets


def write_list(folder: Folder, name: str, tables: Iterable[pa.Table]) -> int:
    """Write the images of tables with `image_id`, `uri` and others; returns how many.

    .txt: the uris. .csv, .jsonl: all columns, in a .csv lists as JSON. .parquet: all columns, the uri as `image`. The
    file appears whole, or not at all. Raises ConfigError for another ending, and for a uri that a .txt cannot hold.
    """
    write = WRITERS.get(Path(name).suffix.lower())
    if write is None:
        raise ConfigError(f"--to {name}: a list ends with {', '.join(WRITERS)}")
    with folder.replacing(name) as path:
        return write(path, tables)


def _txt(path: Path, tables: Iterable[pa.Table]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in _rows(tables):
            uri = row["uri"]
            if uri != uri.strip() or "\n" in uri or not uri or uri.startswith(("{", "[")):
                raise ConfigError(f"--to: {uri!r} cannot be a line of a .txt; write a .csv, .jsonl or .parquet")
            file.write(f"{uri}\n")
            count += 1
    return count


def _csv(path: Path, tables: Iterable[pa.Table]) -> int:
    count = 0
    header: list[str] | None = None
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        for table in tables:
            if header is None:
                header = table.column_names
                writer.writerow(header)
            for row in table.to_pylist():
                writer.writerow([json.dumps(one) if isinstance(one, list | dict) else one for one in row.values()])
                count += 1
    return count


def _jsonl(path: Path, tables: Iterable[pa.Table]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in _rows(tables):
            file.write(json.dumps(row, default=str) + "\n")
            count += 1
    return count


def _parquet(path: Path, tables: Iterable[pa.Table]) -> int:
    count = 0
    writer: pq.ParquetWriter | None = None
    try:
        for table in tables:
            rows = _as_images(table)
            if writer is None:
                writer = pq.ParquetWriter(path, rows.schema)
            writer.write_table(rows)
            count += rows.num_rows
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        path.touch()
    return count


def _as_images(table: pa.Table) -> pa.Table:
    paths = table["uri"].combine_chunks()
    images = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), paths], fields=list(IMAGE))
    kept = table.drop_columns(["uri"])
    return kept.append_column(pa.field("image", IMAGE), images)


def _rows(tables: Iterable[pa.Table]) -> Iterable[Row]:
    for table in tables:
        yield from table.to_pylist()


WRITERS: dict[str, Callable[[Path, Iterable[pa.Table]], int]] = {
    ".txt": _txt, ".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet,
}  # fmt: skip
