"""The photos of the rows of an output, beside their labels: read again, or named where they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sapiens_ray.export.base import labelled, place_of
from sapiens_ray.imaging.images import has_image_suffix
from sapiens_ray.planning.photos import PlannedPhotos, is_photo_of
from sapiens_ray.planning.plan import Shard, load_plan
from sapiens_ray.sources import Encoded, is_shard_format
from sapiens_ray.storage import Folder, is_remote, local_path
from sapiens_ray.units import Row

PLACE = ["shard", "index"]
GONE = "their photos cannot be read again"
OTHER = "their photos are others than were labelled"
SIGNED = "their URLs need a signature, which is not stored"
ARCHIVED = "their photos lie in tars, Parquet files or videos, which this format cannot name"

# What files of the common formats begin with.
_BEGINNINGS = {
    b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp", b"II*\0": "tif",
    b"MM\0*": "tif",
}  # fmt: skip


class Photos:
    """Reads the encoded photos of the labelled rows, in the order of the rows. One shard is open at a time; photos of
    rows that a condition leaves out are not fetched.

    Raises OutputError if the output does not say where its photos are, InputError if a tar or Parquet file has changed
    since it was planned.
    """

    def __init__(self, source: Folder) -> None:
        self._photos = PlannedPhotos(source)
        rows = (place_of(row) for row in labelled(source, PLACE))
        self._places = np.fromiter(rows, np.dtype((np.int32, 2)))
        self._shard = -1
        self._images: Iterator[Encoded] = iter(())
        self._held: Encoded | None = None

    def read(self, row: Row) -> tuple[bytes | None, str]:
        """The encoded photo of a row with `shard`, `index`, `width` and `height`; None and why, if there is none."""
        shard, index = place_of(row)
        if shard != self._shard:
            wanted = self._places[self._places[:, 0] == shard, 1].tolist()
            self._shard, self._held, self._images = shard, None, self._photos.of_shard(shard, wanted)
        while self._held is None or self._held.index < index:
            self._held = next(self._images, None)
            if self._held is None:
                return None, GONE
        data = self._held.data
        if self._held.index > index or data is None:
            return None, GONE
        return (data, "") if is_photo_of(data, row["width"], row["height"]) else (None, OTHER)


def archives_of(source: Folder) -> dict[int, Shard]:
    """The shards of an output that are tars, Parquet files or videos, by number. None of their photos is a file of its
    own."""
    plan = load_plan(Folder(source.uri, source.options))
    return {shard.number: shard for shard in plan.shards if is_shard_format(shard.format)} if plan else {}


def is_signed(uri: str) -> bool:
    """Whether a URL has lost its signature or key, so that nobody can open it (`redact_uri`)."""
    return is_remote(uri) and "=..." in uri


def local_file(row: Row) -> Path | None:
    """The file on this machine that is the photo of a row with `uri`; None if it is elsewhere, or a part of another
    file."""
    if is_remote(row["uri"]):
        return None
    path = Path(local_path(row["uri"])).absolute()
    return path if path.is_file() else None


def suffix_of(name: str, data: bytes) -> str:
    """The suffix for the file of a photo, without dot: that of its name, else by its first bytes; `img` if neither
    tells it."""
    if has_image_suffix(name):
        return name.rpartition(".")[2].lower()
    return next((suffix for beginning, suffix in _BEGINNINGS.items() if data.startswith(beginning)), "img")
