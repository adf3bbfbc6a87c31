"""The photos of the rows of an output, read again by the sources of its job: folders, lists, tars and Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sapiens_ray.errors import OutputError
from sapiens_ray.export.base import labelled, place_of
from sapiens_ray.imaging.images import has_image_suffix, header_size
from sapiens_ray.job.config import Job
from sapiens_ray.output.record import read_record
from sapiens_ray.planning.columns import readable_columns
from sapiens_ray.planning.plan import Plan, Shard, load_plan
from sapiens_ray.planning.shards import open_shard
from sapiens_ray.sources import Encoded, Images, Reading, is_shard_format
from sapiens_ray.storage import Folder
from sapiens_ray.units import Done, Row

PLACE = ["shard", "index"]
END = 1 << 62  # beyond every index
GONE = "their photos cannot be read again"
OTHER = "their photos are others than were labelled"
ARCHIVED = "their photos lie in tars or Parquet files, which this format cannot name"

# What files of the common formats begin with.
_BEGINNINGS = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"), (b"BM", "bmp"))


class Photos:
    """Reads the encoded photos of the labelled rows, in the order of the rows. One shard is open at a time; photos of
    rows that a condition leaves out are not fetched.

    Raises OutputError if the output does not say where its photos are, InputError if a tar or Parquet file has changed
    since it was planned.
    """

    def __init__(self, source: Folder) -> None:
        self._output = Folder(source.uri, source.options)
        plan, record = load_plan(self._output), read_record(self._output)
        if plan is None or record is None or "input" not in record["job"]:
            raise OutputError(f"{source.uri} has no plan.parquet or job.yaml of a run, which say where its photos are")
        self._shards = plan.shards
        self._reading = _reading_of(record["job"], plan, source)
        rows = (place_of(row) for row in labelled(source, PLACE))
        self._places = np.fromiter(rows, np.dtype((np.int32, 2)))
        self._shard = -1
        self._images: Images | Iterator[Encoded] = iter(())
        self._held: Encoded | None = None

    def read(self, row: Row) -> tuple[bytes | None, str]:
        """The encoded photo of a row with `shard`, `index`, `width` and `height`; None and why, if there is none."""
        shard, index = place_of(row)
        if shard != self._shard:
            self._open(shard)
        while self._held is None or self._held.index < index:
            self._held = next(self._images, None)
            if self._held is None:
                return None, GONE
        if self._held.index > index or self._held.data is None:
            return None, GONE
        size = header_size(self._held.data)
        if size is not None and sorted(size) != sorted((row["width"], row["height"])):  # EXIF may have turned it
            return None, OTHER
        return self._held.data, ""

    def _open(self, shard: int) -> None:
        """Begin to read a shard, without the photos of rows that are not wanted."""
        wanted = self._places[self._places[:, 0] == shard, 1].tolist()
        starts, stops = [0, *(index + 1 for index in wanted)], [*wanted, END]
        unwanted = tuple((start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop)
        self._shard, self._held = shard, None
        self._images = open_shard(self._shards[shard], Done(unwanted), self._reading, self._output)


def _reading_of(job: Row, plan: Plan, source: Folder) -> Reading:
    """How the job read its input: the same images have the same numbers only if nothing of it differs."""
    reading = readable_columns(Job.parse(job, source.join("job.yaml")).reading, plan.extra_schema)
    return replace(reading, storage_options=source.options)


def archives_of(source: Folder) -> dict[int, Shard]:
    """The shards of an output that are tars or Parquet files, by number. None of their photos is a file of its own."""
    plan = load_plan(Folder(source.uri, source.options))
    return {shard.number: shard for shard in plan.shards if is_shard_format(shard.format)} if plan else {}


def suffix_of(name: str, data: bytes) -> str:
    """The suffix for the file of a photo, without dot: that of its name, else by its first bytes; `img` if neither
    tells it."""
    if has_image_suffix(name):
        return name.rpartition(".")[2].lower()
    return next((suffix for beginning, suffix in _BEGINNINGS if data.startswith(beginning)), "img")
