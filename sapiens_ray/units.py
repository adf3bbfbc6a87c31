"""Units: runs of consecutive images of one shard, how they pass from stage to stage, and their file names.

A unit is one row of the Ray dataset. Ray Data may split and merge blocks, but it cannot split a unit, so a unit of
N images becomes one file of N rows.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa

Row = dict[str, Any]  # one image: column name to Python value
Ranges = tuple[tuple[int, int], ...]  # sorted half-open ranges of indices
Errors = dict[int, tuple[str, str]]  # position or index of an image to its (error_kind, error)
Tell = Callable[[str, int, int | None], None]  # what is counted, how many are done, of how many (None: not known)
Examples = dict[str, list[dict[str, str]]]  # error kind to a few rows of it: {"image_id": ..., "error": ...}

EXAMPLE = ", such as "  # in a note for the user: with another example, it is the same note
PHOTO = "photo"  # input kind: the decoded photos themselves
_NAME = re.compile(r"s(\d{6,})-(\d{8,})-(\d{8,})(-end)?\.parquet")


@dataclass(frozen=True, order=True)
class UnitName:
    """Images [start, stop) of a shard; `last` if none come after them."""

    shard: int
    start: int
    stop: int
    last: bool

    @property
    def file(self) -> str:
        """The file name, such as s000012-00000064-00000128.parquet."""
        end = "-end" if self.last else ""
        return f"s{self.shard:06d}-{self.start:08d}-{self.stop:08d}{end}.parquet"

    @classmethod
    def parse(cls, file: str) -> UnitName | None:
        """The unit of a file name; None if it is not the name of a unit."""
        match = _NAME.fullmatch(file)
        if match is None:
            return None
        shard, start, stop, end = match.groups()
        return cls(int(shard), int(start), int(stop), end is not None)


@dataclass(frozen=True)
class Done:
    """The half-open index ranges of a shard that already have their rows, sorted, and its size if known."""

    ranges: Ranges = ()
    total: int | None = None

    def has(self, index: int) -> bool:
        position = bisect_right(self.ranges, index, key=lambda span: span[0]) - 1
        return position >= 0 and index < self.ranges[position][1]

    @property
    def rows(self) -> int:
        """Number of images with a row. Ranges may overlap if two attempts cut their units at different places."""
        count = reached = 0
        for start, stop in self.ranges:
            count += max(0, stop - max(start, reached))
            reached = max(reached, stop)
        return count

    @property
    def first_missing(self) -> int:
        """The first index without a row."""
        reached = 0
        for start, stop in self.ranges:
            if start > reached:
                break
            reached = max(reached, stop)
        return reached

    @property
    def complete(self) -> bool:
        """Whether every image has its row: the ranges join from 0 to the known end."""
        return self.first_missing == self.total

    def outside(self, wanted: Ranges) -> Done:
        """This, as if all images before the end of the wanted ranges that are not in them were done, too."""
        holes = Done(wanted).missing(((0, wanted[-1][1]),))
        joined: list[tuple[int, int]] = []
        for start, stop in sorted((*self.ranges, *holes)):
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
            else:
                joined.append((start, stop))
        return Done(tuple(joined), self.total)

    def missing(self, wanted: Ranges) -> Ranges:
        """The parts of the wanted ranges that have no rows."""
        left: list[tuple[int, int]] = []
        at = 0  # the first done range that ends after the start of the wanted one
        for start, stop in wanted:
            while at < len(self.ranges) and self.ranges[at][1] <= start:
                at += 1
            after = at
            while start < stop and after < len(self.ranges) and self.ranges[after][0] < stop:
                if start < self.ranges[after][0]:
                    left.append((start, self.ranges[after][0]))
                start = max(start, self.ranges[after][1])
                after += 1
            if start < stop:
                left.append((start, stop))
        return tuple(left)


@dataclass(frozen=True)
class Picture:
    """A visualization, encoded, with its name under `visualizations/`."""

    name: str
    data: bytes


DeviceUse = dict[str, list[float]]  # numbers that are summed over units; see `add_use`


def add_use(one: DeviceUse, other: DeviceUse) -> DeviceUse:
    """What devices did for two parts of a job.

    By model: network inputs, places in the batches that they were in, and seconds in which the device ran them. Under
    the name "": seconds that passed, and seconds in which the devices waited for inputs.
    """
    names = dict.fromkeys((*one, *other))
    return {
        name: [sum(pair) for pair in zip(one.get(name, _NO_USE), other.get(name, _NO_USE), strict=True)]
        for name in names
    }


_NO_USE = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class UnitReport:
    """What the last stage reports to the driver about a written unit.

    errors: error rows by kind. examples: up to two error rows of each kind. seconds: time by stage. notes, device: see
    `Unit`. repeated: how many units and shards the job has started again so far because a worker died; the driver
    fills it in.
    """

    file: str
    rows: int
    errors: dict[str, int]
    seconds: dict[str, float]
    notes: list[str]
    repeated: int = 0
    examples: Examples = field(default_factory=dict)
    device: DeviceUse = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> UnitReport:
        return cls(**json.loads(text))


@dataclass
class Unit:
    """The data that passes from stage to stage.

    rows: Arrow table, one row per image, in the order of the shard: `index`, `image_id`, `uri`, `_data`
        (encoded bytes, null if unreadable), `error_kind`, `error`, passthrough columns; each stage adds its own.
    inputs: per network input kind, an N x H x W x 3 uint8 BGR array of the N images that could be decoded, in
        their order; for kind PHOTO one flat array of their pixels (see `photos`). Images that fail later keep their
        places.
    seconds: time that each stage spent on this unit.
    notes: information for users about the start of the models; each actor adds it once.
    device: what the devices did for this unit.
    """

    shard: int
    start: int
    last: bool
    rows: pa.Table
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    device: DeviceUse = field(default_factory=dict)

    @property
    def name(self) -> UnitName:
        return UnitName(self.shard, self.start, self.start + self.rows.num_rows, self.last)

    def to_block(self) -> pa.Table:
        """This unit as a table of one row; arrays are wrapped, not copied."""
        structs = self.rows.combine_chunks().to_struct_array()
        if structs.num_chunks > 1:  # Arrow splits columns of 2 GiB and more; the rest would be lost
            raise RuntimeError(f"unit {self.name.file} is too large for Arrow: lower unit_size")
        rows = structs.chunk(0) if structs.num_chunks else pa.array([], type=structs.type)
        columns: dict[str, pa.Array] = {
            "shard": pa.array([self.shard], pa.int32()),
            "start": pa.array([self.start], pa.int64()),
            "last": pa.array([self.last]),
            "rows": pa.LargeListArray.from_arrays(pa.array([0, len(rows)], pa.int64()), rows),
            "seconds": pa.array([list(self.seconds.items())], pa.map_(pa.string(), pa.float64())),
            "notes": pa.array([list(self.notes)], pa.list_(pa.string())),
            "device": pa.array([list(self.device.items())], pa.map_(pa.string(), pa.list_(pa.float64()))),
        }
        for kind, array in self.inputs.items():
            columns[f"input:{kind}:{'x'.join(map(str, array.shape[1:]))}"] = _wrap_bytes(array)
        return pa.table(columns)

    @classmethod
    def from_block(cls, block: pa.Table) -> Unit:
        """The unit in a table of one row, without copying its bytes."""
        if block.num_rows != 1:
            raise ValueError(f"a block must hold one unit, this one holds {block.num_rows}")
        inputs = {}
        for name in block.column_names:
            if name.startswith("input:"):
                _, kind, shape = name.split(":")
                flat = _view_bytes(block.column(name))
                inputs[kind] = flat.reshape(-1, *map(int, shape.split("x"))) if shape else flat
        return cls(
            shard=block["shard"][0].as_py(),
            start=block["start"][0].as_py(),
            last=block["last"][0].as_py(),
            rows=pa.Table.from_struct_array(block["rows"].chunk(0).flatten()),
            inputs=inputs,
            seconds=dict(block["seconds"][0].as_py()),
            notes=tuple(block["notes"][0].as_py()),
            device=dict(block["device"][0].as_py()),
        )

    def good_rows(self) -> list[int]:
        """Positions of the rows without error."""
        positions: list[int] = np.flatnonzero(self.rows["error_kind"].is_null().to_numpy()).tolist()
        return positions

    def decoded_rows(self) -> list[int]:
        """Positions of the rows that `inputs` belong to, in the same order: those that have a width."""
        if "width" not in self.rows.column_names:
            return []
        positions: list[int] = np.flatnonzero(self.rows["width"].is_valid().to_numpy()).tolist()
        return positions

    def photos(self) -> dict[int, np.ndarray]:
        """Position of each decoded row -> its H x W x 3 uint8 BGR photo, a view into `inputs[PHOTO]`."""
        flat = self.inputs.get(PHOTO, np.empty(0, np.uint8))
        widths, heights = self.rows["width"].to_pylist(), self.rows["height"].to_pylist()
        photos, start = {}, 0
        for position in self.decoded_rows():
            stop = start + heights[position] * widths[position] * 3
            photos[position] = flat[start:stop].reshape(heights[position], widths[position], 3)
            start = stop
        return photos

    def cells(self, position: int, columns: Iterable[str]) -> Row:
        """Some columns of one row as Python values."""
        return {name: self.rows[name][position].as_py() for name in columns}


def split_unit(unit: Unit) -> list[Unit]:
    """The images of a unit as units of one image, with views into its inputs."""
    photos = unit.photos() if PHOTO in unit.inputs else {}
    places = {position: place for place, position in enumerate(unit.decoded_rows())}
    parts = []
    for position in range(unit.rows.num_rows):
        inputs = {}
        if position in places:
            inputs = {
                kind: photos[position].reshape(-1) if kind == PHOTO else array[places[position]][None]
                for kind, array in unit.inputs.items()
            }
        index = unit.start + position
        parts.append(Unit(unit.shard, index, unit.last, unit.rows.slice(position, 1), inputs))
    return parts


def join_units(parts: Sequence[Unit], whole: Unit) -> Unit:
    """Join the units that `split_unit` made of `whole`, after a stage has processed them."""
    if not parts:
        return whole
    kinds = list(dict.fromkeys(kind for part in parts for kind in part.inputs))
    inputs = {kind: np.concatenate([part.inputs[kind] for part in parts if kind in part.inputs]) for kind in kinds}
    seconds = Counter(whole.seconds)
    for part in parts:
        seconds.update(part.seconds)
    notes = (*whole.notes, *(note for part in parts for note in part.notes))
    device = reduce(add_use, (part.device for part in parts), whole.device)
    rows = pa.concat_tables([part.rows for part in parts])
    return Unit(whole.shard, whole.start, whole.last, rows, inputs, dict(seconds), notes, device)


def _wrap_bytes(array: np.ndarray) -> pa.Array:
    """A numpy array as one large_binary cell over the same memory."""
    contiguous = np.ascontiguousarray(array)
    offsets = pa.py_buffer(np.array([0, contiguous.nbytes], np.int64))
    data = pa.py_buffer(contiguous.reshape(-1).view(np.uint8))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, data])


def binary_array(cells: Sequence[bytes | None]) -> pa.Array | None:
    """Cells as a `binary` array, like `pa.array`; None if they are too large for one array.

    `pa.array` holds Python's lock while it copies: a device that waits for the lock idles. NumPy's copies do not.
    """
    ends = np.cumsum([0, *(0 if cell is None else len(cell) for cell in cells)])
    if ends[-1] > np.iinfo(np.int32).max:
        return None
    buffer = pa.allocate_buffer(int(ends[-1]))  # Arrow keeps freed memory: NumPy would ask the system for fresh pages
    data = np.frombuffer(buffer, np.uint8)
    for cell, start, stop in zip(cells, ends, ends[1:], strict=False):
        if cell:
            data[start:stop] = np.frombuffer(cell, np.uint8)
    missing = np.array([cell is None for cell in cells], bool)
    valid = pa.array(~missing).buffers()[1] if missing.any() else None
    buffers = [valid, pa.py_buffer(ends.astype(np.int32)), buffer]
    return pa.BinaryArray.from_buffers(pa.binary(), len(cells), buffers, int(missing.sum()))


def _view_bytes(column: pa.ChunkedArray) -> np.ndarray:
    """The only cell of a large_binary column as flat uint8 over the same memory.

    It uses the buffers: `as_buffer()` of a cell copies (27 ms for 75 MB, measured on pyarrow 21).
    """
    cell = column.chunk(0)
    _, offsets, data = cell.buffers()
    start, stop = np.frombuffer(offsets, np.int64)[cell.offset : cell.offset + 2]
    if start == stop:  # Arrow may have no buffer for zero bytes
        return np.empty(0, np.uint8)
    return np.frombuffer(data, np.uint8)[start:stop]


def set_column(rows: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """The table with a column replaced, or added at the end."""
    position = rows.schema.get_field_index(name)
    return rows.append_column(name, values) if position < 0 else rows.set_column(position, name, values)


def set_errors(rows: pa.Table, errors: Errors) -> pa.Table:
    """The table with `error_kind` and `error` filled in for the given row positions."""
    if not errors:
        return rows
    kinds, messages = rows["error_kind"].to_pylist(), rows["error"].to_pylist()
    for position, (kind, message) in errors.items():
        kinds[position], messages[position] = kind, message
    rows = set_column(rows, "error_kind", pa.array(kinds, pa.string()))
    return set_column(rows, "error", pa.array(messages, pa.string()))
