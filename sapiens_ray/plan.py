"""The plan: which shards there are, in which order, and what of them is done.

Runs on the driver, without torch. The plan is written once under the output and only ever grows, so every
image keeps its (shard, index) in every later run. What is done is read off the names in `data/`, and nowhere
else.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray import storage
from sapiens_ray.config import Input, Job
from sapiens_ray.discovery import find_input
from sapiens_ray.errors import InputError, OutputError
from sapiens_ray.images import has_image_suffix
from sapiens_ray.sources import Done, Entry, matches
from sapiens_ray.sources.parquet import choose_column
from sapiens_ray.storage import Folder
from sapiens_ray.units import UnitName

PLAN_FILE = "plan.parquet"

_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("format", pa.string()),
        ("uri", pa.string()),
        ("shard_id", pa.string()),
        ("size", pa.int64()),
        ("stamp", pa.string()),
        ("images", pa.int64()),
        # bytes, since names on a disk need not be valid UTF-8
        ("entry_uris", pa.list_(pa.binary())),
        ("entry_ids", pa.list_(pa.string())),
        ("entry_extras", pa.list_(pa.string())),
    ]
)
_HEAD = ["shard", "format", "uri", "shard_id", "size", "stamp", "images"]


@dataclass(frozen=True)
class Shard:
    """One row of the plan. `images` is None for a tar, whose members are counted when it is read.

    A shard of a folder or list has its images listed in the plan file: `read_entries`.
    """

    number: int
    format: str
    uri: str
    shard_id: str
    size: int
    stamp: str
    images: int | None


@dataclass
class Plan:
    """All shards in order.

    new_entries: images of the folder and list shards that are not in the plan file yet.
    changed: shards whose file changed since they were planned, and that are to be labelled again.
    """

    shards: list[Shard]
    unit_size: int
    extra_schema: pa.Schema
    new_entries: dict[int, list[Entry]] = field(default_factory=dict)
    changed: list[int] = field(default_factory=list)


# --- making and keeping the plan ---------------------------------------------------------------------------


def make_plan(
    job: Job,
    old: Plan | None = None,
    old_entries: Iterable[tuple[int, Entry]] = (),
    redo_changed: bool = False,
) -> Plan:
    """List the input and extend the old plan by what is new.

    Raises InputError if there is nothing to label, or if a planned tar or Parquet file has changed (unless
    `redo_changed`), and OutputError if nothing that was planned is in the input any more.
    """
    shard_size = job.input.shard_size
    shards = list(old.shards) if old else []
    known = {shard.uri: shard for shard in shards if shard.format in ("webdataset", "parquet")}
    planned = {entry.uri for _, entry in old_entries}
    new_entries: dict[int, list[Entry]] = {}
    seen_again = False
    changed: list[int] = []
    fields: dict[str, pa.DataType] = {}

    labels = job.label_columns
    # Lists record the columns with boxes and masks beside the passthrough ones.
    reading = job.input.model_copy(update={"columns": [*job.input.columns, *labels]})
    for found in find_input(reading, job.output.uri):
        if labels and found.format == "images":
            raise InputError(
                f"tasks: column {labels[0]!r} is to be read from the input, but {found.uri} has no columns; they are "
                "those of Parquet files, of .csv and .jsonl lists, and of the <key>.json members of tars"
            )
        if found.format in ("webdataset", "parquet"):
            size, stamp = storage.stamp(found.uri, job.input.storage_options)
            previous = known.get(found.uri)
            seen_again |= previous is not None
            if previous and (previous.size, previous.stamp) == (size, stamp):
                continue
            if previous and not redo_changed:
                raise InputError(_changed_message(previous, size))
            images = None
            if found.format == "parquet":
                images, types = _look_into_parquet(found.uri, job)
                fields = {**fields, **{name: _joined(name, fields.get(name), kind) for name, kind in types.items()}}
            number = previous.number if previous else len(shards)
            shard = Shard(number, found.format, found.uri, found.name, size, stamp, images)
            if previous:
                changed.append(number)
                shards[number] = shard
            else:
                shards.append(shard)
            continue
        fresh: list[Entry] = []
        for entry in found.entries:
            if entry.uri in planned:
                seen_again = True
            else:
                fresh.append(entry)
        for start in range(0, len(fresh), shard_size):
            part = fresh[start : start + shard_size]
            new_entries[len(shards)] = part
            name = f"{found.name.rstrip('/') or '.'}[{start}:{start + len(part)}]"
            shards.append(Shard(len(shards), found.format, found.uri, name, 0, "", len(part)))
        for name in job.input.columns if found.format == "list" else ():
            kind = _type_of(name, [entry.extra.get(name) for entry in fresh])
            fields[name] = _joined(name, fields.get(name), kind)

    if not shards:
        kinds = f"matching {', '.join(job.input.include)}" if job.input.include else "with a suffix that OpenCV reads"
        raise InputError(f"input.uri: no images {kinds} in {', '.join(job.input.uri)}")
    if old and old.shards and not seen_again:
        raise OutputError(
            f"output.uri: {job.output.uri} holds labels of another input ({old.shards[0].uri}); "
            "choose another output.uri for this one"
        )
    unit_size = old.unit_size if old else job.unit_size
    return Plan(shards, unit_size, _extra_schema(old.extra_schema if old else None, fields), new_entries, changed)


def _extra_schema(old: pa.Schema | None, fields: dict[str, pa.DataType]) -> pa.Schema:
    """Types of the passthrough columns, `key` first (of tars; null for other images). Those of an output that
    exists stay as they are. Raises InputError if new input does not fit them."""
    kinds = {
        "key": pa.string(),
        **{name: pa.string() if pa.types.is_null(kind) else kind for name, kind in fields.items()},
    }
    if old is None:
        return pa.schema(list(kinds.items()))
    for name, kind in kinds.items():
        was = old.field(name).type
        if was != kind and not pa.types.is_null(fields.get(name, pa.null())) and _joined(name, was, kind) != was:
            raise InputError(
                f"input.columns: {name!r} is {kind} in the new input, but {was} in what is labelled already"
            )
    return old


def _joined(name: str, one: pa.DataType | None, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of both. Raises InputError if there is none."""
    if one is None or one == other or pa.types.is_null(one):
        return other
    if pa.types.is_null(other):
        return one
    numbers = all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (one, other))
    if not numbers:
        raise InputError(f"input.columns: {name!r} is {one} in one part of the input and {other} in another")
    return pa.int64() if pa.types.is_integer(one) and pa.types.is_integer(other) else pa.float64()


def _changed_message(shard: Shard, size: int) -> str:
    was = f"{shard.size} bytes" + (f", now {size}" if size != shard.size else ", same size, but written again")
    return (
        f"input.uri: {shard.uri} has changed since it was planned (was {was}); label it into a new output.uri, "
        "or run with --redo-changed to label this shard again"
    )


def _look_into_parquet(uri: str, job: Job) -> tuple[int | None, dict[str, pa.DataType]]:
    """Row count and types of the passthrough columns; (None, {}) for a file without a readable footer, which
    becomes an error row. Raises InputError for a column that is not there."""
    settings = job.input
    try:
        with storage.open_read(uri, settings.storage_options) as stream, pq.ParquetFile(stream) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (OSError, pa.ArrowException):
        return 1, {}
    choose_column(schema, settings.image_column, uri)
    wanted = (
        ("input.id_column", [settings.id_column]),
        ("input.columns", settings.columns),
        ("tasks[].boxes.column or .mask.column", job.label_columns),
    )
    for setting, names in wanted:
        for name in names:
            if name is not None and name not in schema.names:
                raise InputError(f"{setting}: {uri} has no column {name!r}; it has {', '.join(schema.names)}")
    return rows, {name: schema.field(name).type for name in settings.columns}


def _type_of(name: str, values: list[Any]) -> pa.DataType:
    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        raise InputError(
            f"input.columns: {name!r} mixes types, such as numbers and text, or holds numbers beyond 64 bits"
        ) from None


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


def save_plan(plan: Plan, output: Folder) -> None:
    """Write `plan.parquet`, one row group a shard, so that a reader of one shard opens just that.

    Writes nothing if nothing is new.
    """
    kept_shards = load_plan(output)
    if kept_shards is not None and len(kept_shards.shards) == len(plan.shards) and not plan.changed:
        return
    metadata = {
        "unit_size": str(plan.unit_size),
        "extra_schema": plan.extra_schema.serialize().to_pybytes().hex(),
    }
    schema = _SCHEMA.with_metadata(metadata)
    previous = pq.ParquetFile(output.open(PLAN_FILE)) if kept_shards is not None else None
    with (
        output.replacing(PLAN_FILE) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for shard in plan.shards:
            entries = plan.new_entries.get(shard.number)
            if entries is None and previous is not None and shard.number < previous.num_row_groups:
                kept = previous.read_row_group(shard.number).select(_SCHEMA.names[len(_HEAD) :])
            else:
                kept = _entries_table(entries)
            head = {name: [getattr(shard, "number" if name == "shard" else name)] for name in _HEAD}
            columns = [pa.array(head[name], _SCHEMA.field(name).type) for name in _HEAD]
            writer.write_table(pa.Table.from_arrays([*columns, *kept.columns], schema=schema))
    if previous is not None:
        previous.close(force=True)


def _entries_table(entries: list[Entry] | None) -> pa.Table:
    schema = pa.schema([_SCHEMA.field(name) for name in _SCHEMA.names[len(_HEAD) :]])
    if entries is None:
        return pa.Table.from_pylist([dict.fromkeys(schema.names)], schema)
    row = {
        "entry_uris": [os.fsencode(entry.uri) for entry in entries],
        "entry_ids": [entry.image_id for entry in entries],
        "entry_extras": [json.dumps(entry.extra) if entry.extra else None for entry in entries],
    }
    return pa.Table.from_pylist([row], schema)


def load_plan(output: Folder) -> Plan | None:
    """The plan of an output, without the entries of its shards; None if there is none yet."""
    if not output.exists(PLAN_FILE):
        return None
    try:
        with output.open(PLAN_FILE) as stream, pq.ParquetFile(stream) as file:
            table = file.read(columns=_HEAD)
            metadata = file.schema_arrow.metadata
    except pa.ArrowException as error:
        raise OutputError(f"output.uri: {output.join(PLAN_FILE)} is not a plan: {error}") from None
    shards = [Shard(number=row.pop("shard"), **row) for row in table.to_pylist()]
    schema = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(metadata[b"extra_schema"].decode())))
    return Plan(shards, int(metadata[b"unit_size"]), schema)


def read_entries(output: Folder, numbers: Iterable[int]) -> Iterator[tuple[int, Entry]]:
    """(shard number, image) for the folder and list shards with these numbers, in order."""
    with output.open(PLAN_FILE) as stream, pq.ParquetFile(stream) as file:
        for number in numbers:
            row = file.read_row_group(number).to_pylist()[0]
            extras = row["entry_extras"] or []
            for uri, image_id, extra in zip(row["entry_uris"] or [], row["entry_ids"] or [], extras, strict=True):
                yield number, Entry(os.fsdecode(uri), image_id, json.loads(extra) if extra else {})


# --- what is done ------------------------------------------------------------------------------------------


def list_units(output: Folder) -> list[UnitName]:
    """The units that have their file, without those that lie inside another one (left by a merge)."""
    found = [UnitName.parse(file) for file in output.files("data")]
    return current([name for name in found if name is not None])[0]


Answer = TypeVar("Answer")


def with_units(output: Folder, use: Callable[[list[UnitName]], Answer]) -> Answer:
    """`use` the files that count; again with a new listing if a merge removes one of them meanwhile."""
    for _ in range(10):  # merges are far apart; a tenth in a row means that a file is really gone
        try:
            return use(list_units(output))
        except FileNotFoundError:
            continue
    return use(list_units(output))


def current(names: Iterable[UnitName]) -> tuple[list[UnitName], list[UnitName]]:
    """Split into the files that count, in order, and those whose rows all stand in another file as well."""
    ordered = sorted(names, key=lambda name: (name.shard, name.start, -name.stop, not name.last))
    counted: list[UnitName] = []
    inside: list[UnitName] = []
    for name in ordered:
        before = counted[-1] if counted and counted[-1].shard == name.shard else None
        covered = before is not None and name.stop <= before.stop and (before.last or not name.last)
        (inside if covered else counted).append(name)
    return counted, inside


def done_by_shard(names: Iterable[UnitName]) -> dict[int, Done]:
    """What is done of each shard that has any file."""
    ranges: dict[int, list[tuple[int, int]]] = defaultdict(list)
    totals: dict[int, int] = {}
    for name in names:
        ranges[name.shard].append((name.start, name.stop))
        if name.last:
            totals[name.shard] = name.stop
    return {shard: Done(tuple(sorted(spans)), totals.get(shard)) for shard, spans in ranges.items()}


def with_counts(plan: Plan, done: dict[int, Done]) -> Plan:
    """The plan with the size of every finished shard filled in, tars included."""
    shards = [
        replace(shard, images=done[shard.number].total)
        if shard.number in done and done[shard.number].total is not None
        else shard
        for shard in plan.shards
    ]
    return replace(plan, shards=shards)
