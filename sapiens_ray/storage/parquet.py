"""Reading Parquet files without threads of Arrow.

Those outlive the call, and a process that exits at that moment may abort ('terminate called without an active
exception', exit code -6). `pq.read_table`, `use_threads` and `pre_buffer` start them, the last for all of a file, which
is then in memory at once.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray.storage.files import Folder, filesystem
from sapiens_ray.storage.retries import retrying

GAP = 64 << 10  # bytes between two parts of a remote file that are fetched together


def open_parquet(stream: IO[bytes]) -> pq.ParquetFile:
    """A file whose parts are read when they are asked for; callers read with `use_threads=False`."""
    return pq.ParquetFile(stream, pre_buffer=False)


def leaf_paths(schema: pa.Schema) -> list[str]:
    """The columns of a Parquet file with this schema: the leaves of lists and structs are columns of their own."""
    probe = io.BytesIO()
    pq.write_table(schema.empty_table(), probe)
    columns = pq.ParquetFile(probe).schema
    return [columns.column(position).path for position in range(len(columns))]


def read_table(folder: Folder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One file, or some of its columns."""
    with folder.open(name) as stream, open_parquet(stream) as file:
        return file.read(columns=None if columns is None else list(columns), use_threads=False)


def group_spans(metadata: pq.FileMetaData) -> Iterator[tuple[int, int, int]]:
    """The row groups of a file: number, place of the first row, place after the last."""
    start = 0
    for group in range(metadata.num_row_groups):
        stop = start + metadata.row_group(group).num_rows
        yield group, start, stop
        start = stop


def batches_of_groups(
    metadata: pq.FileMetaData, columns: Collection[str], rows: int, size: int
) -> Iterator[tuple[int, list[int]]]:
    """The row groups of a file, as many together as have at most so many rows and bytes; a larger one alone. With the
    place of the first row of each batch. columns: the leaves that count for the bytes, which are those in memory."""
    together: list[int] = []
    first = held = 0
    for group, start, stop in group_spans(metadata):
        about = metadata.row_group(group)
        leaves = (about.column(position) for position in range(about.num_columns))
        large = sum(leaf.total_uncompressed_size for leaf in leaves if leaf.path_in_schema in columns)
        if together and (stop - first > rows or held + large > size):
            yield first, together
            together, held = [], 0
        if not together:
            first = start
        together.append(group)
        held += large
    if together:
        yield first, together


def read_groups(
    folder: Folder, name: str, file: pq.ParquetFile, groups: Sequence[int], columns: Sequence[str]
) -> pa.Table:
    """Columns of some row groups of an open file. columns: paths of leaves, such as `persons.list.element.score`.

    Of a remote file only these parts are fetched, all at the same time: its stream would read ahead by megabytes, and
    so fetch the maps between them.
    """
    if not folder.remote:
        return file.read_row_groups(list(groups), columns=list(columns), use_threads=False)
    fs, path = filesystem(folder.join(name), folder.options)
    ranges = _ranges(file.metadata, groups, set(columns))
    starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
    paths = [path] * len(ranges)
    parts = retrying(fs.cat_ranges, paths, starts, stops, on_error="raise", of=folder.uri) if ranges else []
    with pq.ParquetFile(_Parts(starts, parts), metadata=file.metadata, pre_buffer=False) as fetched:
        return fetched.read_row_groups(list(groups), columns=list(columns), use_threads=False)


def _ranges(metadata: pq.FileMetaData, groups: Sequence[int], columns: set[str]) -> list[tuple[int, int]]:
    """The bytes of the columns in the row groups, as half-open ranges; neighbours are joined."""
    found = []
    for group in groups:
        about = metadata.row_group(group)
        for position in range(about.num_columns):
            column = about.column(position)
            if column.path_in_schema in columns:
                start = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)))
                found.append((start, start + column.total_compressed_size))
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(found):
        if joined and start - joined[-1][1] <= GAP:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


class _Parts(io.RawIOBase):
    """A file of which only some parts are there."""

    def __init__(self, starts: Sequence[int], parts: Sequence[bytes]) -> None:
        super().__init__()
        self._parts = list(zip(starts, parts, strict=True))
        self._at = 0
        self._size = max((start + len(part) for start, part in self._parts), default=0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next bytes. Raises OSError for bytes that were not fetched."""
        for start, part in self._parts:
            if start <= self._at < start + len(part):
                found = part[self._at - start :][: None if size < 0 else size]
                self._at += len(found)
                return found
        if size == 0 or self._at >= self._size:
            return b""
        raise OSError(f"byte {self._at} was not fetched")
