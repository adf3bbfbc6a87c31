"""Error rows: how many there are of each kind, a few of each to show, and all of them one after the other.

The metadata of every file counts its error rows, so rows are read only from files that have some.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray.errors import OutputError
from sapiens_ray.output.done import list_units
from sapiens_ray.output.layout import data_file
from sapiens_ray.output.schema import read_errors
from sapiens_ray.storage import Folder, translate_errors
from sapiens_ray.storage.parquet import open_parquet
from sapiens_ray.units import Examples, Row, UnitName

EXAMPLES = 2  # of each kind
MAX_TEXT = 300  # characters of an image id or a message in an example
COLUMNS = ["image_id", "uri", "shard", "index", "error_kind", "error"]
EXAMPLE_COLUMNS = ["image_id", "error_kind", "error"]


def count_errors(rows: pa.Table) -> dict[str, int]:
    """Error rows by kind."""
    return dict(Counter(kind for kind in rows["error_kind"].to_pylist() if kind is not None))


def examples_in(rows: pa.Table) -> Examples:
    """The first error rows of each kind in a table with `image_id`, `error_kind` and `error`."""
    found: Examples = {}
    bad = rows.select(EXAMPLE_COLUMNS).filter(rows["error_kind"].is_valid())
    for row in bad.to_pylist():
        one = {"image_id": _capped(row["image_id"]), "error": _capped(row["error"])}
        add_examples(found, {row["error_kind"]: [one]})
    return found


def add_examples(known: Examples, more: Examples) -> None:
    """Add examples of another unit to the known ones, up to `EXAMPLES` of each kind."""
    for kind, examples in more.items():
        kept = known.setdefault(kind, [])
        for one in examples:
            if len(kept) < EXAMPLES and one not in kept:
                kept.append(one)


def _capped(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def errors_in_files(output: Folder, names: Iterable[UnitName]) -> tuple[Counter[str], Examples]:
    """Error rows by kind, and examples of each. Rows are read only from as many files as the examples need."""
    total: Counter[str] = Counter()
    examples: Examples = {}
    for name, errors in _counts(output, list(names)):
        total.update(errors)
        if any(len(examples.get(kind, ())) < EXAMPLES for kind in errors):
            for rows in _error_rows(output, name, EXAMPLE_COLUMNS):
                add_examples(examples, examples_in(rows))
    return total, examples


def iterate_errors(output: Folder) -> Iterator[Row]:
    """All error rows in order, each once, with a few in memory at a time: the `COLUMNS`.

    A run may merge files meanwhile. Then the new listing is continued after the last row.
    """
    reached: dict[int, int] = {}  # shard -> the index after its last row
    for _ in range(10):
        try:
            yield from _not_reached(output, reached)
            return
        except FileNotFoundError:
            continue
    yield from _not_reached(output, reached)


def first_errors(output: Folder, counts: dict[str, int], limit: int) -> Iterator[Row]:
    """The first error rows of each kind, at most `limit`. counts: how many there are; nothing is read after them."""
    left = {kind: min(count, limit) for kind, count in counts.items()}
    rows = iterate_errors(output)
    while any(left.values()):
        row = next(rows, None)
        if row is None:
            return
        if left.get(row["error_kind"], 0) > 0:
            left[row["error_kind"]] -= 1
            yield row


def _not_reached(output: Folder, reached: dict[int, int]) -> Iterator[Row]:
    for name, errors in _counts(output, list_units(output)):
        if not errors or name.stop <= reached.get(name.shard, 0):
            continue
        for rows in _error_rows(output, name, COLUMNS):
            for row in rows.to_pylist():
                if row["index"] >= reached.get(name.shard, 0):
                    reached[name.shard] = row["index"] + 1
                    yield row
        reached[name.shard] = name.stop


def _counts(output: Folder, names: Sequence[UnitName]) -> Iterator[tuple[UnitName, dict[str, int]]]:
    """Error rows by kind of every file, in order, from its metadata."""

    def one(name: UnitName) -> dict[str, int]:
        with _opened(output, name) as stream:
            return read_errors(pq.read_schema(stream).metadata)

    pool = ThreadPoolExecutor(output.threads)
    try:
        yield from zip(names, pool.map(one, names), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _error_rows(output: Folder, name: UnitName, columns: list[str]) -> Iterator[pa.Table]:
    """The error rows of a file, batch by batch."""
    with _opened(output, name) as stream, open_parquet(stream) as file:
        for batch in file.iter_batches(columns=columns, use_threads=False):
            rows = pa.Table.from_batches([batch])
            yield rows.filter(rows["error_kind"].is_valid())


@contextlib.contextmanager
def _opened(output: Folder, name: UnitName) -> Iterator[IO[bytes]]:
    """A file of labels. Raises FileNotFoundError if there is none, since a merge removes files, and OutputError if it
    is something else."""
    with output.open(data_file(name)) as stream:
        try:
            with translate_errors(OutputError, f"output.uri: {output.join(data_file(name))} is not a file of labels"):
                yield stream
        except OutputError as error:
            if isinstance(error.__cause__, FileNotFoundError):  # a remote file, removed after it was opened
                raise error.__cause__ from None
            raise
