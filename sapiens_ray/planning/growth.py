"""What the input contains that the plan does not: new images, new files, changed files.

Listing ten million objects takes a quarter of an hour, so labelling does not wait for its end: `look_ahead` lists for
some seconds, `rest` continues while the models run.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa

from sapiens_ray import storage
from sapiens_ray.errors import InputError, OutputError
from sapiens_ray.job.config import Job
from sapiens_ray.planning.columns import extra_schema, joined_type, type_of
from sapiens_ray.planning.discovery import IMAGES, Found, find_input
from sapiens_ray.planning.known import KnownUris
from sapiens_ray.planning.plan import EntriesFile, Plan, Shard, planned_uris, save_plan
from sapiens_ray.planning.shards import changed_message
from sapiens_ray.sources import Entry, EntrySource, Look, ShardSource, is_shard_format, source_of
from sapiens_ray.storage import Folder, request_threads
from sapiens_ray.storage.uris import redact_uri

SHARDS_PER_FILE = 100  # of entries; opening one shard reads the footer of its file, resuming a job reads whole files
PUBLISH_EVERY_S = 5.0


class Growth:
    """Extends a plan by new and changed shards of the input. Iterate once, from one thread at a time.

    plan: the plan, extended as shards are found. ended: whether all of the input has been listed. Nothing is written
    under the output before `publish`.
    """

    def __init__(self, job: Job, old: Plan | None, output: Folder, redo_changed: bool = False) -> None:
        self.plan = old or Plan([], job.unit_size, extra_schema(None, {}))
        self.ended = False
        self._job = job
        self._old = len(self.plan.shards)
        self._output = output
        self._redo_changed = redo_changed
        self._known = KnownUris(planned_uris(output, self.plan))
        self._files = {redact_uri(shard.uri): shard for shard in self.plan.shards if is_shard_format(shard.format)}
        self._seen_again = False
        self._only_images_follow = False
        self._types: dict[str, pa.DataType] = {}
        self._entries: list[EntriesFile] = []  # not published yet; the last one may be unfinished
        self._unsaved = old is None
        self._stopped = threading.Event()
        self._steps = self._list()

    def look_ahead(self, seconds: float | None, enough: Callable[[Shard], bool] = lambda shard: True) -> None:
        """List the input to its end. If only images of a folder can follow, stop when `seconds` have passed and a shard
        was found that is `enough` to start with.

        Raises InputError if there is nothing to label, or if a planned tar or Parquet file has changed (unless
        `redo_changed`), and OutputError if the input no longer contains anything that was planned.
        """
        end = None if seconds is None else time.monotonic() + seconds
        found_enough = any(enough(shard) for shard in self.plan.shards)
        for shard in self._steps:
            found_enough = found_enough or (shard is not None and enough(shard))
            settled = (self._seen_again or not self._old) and self._only_images_follow
            if end and time.monotonic() > end and found_enough and settled:
                break
        if self._types:
            self.plan.extra_schema = extra_schema(self.plan.extra_schema if self._old else None, self._types)

    def rest(self, held: Callable[[], None]) -> Iterator[list[Shard]]:
        """The shards that `look_ahead` left, in batches that are published.

        held: raises if another run holds the output.
        """
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
        """Write the new part of the plan, if there is any."""
        if self._stopped.is_set():
            return
        while self._entries:
            self._entries[0].publish(self._output)
            self._entries.pop(0)
        if self._unsaved:
            save_plan(self.plan, self._output)
            self._unsaved = False

    def stop(self) -> None:
        """Publish nothing more; a listing in another thread ends soon."""
        self._stopped.set()

    def discard(self) -> None:
        """Delete everything that is not published, and publish nothing more."""
        self.stop()
        for entries in self._entries:
            entries.discard()

    def _list(self) -> Iterator[Shard | None]:
        """Every new or changed shard, in order; None from time to time while nothing new is found."""
        job, plan = self._job, self.plan
        labels = job.label_fields
        everything = find_input(job.input, job.reading, job.output.uri)
        for are_files, group in itertools.groupby(everything, lambda found: is_shard_format(found.format)):
            if are_files:
                uris = ", ".join(map(redact_uri, job.input.uri))
                with storage.translate_errors(InputError, f"input.uri: cannot inspect {uris}"):
                    yield from self._add_files(list(group))
                continue
            for found in group:
                source = source_of(found.format)
                if labels and isinstance(source, EntrySource) and not source.has_columns:
                    column, setting = next(iter(labels.items()))
                    raise InputError(
                        f"{setting}: {column!r} must be read from the input, but {redact_uri(found.uri)} has no "
                        "columns; Parquet files, .csv and .jsonl lists, and the <key>.json members of tars have them"
                    )
                self._only_images_follow = found.last and found.format == IMAGES and not job.input.columns
                yield from self._add_entries(found)
        if not plan.shards:
            include = job.input.include
            kinds = f"matching {', '.join(include)}" if include else "with a suffix that OpenCV reads"
            raise InputError(f"input.uri: no images {kinds} in {', '.join(map(redact_uri, job.input.uri))}")
        if self._old and not self._seen_again:
            raise OutputError(
                f"output.uri: {job.output.uri} holds labels of another input ({redact_uri(plan.shards[0].uri)}); "
                "choose another output.uri for this one"
            )
        self.ended = True

    def _add_files(self, group: list[Found]) -> Iterator[Shard]:
        """Plan files, each of which is a shard."""
        plan, options = self.plan, self._job.input.storage_options
        with ThreadPoolExecutor(request_threads(remote=True), thread_name_prefix="stamp") as pool:
            stamps = pool.map(lambda found: storage.stamp(found.uri, options), group)
            fresh: list[tuple[Found, int, str]] = []
            for found, (size, stamp) in zip(group, stamps, strict=True):
                previous = self._files.get(redact_uri(found.uri))
                self._seen_again |= previous is not None
                if previous is None:
                    fresh.append((found, size, stamp))
                elif (previous.size, previous.stamp) == (size, stamp):
                    plan.shards[previous.number] = replace(previous, uri=found.uri)  # with its current signature
                elif self._redo_changed:
                    fresh.append((found, size, stamp))
                else:
                    raise InputError(changed_message(previous, size))
            looks = pool.map(lambda one: self._look_into(one[0]), fresh)
            for (found, size, stamp), look in zip(fresh, looks, strict=True):
                for name, kind in look.types.items():
                    self._types[name] = joined_type(name, self._types.get(name), kind)
                previous = self._files.get(redact_uri(found.uri))
                number = previous.number if previous else len(plan.shards)
                shard = Shard(number, found.format, found.uri, found.name, size, stamp, look.images)
                if previous:
                    plan.changed.append(number)
                    plan.shards[number] = shard
                else:
                    plan.shards.append(shard)
                self._unsaved = True
                yield shard

    def _look_into(self, found: Found) -> Look:
        source = source_of(found.format)
        return source.look(found.uri, self._job.reading) if isinstance(source, ShardSource) else Look()

    def _add_entries(self, found: Found) -> Iterator[Shard | None]:
        """Plan images of a folder or list: `shard_size` new ones form a shard."""
        entries: Iterable[Entry] = found.entries
        if found.format != IMAGES and self._job.input.columns:
            entries = list(entries)
            for name in self._job.input.columns:
                kind = type_of(name, [entry.extra.get(name) for entry in entries])
                self._types[name] = joined_type(name, self._types.get(name), kind)
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
        if not self._entries or self._entries[-1].groups == SHARDS_PER_FILE:
            self._entries.append(EntriesFile(number))
        group = self._entries[-1].add(entries)
        name = f"{found.name.rstrip('/') or '.'}[{start}:{start + len(entries)}]"
        entries_file = self._entries[-1].name
        shard = Shard(number, found.format, redact_uri(found.uri), name, 0, "", len(entries), entries_file, group)
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
