"""Encoded images to units: the columns of a unit, and its estimated size in bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa

from sapiens_ray.errors import ImageError
from sapiens_ray.imaging import images
from sapiens_ray.job.config import Job
from sapiens_ray.output.schema import READ_FIELDS
from sapiens_ray.sources import Encoded
from sapiens_ray.storage import StorageOptions, is_remote, request_threads
from sapiens_ray.storage.uris import readable
from sapiens_ray.tasks import foreground, make_task, persons
from sapiens_ray.tasks.coco_boxes import BoxFile
from sapiens_ray.tasks.foreground import Mask
from sapiens_ray.tasks.options import ModelOptions
from sapiens_ray.tasks.persons import carried_boxes, carried_from_file, carried_size
from sapiens_ray.units import EXAMPLE, PHOTO, Unit, set_column

DATA = "_data"  # column of encoded bytes inside the pipeline; columns of tasks and inputs cannot have this name
UNKNOWN_PIXELS = 8_000_000  # assumed for formats whose header Pillow cannot read
BOX_LIST = pa.list_(pa.list_(pa.float64()))  # x1, y1, x2, y2, score of each person
SIZE = pa.list_(pa.int64())  # width and height
BoxCell = list[list[float]] | None


@dataclass(frozen=True)
class Contents:
    """What a unit holds besides the encoded images.

    box_columns: input columns with boxes. box_files: COCO files with boxes. masks: masks of the user. photos: whether
    decoded photos are kept, for tasks that crop persons from them. tasks: options, which know the size of the inputs
    and results of their task.
    """

    box_columns: tuple[str, ...] = ()
    box_files: tuple[BoxFile, ...] = ()
    masks: tuple[Mask, ...] = ()
    photos: bool = False
    tasks: tuple[ModelOptions, ...] = ()

    @classmethod
    def of(cls, job: Job, box_files: Sequence[BoxFile] = ()) -> Contents:
        photos = any(make_task(options).input_kind == PHOTO for options in job.tasks)
        return cls(tuple(job.box_columns), tuple(box_files), tuple(job.masks), photos, tuple(job.tasks))

    @cached_property
    def _input_bytes(self) -> int:
        """Of the network inputs of an image, of which tasks share those of one kind."""
        return sum({make_task(options).input_kind: options.input_bytes for options in self.tasks}.values())

    @property
    def columns(self) -> list[str]:
        """The columns with boxes and masks."""
        from_files = [carried_from_file(coco) for options in self.tasks for coco in options.box_files]
        return [*map(carried_boxes, self.box_columns), *from_files, *(str(mask.carried) for mask in self.masks)]

    def estimated_bytes(self, image: Encoded) -> int:
        """Estimated bytes that an image adds to its unit: encoded, network inputs, results and passthrough columns."""
        if image.data is None:
            return 0
        size = images.header_size(image.data)
        pixels = size[0] * size[1] if size else UNKNOWN_PIXELS
        count = len(image.data) + self._input_bytes + sum(options.stored_bytes(pixels) for options in self.tasks)
        count += sum(len(value) for value in image.extra.values() if isinstance(value, bytes | str))
        return count + (pixels * 3 if self.photos else 0)


def resolve_box_files(job: Job) -> list[BoxFile]:
    """The COCO files with boxes, in the order of `Job.box_files`. Raises InputError for one that cannot be used."""
    files, options = job.box_files, job.input.storage_options
    return [BoxFile.resolve(coco, where, options, len(files)) for where, coco in files.items()]


def make_unit(
    encoded: list[Encoded],
    extra: pa.Schema,
    contents: Contents = Contents(),
    shard: int = 0,
    start: int = 0,
    last: bool = True,
) -> Unit:
    """A unit of encoded images. extra: names and types of the passthrough columns.

    Boxes from the input are validated here; invalid ones make an error row.
    """
    boxes = {carried_boxes(column): _boxes_of_column(encoded, column) for column in contents.box_columns}
    boxes |= {file.carried: _boxes_of_file(encoded, file) for file in contents.box_files}
    sizes = {carried_size(file.options): _sizes_in_file(encoded, file) for file in contents.box_files}
    columns = {
        "index": [image.index for image in encoded],
        "image_id": [image.image_id for image in encoded],
        "uri": [image.uri for image in encoded],
        "error_kind": [image.error.kind if image.error else None for image in encoded],
        "error": [image.error.message if image.error else None for image in encoded],
    }
    fields = [*READ_FIELDS, pa.field(DATA, pa.large_binary())]
    fields += [pa.field(column, BOX_LIST) for column in boxes]
    fields += [pa.field(column, SIZE) for column in sizes]
    arrays = [pa.array(columns[field.name], field.type) for field in READ_FIELDS]
    arrays.append(pa.array([image.data for image in encoded], pa.large_binary()))
    arrays += [pa.array(cells, BOX_LIST) for cells in boxes.values()]
    arrays += [pa.array(cells, SIZE) for cells in sizes.values()]
    notes = list(dict.fromkeys(image.note for image in encoded if image.note))
    for field in extra:
        values = [image.extra.get(field.name) for image in encoded]
        arrays.append(_passthrough(values, field.type))
        if arrays[-1].null_count > values.count(None):
            lost = arrays[-1].is_null().to_pylist()
            first = next(row for row, value in enumerate(values) if lost[row] and value is not None)
            notes.append(
                f"input.columns: values of {field.name!r} that are not {field.type}, its planned type, are null"
                f"{EXAMPLE}{str(values[first])[:40]!r} of {encoded[first].image_id}"
            )
    rows = pa.Table.from_arrays(arrays, schema=pa.schema([*fields, *extra]))
    return Unit(shard, start, last, rows, notes=tuple(notes))


def _boxes_of_column(encoded: list[Encoded], column: str) -> list[BoxCell]:
    """The boxes in an input column; None and an error of the image where they are missing or not valid."""
    cells: list[BoxCell] = []
    for image in encoded:
        try:
            if column not in image.extra and image.error is None:
                why = image.note or "write null or [] if it shows no person"
                raise ImageError("bad_boxes", f"missing for this image; {why}")
            cells.append(persons.parse(image.extra.get(column)))
        except ImageError as error:
            cells.append(None)
            image.error = image.error or ImageError(error.kind, f"column {column!r}: {error.message}")
    return cells


def _boxes_of_file(encoded: list[Encoded], file: BoxFile) -> list[BoxCell]:
    """The boxes in a COCO file; None and an error of the image where the file has none for it, or wrong ones."""
    found = file.boxes
    cells: list[BoxCell] = []
    for image in encoded:
        try:
            cells.append(found.of(image.image_id, image.uri))
        except ImageError as error:
            cells.append(None)
            image.error = image.error or ImageError(error.kind, f"boxes.coco: {error.message}")
    return cells


def _sizes_in_file(encoded: list[Encoded], file: BoxFile) -> list[list[int] | None]:
    """The sizes of photos that a COCO file names, which `prepare` compares with those of the decoded ones."""
    found = file.boxes
    return [found.size_of(image.image_id, image.uri) for image in encoded]


def add_masks(unit: Unit, encoded: list[Encoded], masks: Sequence[Mask], base: str, options: StorageOptions) -> Unit:
    """The unit with the bytes of the masks of the user. Several masks are fetched at a time."""
    if not masks:
        return unit
    rows = unit.rows
    with ThreadPoolExecutor(_mask_threads(masks, base), thread_name_prefix="masks") as pool:
        for mask in masks:
            cells = [image.extra.get(str(mask.column)) for image in encoded]
            ids = [image.image_id for image in encoded]
            count = len(encoded)
            found = pool.map(foreground.fetch, [mask] * count, ids, cells, [base] * count, [options] * count)
            rows = set_column(rows, str(mask.carried), pa.array(list(found), pa.large_binary()))
    return replace(unit, rows=rows)


def _mask_threads(masks: Sequence[Mask], base: str) -> int:
    return request_threads(any(is_remote(mask.folder or base) for mask in masks))


def _passthrough(values: Sequence[object], kind: pa.DataType) -> pa.Array:
    """A passthrough column in its planned type, which comes from other shards. A value that does not fit becomes
    text in a text column, and null in others. Arrow alone would cut numbers and drop fields of objects."""
    if pa.types.is_string(kind):
        return pa.array([_as_text(value) for value in values], kind)
    try:
        array = pa.array(values, kind)
        if not _may_cut(kind) or array.to_pylist() == values:
            return array
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        pass
    return pa.array([_fitting(value, kind) for value in values], kind)


def _may_cut(kind: pa.DataType) -> bool:
    """Whether Arrow makes values of this type from others by cutting them: 0.9 to 0, an object to its known fields."""
    return bool(pa.types.is_integer(kind) or pa.types.is_nested(kind))


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return readable(value)  # JSON can express half of an emoji, which is no text
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _fitting(value: object, kind: pa.DataType) -> object:
    try:
        fitted = pa.scalar(value, kind).as_py()
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        return None
    return fitted if fitted == value or not _may_cut(kind) else None
