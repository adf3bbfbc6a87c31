"""Photos of rows, read again from where they were: plain files, members of tars and rows of Parquet files on a disk."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sapiens_ray.output.record import Record
from sapiens_ray.sources import ShardSource, format_of, source_of
from sapiens_ray.sources.base import Reading
from sapiens_ray.storage import StorageOptions, is_remote, local_path, read_bytes
from sapiens_ray.storage.retries import no_retries
from sapiens_ray.units import Done

LARGEST_SHARD = 4 << 30  # bytes; members of a larger one are not looked for
MOST_HELD = 1 << 30  # bytes of members in memory
GIVE_UP = 8  # failures in a row, after which a storage counts as gone

Wanted = tuple[str, int]  # the uri of a row, and its index in its shard


class Photos:
    """Reads encoded photos, for several threads at a time. A photo that is gone is None, never an error."""

    def __init__(self, record: Record | None, options: StorageOptions) -> None:
        given: dict[str, Any] = (record or {}).get("job", {}).get("input", {})
        self._reading = Reading(image_column=given.get("image_column"), include=tuple(given.get("include") or ()))
        self._options = options
        self._failures: Counter[str] = Counter()
        self._members: dict[str, bytes] = {}
        self._held = 0
        self._lock = threading.Lock()

    def fetch_members(self, wanted: Iterable[Wanted]) -> None:
        """Read the photos that are inside of shards on this machine, shard by shard; `read` then gives them."""
        of_shard: dict[str, dict[int, str]] = defaultdict(dict)
        for uri, index in wanted:
            shard = _shard_of(uri)
            if shard:
                of_shard[shard][index] = uri
        for shard, uris in of_shard.items():
            try:
                for index, data in self._in_shard(shard, set(uris)):
                    self._held += len(data)
                    if self._held > MOST_HELD:
                        return
                    self._members[uris[index]] = data
            except Exception:  # the shard changed, or is damaged
                continue

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

    def read(self, uri: str) -> bytes | None:
        """The bytes of the photo of a row; None if it cannot be read."""
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
        return data


def _shard_of(uri: str) -> str:
    """The file on this machine of which a photo is a part; empty for a photo that is a file of its own."""
    shard, mark, _ = uri.rpartition("#")
    while mark:
        if not is_remote(shard) and format_of(shard) and Path(local_path(shard)).is_file():
            return local_path(shard)
        shard, mark, _ = shard.rpartition("#")
    return ""
