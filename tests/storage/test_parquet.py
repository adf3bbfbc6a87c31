"""Parts of Parquet files, on a disk and on a remote storage."""

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sapiens_ray.storage import Folder
from sapiens_ray.storage.files import filesystem
from sapiens_ray.storage.parquet import _Parts, batches_of_groups, open_parquet, read_groups

ROWS = 40


@pytest.fixture(params=["disk", "remote"])
def folder(request, tmp_path):
    """A folder with a file whose map column holds nearly all bytes, in row groups of 8."""
    folder = Folder(str(tmp_path) if request.param == "disk" else f"memory://{uuid.uuid4().hex}")
    random = np.random.default_rng(0)
    persons = [[{"score": float(row), "points": [1.0] * 5}] * (row % 3) for row in range(ROWS)]
    table = pa.table(
        {"name": [f"{row}.jpg" for row in range(ROWS)], "map": [random.bytes(20_000) for _ in range(ROWS)],
         "other": [random.bytes(20_000) for _ in range(ROWS)], "persons": persons, "size": list(range(ROWS))}
    )  # fmt: skip
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, row_group_size=8)
    folder.write("x.parquet", memoryview(buffer.getvalue()))
    return folder


def read(folder: Folder, groups: list[int], columns: list[str]) -> pa.Table:
    with folder.open("x.parquet") as stream, open_parquet(stream) as file:
        return read_groups(folder, "x.parquet", file, groups, columns)


def test_columns_of_some_groups(folder):
    found = read(folder, [1, 4], ["name", "persons.list.element.score", "size"])
    rows = [*range(8, 16), *range(32, 40)]
    assert found.to_pylist() == [
        {"name": f"{row}.jpg", "persons": [{"score": float(row)}] * (row % 3), "size": row} for row in rows
    ]


@pytest.mark.parametrize("folder", ["remote"], indirect=True)
def test_maps_are_not_fetched(folder, monkeypatch):
    fs, _ = filesystem(folder.uri)
    fetched = []
    original = type(fs).cat_ranges

    def cat_ranges(self, paths, starts, stops, **options):
        fetched.extend(stop - start for start, stop in zip(starts, stops, strict=True))
        return original(self, paths, starts, stops, **options)

    monkeypatch.setattr(type(fs), "cat_ranges", cat_ranges)
    read(folder, [0, 1, 2, 3, 4], ["name", "size"])
    assert 0 < sum(fetched) < 20_000, "less than one map"
    assert len(fetched) == 6, "maps lie between them; the size of a group lies beside the name of the next one"


@pytest.mark.parametrize("folder", ["remote"], indirect=True)
def test_a_failing_storage_is_an_error(folder):
    with folder.open("x.parquet") as stream, open_parquet(stream) as file:
        folder.delete("x.parquet")
        with pytest.raises(FileNotFoundError):
            read_groups(folder, "x.parquet", file, [0], ["name"])


def test_batches_of_groups(folder):
    with folder.open("x.parquet") as stream, open_parquet(stream) as file:
        large = 1 << 30
        assert list(batches_of_groups(file.metadata, ["name"], 20, large)) == [(0, [0, 1]), (16, [2, 3]), (32, [4])]
        each = [(0, [0]), (8, [1]), (16, [2]), (24, [3]), (32, [4])]
        assert list(batches_of_groups(file.metadata, ["name"], 1, large)) == each
        assert list(batches_of_groups(file.metadata, ["name"], 99, large)) == [(0, [0, 1, 2, 3, 4])]
        assert list(batches_of_groups(file.metadata, ["name"], 99, 1)) == each, "no more bytes than that"


def test_parts_refuse_what_is_not_there():
    parts = _Parts([10, 50], [b"abcde", b"xyz"])
    parts.seek(12)
    assert (parts.read(2), parts.tell()) == (b"cd", 14)
    parts.seek(50)
    assert parts.read() == b"xyz"
    parts.seek(20)
    with pytest.raises(OSError, match="byte 20 was not fetched"):
        parts.read(4)
