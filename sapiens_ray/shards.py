"""Opening a shard: the images in it that are not done, from whatever format it has."""

from __future__ import annotations

from sapiens_ray import storage
from sapiens_ray.config import Input
from sapiens_ray.errors import ImageError, InputError
from sapiens_ray.plan import Shard, read_entries
from sapiens_ray.sources import Done, Encoded, Images, parquet, shown, webdataset
from sapiens_ray.sources import images as image_files
from sapiens_ray.storage import Folder


def open_shard(
    shard: Shard, done: Done, settings: Input, output: Folder, passthrough: tuple[str, ...], labels: tuple[str, ...]
) -> Images:
    """The images of a shard that are not done.

    passthrough, labels: columns to read; those with boxes and masks may stand in the JSON members of tars too.
    A tar or Parquet file that is gone since it was planned is one error row. Raises InputError for one that has
    changed: what is done of it belongs to other images.
    """
    options = settings.storage_options
    if shard.format not in ("webdataset", "parquet"):
        return (yield from image_files.read(read_entries(output, shard), done, options))
    try:
        found = storage.stamp(shard.uri, options)
    except FileNotFoundError:
        first = done.first_missing
        message = "planned, but not there any more: moved or deleted"
        yield Encoded(first, shard.shard_id, shown(shard.uri), error=ImageError("missing", message))
        return first + 1
    if found != (shard.size, shard.stamp):
        raise InputError(changed_message(shard, found[0]))
    try:
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
    except OSError as error:
        if type(error).__name__ == "FileExpired":  # s3fs reads with the ETag that it met first
            raise InputError(changed_message(shard, shard.size)) from None
        raise


def changed_message(shard: Shard, size: int) -> str:
    """What is wrong with a shard whose file is not the one that was planned, and what to do."""
    was = f"{shard.size} bytes" + (f", now {size}" if size != shard.size else ", same size, but written again")
    return (
        f"input.uri: {shown(shard.uri)} has changed since it was planned (was {was}); label it into a new output.uri, "
        "or run with --redo-changed to label this shard again"
    )
