"""Every row once, also while files are merged, and where files overlap or differ in their columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sapiens_ray as sr
from sapiens_ray.output import chunks, reading
from sapiens_ray.output.chunks import leaves_of, read_chunks
from sapiens_ray.output.reading import chosen_rows, iterate_rows
from sapiens_ray.storage import Folder
from sapiens_ray.storage.parquet import read_groups
from sapiens_ray.units import UnitName
from tests.reporting.made import random_row, write_file

COLUMNS = {"image_id": (), "shard": (), "index": (), "seg_confidence": (), "persons": ("scores",)}


def placed(start: int, stop: int) -> list[dict]:
    random = np.random.default_rng(1)
    return [{**random_row(f"{index:03d}.jpg", random), "shard": 0, "index": index} for index in range(start, stop)]


def ids(tables) -> list[str]:
    return [name for table in tables for name in table["image_id"].to_pylist()]


def expected(count: int) -> list[str]:
    return [f"{index:03d}.jpg" for index in range(count)]


def test_rows_that_two_files_share_are_read_once(tmp_path):
    (tmp_path / "data").mkdir()
    for start, stop in ((0, 30), (20, 50), (50, 64)):
        write_file(tmp_path, UnitName(0, start, stop, False), placed(start, stop))
    assert ids(read_chunks(Folder(str(tmp_path)), COLUMNS)) == expected(64)


def test_a_merge_meanwhile_loses_and_repeats_nothing(tmp_path):
    (tmp_path / "data").mkdir()
    parts = [UnitName(0, start, start + 8, start == 72) for start in range(0, 80, 8)]
    for part in parts:
        write_file(tmp_path, part, placed(part.start, part.stop))
    reading = read_chunks(Folder(str(tmp_path)), COLUMNS)
    first = next(reading)
    write_file(tmp_path, UnitName(0, 0, 80, True), placed(0, 80))
    for part in parts:
        (tmp_path / "data" / part.file).unlink()
    assert ids([first, *reading]) == expected(80)


def in_rows(folder: Folder) -> list[str]:
    return [row["image_id"] for row in iterate_rows(folder, ["image_id"])]


def test_all_readers_read_rows_of_two_files_once(tmp_path):
    (tmp_path / "data").mkdir()
    for start, stop in ((0, 30), (20, 50), (50, 64)):
        write_file(tmp_path, UnitName(0, start, stop, False), placed(start, stop))
    folder = Folder(str(tmp_path))
    assert in_rows(folder) == expected(64)
    assert sr.read_labels(tmp_path, columns=["image_id"])["image_id"].tolist() == expected(64)
    some = '"index" between 18 and 33'
    assert sr.read_labels(tmp_path, where=some)["image_id"].tolist() == expected(64)[18:34]
    assert in_rows(chosen_rows(folder, some)) == expected(64)[18:34]
    assert ids(read_chunks(chosen_rows(folder, some), COLUMNS)) == expected(64)[18:34]


@pytest.mark.parametrize("read", [lambda folder: (row["image_id"] for row in iterate_rows(folder, ["image_id"])),
                                  lambda folder: (name for table in read_chunks(folder, COLUMNS)
                                                  for name in table["image_id"].to_pylist())])  # fmt: skip
def test_a_run_that_merges_at_every_step_is_read_to_the_end(tmp_path, read):
    (tmp_path / "data").mkdir()
    shards = 30
    rows = {shard: [{**row, "shard": shard} for row in placed(0, 8)] for shard in range(shards)}
    for shard in range(shards):
        for start in (0, 4):
            write_file(tmp_path, UnitName(shard, start, start + 4, start == 4), rows[shard][start : start + 4])
    found = []
    for name in read(Folder(str(tmp_path))):
        found.append(name)
        if len(found) % 8 == 1:  # merge the next shard, which was listed already
            shard = min(len(found) // 8 + 3, shards - 1)
            if (tmp_path / "data" / UnitName(shard, 0, 4, False).file).exists():
                write_file(tmp_path, UnitName(shard, 0, 8, True), rows[shard])
                for start in (0, 4):
                    (tmp_path / "data" / UnitName(shard, start, start + 4, start == 4).file).unlink()
    assert found == expected(8) * shards


def test_files_that_are_gone_are_an_error(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    unit = UnitName(0, 0, 8, True)
    write_file(tmp_path, unit, placed(0, 8))
    monkeypatch.setattr(chunks, "list_units", lambda folder: [unit, UnitName(1, 0, 8, True)])
    for read in (lambda folder: list(read_chunks(folder, COLUMNS)), in_rows):
        with pytest.raises(FileNotFoundError):
            read(Folder(str(tmp_path)))


def test_only_row_groups_with_a_chosen_row_are_read(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    write_file(tmp_path, UnitName(0, 0, 90, True), placed(0, 90))  # row groups of 16
    read = []
    monkeypatch.setattr(reading, "read_groups", lambda *given: (read.append(list(given[3])), read_groups(*given))[1])
    where = '"index" in (40, 41)'
    assert sr.read_labels(tmp_path, where=where, columns=["image_id"])["image_id"].tolist() == ["040.jpg", "041.jpg"]
    assert read == [[0, 1, 2, 3, 4, 5], [2]], "the condition is read of all, the rest of the third"
    assert sr.read_labels(tmp_path, where='"index" = 99')["image_id"].tolist() == []


def test_names_with_dots(tmp_path):
    table = pa.table({"a": [1, 2], "a.b": [3, 4], "c.d": [[5], [6]]})
    pq.write_table(table, tmp_path / "t.parquet")
    schema = pq.ParquetFile(tmp_path / "t.parquet").schema
    assert leaves_of(schema, {"a.b": (), "c.d": ()}) == ["a.b", "c.d.list.element"]
    assert leaves_of(schema, {"a": (), "a.b": ()}) == ["a", "a.b"]


def test_large_files_are_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "ROWS_AT_A_TIME", 40)
    (tmp_path / "data").mkdir()
    write_file(tmp_path, UnitName(0, 0, 90, True), placed(0, 90))
    tables = list(read_chunks(Folder(str(tmp_path)), COLUMNS))
    assert ids(tables) == expected(90) and [table.num_rows for table in tables] == [32, 32, 26]


def test_only_the_wanted_columns_and_fields_are_read(tmp_path):
    (tmp_path / "data").mkdir()
    unit = UnitName(0, 0, 5, True)
    write_file(tmp_path, unit, placed(0, 5), confidence=False)
    (table,) = read_chunks(Folder(str(tmp_path)), COLUMNS)
    assert table.column_names == ["image_id", "shard", "index", "persons"], "what the file lacks is not there"
    assert [field.name for field in table.schema.field("persons").type.value_type] == ["scores"]
    found = leaves_of(pq.ParquetFile(tmp_path / "data" / unit.file).schema, {"persons": ("box", "score"), "seg": ()})
    assert found == ["seg", "persons.list.element.box.list.element"]


def test_a_filter_of_rows(tmp_path):
    (tmp_path / "data").mkdir()
    write_file(tmp_path, UnitName(0, 0, 30, True), placed(0, 30))

    folder = chosen_rows(Folder(str(tmp_path)), '"index" % 10 = 3 and seg_confidence is not null')
    tables = list(read_chunks(folder, COLUMNS))
    assert ids(tables) == ["003.jpg", "013.jpg", "023.jpg"]
