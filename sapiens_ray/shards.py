"""Opening a shard: the images in it that are not done, from whatever format it has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sapiens_ray import storage
from sapiens_ray.config import Input
from sapiens_ray.discovery import FILES
from sapiens_ray.errors import ImageError, InputError, SapiensRayError, StorageFailed
from sapiens_ray.plan import Shard, read_entries
from sapiens_ray.sources import Done, Encoded, Images, parquet, reason, webdataset
from sapiens_ray.sources import images as image_files
from sapiens_ray.storage import Folder
from sapiens_ray.uris import shown

REDO = "label it into a new output.uri, or run with --redo-changed to label this shard again"


def open_shard(
    shard: Shard, done: Done, settings: Input, output: Folder, passthrough: tuple[str, ...], labels: tuple[str, ...]
) -> Images:
    """The images of a shard that are not done.

    passthrough, labels: columns to read; those with boxes and masks may stand in the JSON members of tars too.
    A tar or Parquet file that is gone since it was planned is one error row. Raises InputError for one that has
    changed: what is done of it belongs to other images.
    """
    options = settings.storage_options
    if shard.format not in FILES:
        return (yield from image_files.read(read_entries(output, shard), done, options))
    try:
        with _storage_errors(shard.uri):
            found = storage.stamp(shard.uri, options)
    except FileNotFoundError:
        if not storage.is_gone(shard.uri, options):  # a mount that is missing, a server that says so of everything
            raise StorageFailed(f"cannot find {shown(shard.uri)}, nor list the folder that it was in") from None
        return (yield from _gone(shard, done))
    if found != (shard.size, shard.stamp):
        raise InputError(changed_message(shard, found[0]))
    with _storage_errors(shard.uri):
        if shard.format == "webdataset":
            return (yield from webdataset.read(shard.uri, shard.shard_id, done, options, settings.include, labels))
        return (
            yield from parquet.read(
                shard.uri,
                shard.shard_id,
                done,
                options,
                settings.image_column,
                settings.id_column,
                tuple(dict.fromkeys((*passthrough, *labels))),
            )
        )


@contextlib.contextmanager
def _storage_errors(uri: str) -> Iterator[None]:
    """Give what a storage library raises in our own words: its exceptions may hold signed URLs, and some cannot be
    unpickled."""
    try:
        yield
    except (SapiensRayError, FileNotFoundError):
        raise
    except Exception as error:
        if type(error).__name__ == "FileExpired":  # s3fs reads with the ETag that it met first
            raise InputError(f"input.uri: {shown(uri)} was overwritten while it was read; {REDO}") from None
        raise StorageFailed(f"cannot read {shown(uri)}: {reason(error).message}") from None


def _gone(shard: Shard, done: Done) -> Images:
    """An error row for each image that is known of, and one for those that nobody counted."""
    known = done.total if done.total is not None else max((stop for _, stop in done.ranges), default=0) + 1
    for index in range(known):
        if not done.has(index):
            error = ImageError("missing", "planned, but not there any more: moved or deleted")
            yield Encoded(index, shard.shard_id, shown(shard.uri), error=error)
    return known


def changed_message(shard: Shard, size: int) -> str:
    """What is wrong with a shard whose file is not the one that was planned, and what to do."""
    was = f"{shard.size} bytes" + (f", now {size}" if size != shard.size else ", same size, but written again")
    return f"input.uri: {shown(shard.uri)} has changed since it was planned (was {was}); {REDO}"
