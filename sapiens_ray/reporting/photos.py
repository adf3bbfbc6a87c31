"""Photos of rows, read again from where they were: plain files, members of tars,
rows of Parquet files and frames of videos on a disk."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sapiens_ray.imaging import images
from sapiens_ray.output.record import Record
from sapiens_ray.sources import ShardSource, format_of, source_of
from sapiens_ray.sources.base import Reading
from sapiens_ray.sources.video_options import VideoOptions
from sapiens_ray.storage import StorageOptions, is_remote, local_path, read_bytes
from sapiens_ray.storage.retries import no_retries
from sapiens_ray.units import Done, Row

LARGEST_SHARD = 4 << 30  # bytes; members of a larger one are not looked for, since it is read from its start
GIVE_UP = 8  # failures in a row, after which a storage counts as gone


class Photos:
    """Reads photos at the size of thumbnails, for several threads at a time. A photo that is gone, or is another one
    than was labelled, is None, never an error.

    side: the longer side of a thumbnail, in pixels. Rows have `uri`, `index` (in their shard), `width` and `height`.
    """

    def __init__(self, record: Record | None, options: StorageOptions, side: int) -> None:
        given: dict[str, Any] = (record or {}).get("job", {}).get("input", {})
        video = VideoOptions.model_validate(given["video"]) if given.get("video") else None
        include = tuple(given.get("include") or ())
        self._reading = Reading(image_column=given.get("image_column"), include=include, video=video)
        self._options = options
        self._side = side
        self._failures: Counter[str] = Counter()
        self._members: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def fetch_members(self, rows: Iterable[Row]) -> None:
        """Read the photos that are inside of shards on this machine, shard by shard; `read` then gives them. They are
        decoded at once: 300 kB each stay in memory, however large the photo."""
        of_shard: dict[str, dict[int, Row]] = defaultdict(dict)
        for row in rows:
            shard = _shard_of(row["uri"])
            if shard:
                of_shard[shard][row["index"]] = row
        for shard, members in of_shard.items():
            with contextlib.suppress(Exception):  # the shard changed, or is damaged
                for index, data in self._in_shard(shard, set(members)):
                    photo = self._small(data, members[index])
                    if photo is not None:
                        self._members[members[index]["uri"]] = photo

    def _in_shard(self, shard: str, indices: set[int]) -> Iterator[tuple[int, bytes]]:
        source = source_of(format_of(shard) or "")
        if not isinstance(source, ShardSource) or Path(shard).stat().st_size > LARGEST_SHARD:
            return
        ordered = sorted(indices)
        gaps = zip([0, *(index + 1 for index in ordered)], ordered, strict=False)
        others = Done(tuple((start, stop) for start, stop in gaps if start < stop))
        for image in source.read(shard, shard, others, self._reading):
            if image.index in indices and image.data is not None:
                yield image.index, image.data
            if image.index >= ordered[-1]:
                return

    def read(self, row: Row) -> np.ndarray | None:
        """The photo of a row, h x w x 3 uint8 BGR; None if it cannot be read."""
        uri = row["uri"]
        if uri in self._members:
            return self._members.pop(uri)
        if _shard_of(uri) or "=..." in uri:  # a URL without its signature
            return None
        place = uri.split("/")[2] if is_remote(uri) and uri.count("/") > 2 else ""
        if place and self._failures[place] >= GIVE_UP:
            return None
        try:
            with no_retries():
                data = read_bytes(uri, self._options)
        except Exception:
            with self._lock:
                self._failures[place] += 1
            return None
        with self._lock:
            self._failures[place] = 0
        return self._small(data, row)

    def _small(self, data: bytes, row: Row) -> np.ndarray | None:
        try:
            size = images.header_size(data)
            if size is None or sorted(size) != sorted((row["width"], row["height"])):  # another file than was labelled
                return None
            return images.decode_small(data, row["width"], row["height"], self._side)
        except Exception:
            return None


def _shard_of(uri: str) -> str:
    """The file on this machine of which a photo is a part; empty for a photo that is a file of its own."""
    shard, mark, _ = uri.rpartition("#")
    while mark:
        if not is_remote(shard) and format_of(shard) and Path(local_path(shard)).is_file():
            return local_path(shard)
        shard, mark, _ = shard.rpartition("#")
    return ""
