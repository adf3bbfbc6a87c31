"""`read_labels`: the labels of an output folder as a DataFrame or as a Ray Dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args, overload

from sapiens_ray.execution.cluster import start_ray
from sapiens_ray.output.done import with_units
from sapiens_ray.output.reading import Part, Selection, chosen_rows, decoded, read_frame, select
from sapiens_ray.storage import Folder, StorageOptions
from sapiens_ray.storage.uris import user_path
from sapiens_ray.tasks.stored import MapSize
from sapiens_ray.units import Row, UnitName

if TYPE_CHECKING:
    import pandas
    import pyarrow as pa
    import ray.data


@overload
def read_labels(
    output: str | os.PathLike[str],
    *,
    engine: Literal["pandas"] = "pandas",
    columns: Sequence[str] | None = None,
    decode: bool = False,
    size: MapSize = "stored",
    where: str | None = None,
    storage_options: StorageOptions | None = None,
) -> pandas.DataFrame: ...


@overload
def read_labels(
    output: str | os.PathLike[str],
    *,
    engine: Literal["ray"],
    columns: Sequence[str] | None = None,
    decode: bool = False,
    size: MapSize = "stored",
    where: str | None = None,
    storage_options: StorageOptions | None = None,
) -> ray.data.Dataset: ...


def read_labels(
    output: str | os.PathLike[str],
    *,
    engine: Literal["pandas", "ray"] = "pandas",
    columns: Sequence[str] | None = None,
    decode: bool = False,
    size: MapSize = "stored",
    where: str | None = None,
    storage_options: StorageOptions | None = None,
) -> pandas.DataFrame | ray.data.Dataset:
    """Read the labels of an output folder, finished or not: one row per image, in the order of the input.

    output: the `output.uri` of the job, a path (str or Path, `~` is the home folder) or a URL.
    engine: "pandas" for a DataFrame, "ray" for a lazy Ray Dataset (if the labels do not fit into memory).
    columns: the columns to read; all by default.
    decode: maps as arrays instead of PNG and .npy bytes: classes H x W uint8, depth h x w, normals h x w x 3,
        features C x h x w; in DataFrames also persons with arrays: box 4, keypoints K x 2, scores K. Error rows have
        None, or with Ray, whose tensor columns cannot hold None, empty arrays.
    size: "stored", or "original" for maps at the size of the photo, float32, with normals of unit length; implies
        `decode`. Feature maps are resized too, which takes gigabytes if they have many channels.
    where: only rows that meet a condition in SQL, such as "seg_confidence < 0.6 and len(persons) > 0" (docs/query.md).
    Files are read in parallel, each by one thread. Raises OutputError if there is nothing to read, and ConfigError for
    a wrong condition.
    """
    if engine not in ("pandas", "ray"):
        raise ValueError(f"engine={engine!r}: must be 'pandas' or 'ray'")
    if size not in get_args(MapSize):
        raise ValueError(f"size={size!r}: must be 'stored' or 'original'")
    if isinstance(columns, str):
        raise TypeError(f"columns={columns!r}: give a list of names")
    folder = chosen_rows(Folder(user_path(output).rstrip("/"), storage_options or {}), where)
    arrays = decode or size == "original"
    if engine == "pandas":
        return read_frame(folder, columns, arrays, size)
    return _dataset(with_units(folder, lambda units: select(folder, units, columns, arrays, size)))


def _dataset(selection: Selection) -> ray.data.Dataset:
    """A dataset that reads one file per task."""
    import ray.data

    start_ray()
    files = [{"file": part.unit.file, "skip": part.skip} for part in selection.parts]
    one = replace(selection, parts=[])  # tasks get this, and not the names of all files
    decoders = selection.decoders
    missing = {name: column.without_elements(selection.size) for name, column in selection.maps.items()}

    def read(file: str, skip: int) -> pa.Table:
        unit = UnitName.parse(file)
        assert unit is not None
        return one.read(Part(unit, skip))

    def load(row: Row) -> Iterator[Row]:
        for cells in read(row["file"], row["skip"]).to_pylist():
            for name, decoder in decoders.items():
                array = decoded(cells[name], cells["width"], cells["height"], decoder)
                cells[name] = missing[name] if array is None else array
            yield cells if one.columns is None else {name: cells[name] for name in one.columns}

    dataset = ray.data.from_items(files, override_num_blocks=len(files))
    if selection.maps:
        return dataset.flat_map(load)
    return dataset.map_batches(
        lambda block: read(block["file"][0].as_py(), block["skip"][0].as_py()), batch_size=1, batch_format="pyarrow"
    )
