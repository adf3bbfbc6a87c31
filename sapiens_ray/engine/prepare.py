"""Encoded images to network inputs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from sapiens_ray.engine import watchdog
from sapiens_ray.engine.assemble import DATA
from sapiens_ray.errors import ImageError
from sapiens_ray.imaging import images, names
from sapiens_ray.tasks import AnyTask
from sapiens_ray.units import PHOTO, Errors, Unit, set_column, set_errors


def prepare(unit: Unit, tasks: Sequence[AnyTask], max_pixels: int) -> Unit:
    """Decode each image once and make every distinct network input of the tasks. Adds `width` and `height`."""
    started = time.perf_counter()
    kinds = {task.input_kind: task for task in tasks}
    count = unit.rows.num_rows
    widths: list[int | None] = [None] * count
    heights: list[int | None] = [None] * count
    inputs: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    errors: Errors = {}
    data = unit.rows[DATA]
    for position in unit.good_rows():
        watchdog.progress(unit.start + position)
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
    # If nothing was decoded, the shape is unknown, and nothing needs it.
    stacked = {kind: _joined(kind, arrays) for kind, arrays in inputs.items() if arrays}
    seconds = {**unit.seconds, "prepare": time.perf_counter() - started}
    return replace(unit, rows=rows, inputs=stacked, seconds=seconds)


def keep_for_pictures(unit: Unit, fraction: float) -> Unit:
    """The unit with the encoded bytes of those images only that get a picture: nothing else needs them any more, and
    they would travel through the object store twice. fraction: `output.visualize.fraction`."""
    if fraction >= 1:
        return unit
    ids = unit.rows["image_id"].to_pylist()
    chosen = {position for position in unit.good_rows() if names.has_picture(ids[position], fraction)}
    places = pa.array([row if row in chosen else None for row in range(len(ids))], pa.int64())
    return replace(unit, rows=set_column(unit.rows, DATA, unit.rows[DATA].take(places)))


def _joined(kind: str, arrays: list[np.ndarray]) -> np.ndarray:
    """One array: inputs of equal size stacked, or the pixels of photos of any size concatenated."""
    return np.concatenate([array.reshape(-1) for array in arrays]) if kind == PHOTO else np.stack(arrays)


def error_columns(error: Exception, stage: str) -> tuple[str, str]:
    """(error_kind, error) of an exception that was raised while one image was processed."""
    if isinstance(error, ImageError):
        return error.kind, error.message
    return "failed", f"{stage}: {type(error).__name__}: {error}"[:500]
