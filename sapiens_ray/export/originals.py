"""The encoded photos of an output, read again from where the job had them: files, members of tars, rows of Parquet."""

from __future__ import annotations

from pathlib import Path

from sapiens_ray.imaging.images import has_image_suffix, header_size
from sapiens_ray.output.record import read_record
from sapiens_ray.sources import ShardSource, format_of, source_of
from sapiens_ray.sources.base import Images, Reading
from sapiens_ray.storage import Folder, is_remote, local_path, read_bytes
from sapiens_ray.units import Done, Row

GONE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_BEGINNINGS = {b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp", b"II": ".tif", b"MM": ".tif"}


class Originals:
    """Reads the photos of rows in the order of the output; a shard is read once, front to back.

    Rows have `image_id`, `uri`, `index`, `width` and `height`.
    """

    def __init__(self, source: Folder) -> None:
        record = read_record(source) or {}
        given = record.get("job", {}).get("input", {})
        self._reading = Reading(
            image_column=given.get("image_column"),
            include=tuple(given.get("include") or ()),
            storage_options=source.options,
        )
        self._options = source.options
        self._shard = ""
        self._images: Images | None = None  # of that shard, behind the last photo that was read

    def local_file(self, row: Row) -> Path | None:
        """The file on this machine that is the photo; None if it is elsewhere, or a part of another file."""
        if is_remote(row["uri"]):
            return None
        path = Path(local_path(row["uri"])).absolute()
        return path if path.is_file() else None

    def read(self, row: Row) -> bytes | None:
        """The encoded photo; None if it is not there, or is another one than was labelled. Raises OSError if the
        storage fails."""
        try:
            data = self._read(row)
        except GONE:
            return None
        size = header_size(data) if data else None
        changed = size is not None and sorted(size) != sorted((row["width"], row["height"]))
        return None if changed else data

    def _read(self, row: Row) -> bytes | None:
        uri = row["uri"]
        shard = "" if self.local_file(row) else _shard_of(uri)
        if not shard:
            return read_bytes(uri, self._options)
        if shard != self._shard or self._images is None:
            source = source_of(format_of(shard) or "")
            assert isinstance(source, ShardSource)
            self._shard, self._images = shard, source.read(shard, shard, Done(), self._reading)
        return next((image.data for image in self._images if image.index == row["index"]), None)


def _shard_of(uri: str) -> str:
    """The file of which a photo is a part; empty for a photo that is a file of its own."""
    shard, mark, _ = uri.rpartition("#")
    while mark:
        name = format_of(shard)
        if (
            name
            and isinstance(source_of(name), ShardSource)
            and (is_remote(shard) or Path(local_path(shard)).is_file())
        ):
            return shard
        shard, mark, _ = shard.rpartition("#")
    return ""


def suffix_of(row: Row, data: bytes) -> str:
    """The ending of a photo's name: that of its id or place, else what its first bytes say."""
    for name in (row["image_id"], row["uri"].partition("?")[0]):
        if has_image_suffix(name):
            return str(name[name.rfind(".") :].lower())
    return next((suffix for start, suffix in _BEGINNINGS.items() if data.startswith(start)), ".jpg")
