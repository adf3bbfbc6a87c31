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
from sapiens_ray.units import Picture, Unit, set_column


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
    head = unit.cells(position, ("width", "height"))
    pictures: dict[str, np.ndarray] = {}
    try:
        data = memoryview(unit.rows[DATA][position].as_buffer())
        photo = images.decode_small(data, head["width"], head["height"], settings.max_side, settings.min_side)
    except Exception:
        return {}
    for task in tasks:
        row = {**head, **unit.cells(position, {*task.needs, *(field.name for field in task.fields)})}
        try:
            picture = task.draw(photo, row, settings)
        except Exception:
            continue
        if picture is not None:
            pictures[task.column] = picture
    return pictures
