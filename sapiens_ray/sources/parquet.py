"""Parquet files with an image column: bytes, or struct<bytes, path> as Hugging Face writes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray import storage
from sapiens_ray.errors import ImageError, InputError
from sapiens_ray.sources import Done, Encoded, Images, images
from sapiens_ray.uris import readable, shown

BATCH = 32
MAX_GROUP = 10_000_000  # rows; no table of images has more in one group


def choose_column(schema: pa.Schema, wanted: str | None, uri: str) -> str:
    """The name of the image column. Raises InputError if it is not there, not of images, or ambiguous."""
    able = [field.name for field in schema if _holds_images(field.type)]
    if wanted is not None:
        if wanted in able:
            return wanted
        what = "is not of bytes or struct<bytes,path>" if wanted in schema.names else "is not there"
        raise InputError(f"input.image_column: column {wanted!r} of {uri} {what}; columns: {', '.join(schema.names)}")
    if "image" in able:
        return "image"
    if len(able) == 1:
        return able[0]
    raise InputError(
        f"input.image_column: say which column of {uri} holds the images; "
        + (f"it could be {', '.join(able)}" if able else f"none of {', '.join(schema.names)} is of bytes")
    )


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        path = kind.field("path").type if "path" in names else pa.string()
        is_text = pa.types.is_string(path) or pa.types.is_large_string(path) or pa.types.is_null(path)
        return "bytes" in names and is_text and _is_bytes(kind.field("bytes").type)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_null(kind):  # nothing but paths
        return True
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def read(
    uri: str,
    shard_id: str,
    done: Done,
    options: dict[str, Any],
    image_column: str | None = None,
    id_column: str | None = None,
    columns: tuple[str, ...] = (),
) -> Images:
    """The images of one Parquet file, row by row.

    A file without a readable footer gives one error row, a damaged row group one for each of its images. Raises
    OSError if the storage fails: that is not damage, and another run may find the rest.
    """
    stream = storage.open_read(uri, options)
    try:
        file = pq.ParquetFile(stream)
        image_column = choose_column(file.schema_arrow, image_column, uri)
    except (OSError, pa.ArrowException, InputError) as error:
        stream.close()
        raise_unless_damage(error)
        if not done.has(0):
            yield Encoded(0, shard_id, shown(uri), error=ImageError("shard_damaged", str(error)[:500]))
        return 1
    wanted = list(dict.fromkeys([image_column, *([id_column] if id_column else []), *columns]))
    with stream, file:
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if not 0 <= count <= MAX_GROUP:  # each would become an error row
                text = f"row group {group} says it has {count} rows"
                if not done.has(first):
                    yield Encoded(first, shard_id, shown(uri), error=ImageError("shard_damaged", text))
                return first + 1
            if not all(done.has(index) for index in range(first, first + count)):
                for index, row in _rows(file, group, wanted, first, count):
                    if not done.has(index):
                        yield _image(index, row, uri, shard_id, options, image_column, id_column, columns)
            first += count
    return first


def _rows(
    file: pq.ParquetFile, group: int, columns: list[str], first: int, count: int
) -> Iterator[tuple[int, dict[str, Any] | Exception]]:
    """(index, row) for every row of a group; the exception in place of each row that cannot be read."""
    index = first
    try:
        for batch in file.iter_batches(batch_size=BATCH, row_groups=[group], columns=columns):
            for row in batch.to_pylist()[: first + count - index]:  # a footer may lie
                yield index, row
                index += 1
        problem: Exception = ValueError(f"holds {index - first} rows where its footer says {count}")
    except (OSError, pa.ArrowException, ValueError) as error:  # ValueError: text that is no UTF-8, dates beyond dates
        raise_unless_damage(error)
        problem = error
    for lost in range(index, first + count):
        yield lost, problem


def raise_unless_damage(error: Exception) -> None:
    """Raise what the storage raised. pyarrow reports damage as ArrowException or as bare OSError without errno."""
    if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
        raise error


def _image(
    index: int,
    row: dict[str, Any] | Exception,
    uri: str,
    shard_id: str,
    options: dict[str, Any],
    image_column: str,
    id_column: str | None,
    columns: tuple[str, ...],
) -> Encoded:
    position = f"{shard_id}/{index:08d}"  # with the path behind it: Hugging Face keeps base names, which repeat
    if isinstance(row, Exception):
        error = ImageError("unreadable", f"the Parquet file is damaged here: {row}"[:500])
        return Encoded(index, position, f"{shown(uri)}#{index}", error=error)
    cell = row[image_column]
    path = cell.get("path") if isinstance(cell, dict) else None
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    name = f"{position}/{path}" if path else position
    named = row[id_column] if id_column else None
    image = Encoded(
        index,
        image_id=readable(name if named is None else str(named)),
        uri=f"{shown(uri)}#{index}",
        data=data,
        extra={column: row[column] for column in columns},
    )
    if data is None and path:  # Hugging Face keeps a path without bytes for files beside the table
        beside = path if "://" in path or path.startswith("/") else f"{uri.rsplit('/', 1)[0]}/{path}"
        images.fill(image, beside, options)
    elif data is None:
        image.error = ImageError("missing", f"column {image_column!r} is null")
    return image
