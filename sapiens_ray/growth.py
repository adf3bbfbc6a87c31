"""What the input holds that the plan does not: new images, new files, changed files.

Listing ten million objects takes a quarter of an hour, so labelling does not wait for its end: `look_ahead` lists for
some seconds, `rest` goes on while the models run.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray import storage
from sapiens_ray.config import Job
from sapiens_ray.discovery import FILES, Found, find_input
from sapiens_ray.errors import InputError, OutputError
from sapiens_ray.plan import EntriesFile, Plan, Shard, planned_uris, save_plan
from sapiens_ray.shards import changed_message
from sapiens_ray.sources import Entry
from sapiens_ray.sources.parquet import choose_column, raise_unless_damage
from sapiens_ray.storage import Folder
from sapiens_ray.uris import shown

SHARDS_A_FILE = 100  # of one file of entries: its footer is read for the images of one shard, a resume reads it whole
PUBLISH_EVERY_S = 5.0
LOOKS_AT_ONCE = 32


class Growth:
    """Extends a plan by what the input has beyond it. Iterate once, from one thread at a time.

    plan: what was planned, extended as shards are found. ended: whether all of the input has been listed. Nothing is
    written under the output before `publish`.
    """

    def __init__(self, job: Job, old: Plan | None, output: Folder, redo_changed: bool = False) -> None:
        self.plan = old or Plan([], job.unit_size, _extra_schema(None, {}))
        self.ended = False
        self._job = job
        self._old = len(self.plan.shards)
        self._output = output
        self._redo_changed = redo_changed
        self._known = KnownUris(planned_uris(output, self.plan))
        self._files = {shown(shard.uri): shard for shard in self.plan.shards if shard.format in FILES}
        self._seen_again = False
        self._only_images_follow = False
        self._types: dict[str, pa.DataType] = {}
        self._entries: list[EntriesFile] = []  # not published yet; the last one may be under way
        self._unsaved = old is None
        self._stopped = threading.Event()
        self._steps = self._list()

    def look_ahead(self, seconds: float | None, enough: Callable[[Shard], bool] = lambda shard: True) -> None:
        """List the input: to its end, or, where nothing but images of a folder can follow, until `seconds` have passed
        and there was a shard that is `enough` to start with.

        Raises InputError if there is nothing to label, or if a planned tar or Parquet file has changed (unless
        `redo_changed`), and OutputError if nothing that was planned is in the input any more.
        """
        end = None if seconds is None else time.monotonic() + seconds
        found_enough = any(enough(shard) for shard in self.plan.shards)
        for shard in self._steps:
            found_enough = found_enough or (shard is not None and enough(shard))
            settled = (self._seen_again or not self._old) and self._only_images_follow
            if end and time.monotonic() > end and found_enough and settled:
                break
        if self._types:
            self.plan.extra_schema = _extra_schema(self.plan.extra_schema if self._old else None, self._types)

    def rest(self, held: Callable[[], None]) -> Iterator[list[Shard]]:
        """What `look_ahead` left, in batches that are published. held: raises if the output is another run's."""
        batch: list[Shard] = []
        last = time.monotonic()
        for shard in self._steps:
            if self._stopped.is_set():
                return
            if shard is not None:
                batch.append(shard)
            if batch and time.monotonic() - last > PUBLISH_EVERY_S:
                held()
                self.publish()
                yield batch
                batch, last = [], time.monotonic()
        if batch and not self._stopped.is_set():
            held()
            self.publish()
            yield batch

    def publish(self) -> None:
        """Write what is new of the plan; nothing if nothing is."""
        if self._stopped.is_set():
            return
        while self._entries:
            self._entries[0].publish(self._output)
            self._entries.pop(0)
        if self._unsaved:
            save_plan(self.plan, self._output)
            self._unsaved = False

    def stop(self) -> None:
        """Publish nothing more; a listing under way in another thread ends soon."""
        self._stopped.set()

    def discard(self) -> None:
        """Forget what is not published, and publish nothing more."""
        self.stop()
        for entries in self._entries:
            entries.discard()

    def _list(self) -> Iterator[Shard | None]:
        """Every new or changed shard, in order; None now and then, where there is nothing new."""
        job, plan = self._job, self.plan
        labels = job.label_columns
        # Lists record the columns with boxes and masks beside the passthrough ones.
        reading = job.input.model_copy(update={"columns": [*job.input.columns, *labels]})
        everything = find_input(reading, job.output.uri)
        for are_files, group in itertools.groupby(everything, lambda found: found.format in FILES):
            if are_files:
                with storage.asking(InputError, f"input.uri: cannot look at {', '.join(map(shown, job.input.uri))}"):
                    yield from self._add_files(list(group))
                continue
            for found in group:
                if labels and found.format == "images":
                    raise InputError(
                        f"tasks: column {labels[0]!r} is to be read from the input, but {shown(found.uri)} has no "
                        "columns; they are those of Parquet files, of .csv and .jsonl lists, and of the <key>.json "
                        "members of tars"
                    )
                self._only_images_follow = found.last and found.format == "images" and not job.input.columns
                yield from self._add_entries(found)
        if not plan.shards:
            include = job.input.include
            kinds = f"matching {', '.join(include)}" if include else "with a suffix that OpenCV reads"
            raise InputError(f"input.uri: no images {kinds} in {', '.join(map(shown, job.input.uri))}")
        if self._old and not self._seen_again:
            raise OutputError(
                f"output.uri: {job.output.uri} holds labels of another input ({shown(plan.shards[0].uri)}); "
                "choose another output.uri for this one"
            )
        self.ended = True

    def _add_files(self, group: list[Found]) -> Iterator[Shard]:
        """Tars and Parquet files: each is a shard."""
        plan, options = self.plan, self._job.input.storage_options
        with ThreadPoolExecutor(LOOKS_AT_ONCE, thread_name_prefix="stamp") as pool:
            stamps = pool.map(lambda found: storage.stamp(found.uri, options), group)
            fresh: list[tuple[Found, int, str]] = []
            for found, (size, stamp) in zip(group, stamps, strict=True):
                previous = self._files.get(shown(found.uri))
                self._seen_again |= previous is not None
                if previous is None:
                    fresh.append((found, size, stamp))
                elif (previous.size, previous.stamp) == (size, stamp):
                    plan.shards[previous.number] = replace(previous, uri=found.uri)  # with today's signature
                elif self._redo_changed:
                    fresh.append((found, size, stamp))
                else:
                    raise InputError(changed_message(previous, size))
            looks = pool.map(lambda one: _look_into(one[0], self._job), fresh)
            for (found, size, stamp), (images, types) in zip(fresh, looks, strict=True):
                for name, kind in types.items():
                    self._types[name] = _joined(name, self._types.get(name), kind)
                previous = self._files.get(shown(found.uri))
                number = previous.number if previous else len(plan.shards)
                shard = Shard(number, found.format, found.uri, found.name, size, stamp, images)
                if previous:
                    plan.changed.append(number)
                    plan.shards[number] = shard
                else:
                    plan.shards.append(shard)
                self._unsaved = True
                yield shard

    def _add_entries(self, found: Found) -> Iterator[Shard | None]:
        """Images of a folder or list: `shard_size` new ones are a shard."""
        entries: Iterable[Entry] = found.entries
        if found.format == "list" and self._job.input.columns:
            entries = list(entries)
            for name in self._job.input.columns:
                kind = _type_of(name, [entry.extra.get(name) for entry in entries])
                self._types[name] = _joined(name, self._types.get(name), kind)
        size = self._job.input.shard_size
        fresh: list[Entry] = []
        start = 0
        for part in _chunks(entries, min(1000, size)):
            fresh += self._new(part)
            while len(fresh) >= size:
                yield self._add_shard(found, start, fresh[:size])
                start, fresh = start + size, fresh[size:]
            yield None
            if self._stopped.is_set():
                return
        if fresh:
            yield self._add_shard(found, start, fresh)

    def _add_shard(self, found: Found, start: int, entries: list[Entry]) -> Shard:
        """Plan these images as the next shard."""
        number = len(self.plan.shards)
        if not self._entries or self._entries[-1].groups == SHARDS_A_FILE:
            self._entries.append(EntriesFile(number))
        group = self._entries[-1].add(entries)
        name = f"{found.name.rstrip('/') or '.'}[{start}:{start + len(entries)}]"
        entries_file = self._entries[-1].name
        shard = Shard(number, found.format, shown(found.uri), name, 0, "", len(entries), entries_file, group)
        self.plan.shards.append(shard)
        self._unsaved = True
        return shard

    def _new(self, part: list[Entry]) -> list[Entry]:
        """The entries that are not planned yet."""
        if not self._known.count:
            return part
        known = self._known.among([os.fsencode(entry.uri) for entry in part])
        self._seen_again |= bool(known.any())
        return [entry for entry, is_known in zip(part, known, strict=True) if not is_known]


def _chunks(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    iterator = iter(entries)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


class KnownUris:
    """A set of URIs in 16 bytes each: ten million of them as Python strings would take gigabytes."""

    def __init__(self, batches: Iterable[list[bytes]]) -> None:
        self._digests = np.sort(np.concatenate([np.empty(0, "S16"), *map(_digests, batches)]))
        self.count = len(self._digests)

    def among(self, uris: list[bytes]) -> np.ndarray:
        """Which of the URIs are in the set: bool, one each."""
        digests = _digests(uris)
        places = np.searchsorted(self._digests, digests).clip(max=self.count - 1)
        found: np.ndarray = self._digests[places] == digests
        return found


def _digests(uris: list[bytes]) -> np.ndarray:
    return np.array([hashlib.blake2b(uri, digest_size=16).digest() for uri in uris], "S16")


# --- columns -----------------------------------------------------------------------------------------------


def _look_into(found: Found, job: Job) -> tuple[int | None, dict[str, pa.DataType]]:
    """What a new file says of itself: rows and types of columns of a Parquet file, nothing of a tar."""
    return _look_into_parquet(found.uri, job) if found.format == "parquet" else (None, {})


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


def _look_into_parquet(uri: str, job: Job) -> tuple[int | None, dict[str, pa.DataType]]:
    """Row count and types of the passthrough columns; (1, {}) for a file without a readable footer, which
    becomes an error row. Raises InputError for a column that is not there."""
    settings = job.input
    try:
        with storage.open_read(uri, settings.storage_options) as stream, pq.ParquetFile(stream) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise_unless_damage(error)
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
