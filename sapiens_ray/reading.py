"""Reading labels back: every row once, label maps decoded on request."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray.errors import OutputError
from sapiens_ray.images import decode_map
from sapiens_ray.plan import list_units, with_units
from sapiens_ray.rows import JOB_KEY
from sapiens_ray.storage import Folder
from sapiens_ray.units import UnitName

if TYPE_CHECKING:
    import pandas
    import ray.data


def read_labels(
    output: str,
    *,
    engine: Literal["pandas", "ray"] = "pandas",
    columns: Sequence[str] | None = None,
    decode: bool = False,
    storage_options: dict[str, Any] | None = None,
) -> pandas.DataFrame | ray.data.Dataset:
    """The labels of an output folder, finished or not: one row an image, in the order of the input.

    engine: "pandas" for a DataFrame, "ray" for a lazy Ray Dataset (for what does not fit into memory).
    columns: only these; all by default.
    decode: label maps as H x W uint8 arrays instead of PNG bytes (None on error rows).
    Raises OutputError if there is nothing to read.
    """
    folder = Folder(output.rstrip("/"), storage_options or {})
    wanted = list(columns) if columns is not None else None

    def load(units: list[UnitName]) -> Any:
        names = [f"data/{unit.file}" for unit in units]
        if not names:
            raise OutputError(f"{output} holds no labels: no files in {folder.join('data')}")
        maps = [name for name in map_columns(folder, names[0]) if wanted is None or name in wanted]
        if engine == "ray":
            return _ray_dataset(folder, names, wanted, maps if decode else []), maps
        tables = [_read(folder, name, wanted) for name in names]
        return pa.concat_tables(tables, promote_options="default"), maps

    table, maps = with_units(folder, load)
    if engine == "ray":
        return table
    frame = table.to_pandas()
    for name in maps if decode else ():
        frame[name] = frame[name].map(_decode_cell)
    return frame


def map_columns(folder: Folder, name: str) -> list[str]:
    """Columns that hold a label map as PNG, as the metadata of a file says."""
    with folder.open(name) as stream:
        metadata = pq.read_schema(stream).metadata or {}
    tasks = json.loads(metadata.get(JOB_KEY, b"{}")).get("tasks", {})
    return [column for column, about in tasks.items() if "class_names" in about]


def iterate_rows(folder: Folder, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows one after the other, a few in memory at a time."""
    for unit in list_units(folder):
        with folder.open(f"data/{unit.file}") as stream, pq.ParquetFile(stream) as file:
            for batch in file.iter_batches(batch_size=64, columns=columns):
                yield from batch.to_pylist()


def _read(folder: Folder, name: str, columns: list[str] | None) -> pa.Table:
    with folder.open(name) as stream:
        return pq.read_table(stream, columns=columns).replace_schema_metadata(None)


def _decode_cell(png: Any) -> np.ndarray | None:
    return decode_map(png) if isinstance(png, bytes) else None


def _ray_dataset(folder: Folder, names: list[str], columns: list[str] | None, maps: list[str]) -> ray.data.Dataset:
    import ray.data

    def load(row: dict[str, Any]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = _read(folder, row["file"], columns).to_pylist()
        for one in rows:
            for name in maps:
                one[name] = _decode_cell(one[name])
        return rows

    dataset = ray.data.from_items([{"file": name} for name in names], override_num_blocks=len(names))
    if maps:
        return dataset.flat_map(load)
    return dataset.map_batches(
        lambda block: _read(folder, block["file"][0].as_py(), columns), batch_size=1, batch_format="pyarrow"
    )
