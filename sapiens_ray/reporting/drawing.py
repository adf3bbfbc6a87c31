"""Thumbnails of rows: the photo, and the labels of each task drawn over it from the Parquet files.

Pictures in `visualizations/` have titles and legends, and only some images have one, so labels are drawn anew in the
style of Sapiens-Lite, whose panels have the size of the photo and can be cut apart. Where that cannot be done, the
picture in `visualizations/` is shown as it is.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from sapiens_ray.engine.draw import overlay
from sapiens_ray.imaging import images
from sapiens_ray.output.chunks import leaves_of
from sapiens_ray.output.done import list_units
from sapiens_ray.output.layout import data_file
from sapiens_ray.output.record import Record
from sapiens_ray.pages import data_uri, fitted
from sapiens_ray.reporting.photos import Photos
from sapiens_ray.storage import Folder
from sapiens_ray.storage.parquet import open_parquet, read_groups
from sapiens_ray.tasks import TASKS, AnyTask, make_task
from sapiens_ray.tasks.foreground import Mask
from sapiens_ray.tasks.network import Recipe
from sapiens_ray.tasks.options import ModelOptions
from sapiens_ray.units import Row, UnitName

SIDE = 320  # pixels of a thumbnail
READ_LOCAL, READ_REMOTE = 8 << 30, 1 << 30  # bytes of labels that are read for thumbnails, at most
LISTINGS = 10  # of files, at most; another one where a merge removed some
THREADS_REMOTE = 8  # photos are fetched one by one
GREY = 128  # in place of a photo that is gone
UNSAFE = ("crashed", "timeout", "out_of_memory", "too_large")  # photos of these error rows are not decoded again


@dataclass
class Thumbnail:
    """Data URIs of a row: the photo (empty if it is gone), and by task the labels over it."""

    photo: str = ""
    labels: dict[str, str] = field(default_factory=dict)


def tasks_of(record: Record | None) -> list[AnyTask]:
    """The tasks of the job that made an output; without those that cannot be built here."""
    every: list[ModelOptions] = []
    models = (record or {}).get("models", [])  # those of tasks come first
    for number, given in enumerate((record or {}).get("job", {}).get("tasks", [])):
        with contextlib.suppress(Exception):  # of another version, or of a package that is not installed
            options = TASKS[given["task"]].options.model_validate(given)
            if number < len(models) and "recipe" in models[number]:
                recipe = Recipe(models[number]["recipe"], tuple(models[number]["input_size"]))
                options = options.with_recipe(recipe)
            every.append(options)
    found: list[AnyTask] = []
    for options in every:
        mask = getattr(options, "mask", None)
        if isinstance(mask, Mask) and mask.carried:  # a mask of the user, which is not stored
            options = options.model_copy(update={"mask": Mask(source="none")})
        with contextlib.suppress(ValueError):  # the task that it needs cannot be built here
            options = options.settled(every, "")
        with contextlib.suppress(Exception):
            found.append(make_task(options))
    return found


class Drawer:
    """Draws thumbnails of rows of an output."""

    def __init__(self, folder: Folder, record: Record | None) -> None:
        self.folder = folder
        self.tasks = [task for task in tasks_of(record) if task.options.draws]
        self.photos = Photos(record, folder.options, SIDE)

    @property
    def columns(self) -> list[str]:
        """The columns that drawing needs."""
        named = {name for task in self.tasks for name in (*task.needs, *(field.name for field in task.fields))}
        return sorted(named)

    def draw(self, rows: Sequence[Row]) -> Iterator[tuple[int, Thumbnail]]:
        """The thumbnails of rows with their places in `rows`, in any order. Files are read in the order in which rows
        name them, so earlier rows have labels where not all can be read.

        rows: with `shard`, `index`, `uri`, `width`, `height`, `error_kind` and `visualization`."""
        self.photos.fetch_members(row for row in rows if has_photo(row))
        threads = max(os.cpu_count() or 1, THREADS_REMOTE if self.folder.remote else 1)
        drawn: deque[tuple[int, Future[Thumbnail]]] = deque()
        with ThreadPoolExecutor(threads, thread_name_prefix="draw") as pool:
            for places, labels in self._labels(rows):
                for place, cells in zip(places, labels, strict=True):
                    drawn.append((place, pool.submit(self._one, rows[place], cells)))
                while len(drawn) > 2 * threads:  # more would only fill the memory
                    place, thumbnail = drawn.popleft()
                    yield place, thumbnail.result()
            for place, thumbnail in drawn:
                yield place, thumbnail.result()

    def _labels(self, rows: Sequence[Row]) -> Iterator[tuple[list[int], list[Row]]]:
        """The cells of the rows, those of one row group of one file at a time, every row once. A run may merge files
        meanwhile: then the rows that are left are looked for in a new listing."""
        waiting = [place for place, row in enumerate(rows) if not row["error_kind"]]
        left = READ_REMOTE if self.folder.remote else READ_LOCAL
        for _ in range(LISTINGS):
            units = list_units(self.folder)
            of_unit: dict[UnitName, list[int]] = defaultdict(list)
            for place in waiting:
                unit = _unit_of(units, rows[place])
                if unit is not None:
                    of_unit[unit].append(place)
            done: set[int] = set()
            for unit, places in of_unit.items():
                with contextlib.suppress(FileNotFoundError):  # merged meanwhile
                    for chosen, labels, cost in self._in_file(unit, rows, places, left):
                        left -= cost
                        done.update(chosen)
                        yield chosen, labels
            waiting = [place for place in waiting if place not in done]
            if not waiting:
                break
        nothing = [*waiting, *(place for place, row in enumerate(rows) if row["error_kind"])]
        yield nothing, [{} for _ in nothing]

    def _in_file(
        self, unit: UnitName, rows: Sequence[Row], places: Sequence[int], left: int
    ) -> Iterator[tuple[list[int], list[Row], int]]:
        """Places, their cells, and the bytes that were read for them, by row group. left: bytes that may be read.
        Raises FileNotFoundError if the file is gone."""
        with self.folder.open(data_file(unit)) as stream, open_parquet(stream) as file:
            for group, members in _by_group(file, unit, rows, places).items():
                columns, cost = _affordable(file, group, self.columns, left)
                left -= cost
                leaves = leaves_of(file.schema, dict.fromkeys(columns, ()))
                table = read_groups(self.folder, data_file(unit), file, [group], leaves)
                labels = [table.slice(at, 1).to_pylist()[0] for _, at in members]
                yield [place for place, _ in members], labels, cost

    def _one(self, row: Row, labels: Row) -> Thumbnail:
        """The thumbnail of one row. What cannot be drawn is left out."""
        made = Thumbnail()
        if not has_photo(row):
            return made
        photo = self.photos.read(row)
        if photo is not None:
            made.photo = data_uri(photo)
        size = images.picture_size(row["width"], row["height"], SIDE)
        canvas = np.full((size[1], size[0], 3), GREY, np.uint8) if photo is None else photo
        for task in self.tasks:
            drawn = _overlay(task, canvas, {**row, **labels})
            if drawn is not None:
                made.labels[task.column] = data_uri(fitted(drawn, SIDE))
        if not made.labels and row["visualization"] and self.tasks:
            picture = self._picture(row["visualization"])
            if picture is not None:
                made.labels[self.tasks[0].column] = data_uri(fitted(picture, 2 * SIDE))
        return made

    def _picture(self, name: str) -> np.ndarray | None:
        try:
            picture: np.ndarray | None = cv2.imdecode(np.frombuffer(self.folder.read(name), np.uint8), cv2.IMREAD_COLOR)
        except Exception:
            return None
        return picture


def has_photo(row: Row) -> bool:
    """Whether the photo of a row can be shown: it was decoded, and did no harm. row: with `width` and `error_kind`."""
    return bool(row["width"]) and row["error_kind"] not in UNSAFE


def _unit_of(units: Sequence[UnitName], row: Row) -> UnitName | None:
    shard, index = row["shard"], row["index"]
    return next((unit for unit in units if unit.shard == shard and unit.start <= index < unit.stop), None)


def _by_group(
    file: pq.ParquetFile, unit: UnitName, rows: Sequence[Row], places: Sequence[int]
) -> dict[int, list[tuple[int, int]]]:
    """Row group -> (place in `rows`, row in the group). The rows of a file are consecutive."""
    counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    ends = np.cumsum(counts)
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for place in places:
        at = rows[place]["index"] - unit.start
        group = int(np.searchsorted(ends, at, side="right"))
        found[group].append((place, at - int(ends[group] - counts[group])))
    return found


def _affordable(file: pq.ParquetFile, group: int, columns: Sequence[str], left: int) -> tuple[list[str], int]:
    """The columns whose part in a row group may still be read, cheapest first, and their bytes."""
    sizes: dict[str, int] = dict.fromkeys((name for name in columns if name in file.schema_arrow.names), 0)
    about = file.metadata.row_group(group)
    for position in range(about.num_columns):
        column = about.column(position)
        name = column.path_in_schema.split(".")[0]
        if name in sizes:
            sizes[name] += column.total_compressed_size
    chosen: list[str] = []
    cost = 0
    for name, size in sorted(sizes.items(), key=lambda item: item[1]):
        if cost + size > left:
            break
        chosen.append(name)
        cost += size
    return chosen, cost


def _overlay(task: AnyTask, photo: np.ndarray, row: Mapping[str, Any]) -> np.ndarray | None:
    """The labels of a task over the photo, h x w x 3 uint8 BGR; None if they are not there or cannot be drawn."""
    # What starts with an underscore was input of the task, such as boxes, and is not stored. Pictures do without. Nor
    # has an output of an earlier version all columns.
    if any(row.get(name) is None for name in (*task.needs, task.column) if not name.startswith("_")):
        return None
    return overlay(task, photo, dict(row))
