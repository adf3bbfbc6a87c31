"""Finished rows to pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from sapiens_ray.engine import watchdog
from sapiens_ray.engine.assemble import DATA
from sapiens_ray.imaging import images, names
from sapiens_ray.output.layout import picture_file
from sapiens_ray.tasks import AnyTask
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.units import Picture, Row, Unit, set_column


def without_half_labels(unit: Unit, tasks: Sequence[AnyTask]) -> Unit:
    """The unit without labels in its error rows. They may have labels of tasks that ran before the error."""
    good = set(unit.good_rows())
    if len(good) == unit.rows.num_rows:
        return unit
    rows = unit.rows
    chosen = pa.array([row if row in good else None for row in range(rows.num_rows)], pa.int64())
    for field in (field for task in tasks for field in task.fields):
        if field.name in rows.column_names:
            rows = set_column(rows, field.name, rows[field.name].take(chosen))
    return replace(unit, rows=rows)


def draw(
    unit: Unit, tasks: Sequence[AnyTask], settings: Visualize, unique_ids: bool = True
) -> tuple[Unit, list[Picture]]:
    """Draw the pictures of the chosen images, one per task.

    unique_ids: False if ids come from a column of the input, where they may repeat.
    Adds the column `visualization`: the path of the first task's picture, relative to the output; null without picture.
    """
    started = time.perf_counter()
    unit = without_half_labels(unit, tasks)
    pictures: list[Picture] = []
    paths: list[str | None] = [None] * unit.rows.num_rows
    for position in unit.good_rows():
        watchdog.progress(unit.start + position)
        image_id = unit.rows["image_id"][position].as_py()
        if not names.has_picture(image_id, settings.share):
            continue
        drawn = draw_one(unit, position, tasks, settings)
        for column, picture in drawn.items():
            try:
                data = images.encode_picture(picture, settings.format, settings.quality)
            except ValueError:  # wider than a JPEG can be
                continue
            # With a single task, a folder per task would add nothing.
            place = "" if unique_ids else f"{unit.shard}-{unit.rows['index'][position].as_py()}"
            name = names.picture_name(image_id, settings.format, place)
            pictures.append(Picture(name if len(tasks) == 1 else f"{column}/{name}", data))
            paths[position] = paths[position] or picture_file(pictures[-1].name)
    rows = set_column(unit.rows, "visualization", pa.array(paths, pa.string()))
    seconds = {**unit.seconds, "draw": time.perf_counter() - started}
    return replace(unit, rows=rows, seconds=seconds), pictures


def draw_one(unit: Unit, position: int, tasks: Sequence[AnyTask], settings: Visualize) -> dict[str, np.ndarray]:
    """The pictures of one finished row, h x w x 3 uint8 BGR, by the column of their task. Pictures that cannot be
    drawn are left out: labels without a picture are better than an error row."""
    photo = photo_of(unit, position, settings.max_side, settings.min_side)
    if photo is None:
        return {}
    pictures: dict[str, np.ndarray] = {}
    for task in tasks:
        try:
            picture = task.draw(photo, _cells(unit, position, task), settings)
        except Exception:
            continue
        if picture is not None:
            pictures[task.column] = picture
    return pictures


def photo_of(unit: Unit, position: int, max_side: int, min_side: int = 0) -> np.ndarray | None:
    """The photo of a row at the size of its picture, h x w x 3 uint8 BGR; None if it cannot be decoded."""
    head = unit.cells(position, ("width", "height"))
    try:
        data = memoryview(unit.rows[DATA][position].as_buffer())
        return images.decode_small(data, head["width"], head["height"], max_side, min_side)
    except Exception:
        return None


def overlays(unit: Unit, position: int, photo: np.ndarray, tasks: Sequence[AnyTask]) -> dict[str, np.ndarray]:
    """What each task lays over the photo of a finished row, h x w x 3 uint8 BGR, by its column. See `overlay`."""
    drawn = {task.column: overlay(task, photo, _cells(unit, position, task)) for task in tasks}
    return {column: picture for column, picture in drawn.items() if picture is not None}


def overlay(task: AnyTask, photo: np.ndarray, row: Row) -> np.ndarray | None:
    """The labels of a finished row over its photo, both h x w x 3 uint8 BGR; None if they cannot be drawn.

    In style lite a picture is the photo, or the photo and panels of its size beside it: the first of those is taken.
    """
    try:
        picture = task.draw(photo, row, Visualize(style="lite"))
    except Exception:
        return None
    if picture is None:
        return None
    width = photo.shape[1]
    panels = picture.shape[1] // width if picture.shape[0] == photo.shape[0] and picture.shape[1] % width == 0 else 1
    return picture[:, width : 2 * width] if panels > 1 else picture


def _cells(unit: Unit, position: int, task: AnyTask) -> Row:
    """What a task draws from."""
    return unit.cells(position, {"width", "height", *task.needs, *(field.name for field in task.fields)})
