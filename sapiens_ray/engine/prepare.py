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
from sapiens_ray.tasks.persons import carried_size, check_size
from sapiens_ray.units import PHOTO, Errors, Unit, set_column, set_errors


def prepare(unit: Unit, tasks: Sequence[AnyTask], max_pixels: int) -> Unit:
    """Decode each image once and make every distinct network input of the tasks. Adds `width` and `height`."""
    started = time.perf_counter()
    kinds = {task.input_kind: task for task in tasks}
    count = unit.rows.num_rows
    widths: list[int | None] = [None] * count
    heights: list[int | None] = [None] * count
    good = unit.good_rows()
    inputs = {kind: Photos() if kind == PHOTO else NetworkInputs(len(good)) for kind in kinds}
    errors: Errors = {}
    data = unit.rows[DATA]
    sizes = [carried_size(coco) for task in tasks for coco in task.options.box_files]
    for position in good:
        watchdog.progress(unit.start + position)
        try:
            image = images.decode(memoryview(data[position].as_buffer()), max_pixels)
            for column in sizes:
                check_size(unit.rows[column][position].as_py(), image.shape[1], image.shape[0])
            prepared = {kind: task.prepare(image) for kind, task in kinds.items()}
        except Exception as error:
            errors[position] = error_columns(error, "prepare")
            continue
        heights[position], widths[position] = image.shape[:2]
        for kind, array in prepared.items():
            inputs[kind].add(array)
    rows = set_errors(unit.rows, errors)
    rows = set_column(rows, "width", pa.array(widths, pa.int32()))
    rows = set_column(rows, "height", pa.array(heights, pa.int32()))
    # If nothing was decoded, the shape is unknown, and nothing needs it.
    joined = {kind: several.joined() for kind, several in inputs.items() if len(errors) < len(good)}
    seconds = {**unit.seconds, "prepare": time.perf_counter() - started}
    return replace(unit, rows=rows, inputs=joined, seconds=seconds)


class NetworkInputs:
    """Inputs of one size, at most `most` of them. They are put into one array one by one: joined at the end, they would
    take twice the memory."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._array = np.empty(0)

    def add(self, one: np.ndarray) -> None:
        """Copy an input. Raises ValueError if it is not like those before."""
        if not self._count:
            self._array = np.empty((self._most, *one.shape), one.dtype)
        if one.shape != self._array.shape[1:]:  # numpy would repeat a smaller one
            raise ValueError(f"an input of {one.shape} beside others of {self._array.shape[1:]}")
        self._array[self._count] = one
        self._count += 1

    def joined(self) -> np.ndarray:
        """N x h x w x 3."""
        return self._array[: self._count]


class Photos:
    """Whole photos of any size."""

    def __init__(self) -> None:
        self._pixels: list[np.ndarray] = []

    def add(self, photo: np.ndarray) -> None:
        self._pixels.append(photo.reshape(-1))

    def joined(self) -> np.ndarray:
        """The pixels of all photos, one after the other."""
        return np.concatenate(self._pixels)


def keep_for_pictures(unit: Unit, fraction: float) -> Unit:
    """The unit with the encoded bytes of those images only that get a picture: nothing else needs them any more, and
    they would travel through the object store twice. fraction: `output.visualize.fraction`."""
    if fraction >= 1:
        return unit
    ids = unit.rows["image_id"].to_pylist()
    chosen = {position for position in unit.good_rows() if names.has_picture(ids[position], fraction)}
    places = pa.array([row if row in chosen else None for row in range(len(ids))], pa.int64())
    return replace(unit, rows=set_column(unit.rows, DATA, unit.rows[DATA].take(places)))


def error_columns(error: Exception, stage: str) -> tuple[str, str]:
    """(error_kind, error) of an exception that was raised while one image was processed."""
    if isinstance(error, ImageError):
        return error.kind, error.message
    return "failed", f"{stage}: {type(error).__name__}: {error}"[:500]
