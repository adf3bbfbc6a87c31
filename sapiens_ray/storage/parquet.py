"""Reading a whole Parquet file of a folder."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray.storage.files import Folder


def read_table(folder: Folder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One file, or some of its columns.

    Nowhere in this package by threads of Arrow, which `pq.read_table` and `use_threads` start: they outlive the call,
    and a process that exits at that moment may abort ('terminate called without an active exception', exit code -6).
    """
    with folder.open(name) as stream, pq.ParquetFile(stream) as file:
        return file.read(columns=None if columns is None else list(columns), use_threads=False)
