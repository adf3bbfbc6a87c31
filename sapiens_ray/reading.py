"""Reading labels back: every row once, maps decoded and resized on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray import maps
from sapiens_ray.done import list_units, with_units
from sapiens_ray.errors import OutputError
from sapiens_ray.images import decode_map
from sapiens_ray.rows import tasks_in
from sapiens_ray.storage import Folder
from sapiens_ray.units import UnitName

if TYPE_CHECKING:
    import pandas
    import ray.data

Size = Literal["stored", "original"]
Decoder = Callable[[bytes, int, int], np.ndarray]  # cell, width and height of the photo


def read_labels(
    output: str,
    *,
    engine: Literal["pandas", "ray"] = "pandas",
    columns: Sequence[str] | None = None,
    decode: bool = False,
    size: Size = "stored",
    storage_options: dict[str, Any] | None = None,
) -> pandas.DataFrame | ray.data.Dataset:
    """The labels of an output folder, finished or not: one row an image, in the order of the input.

    engine: "pandas" for a DataFrame, "ray" for a lazy Ray Dataset (for what does not fit into memory).
    columns: only these; all by default.
    decode: maps as arrays instead of PNG and .npy bytes: classes H x W uint8, depth h x w, normals h x w x 3,
        features C x h x w. On error rows None; with Ray, whose tensor columns hold no None, arrays without elements.
    size: "stored", or "original" for maps at the size of the photo, float32, normals of unit length; implies
        `decode`. Feature maps are resized too, which with many channels takes gigabytes.
    Raises OutputError if there is nothing to read.
    """
    if engine not in ("pandas", "ray"):
        raise ValueError(f"engine={engine!r}: it is 'pandas' or 'ray'")
    if size not in ("stored", "original"):
        raise ValueError(f"size={size!r}: it is 'stored' or 'original'")
    if isinstance(columns, str):
        raise TypeError(f"columns={columns!r}: give a list of names")
    folder = Folder(output.rstrip("/"), storage_options or {})
    wanted = list(columns) if columns is not None else None
    arrays = decode or size == "original"

    def load(units: list[UnitName]) -> Any:
        names = [f"data/{unit.file}" for unit in units]
        if not names:
            raise OutputError(f"{output} holds no labels: no files in {folder.join('data')}")
        schema = _schema(folder, names[0])
        unknown = [column for column in wanted or [] if column not in schema.names]
        if unknown:
            raise OutputError(f"{output} has no column {unknown[0]!r}; it has {', '.join(schema.names)}")
        about = tasks_in(schema)
        chosen = decoders(about, size) if arrays else {}
        chosen = {name: decoder for name, decoder in chosen.items() if wanted is None or name in wanted}
        if engine == "ray":
            return _ray_dataset(folder, names, wanted, chosen, _without_elements(about, size)), chosen
        reading = wanted if wanted is None or not chosen else list(dict.fromkeys([*wanted, "width", "height"]))
        return pa.concat_tables([_read(folder, name, reading) for name in names], promote_options="default"), chosen

    table, chosen = with_units(folder, load)
    if engine == "ray":
        return table
    frame = table.to_pandas()
    for name, decoder in chosen.items():
        cells = zip(frame[name], frame["width"], frame["height"], strict=True)
        frame[name] = [_decoded(cell, width, height, decoder) for cell, width, height in cells]
    return frame if wanted is None else frame[wanted]


def _schema(folder: Folder, name: str) -> pa.Schema:
    with folder.open(name) as stream:
        return pq.read_schema(stream)


def task_table(folder: Folder, name: str) -> dict[str, dict[str, Any]]:
    """Each task's column and what the metadata of a file says about it; `task` is its kind."""
    return tasks_in(_schema(folder, name))


def decoders(tasks: dict[str, dict[str, Any]], size: Size = "stored") -> dict[str, Decoder]:
    """How the columns with maps become arrays."""
    found: dict[str, Decoder] = {}
    for column, about in tasks.items():
        if about["task"] == "seg":
            found[column] = lambda cell, width, height: decode_map(cell)
        elif about["task"] in ("depth", "normal"):
            found[column] = _FULL[about["task"]] if size == "original" else _stored_map
        elif about["task"] == "features" and about["save"] != "mean":
            found[f"{column}_map"] = _full_features if size == "original" else _stored_map
    return found


def _without_elements(tasks: dict[str, dict[str, Any]], size: Size) -> dict[str, np.ndarray]:
    """What stands for the map of an error row in a Ray dataset."""
    empty: dict[str, np.ndarray] = {}
    for column, about in tasks.items():
        kind = np.dtype(about.get("dtype", "uint8") if size == "stored" or about["task"] == "seg" else "float32")
        dimensions = 2 if about["task"] in ("seg", "depth") else 3
        name = f"{column}_map" if about["task"] == "features" else column
        empty[name] = np.empty((0,) * dimensions, kind)
    return empty


def _stored_map(cell: bytes, width: int, height: int) -> np.ndarray:
    return maps.decode_npy(cell)


def full_depth(cell: bytes, width: int, height: int) -> np.ndarray:
    """height x width float32."""
    return maps.resize(maps.decode_npy(cell), width, height)


def full_normals(cell: bytes, width: int, height: int) -> np.ndarray:
    """height x width x 3 float32, of unit length."""
    return maps.unit_length(maps.resize(maps.decode_npy(cell), width, height))


def _full_features(cell: bytes, width: int, height: int) -> np.ndarray:
    return maps.resize_channels(maps.decode_npy(cell), width, height)


_FULL: dict[str, Decoder] = {"depth": full_depth, "normal": full_normals}


def iterate_rows(folder: Folder, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows one after the other, a few in memory at a time."""
    for unit in list_units(folder):
        with folder.open(f"data/{unit.file}") as stream, pq.ParquetFile(stream) as file:
            for batch in file.iter_batches(batch_size=16, columns=columns):
                yield from batch.to_pylist()


def _read(folder: Folder, name: str, columns: list[str] | None) -> pa.Table:
    with folder.open(name) as stream:
        return pq.read_table(stream, columns=columns).replace_schema_metadata(None)


def _decoded(cell: Any, width: Any, height: Any, decoder: Decoder) -> np.ndarray | None:
    return decoder(cell, int(width), int(height)) if isinstance(cell, bytes) else None


def _ray_dataset(
    folder: Folder,
    names: list[str],
    columns: list[str] | None,
    chosen: dict[str, Decoder],
    without_elements: dict[str, np.ndarray],
) -> ray.data.Dataset:
    import ray.data

    reading = columns if columns is None else list(dict.fromkeys([*columns, "width", "height"]))

    def load(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for one in _read(folder, row["file"], reading).to_pylist():
            for name, decoder in chosen.items():
                array = _decoded(one[name], one["width"], one["height"], decoder)
                one[name] = without_elements[name] if array is None else array
            yield one if columns is None else {name: one[name] for name in columns}

    dataset = ray.data.from_items([{"file": name} for name in names], override_num_blocks=len(names))
    if chosen:
        return dataset.flat_map(load)
    return dataset.map_batches(
        lambda block: _read(folder, block["file"][0].as_py(), columns), batch_size=1, batch_format="pyarrow"
    )
