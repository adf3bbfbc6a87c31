"""The plan: all shards in order, and the images of those that belong to folders and lists.

    plan.parquet                      one row per shard
    plan/entries-000000.parquet       the images of this shard and of the following ones, one row group per shard

Both only grow, so every image keeps its (shard, index) in every later run: files of entries are never rewritten, and
are published before the `plan.parquet` that names them.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray import storage
from sapiens_ray.errors import InputError, OutputError
from sapiens_ray.output.layout import PLAN_FILE, entries_file
from sapiens_ray.sources import Entry, Reading, ShardSource, source_of
from sapiens_ray.storage import Folder
from sapiens_ray.storage.parquet import open_parquet, read_table
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.units import Done, Errors, Ranges

_SCHEMA = pa.schema(
    [
        ("number", pa.int32()),
        ("format", pa.string()),
        ("uri", pa.string()),
        ("shard_id", pa.string()),
        ("size", pa.int64()),
        ("stamp", pa.string()),
        ("images", pa.int64()),
        ("entries", pa.string()),
        ("group", pa.int32()),
    ]
)
# uri is bytes, since names on a disk need not be valid UTF-8
_ENTRIES = pa.schema([("uri", pa.binary()), ("image_id", pa.string()), ("extra", pa.string())])

LARGEST_CUT, CUT_ON_CPUS = 512 << 20, 128 << 20  # bytes of a unit


@dataclass(frozen=True)
class Shard:
    """One row of the plan. `images` is None for a tar or a video, whose images are counted when it is read.

    entries, group: for a shard of a folder or list, the file and the row group with its images (`read_entries`).
    """

    number: int
    format: str
    uri: str
    shard_id: str
    size: int = 0
    stamp: str = ""
    images: int | None = None
    entries: str | None = None
    group: int | None = None


@dataclass(frozen=True)
class ShardWork:
    """What is left to do in a shard: all images except `done`.

    quarantined: images that killed their workers in an earlier run: index to (error_kind, error).
    wanted: in a trial run, the images to label; None for all.
    """

    shard: Shard
    done: Done = field(default_factory=Done)
    quarantined: Errors = field(default_factory=dict)
    wanted: Ranges | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ShardWork:
        known = json.loads(text)
        done = Done(tuple((start, stop) for start, stop in known["done"]["ranges"]), known["done"]["total"])
        quarantined = {int(index): (kind, why) for index, (kind, why) in known["quarantined"].items()}
        wanted = None if known["wanted"] is None else tuple((start, stop) for start, stop in known["wanted"])
        return cls(Shard(**known["shard"]), done, quarantined, wanted)


@dataclass
class Plan:
    """All shards in order.

    unit_size: images per unit; 0 until it is settled, before the plan is written. changed: numbers of shards whose
    file changed since they were planned, and that must be labelled again. unit_bytes: the estimated size at which a
    unit is cut; settled with unit_size, since runs that cut at other places would write the same row to two files.
    """

    shards: list[Shard]
    unit_size: int
    extra_schema: pa.Schema
    changed: list[int] = field(default_factory=list)
    unit_bytes: int = LARGEST_CUT

    def fill_counts(self, done: dict[int, Done]) -> None:
        """Fill in the number of images of every finished shard, tars included."""
        for number, one in done.items():
            if one.total is not None and number < len(self.shards):
                self.shards[number] = replace(self.shards[number], images=one.total)


def load_plan(output: Folder) -> Plan | None:
    """The plan of an output; None if there is none yet."""
    if not output.exists(PLAN_FILE):
        return None
    try:
        table = read_table(output, PLAN_FILE)
    except pa.ArrowException as error:
        raise OutputError(f"output.uri: {output.join(PLAN_FILE)} is not a plan: {error}") from None
    metadata = table.schema.metadata or {}
    if table.schema.names != _SCHEMA.names or b"unit_size" not in metadata:
        raise OutputError(
            f"output.uri: {output.join(PLAN_FILE)} is not a plan of this version of sapiens-ray; choose another "
            "output.uri"
        )
    columns = [table[name].to_pylist() for name in _SCHEMA.names]
    extra = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(metadata[b"extra_schema"].decode())))
    shards = [Shard(*row) for row in zip(*columns, strict=True)]
    unit_bytes = int(metadata.get(b"unit_bytes", LARGEST_CUT))  # earlier versions had this one
    return Plan(shards, int(metadata[b"unit_size"]), extra, unit_bytes=unit_bytes)


def save_plan(plan: Plan, output: Folder) -> None:
    """Write `plan.parquet`."""
    columns = [
        pa.array([getattr(shard, one.name) for shard in plan.shards], _SCHEMA.field(one.name).type)
        for one in fields(Shard)
    ]
    metadata = {
        "unit_size": str(plan.unit_size),
        "unit_bytes": str(plan.unit_bytes),
        "extra_schema": plan.extra_schema.serialize().to_pybytes().hex(),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA.with_metadata(metadata)), buffer, compression="zstd")
    output.write(PLAN_FILE, buffer.getbuffer())


class EntriesFile:
    """A file of entries that is being written, on the local disk until it is published: one row group per shard."""

    def __init__(self, first_shard: int) -> None:
        self.name = entries_file(first_shard)
        self.groups = 0
        handle, name = tempfile.mkstemp(prefix="sapiens-ray-plan-", suffix=".parquet")
        os.close(handle)
        self._file = Path(name)
        self._writer = pq.ParquetWriter(self._file, _ENTRIES, compression="zstd")

    def add(self, entries: Sequence[Entry]) -> int:
        """Write the images of one shard. Returns the number of their row group."""
        columns = [
            pa.array([os.fsencode(entry.uri) for entry in entries], pa.binary()),
            pa.array([entry.image_id for entry in entries], pa.string()),
            pa.array([json.dumps(entry.extra) if entry.extra else None for entry in entries], pa.string()),
        ]
        table = pa.Table.from_arrays(columns, schema=_ENTRIES)
        self._writer.write_table(table, row_group_size=len(entries))
        self.groups += 1
        return self.groups - 1

    def publish(self, output: Folder) -> None:
        """Finish the file and copy it to the output."""
        self._writer.close()
        with self._file.open("rb") as file:
            output.write(self.name, file.read())
        self.discard()

    def discard(self) -> None:
        """Delete the local file. May be called twice."""
        self._writer.close()
        self._file.unlink(missing_ok=True)


def read_entries(output: Folder, shard: Shard) -> list[Entry]:
    """The images of a folder or list shard, in order; none for a tar or Parquet file."""
    return next((entries for _, entries in read_all_entries(output, [shard])), [])


def read_all_entries(output: Folder, shards: Iterable[Shard]) -> Iterator[tuple[Shard, list[Entry]]]:
    """The images of every folder and list shard, in order. Each file of entries is opened once."""
    with_entries = (shard for shard in shards if shard.entries is not None)
    for name, group in itertools.groupby(with_entries, lambda shard: str(shard.entries)):
        with output.open(name) as stream, open_parquet(stream) as file:
            for shard in group:
                yield shard, _entries(file.read_row_group(shard.group, use_threads=False))


def _entries(rows: pa.Table) -> list[Entry]:
    columns = [rows[name].to_pylist() for name in _ENTRIES.names]
    return [
        Entry(os.fsdecode(uri), image_id, json.loads(extra) if extra else {})
        for uri, image_id, extra in zip(*columns, strict=True)
    ]


def planned_uris(output: Folder, plan: Plan) -> Iterator[list[bytes]]:
    """The URIs of all images of folders and lists, file by file."""
    for name in dict.fromkeys(shard.entries for shard in plan.shards if shard.entries):
        yield read_table(output, name, ["uri"])["uri"].to_pylist()


MAX_FILES_TO_COUNT = 200  # counting the images of more files would delay the start


def expected_images(plan: Plan, reading: Reading) -> int | None:
    """The number of images, if it is known without reading them; None if the images of some file cannot be counted
    fast (a compressed or remote tar, a large or remote video), or if too many files would have to be counted."""
    uncounted = [shard for shard in plan.shards if shard.images is None]
    if len(uncounted) > MAX_FILES_TO_COUNT:
        return None
    counts = [shard.images if shard.images is not None else _counted(shard, reading) for shard in plan.shards]
    return None if None in counts else sum(count for count in counts if count is not None)


def _counted(shard: Shard, reading: Reading) -> int | None:
    source = source_of(shard.format)
    return source.count(shard.uri, reading) if isinstance(source, ShardSource) else None


def images_in(shard: Shard, reading: Reading, at_most: int | None = None) -> int:
    """The number of images of a shard, or `at_most`. If the plan does not say, they are counted in the file.

    Raises InputError if the file cannot be read.
    """
    images = shard.images
    if images is None:
        source = source_of(shard.format)
        assert isinstance(source, ShardSource)  # the plan says how many images other shards have
        with storage.translate_errors(InputError, f"input.uri: cannot read {redact_uri(shard.uri)}"):
            numbers = source.read_numbers(shard.uri, reading)
            images = sum(1 for _ in itertools.islice(numbers, at_most))
    return images if at_most is None else min(images, at_most)
