"""Lists of images: .txt (one path per line), .csv (with a header) and .jsonl (objects, or bare strings).

Relative paths are relative to the list. Only the list is read here; its images are fetched by
`sources.folders.read`.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

from sapiens_ray import storage
from sapiens_ray.errors import InputError
from sapiens_ray.imaging.images import has_image_suffix
from sapiens_ray.sources.base import Entry, EntrySource, Reading, unused
from sapiens_ray.storage.uris import redact_uri, relative_to
from sapiens_ray.units import Row

PATH_COLUMNS = ("image", "path", "uri", "url", "file", "file_name", "filename", "image_path")
FIELD_LIMIT = 1 << 20
FIRST_LINES = 100  # of which one must have the columns that are read
JSON_OBJECT = re.compile(r"\s*\[?\s*\{\s*(\"|$)")  # not the name {0F3A-…}.jpg


class Lists(EntrySource):
    """Files that name images."""

    suffixes: ClassVar[tuple[str, ...]] = (".txt", ".csv", ".jsonl")

    def entries(self, uri: str, id_prefix: str, reading: Reading) -> Iterator[Entry]:
        """The entries of a list in its order. Raises InputError with the number of a line that cannot be used.

        Ids are the paths as written, relative ones with `id_prefix`; a path that occurs again gets `#2`. The objects of
        a .jsonl may leave out a column, if one of the first ones has it.
        """
        return _entries(uri, id_prefix, reading)


SOURCE = Lists()


def _entries(uri: str, id_prefix: str, reading: Reading) -> Iterator[Entry]:
    named, id_column = reading.columns, reading.id_column
    try:
        text = storage.read_bytes(uri, reading.storage_options).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise InputError(f"input.uri: cannot read the list {uri}: {error}") from None
    suffix = uri.lower().rsplit(".", 1)[-1]
    rows = {"csv": _csv_rows, "jsonl": _jsonl_rows}.get(suffix, _txt_rows)(text, uri)
    first = list(itertools.islice(rows, FIRST_LINES))
    _refuse_missing_columns(first, reading, uri)
    path_column: str | None = None
    ids: dict[str, int] = {}
    for line, row in itertools.chain(first, rows):
        if path_column is None:
            path_column = _choose_column(row, reading.image_column, uri)
        path = row.get(path_column)
        if not isinstance(path, str) or not path:
            raise InputError(f"input.uri: {uri}, line {line}: no path in column {path_column!r}")
        if len(path) > FIELD_LIMIT or _is_not_text(path):
            raise InputError(f"input.uri: {uri}, line {line}: not a path: {path[:40]!r} ({len(path)} characters)")
        relative = "://" not in path and not path.startswith("/")
        image_id = (id_prefix if relative else "") + path.removeprefix("./")
        image_id = redact_uri(image_id)
        if id_column and row.get(id_column) is not None:
            image_id = redact_uri(str(row[id_column]))
        elif not id_column:
            image_id = unused(image_id, ids)
        yield Entry(
            uri=relative_to(uri.rsplit("/", 1)[0], path),
            image_id=image_id,
            extra={column: row[column] for column in named if column in row},
        )


def _refuse_missing_columns(first: Sequence[tuple[int, Row]], reading: Reading, uri: str) -> None:
    """Raise InputError for a column to read that none of the first lines has."""
    for column in [*reading.columns, *([reading.id_column] if reading.id_column else [])]:
        if first and not any(column in row for _, row in first):
            line, row = first[0]
            line = 1 if uri.lower().endswith(".csv") else line  # which names the columns
            raise InputError(
                f"{reading.field_of(column)}: {uri}, line {line}: no column {column!r}; it has {_names(row)}"
            )


def _names(row: Row) -> str:
    return ", ".join(str(name) for name in row if name is not None)  # None: fields beyond those of the header


def _is_not_text(path: str) -> bool:
    """Whether a path contains a lone surrogate, which JSON can express and no file system accepts."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return True
    return False


def _txt_rows(text: str, uri: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines(): names may hold U+2028
        if JSON_OBJECT.match(line):
            raise InputError(
                f"input.uri: {uri}, line {number}: holds JSON where a path should be; a list of JSON objects, one per "
                "line, needs a name that ends with .jsonl (annotations of a dataset in one JSON file are no input)"
            )
        if line.strip():
            yield number, {"path": line.strip()}


def _csv_rows(text: str, uri: str) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(FIELD_LIMIT)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        _refuse_without_header(reader.fieldnames or (), uri)
        for row in reader:
            if None in row:  # the rest of a caption after its comma
                cells = len(reader.fieldnames or ()) + len(row[None])
                raise InputError(
                    f"input.uri: {uri}, line {reader.line_num}: {cells} values, but the first line names "
                    f"{len(reader.fieldnames or ())} columns; put values that hold commas in quotes"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"input.uri: {uri}, line {reader.line_num}: not valid CSV: {error}") from None


def _refuse_without_header(names: Sequence[str], uri: str) -> None:
    """Raise InputError for a first line that names no columns, or separates them otherwise than by commas."""
    if any(map(has_image_suffix, names)):
        raise InputError(
            f"input.uri: {uri}: the first line must hold the names of the columns, such as path,caption; it holds "
            f"{', '.join(names)}"
        )
    if len(names) == 1 and set(";\t") & set(names[0]):
        raise InputError(f"input.uri: {uri}: columns must be separated by commas; the first line is {names[0]!r}")


def _jsonl_rows(text: str, uri: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"input.uri: {uri}, line {number}: not valid JSON: {error}") from None
        if isinstance(row, str):
            row = {"path": row}
        if not isinstance(row, dict):
            raise InputError(f"input.uri: {uri}, line {number}: neither an object nor a string")
        yield number, row


def _choose_column(row: Row, image_column: str | None, uri: str) -> str:
    if image_column is not None:
        if image_column not in row:
            raise InputError(f"input.image_column: {uri} has no column {image_column!r}; it has {_names(row)}")
        return image_column
    known = [name for name in PATH_COLUMNS if name in row]
    if known:
        return known[0]
    if len(row) == 1:
        return next(iter(row))
    raise InputError(f"input.image_column: say which column of {uri} holds the paths; it has {_names(row)}")
