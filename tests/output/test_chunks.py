"""Every row once, also while files are merged, and where files overlap or differ in their columns."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from sapiens_ray.output import chunks
from sapiens_ray.output.chunks import leaves_of, read_chunks
from sapiens_ray.output.reading import chosen_rows
from sapiens_ray.storage import Folder
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
