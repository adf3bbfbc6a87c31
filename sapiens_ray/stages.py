"""The stages of the pipeline as plain functions from unit to unit.

`pipeline.py` hands them to Ray Data; `labeler.py` calls the same functions in one process. None of them drops,
adds or reorders images, and whatever is wrong with one image becomes `error_kind` and `error` of its row.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from sapiens_ray import images
from sapiens_ray.config import Input, Visualize
from sapiens_ray.errors import ImageError
from sapiens_ray.models.checkpoint import Checkpoint
from sapiens_ray.plan import Shard, read_entries
from sapiens_ray.rows import READ_FIELDS
from sapiens_ray.sources import Done, Encoded, Images, cut_units, parquet, webdataset
from sapiens_ray.sources import images as image_files
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.seg import Seg
from sapiens_ray.units import Unit, set_column, set_errors

DATA = "_data"  # column of encoded bytes in units under way; no column of a task or an input can have this name
MAX_UNIT_BYTES = 256 << 20  # encoded bytes of a unit: 64 scans of 50 MB would be 3 GB


# --- read --------------------------------------------------------------------------------------------------


def open_shard(shard: Shard, done: Done, settings: Input, output: Folder) -> Images:
    """The images of a shard that are not done."""
    options = settings.storage_options
    if shard.format == "webdataset":
        return webdataset.read(shard.uri, shard.shard_id, done, options, settings.include)
    if shard.format == "parquet":
        columns = tuple(settings.columns)
        return parquet.read(
            shard.uri, shard.shard_id, done, options, settings.image_column, settings.id_column, columns
        )
    entries = [entry for _, entry in read_entries(output, [shard.number])]
    return image_files.read(entries, done, options)


def read_units(
    shard: Shard, done: Done, settings: Input, output: Folder, unit_size: int, extra: pa.Schema
) -> Iterator[Unit]:
    """Stream the units of a shard that are not done."""
    started = time.perf_counter()
    for encoded, last in cut_units(open_shard(shard, done, settings, output), unit_size, MAX_UNIT_BYTES):
        start = encoded[0].index if encoded else (done.ranges[-1][1] if done.ranges else 0)
        unit = make_unit(encoded, extra, shard=shard.number, start=start, last=last)
        unit.seconds["read"] = time.perf_counter() - started
        yield unit
        started = time.perf_counter()


def make_unit(encoded: list[Encoded], extra: pa.Schema, shard: int = 0, start: int = 0, last: bool = True) -> Unit:
    """A unit of encoded images. `extra`: names and types of the passthrough columns."""
    columns = {
        "index": [image.index for image in encoded],
        "image_id": [image.image_id for image in encoded],
        "uri": [image.uri for image in encoded],
        "error_kind": [image.error.kind if image.error else None for image in encoded],
        "error": [image.error.message if image.error else None for image in encoded],
    }
    fields = [*READ_FIELDS, pa.field(DATA, pa.large_binary()), *extra]
    arrays = [pa.array(columns[field.name], field.type) for field in READ_FIELDS]
    arrays.append(pa.array([image.data for image in encoded], pa.large_binary()))
    arrays += [_passthrough([image.extra.get(field.name) for image in encoded], field.type) for field in extra]
    return Unit(shard, start, last, pa.Table.from_arrays(arrays, schema=pa.schema(fields)))


def _passthrough(values: list[Any], kind: pa.DataType) -> pa.Array:
    """A passthrough column in its planned type; a value that does not fit (the type was read off other
    shards) becomes text if the column is text, and null else."""
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([_fitting(value, kind) for value in values], kind)


def _fitting(value: Any, kind: pa.DataType) -> Any:
    try:
        return pa.scalar(value, kind).as_py()
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return str(value) if pa.types.is_string(kind) and value is not None else None


# --- prepare -----------------------------------------------------------------------------------------------


def prepare(unit: Unit, tasks: Sequence[Seg], max_pixels: int) -> Unit:
    """Decode each image once and make every distinct network input of the tasks. Adds `width` and `height`."""
    started = time.perf_counter()
    kinds = {task.input_kind: task for task in tasks}
    count = unit.rows.num_rows
    widths: list[int | None] = [None] * count
    heights: list[int | None] = [None] * count
    inputs: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    errors: dict[int, tuple[str, str]] = {}
    data = unit.rows[DATA]
    for position in unit.good_rows().tolist():
        try:
            image = images.decode(memoryview(data[position].as_buffer()), max_pixels)
            prepared = {kind: task.prepare(image) for kind, task in kinds.items()}
        except Exception as error:
            errors[position] = error_columns(error, "prepare")
            continue
        heights[position], widths[position] = image.shape[:2]
        for kind, array in prepared.items():
            inputs[kind].append(array)
    rows = set_errors(unit.rows, errors)
    rows = set_column(rows, "width", pa.array(widths, pa.int32()))
    rows = set_column(rows, "height", pa.array(heights, pa.int32()))
    # With nothing decoded the shape is unknown, and nothing will ask for it.
    stacked = {kind: np.stack(arrays) for kind, arrays in inputs.items() if arrays}
    seconds = {**unit.seconds, "prepare": time.perf_counter() - started}
    return replace(unit, rows=rows, inputs=stacked, seconds=seconds)


def error_columns(error: Exception, stage: str) -> tuple[str, str]:
    """(error_kind, error) for what was raised while one image was handled."""
    if isinstance(error, ImageError):
        return error.kind, error.message
    return "failed", f"{stage}: {type(error).__name__}: {error}"[:500]


# --- infer -------------------------------------------------------------------------------------------------


class Infer:
    """One task's model. Lives in an actor of its pool, or in the process of a Labeler."""

    def __init__(self, task: Seg, checkpoint: Checkpoint, device: str, threads: int | None, drop_input: bool) -> None:
        from sapiens_ray.models.runner import Runner

        self.task = task
        self.drop_input = drop_input
        self.runner = Runner(checkpoint.local_file(), device, task.options.batch_size, threads)
        self._pool = ThreadPoolExecutor(2 if self.runner.device.type == "cpu" else 4, thread_name_prefix="finish")

    def __call__(self, unit: Unit) -> Unit:
        """Run the model on the unit's images; adds the task's columns.

        Results are reduced on the device, batch by batch, and encoded by threads meanwhile.
        """
        started = time.perf_counter()
        task = self.task
        positions = unit.good_rows().tolist()
        widths, heights = unit.rows["width"].to_pylist(), unit.rows["height"].to_pylist()
        futures: dict[int, Any] = {}
        errors: dict[int, tuple[str, str]] = {}
        inputs = unit.inputs.get(task.input_kind, np.empty((0,)))
        for start, stop, output in self.runner(inputs):
            outputs = task.check_output(output, stop - start)
            for position, result in zip(positions[start:stop], outputs, strict=True):
                try:
                    reduced = self._reduce(result, widths[position], heights[position])
                except ImageError as error:
                    errors[position] = error_columns(error, task.column)
                    continue
                futures[position] = self._pool.submit(task.finish, reduced)
        finished: dict[int, dict[str, Any]] = {}
        for position, future in futures.items():
            try:
                finished[position] = future.result()
            except Exception as error:
                errors[position] = error_columns(error, task.column)
        rows = set_errors(unit.rows, errors)
        for field in task.fields:
            values = [finished.get(position, {}).get(field.name) for position in range(rows.num_rows)]
            rows = set_column(rows, field.name, pa.array(values, field.type))
        kept = {kind: array for kind, array in unit.inputs.items() if not (self.drop_input and kind == task.input_kind)}
        if errors:  # inputs belong to the rows without error
            still = np.array([position not in errors for position in positions])
            kept = {kind: array[still] for kind, array in kept.items()}
        seconds = {**unit.seconds, task.column: time.perf_counter() - started}
        return replace(unit, rows=rows, inputs=kept, seconds=seconds)

    def _reduce(self, result: Any, width: int, height: int) -> Any:
        """The task's reduction; on the CPU where the photo is too large for what is left of the GPU."""
        import torch

        try:
            return self.task.reduce(result, width, height)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            return self.task.reduce(result.cpu(), width, height)


# --- draw --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A visualization, encoded, with its name under `visualizations/`."""

    name: str
    data: bytes


def draw(unit: Unit, tasks: Sequence[Seg], settings: Visualize) -> tuple[Unit, list[Picture]]:
    """Draw `[photo | panel of each task]` for the chosen images.

    Adds `visualization`, the picture's path under the output; null for images that have none.
    """
    started = time.perf_counter()
    pictures: list[Picture] = []
    names: list[str | None] = [None] * unit.rows.num_rows
    for position in unit.good_rows().tolist():
        image_id = unit.rows["image_id"][position].as_py()
        if images.hash_fraction(image_id) >= settings.fraction:
            continue
        row = {name: unit.rows[name][position].as_py() for name in unit.rows.column_names if name != DATA}
        data = memoryview(unit.rows[DATA][position].as_buffer())
        try:
            picture = images.encode_picture(draw_one(data, row, tasks, settings), settings.format, settings.quality)
        except Exception:
            continue  # labels without a picture are better than an error row without labels
        name = images.picture_name(image_id, settings.format)
        pictures.append(Picture(name, picture))
        names[position] = f"visualizations/{name}"
    rows = set_column(unit.rows, "visualization", pa.array(names, pa.string()))
    seconds = {**unit.seconds, "draw": time.perf_counter() - started}
    return replace(unit, rows=rows, seconds=seconds), pictures


def draw_one(data: bytes | memoryview, row: dict[str, Any], tasks: Sequence[Seg], settings: Visualize) -> np.ndarray:
    """The picture of one finished row, h x w x 3 uint8 BGR, photo and panels side by side."""
    photo = images.decode_small(data, row["width"], row["height"], settings.max_side)
    return np.hstack([photo, *(task.draw(photo, row, settings.opacity) for task in tasks)])
