"""The plan: which shards there are, in which order, and which images are in those of folders and lists.

    plan.parquet                      one row a shard
    plan/entries-000000.parquet       the images of the shards from this one on, one row group a shard

Both only ever grow, so every image keeps its (shard, index) in every later run: files of entries are never written
again, and appear before the `plan.parquet` that names them.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray import storage
from sapiens_ray.config import Input
from sapiens_ray.errors import OutputError
from sapiens_ray.images import has_image_suffix
from sapiens_ray.sources import Done, Entry, matches
from sapiens_ray.storage import Folder

PLAN_FILE = "plan.parquet"
ENTRIES_FOLDER = "plan"

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


@dataclass(frozen=True)
class Shard:
    """One row of the plan. `images` is None for a tar, whose members are counted when it is read.

    entries, group: of a shard of a folder or list, the file and the row group with its images (`read_entries`).
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


@dataclass
class Plan:
    """All shards in order.

    changed: shards whose file changed since they were planned, and that are to be labelled again.
    """

    shards: list[Shard]
    unit_size: int
    extra_schema: pa.Schema
    changed: list[int] = field(default_factory=list)

    def fill_counts(self, done: dict[int, Done]) -> None:
        """Fill in the size of every finished shard, tars included."""
        for number, one in done.items():
            if one.total is not None and number < len(self.shards):
                self.shards[number] = replace(self.shards[number], images=one.total)


def load_plan(output: Folder) -> Plan | None:
    """The plan of an output; None if there is none yet."""
    if not output.exists(PLAN_FILE):
        return None
    try:
        with output.open(PLAN_FILE) as stream:
            table = pq.read_table(stream)
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
    return Plan([Shard(*row) for row in zip(*columns, strict=True)], int(metadata[b"unit_size"]), extra)


def save_plan(plan: Plan, output: Folder) -> None:
    """Write `plan.parquet`."""
    columns = [
        pa.array([getattr(shard, one.name) for shard in plan.shards], _SCHEMA.field(one.name).type)
        for one in fields(Shard)
    ]
    metadata = {
        "unit_size": str(plan.unit_size),
        "extra_schema": plan.extra_schema.serialize().to_pybytes().hex(),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA.with_metadata(metadata)), buffer, compression="zstd")
    output.write(PLAN_FILE, buffer.getbuffer())


class EntriesFile:
    """A file of entries under way, on this machine's disk until it is published: one row group a shard."""

    def __init__(self, first_shard: int) -> None:
        self.name = f"{ENTRIES_FOLDER}/entries-{first_shard:06d}.parquet"
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
        """Finish the file and put it under the output."""
        self._writer.close()
        with self._file.open("rb") as file:
            output.write(self.name, file.read())
        self.discard()

    def discard(self) -> None:
        """Forget what is not published. Fine to call twice."""
        self._writer.close()
        self._file.unlink(missing_ok=True)


def read_entries(output: Folder, shard: Shard) -> list[Entry]:
    """The images of a folder or list shard, in order; none for a tar or Parquet file."""
    if shard.entries is None:
        return []
    with output.open(shard.entries) as stream, pq.ParquetFile(stream) as file:
        rows = file.read_row_group(shard.group)
    columns = [rows[name].to_pylist() for name in _ENTRIES.names]
    return [
        Entry(os.fsdecode(uri), image_id, json.loads(extra) if extra else {})
        for uri, image_id, extra in zip(*columns, strict=True)
    ]


def planned_uris(output: Folder, plan: Plan) -> Iterator[list[bytes]]:
    """The URIs of all images of folders and lists, file by file."""
    for name in dict.fromkeys(shard.entries for shard in plan.shards if shard.entries):
        with output.open(name) as stream:
            yield pq.read_table(stream, columns=["uri"])["uri"].to_pylist()


MAX_TARS_TO_COUNT = 200  # a look at the headers of more would delay the start


def expected_images(plan: Plan, settings: Input) -> int | None:
    """How many images there are, as far as that is known without reading them; None if some tar cannot be
    counted by its headers alone (compressed, far away, or too many of them)."""
    uncounted = [shard for shard in plan.shards if shard.images is None]
    if len(uncounted) > MAX_TARS_TO_COUNT:
        return None
    counts = [_count_members(shard, settings.include) if shard.images is None else shard.images
              for shard in plan.shards]  # fmt: skip
    return None if None in counts else sum(count for count in counts if count is not None)


def _count_members(shard: Shard, include: list[str]) -> int | None:
    """Image members of a plain tar on this machine's disk. Damage, if any, will add rows."""
    if storage.is_remote(shard.uri) or not shard.uri.lower().endswith(".tar"):
        return None
    try:
        with tarfile.open(storage.local_path(shard.uri), "r:") as tar:
            names = [member.name.removeprefix("./") for member in tar if not member.isdir()]
    except (tarfile.TarError, OSError):
        return None
    return sum(matches(name, include) if include else has_image_suffix(name) for name in names)
