"""Opening a shard: the images in it that are not done, whatever its format."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sapiens_ray import storage
from sapiens_ray.errors import ImageError, InputError, SapiensRayError, StorageError
from sapiens_ray.planning.plan import Shard, read_entries
from sapiens_ray.sources import Encoded, Images, Reading, ShardSource, folders, source_of
from sapiens_ray.sources.base import reason
from sapiens_ray.storage import Folder
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.units import Done

REDO = "label it into a new output.uri, or run with --redo-changed to label this shard again"


def open_shard(shard: Shard, done: Done, reading: Reading, output: Folder) -> Images:
    """The images of a shard that are not done.

    output: holds the planned entries of folders and lists. A file that was planned as a shard and no longer exists
    becomes one error row. Raises InputError for a file that has changed: its existing rows belong to other images.
    """
    source = source_of(shard.format)
    if not isinstance(source, ShardSource):
        return (yield from folders.read(read_entries(output, shard), done, reading.storage_options))
    options = reading.storage_options
    try:
        with _storage_errors(shard.uri):
            found = storage.stamp(shard.uri, options)
    except FileNotFoundError:
        if not storage.is_gone(shard.uri, options):  # a missing mount, or a server that reports all files as missing
            raise StorageError(f"cannot find {redact_uri(shard.uri)}, and cannot list its folder") from None
        return (yield from _gone(shard, done))
    if found != (shard.size, shard.stamp):
        raise InputError(changed_message(shard, found[0]))
    with _storage_errors(shard.uri):
        return (yield from source.read(shard.uri, shard.shard_id, done, reading))


@contextlib.contextmanager
def _storage_errors(uri: str) -> Iterator[None]:
    """Translate exceptions of storage libraries: they may contain signed URLs, and some cannot be unpickled."""
    try:
        yield
    except (SapiensRayError, FileNotFoundError):
        raise
    except Exception as error:
        if type(error).__name__ == "FileExpired":  # s3fs reads with the ETag of its first request
            raise InputError(f"input.uri: {redact_uri(uri)} was overwritten while it was read; {REDO}") from None
        raise StorageError(f"cannot read {redact_uri(uri)}: {reason(error).message}") from None


def _gone(shard: Shard, done: Done) -> Images:
    """One error row per known image that is not done, and one for the rest if the number of images is unknown."""
    known = done.total if done.total is not None else max((stop for _, stop in done.ranges), default=0) + 1
    for index in range(known):
        if not done.has(index):
            error = ImageError("missing", "planned, but the file no longer exists: moved or deleted")
            yield Encoded(index, shard.shard_id, redact_uri(shard.uri), error=error)
    return known


def changed_message(shard: Shard, size: int) -> str:
    """The message about a shard whose file has changed since it was planned."""
    was = f"{shard.size} bytes" + (f", now {size}" if size != shard.size else ", same size, but written again")
    return f"input.uri: {redact_uri(shard.uri)} has changed since it was planned (was {was}); {REDO}"
