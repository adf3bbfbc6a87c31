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
from sapiens_ray.planning.changed_lists import ListStamps
from sapiens_ray.planning.columns import (
    extra_schema,
    joined_type,
    readable_columns,
    refuse_ignored_columns,
    refuse_ignored_settings,
    refuse_wrong_boxes,
    type_of,
    types_in_records,
)
from sapiens_ray.planning.discovery import IMAGES, Found, find_input
from sapiens_ray.planning.known import KnownUris
from sapiens_ray.planning.left_out import LeftOut
from sapiens_ray.planning.plan import EntriesFile, Plan, Shard, images_in, planned_uris, read_all_entries, save_plan
from sapiens_ray.planning.shards import changed_message
from sapiens_ray.planning.subset import Drawing, Subset, as_ranges
from sapiens_ray.sources import Entry, Look, ShardSource, is_shard_format, source_of
from sapiens_ray.storage import Folder, request_threads
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.units import Ranges, Row

SHARDS_PER_FILE = 100  # of entries; opening one shard reads the footer of its file, resuming a job reads whole files
PUBLISH_EVERY_S = 5.0
FIRST_RECORDS, FIRST_FILES = 100, 4  # whose columns are looked at when they are planned
FIRST_ENTRIES = 1000  # new images that are kept, for those who want to know names early
# Of a sample, out of files whose images are not counted: counting them in a compressed or remote tar reads all of it.
LEAST_FILES_TO_COUNT, MAX_FILES_TO_COUNT = 16, 200
FILES_AT_A_TIME = 16  # of a trial run on the first images, which may need only one
UNREADABLE = "cannot be read, and becomes an error row if its turn comes"
NOT_PLANNED = -1  # number of a shard that has no place in the plan


class Growth:
    """Extends a plan by new and changed shards of the input. Iterate once, from one thread at a time.

    plan: the plan, extended as shards are found. ended: whether all of the input has been listed. chosen: in a trial
    run, the images to label of each shard that has any. left_out: what was listed and is no image to label. notes: for
    the user. first_entries: the first new images of folders and lists. Nothing is written under the output before
    `publish`.
    """

    def __init__(
        self, job: Job, old: Plan | None, output: Folder, redo_changed: bool = False, subset: Subset | None = None
    ) -> None:
        self.plan = old or Plan([], job.unit_size if isinstance(job.unit_size, int) else 0, extra_schema(None, {}))
        self.ended = False
        self.chosen: dict[int, Ranges] = {}
        self.left_out = LeftOut()
        self.notes: list[str] = []
        self.first_entries: list[Entry] = []
        self._job = job
        self._reading = job.reading if old is None else readable_columns(job.reading, old.extra_schema)
        self._subset = subset
        self._old = len(self.plan.shards)
        self._output = output
        self._redo_changed = redo_changed
        self._known = KnownUris(planned_uris(output, self.plan))
        self._lists = ListStamps(self.plan.shards, job.input.storage_options)
        self._files = {redact_uri(shard.uri): shard for shard in self.plan.shards if is_shard_format(shard.format)}
        self._seen_again = False
        self._only_images_follow = False
        self._types: dict[str, pa.DataType] = {}
        self._with_known_columns: set[str] = set()  # formats whose first records have been read
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
        if self._job.input.columns or self._types:
            types = {name: pa.null() for name in self._job.input.columns} | self._types
            self.plan.extra_schema = extra_schema(self.plan.extra_schema if self._old else None, types)

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
        if self._subset is None:
            yield from self._add_all()
        elif self._subset.is_sample:
            yield from self._add_sample(self._subset)
        else:
            yield from self._add_first(self._subset.count)
        if not self.plan.shards:
            raise InputError(self.left_out.nothing_found(self._job.input))
        if self._old and not self._seen_again:
            raise OutputError(
                f"output.uri: {redact_uri(self._job.output.uri)} holds labels of another input "
                f"({redact_uri(self.plan.shards[0].uri)}); choose another output.uri for this one"
            )
        self.ended = True

    def _add_all(self) -> Iterator[Shard | None]:
        """Plan the whole input."""
        for part in self._input():
            if isinstance(part, list):
                yield from (self._plan_file(shard) for shard, is_new in self._inspect(part) if is_new)
            else:
                self._only_images_follow = part.last and part.format == IMAGES and not self._job.input.columns
                yield from self._add_entries(part)

    def _add_first(self, count: int) -> Iterator[Shard | None]:
        """Plan as much of the input as its first images need, those of the plan included."""
        left = count
        for shard in self.plan.shards:
            if shard.entries is not None:  # files are counted as they are found: they may have changed, or be gone
                left -= self._choose_first(shard, left)
        for part in self._input(FILES_AT_A_TIME):
            if isinstance(part, list):
                for shard, is_new in self._inspect(part):
                    if left:
                        planned = self._plan_file(shard) if is_new else shard
                        left -= self._choose_first(planned, left)
                        if is_new:
                            yield planned
            else:
                for step in self._add_entries(part, left):
                    left -= self._choose_first(step, left) if step else 0
                    yield step
            if not left and (self._seen_again or not self._old):
                return

    def _choose_first(self, shard: Shard, left: int) -> int:
        """Choose up to `left` images of a shard. Returns how many it has of them."""
        count = images_in(shard, self._reading, left) if left else 0
        if count:
            self.chosen[shard.number] = ((0, count),)
        return count

    def _add_sample(self, subset: Subset) -> Iterator[Shard | None]:
        """Plan a sample of the input, which is listed to its end for it."""
        drawing, holders = Drawing(subset), list[Shard | Found](self.plan.shards)
        for shard, entries in read_all_entries(self._output, self.plan.shards):
            drawing.add_entries(shard.number, enumerate(entries))
        uncounted: list[tuple[int, Shard]] = []
        for part in self._input():
            if isinstance(part, list):
                for shard, is_new in self._inspect(part):
                    holder = len(holders) if is_new else shard.number
                    if is_new:
                        holders.append(shard)
                    if shard.images is None:
                        uncounted.append((holder, shard))
                    else:
                        drawing.add_file(holder, shard.shard_id, shard.images)
            else:
                start = 0
                for chunk in _chunks(self._entries_of(part), 1000):
                    drawing.add_entries(len(holders), enumerate(self._new(chunk), start))
                    start += len(chunk)
                    yield None
                holders.append(part)
        opened = min(MAX_FILES_TO_COUNT, max(LEAST_FILES_TO_COUNT, subset.count))
        counted = sorted(uncounted, key=lambda one: drawing.rank(one[1].shard_id))[:opened]
        with ThreadPoolExecutor(request_threads(remote=True), thread_name_prefix="count") as pool:
            counts = pool.map(lambda one: images_in(one[1], self._reading), counted)
            for (holder, shard), images in zip(counted, counts, strict=True):
                drawing.add_file(holder, shard.shard_id, images)
        for holder, images_of in drawing.drawn().items():
            held = holders[holder]
            if isinstance(held, Found):
                yield from self._plan_entries(held, [entry for _, entry in images_of if entry is not None])
            else:
                shard = self._plan_file(held) if holder >= self._old else held
                self.chosen[shard.number] = as_ranges(position for position, _ in images_of)
                yield shard

    def _plan_entries(self, found: Found, entries: list[Entry]) -> Iterator[Shard]:
        """Plan a sample of the images of a folder or list."""
        size = self._job.input.shard_size
        for start in range(0, len(entries), size):
            shard = self._add_shard(found, start, entries[start : start + size])
            self.chosen[shard.number] = ((0, len(entries[start : start + size])),)
            yield shard

    def _input(self, files_at_a_time: int | None = None) -> Iterator[Found | list[Found]]:
        """Everything that the input names: a folder or a list, or consecutive files that are shards."""
        job = self._job
        everything = find_input(job.input, self._reading, self.left_out, job.output.uri)
        formats: set[str] = set()
        for are_files, group in itertools.groupby(everything, lambda found: is_shard_format(found.format)):
            while part := list(itertools.islice(group, files_at_a_time if are_files else 1)):
                first = part[0]
                formats |= {found.format for found in part}
                refuse_ignored_columns(job, first.format, first.uri, is_new=not self._old)
                if part[-1].last and not self._old:
                    refuse_ignored_settings(job, formats)
                yield part if are_files else first

    def _inspect(self, group: list[Found]) -> Iterator[tuple[Shard, bool]]:
        """The shards of files, and whether each is new or has changed; a new one has no place in the plan yet."""
        plan, options = self.plan, self._job.input.storage_options
        what = f"input.uri: cannot inspect {', '.join(map(redact_uri, self._job.input.uri))}"
        with (
            storage.translate_errors(InputError, what),
            ThreadPoolExecutor(request_threads(remote=True), thread_name_prefix="stamp") as pool,
        ):
            stamps = pool.map(lambda found: storage.stamp(found.uri, options), group)
            fresh: list[Shard] = []
            for found, (size, stamp) in zip(group, stamps, strict=True):
                previous = self._files.get(redact_uri(found.uri))
                self._seen_again |= previous is not None
                number = previous.number if previous else NOT_PLANNED
                shard = Shard(number, found.format, found.uri, found.name, size, stamp)
                if previous is None:
                    fresh.append(shard)
                elif (previous.size, previous.stamp) == (size, stamp):
                    plan.shards[number] = replace(previous, uri=found.uri)  # with its current signature
                    yield plan.shards[number], False
                elif self._redo_changed:
                    fresh.append(shard)
                else:
                    raise InputError(changed_message(previous, size))
            self._read_first_records(fresh)
            looks = pool.map(self._look_into, fresh)
            for shard, look in zip(fresh, looks, strict=True):
                self._add_types(look.types)
                if look.problem and not any(UNREADABLE in note for note in self.notes):  # one of perhaps thousands
                    self.notes.append(f"{redact_uri(shard.uri)} {UNREADABLE}: {look.problem}"[:500])
                yield replace(shard, images=look.images), True

    def _plan_file(self, shard: Shard) -> Shard:
        """Add a file to the plan, or replace what the plan says of it."""
        self._unsaved = True
        if shard.number == NOT_PLANNED:
            shard = replace(shard, number=len(self.plan.shards))
            self.plan.shards.append(shard)
        else:
            self.plan.changed.append(shard.number)
            self.plan.shards[shard.number] = shard
        return shard

    def _look_into(self, shard: Shard) -> Look:
        source = source_of(shard.format)
        return source.look(shard.uri, self._reading) if isinstance(source, ShardSource) else Look()

    def _read_first_records(self, fresh: list[Shard]) -> None:
        """Look at the columns of the first images: which there are, in a format that does not state them, and whether
        boxes are boxes."""
        for name in {shard.format for shard in fresh} - self._with_known_columns:
            source, records, uris = source_of(name), list[Row](), list[str]()
            reading = self._reading
            if isinstance(source, ShardSource) and source.states_columns:
                reading = replace(reading, passthrough=(), labels=tuple(self._job.box_columns))
            if not reading.columns:
                continue
            for shard in (shard for shard in fresh if shard.format == name):
                if not isinstance(source, ShardSource) or len(records) >= FIRST_RECORDS or len(uris) == FIRST_FILES:
                    break
                found = source.first_records(shard.uri, reading, FIRST_RECORDS - len(records))
                records += found
                uris += [shard.uri] if found else []
            if records:
                self._with_known_columns.add(name)
                if not self._old:  # in others the rows of these images say so, as in the runs before
                    refuse_wrong_boxes(records, uris, self._job)
                if isinstance(source, ShardSource) and not source.states_columns:
                    self._add_types(types_in_records(records, uris, reading))

    def _add_types(self, types: dict[str, pa.DataType]) -> None:
        for name, kind in types.items():
            self._types[name] = joined_type(name, self._types.get(name), kind)

    def _entries_of(self, found: Found) -> Iterable[Entry]:
        """The images of a folder or list. The types of its columns are found out first."""
        names = self._job.input.columns
        if found.format == IMAGES:
            return found.entries
        self.notes += self._lists.look(found.uri, self._reading.columns)
        all_of_them = iter(found.entries)
        if self._job.box_columns and not self._old:
            first = list(itertools.islice(all_of_them, FIRST_RECORDS))
            refuse_wrong_boxes([entry.extra for entry in first], [found.uri], self._job)
            all_of_them = itertools.chain(first, all_of_them)
        if not names:
            return all_of_them
        entries = list(all_of_them)
        where = redact_uri(found.uri)
        self._add_types({name: type_of(name, [entry.extra.get(name) for entry in entries], where) for name in names})
        return entries

    def _add_entries(self, found: Found, limit: int | None = None) -> Iterator[Shard | None]:
        """Plan images of a folder or list: `shard_size` new ones form a shard. limit: at most this many."""
        size = self._job.input.shard_size
        fresh: list[Entry] = []
        start = 0
        for part in _chunks(self._entries_of(found), min(1000, size)):
            fresh += self._new(part)
            if limit is not None:
                fresh = fresh[: limit - start]
            while len(fresh) >= size:
                yield self._add_shard(found, start, fresh[:size])
                start, fresh = start + size, fresh[size:]
            yield None
            if self._stopped.is_set():
                return
            if limit is not None and start + len(fresh) >= limit and (self._seen_again or not self._old):
                break
        if fresh:
            yield self._add_shard(found, start, fresh)

    def _add_shard(self, found: Found, start: int, entries: list[Entry]) -> Shard:
        """Plan these images as the next shard."""
        number = len(self.plan.shards)
        self.first_entries += entries[: FIRST_ENTRIES - len(self.first_entries)]
        if not self._entries or self._entries[-1].groups == SHARDS_PER_FILE:
            self._entries.append(EntriesFile(number))
        group = self._entries[-1].add(entries)
        name = f"{found.name.rstrip('/') or '.'}[{start}:{start + len(entries)}]"
        entries_file = self._entries[-1].name
        uri, stamp = redact_uri(found.uri), self._lists.now(found.uri)
        shard = Shard(number, found.format, uri, name, 0, stamp, len(entries), entries_file, group)
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
