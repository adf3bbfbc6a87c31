"""Reading Parquet files without threads of Arrow.

Those outlive the call, and a process that exits at that moment may abort ('terminate called without an active
exception', exit code -6). `pq.read_table`, `use_threads` and `pre_buffer` start them, the last for all of a file, which
is then in memory at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray.storage.files import Folder


def open_parquet(stream: IO[bytes]) -> pq.ParquetFile:
    """A file whose parts are read when they are asked for; callers read with `use_threads=False`."""
    return pq.ParquetFile(stream, pre_buffer=False)


def read_table(folder: Folder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One file, or some of its columns."""
    with folder.open(name) as stream, open_parquet(stream) as file:
        return file.read(columns=None if columns is None else list(columns), use_threads=False)
