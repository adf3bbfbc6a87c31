"""The stages of the pipeline as plain functions from unit to unit.

`pipeline.py` hands them to Ray Data; `labeler.py` calls the same functions in one process. None of them drops,
adds or reorders images, and whatever is wrong with one image becomes `error_kind` and `error` of its row.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import pyarrow as pa

from sapiens_ray import images, watchdog
from sapiens_ray.config import Input, Job, Visualize
from sapiens_ray.errors import ImageError
from sapiens_ray.plan import Shard
from sapiens_ray.rows import READ_FIELDS
from sapiens_ray.shards import open_shard
from sapiens_ray.sources import Done, Encoded, Images, cut_units
from sapiens_ray.storage import Folder
from sapiens_ray.tasks import Task, foreground, make_task, persons
from sapiens_ray.tasks.foreground import Mask
from sapiens_ray.units import PHOTO, Unit, set_column, set_errors

DATA = "_data"  # column of encoded bytes in units under way; no column of a task or an input can have this name
MAX_UNIT_BYTES = 512 << 20  # what travels of a unit: 64 photos of 8 megapixels, decoded, would be 1.6 GB
UNKNOWN_PIXELS = 8_000_000  # of a format whose header Pillow does not read
MASK_THREADS = 16
BOX_LIST = pa.list_(pa.list_(pa.float64()))  # x1, y1, x2, y2, score of each person


@dataclass(frozen=True)
class Wanted:
    """What the tasks ask of `read` beside the encoded images."""

    box_columns: tuple[str, ...] = ()
    masks: tuple[Mask, ...] = ()
    labels: tuple[str, ...] = ()  # input columns with boxes and masks
    photos: bool = False  # decoded photos travel on, for tasks that cut persons out of them
    tasks: tuple[Any, ...] = ()  # options of the tasks, which know what their inputs and results weigh
    passthrough: tuple[str, ...] = ()

    @classmethod
    def of(cls, job: Job) -> Wanted:
        return cls(
            box_columns=tuple(job.box_columns),
            masks=tuple(job.masks),
            labels=tuple(job.label_columns),
            photos=any(make_task(options).input_kind == PHOTO for options in job.tasks),
            tasks=tuple(job.tasks),
            passthrough=tuple(job.input.columns),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Input columns to read."""
        return tuple(dict.fromkeys((*self.passthrough, *self.labels)))

    def weigh(self, image: Encoded) -> int:
        """Bytes that an image adds to its unit, about: encoded, as network inputs, as results, passed through."""
        if image.data is None:
            return 0
        size = images.header_size(image.data)
        pixels = size[0] * size[1] if size else UNKNOWN_PIXELS
        weight = len(image.data) + sum(options.weight(pixels) for options in self.tasks)
        weight += sum(len(value) for value in image.extra.values() if isinstance(value, bytes | str))
        return weight + (pixels * 3 if self.photos else 0)


# --- read --------------------------------------------------------------------------------------------------


def read_units(
    shard: Shard,
    done: Done,
    settings: Input,
    output: Folder,
    unit_size: int,
    extra: pa.Schema,
    wanted: Wanted,
    condemned: Mapping[int, ImageError] = MappingProxyType({}),
) -> Iterator[Unit]:
    """Stream the units of a shard that are not done.

    condemned: images that killed their workers in an earlier run, with the errors that they become.
    """
    started = time.perf_counter()
    encoded_images = _ticking(open_shard(shard, done, settings, output, wanted.passthrough, wanted.labels))
    base = shard.uri.rsplit("/", 1)[0]
    for encoded, last in cut_units(encoded_images, unit_size, MAX_UNIT_BYTES, wanted.weigh):
        for image in encoded:
            image.error = condemned.get(image.index, image.error)
        start = encoded[0].index if encoded else (done.ranges[-1][1] if done.ranges else 0)
        unit = make_unit(encoded, extra, wanted, shard=shard.number, start=start, last=last)
        unit = add_masks(unit, encoded, wanted.masks, base, settings.storage_options)
        unit.seconds["read"] = time.perf_counter() - started
        yield unit
        started = time.perf_counter()


def _ticking(encoded_images: Images) -> Images:
    """The same images; each is a sign of life."""
    while True:
        watchdog.progress()
        try:
            yield next(encoded_images)
        except StopIteration as end:
            return cast(int, end.value)


def make_unit(
    encoded: list[Encoded],
    extra: pa.Schema,
    wanted: Wanted = Wanted(),
    shard: int = 0,
    start: int = 0,
    last: bool = True,
) -> Unit:
    """A unit of encoded images. `extra`: names and types of the passthrough columns.

    Boxes that the input brings are checked here; wrong ones make an error row.
    """
    boxes: dict[str, list[list[list[float]] | None]] = {column: [] for column in wanted.box_columns}
    for image in encoded:
        for column, cells in boxes.items():
            try:
                if column not in image.extra and image.error is None:
                    raise ImageError("bad_boxes", "not given for this image; write null or [] where nobody is")
                cells.append(persons.parse(image.extra.get(column)))
            except ImageError as error:
                cells.append(None)
                image.error = image.error or ImageError(error.kind, f"column {column!r}: {error.message}")
    columns = {
        "index": [image.index for image in encoded],
        "image_id": [image.image_id for image in encoded],
        "uri": [image.uri for image in encoded],
        "error_kind": [image.error.kind if image.error else None for image in encoded],
        "error": [image.error.message if image.error else None for image in encoded],
    }
    fields = [*READ_FIELDS, pa.field(DATA, pa.large_binary())]
    fields += [pa.field(f"_boxes:column:{column}", BOX_LIST) for column in boxes]
    arrays = [pa.array(columns[field.name], field.type) for field in READ_FIELDS]
    arrays.append(pa.array([image.data for image in encoded], pa.large_binary()))
    arrays += [pa.array(cells, BOX_LIST) for cells in boxes.values()]
    arrays += [_passthrough([image.extra.get(field.name) for image in encoded], field.type) for field in extra]
    return Unit(shard, start, last, pa.Table.from_arrays(arrays, schema=pa.schema([*fields, *extra])))


def add_masks(unit: Unit, encoded: list[Encoded], masks: Sequence[Mask], base: str, options: dict[str, Any]) -> Unit:
    """The unit with the bytes of the masks that the user brings, several fetched at a time."""
    if not masks:
        return unit
    rows = unit.rows
    with ThreadPoolExecutor(MASK_THREADS, thread_name_prefix="masks") as pool:
        for mask in masks:
            cells = [image.extra.get(str(mask.column)) for image in encoded]
            ids = [image.image_id for image in encoded]
            count = len(encoded)
            found = pool.map(foreground.fetch, [mask] * count, ids, cells, [base] * count, [options] * count)
            rows = set_column(rows, str(mask.carried), pa.array(list(found), pa.large_binary()))
    return replace(unit, rows=rows)


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


def prepare(unit: Unit, tasks: Sequence[Task], max_pixels: int) -> Unit:
    """Decode each image once and make every distinct network input of the tasks. Adds `width` and `height`."""
    started = time.perf_counter()
    kinds = {task.input_kind: task for task in tasks}
    count = unit.rows.num_rows
    widths: list[int | None] = [None] * count
    heights: list[int | None] = [None] * count
    inputs: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    errors: dict[int, tuple[str, str]] = {}
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
    # With nothing decoded the shape is unknown, and nothing will ask for it.
    stacked = {kind: _joined(kind, arrays) for kind, arrays in inputs.items() if arrays}
    seconds = {**unit.seconds, "prepare": time.perf_counter() - started}
    return replace(unit, rows=rows, inputs=stacked, seconds=seconds)


def _joined(kind: str, arrays: list[np.ndarray]) -> np.ndarray:
    """One array of inputs of one size, or of the pixels of photos of any size."""
    return np.concatenate([array.reshape(-1) for array in arrays]) if kind == PHOTO else np.stack(arrays)


def error_columns(error: Exception, stage: str) -> tuple[str, str]:
    """(error_kind, error) for what was raised while one image was handled."""
    if isinstance(error, ImageError):
        return error.kind, error.message
    return "failed", f"{stage}: {type(error).__name__}: {error}"[:500]


# --- draw --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A visualization, encoded, with its name under `visualizations/`."""

    name: str
    data: bytes


def without_half_labels(unit: Unit, tasks: Sequence[Task]) -> Unit:
    """The unit whose error rows hold no labels: not those of the tasks that came before the error either."""
    good = set(unit.good_rows())
    if len(good) == unit.rows.num_rows:
        return unit
    rows = unit.rows
    chosen = pa.array([row if row in good else None for row in range(rows.num_rows)], pa.int64())
    for field in (field for task in tasks for field in task.fields):
        if field.name in rows.column_names:
            rows = set_column(rows, field.name, rows[field.name].take(chosen))
    return replace(unit, rows=rows)


def draw(unit: Unit, tasks: Sequence[Task], settings: Visualize, unique_ids: bool = True) -> tuple[Unit, list[Picture]]:
    """Draw the pictures of the chosen images, one a task.

    unique_ids: False if ids come from a column of the input, where they may repeat.
    Adds `visualization`, the path under the output of the first task's picture; null for images that have none.
    """
    started = time.perf_counter()
    unit = without_half_labels(unit, tasks)
    pictures: list[Picture] = []
    names: list[str | None] = [None] * unit.rows.num_rows
    for position in unit.good_rows():
        watchdog.progress(unit.start + position)
        image_id = unit.rows["image_id"][position].as_py()
        if images.hash_fraction(image_id) >= settings.fraction:
            continue
        drawn = draw_one(unit, position, tasks, settings)
        for column, picture in drawn.items():
            try:
                data = images.encode_picture(picture, settings.format, settings.quality)
            except ValueError:  # wider than a JPEG can be
                continue
            # With one task its folder would say nothing.
            place = "" if unique_ids else f"{unit.shard}-{unit.rows['index'][position].as_py()}"
            name = images.picture_name(image_id, settings.format, place)
            pictures.append(Picture(name if len(tasks) == 1 else f"{column}/{name}", data))
            names[position] = names[position] or f"visualizations/{pictures[-1].name}"
    rows = set_column(unit.rows, "visualization", pa.array(names, pa.string()))
    seconds = {**unit.seconds, "draw": time.perf_counter() - started}
    return replace(unit, rows=rows, seconds=seconds), pictures


def draw_one(unit: Unit, position: int, tasks: Sequence[Task], settings: Visualize) -> dict[str, np.ndarray]:
    """The pictures of one finished row, h x w x 3 uint8 BGR, by the column of their task. What cannot be drawn is
    left out: labels without a picture are better than an error row without labels."""
    head = unit.cells(position, ("width", "height"))
    pictures: dict[str, np.ndarray] = {}
    try:
        data = memoryview(unit.rows[DATA][position].as_buffer())
        photo = images.decode_small(data, head["width"], head["height"], settings.max_side)
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
