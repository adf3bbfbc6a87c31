"""Shards to units: the work of the stage `read`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import pyarrow as pa

from sapiens_ray.engine import watchdog
from sapiens_ray.engine.assemble import Contents, add_masks, make_unit
from sapiens_ray.errors import ImageError
from sapiens_ray.planning.plan import ShardWork
from sapiens_ray.planning.shards import open_shard
from sapiens_ray.sources import Images, Reading
from sapiens_ray.sources.base import cut_units
from sapiens_ray.storage import Folder
from sapiens_ray.units import Unit


@dataclass(frozen=True)
class UnitReader:
    """Reads shards as units.

    output: holds the entries of planned folders and lists. unit_size: images per unit; unit_bytes: the estimated size
    at which a unit is cut. extra: names and types of the passthrough columns.
    """

    reading: Reading
    contents: Contents
    output: Folder
    unit_size: int
    unit_bytes: int
    extra: pa.Schema

    def units(self, work: ShardWork) -> Iterator[Unit]:
        """Yield the units of a shard that are not done."""
        started = time.perf_counter()
        shard, done = work.shard, work.done
        left = done if work.wanted is None else done.outside(work.wanted)
        stop = None if work.wanted is None else work.wanted[-1][1]
        reading = replace(self.reading, progress=watchdog.progress)
        encoded_images = _with_progress(open_shard(shard, left, reading, self.output), stop)
        folder = shard.uri.rsplit("/", 1)[0]
        for encoded, last in cut_units(encoded_images, self.unit_size, self.unit_bytes, self.contents.estimated_bytes):
            for image in encoded:
                if image.index in work.quarantined:
                    image.error = ImageError(*work.quarantined[image.index])
            start = encoded[0].index if encoded else (done.ranges[-1][1] if done.ranges else 0)
            unit = make_unit(encoded, self.extra, self.contents, shard=shard.number, start=start, last=last)
            unit = add_masks(unit, encoded, self.contents.masks, folder, self.reading.storage_options)
            unit.seconds["read"] = time.perf_counter() - started
            yield unit
            started = time.perf_counter()


def _with_progress(images: Images, stop: int | None) -> Images:
    """The images before index `stop`; each counts as progress for the watchdog. Returns -1, which is the end of no
    shard, if it stops there."""
    while True:
        watchdog.progress()
        try:
            image = next(images)
        except StopIteration as end:
            return cast(int, end.value)
        if stop is not None and image.index >= stop:
            images.close()
            return -1
        yield image
