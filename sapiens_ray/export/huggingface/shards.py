"""Parquet files of bounded size, named `data/train-00000-of-00012.parquet` once it is known how many there are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray.export.huggingface.features import IMAGE_TYPE
from sapiens_ray.storage import TEMPORARY, Folder
from sapiens_ray.storage.parquet import leaf_paths
from sapiens_ray.storage.renaming import rename

DATA = "data"
_SHARD = re.compile(rf"{DATA}/train-\d{{5,}}-of-\d{{5,}}\.parquet")
SHARD_BYTES = 350 << 20  # after which a file ends; the hub shows files of some 500 MB at most well
GROUP_ROWS, GROUP_BYTES = 100, 64 << 20  # of a row group, which is what a reader of one row fetches


@dataclass(frozen=True)
class Written:
    """What was written. files: names below the target. rows: of all files. bytes: in memory, as Arrow counts them.
    file_bytes: on the storage."""

    files: list[str]
    rows: int
    bytes: int
    file_bytes: int


def write_shards(target: Folder, tables: Iterator[pa.Table], schema: pa.Schema) -> Written:
    """Write tables to files that end when they have SHARD_BYTES; one row group is in memory at a time. Files of an
    earlier export are removed when all new ones are there."""
    if not target.remote:
        target.sweep(DATA, deep=False)
    groups = _row_groups(tables, schema)
    ahead: pa.Table | None = next(groups, schema.empty_table())
    rows = size = file_bytes = files = 0
    while ahead is not None:
        with target.replacing(_unnamed(files)) as path:
            with _writer(path, schema) as writer:
                while ahead is not None and path.stat().st_size < SHARD_BYTES:
                    writer.write_table(ahead)
                    rows, size = rows + ahead.num_rows, size + ahead.nbytes
                    ahead = next(groups, None)
            file_bytes += path.stat().st_size
        files += 1
    names = [shard_name(number, files) for number in range(files)]
    with ThreadPoolExecutor(target.threads) as pool:
        list(pool.map(lambda number: rename(target, _unnamed(number), names[number]), range(files)))
    for name in earlier_shards(target):
        if name not in names:
            target.delete(name)
    return Written(names, rows, size, file_bytes)


def earlier_shards(target: Folder) -> list[str]:
    """The files of a dataset that an export wrote to this folder."""
    return [name for name in (f"{DATA}/{file}" for file in target.files(DATA)) if is_shard(name)]


def are_complete(shards: Sequence[str]) -> bool:
    """Whether these are all files of one export: their names say how many there are."""
    return bool(shards) and list(shards) == [shard_name(number, len(shards)) for number in range(len(shards))]


def shard_name(number: int, files: int) -> str:
    """The name of a data file, of so many."""
    return f"{DATA}/train-{number:05d}-of-{files:05d}.parquet"


def is_shard(name: str) -> bool:
    """Whether a file of a dataset has the name of one of its data files."""
    return _SHARD.fullmatch(name) is not None


def _unnamed(number: int) -> str:
    """The name of a file before the number of files is known. Readers of `data/train-*` do not see it."""
    return f"{DATA}/{TEMPORARY}train-{number:05d}.parquet"


def _row_groups(tables: Iterator[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables of 100 rows; of fewer where rows are large."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        while sum(one.num_rows for one in held) >= GROUP_ROWS or sum(one.nbytes for one in held) >= GROUP_BYTES:
            together = pa.concat_tables(held)
            yield together.slice(0, GROUP_ROWS)
            rest = together.slice(GROUP_ROWS)
            held = [rest] if rest.num_rows else []
    if held:
        yield pa.concat_tables(held)


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Images and maps as they are, which are compressed already or would not shrink; all else with zstd. The index of
    pages lets the hub show a page of rows without reading the file."""
    leaves = leaf_paths(schema)
    images = {f"{field.name}.bytes" for field in schema if field.type == IMAGE_TYPE}
    encoded = images | {field.name for field in schema if pa.types.is_binary(field.type)}
    return pq.ParquetWriter(
        path,
        schema,
        compression={leaf: "none" if leaf in encoded else "zstd" for leaf in leaves},
        use_dictionary=False,
        write_statistics=[leaf for leaf in leaves if leaf not in encoded],
        write_page_index=True,
    )
