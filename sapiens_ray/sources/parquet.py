"""Parquet files with an image column: bytes, or struct<bytes, path> as Hugging Face writes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray import storage
from sapiens_ray.errors import ImageError, InputError
from sapiens_ray.sources import folders
from sapiens_ray.sources.base import Encoded, Images, Look, Reading, ShardSource
from sapiens_ray.storage.parquet import open_parquet
from sapiens_ray.storage.uris import readable, redact_uri, relative_to
from sapiens_ray.units import Done, Row

BATCH = 32
MAX_GROUP = 10_000_000  # rows per row group; tables of images have fewer


def choose_column(schema: pa.Schema, wanted: str | None, uri: str) -> str:
    """The name of the image column. Raises InputError if it does not exist, holds no images, or is ambiguous."""
    possible: list[str] = [field.name for field in schema if _holds_images(field.type)]
    if wanted is not None:
        if wanted in possible:
            return wanted
        what = "is not of type bytes or struct<bytes,path>" if wanted in schema.names else "does not exist"
        raise InputError(f"input.image_column: column {wanted!r} of {uri} {what}; columns: {', '.join(schema.names)}")
    if "image" in possible:
        return "image"
    if len(possible) == 1:
        return possible[0]
    raise InputError(
        f"input.image_column: say which column of {uri} holds the images; "
        + (f"it could be {', '.join(possible)}" if possible else f"none of {', '.join(schema.names)} is of type bytes")
    )


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        path = kind.field("path").type if "path" in names else pa.string()
        is_text = pa.types.is_string(path) or pa.types.is_large_string(path) or pa.types.is_null(path)
        return "bytes" in names and is_text and _is_bytes(kind.field("bytes").type)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_null(kind):  # all bytes are null: there are only paths
        return True
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


class ParquetFiles(ShardSource):
    """Tables of images."""

    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)
    states_columns: ClassVar[bool] = True

    def read(self, uri: str, shard_id: str, done: Done, reading: Reading) -> Images:
        """The images of one Parquet file, row by row.

        A file without a readable footer gives one error row, a damaged row group one per image in it.
        """
        return read(uri, shard_id, done, reading)

    def look(self, uri: str, reading: Reading) -> Look:
        """Row count and types of the passthrough columns; one image for a file without a readable footer, which
        becomes an error row. Raises InputError for a column that does not exist."""
        try:
            with storage.open_read(uri, reading.storage_options) as stream, open_parquet(stream) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
        except (OSError, pa.ArrowException) as error:
            raise_unless_damage(error)
            return Look(1, problem=str(error))
        choose_column(schema, reading.image_column, uri)
        for name in (*([reading.id_column] if reading.id_column else []), *reading.columns):
            if name not in schema.names:
                setting = reading.field_of(name)
                raise InputError(f"{setting}: {uri} has no column {name!r}; it has {', '.join(schema.names)}")
        return Look(rows, {name: schema.field(name).type for name in reading.passthrough})

    def first_records(self, uri: str, reading: Reading, count: int) -> list[Row]:
        """The columns of the first `count` images."""
        try:
            with storage.open_read(uri, reading.storage_options) as stream, open_parquet(stream) as file:
                columns = [name for name in reading.columns if name in file.schema_arrow.names]  # `look` refuses others
                for batch in file.iter_batches(batch_size=count, columns=columns, use_threads=False):
                    return list(batch.to_pylist())
        except (OSError, pa.ArrowException, ValueError, OverflowError) as error:  # as in `_rows`
            raise_unless_damage(error)
        return []


SOURCE = ParquetFiles()


def read(uri: str, shard_id: str, done: Done, reading: Reading) -> Images:
    """See `ParquetFiles.read`."""
    stream = storage.open_read(uri, reading.storage_options)
    try:
        file = open_parquet(stream)
        image_column = choose_column(file.schema_arrow, reading.image_column, uri)
    except (OSError, pa.ArrowException, InputError) as error:
        stream.close()
        raise_unless_damage(error)
        if not done.has(0):
            yield Encoded(0, shard_id, redact_uri(uri), error=ImageError("shard_damaged", str(error)[:500]))
        return 1
    cells = _Cells(uri, shard_id, image_column, reading)
    with stream, file:
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if not 0 <= count <= MAX_GROUP:  # each would become an error row
                text = f"row group {group} says it has {count} rows"
                if not done.has(first):
                    yield Encoded(first, shard_id, redact_uri(uri), error=ImageError("shard_damaged", text))
                return first + 1
            if not all(done.has(index) for index in range(first, first + count)):
                for index, row in _rows(file, group, cells.columns, first, count):
                    if not done.has(index):
                        yield cells.image(index, row)
            first += count
    return first


def _rows(
    file: pq.ParquetFile, group: int, columns: list[str], first: int, count: int
) -> Iterator[tuple[int, Row | Exception]]:
    """(index, row) for every row of a group; the exception in place of each row that cannot be read."""
    index = first
    try:
        for batch in file.iter_batches(batch_size=BATCH, row_groups=[group], columns=columns, use_threads=False):
            for row in batch.to_pylist()[: first + count - index]:  # the footer may be wrong
                yield index, row
                index += 1
        problem: Exception = ValueError(f"the row group has {index - first} rows, the footer says {count}")
    except (OSError, pa.ArrowException, ValueError, OverflowError) as error:  # text is not UTF-8; dates after year 9999
        raise_unless_damage(error)
        problem = error
    for lost in range(index, first + count):
        yield lost, problem


def raise_unless_damage(error: Exception) -> None:
    """Raise errors of the storage. pyarrow reports damage as ArrowException or as a plain OSError without errno."""
    if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
        raise error


@dataclass(frozen=True)
class _Cells:
    """How the rows of one file become images."""

    uri: str
    shard_id: str
    image_column: str
    reading: Reading

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        id_column = [self.reading.id_column] if self.reading.id_column else []
        return list(dict.fromkeys([self.image_column, *id_column, *self.reading.columns]))

    def image(self, index: int, row: Row | Exception) -> Encoded:
        """The image of a row, or of a row that could not be read."""
        position = f"{self.shard_id}/{index:08d}"  # before the path: Hugging Face stores base names, which repeat
        uri = f"{redact_uri(self.uri)}#{index}"
        if isinstance(row, Exception):
            error = ImageError("unreadable", f"the Parquet file is damaged here: {row}"[:500])
            return Encoded(index, position, uri, error=error)
        cell = row[self.image_column]
        path = cell.get("path") if isinstance(cell, dict) else None
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        named = row[self.reading.id_column] if self.reading.id_column else None
        name = (f"{position}/{path}" if path else position) if named is None else str(named)
        extra = {column: row[column] for column in self.reading.columns}
        image = Encoded(index, readable(name), uri, data, extra=extra)
        if data is None and path:  # Hugging Face stores only a path for files next to the table
            place = relative_to(self.uri.rsplit("/", 1)[0], path)
            folders.fill(image, place, self.reading.storage_options)
            if image.error is not None:  # `uri` names the row
                image.error = ImageError(image.error.kind, f"{redact_uri(place)}: {image.error.message}")
        elif data is None:
            image.error = ImageError("missing", f"column {self.image_column!r} is null")
        return image
