"""Error rows: their counts, examples, and all of them, read only from files that have some."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sapiens_ray.errors import OutputError
from sapiens_ray.output import error_rows
from sapiens_ray.output.done import list_units
from sapiens_ray.output.error_rows import errors_in_files, first_errors, iterate_errors
from sapiens_ray.output.summary import Summary
from sapiens_ray.output.writing import merge_shard
from sapiens_ray.storage import Folder
from tests.outputs import Image, write_output, write_unit_of

GOOD: Image = ("good.jpg", None, None)


def bad(number: int, kind: str = "corrupt") -> Image:
    return f"{number}.jpg", kind, f"why {number}"


def example(number: int) -> dict[str, str]:
    return {"image_id": f"{number}.jpg", "error": f"why {number}"}


def test_a_report_has_two_examples_of_each_kind(tmp_path):
    report = write_unit_of(Folder(str(tmp_path)), [bad(1), GOOD, bad(2, "empty"), bad(3), bad(4)])
    assert report.errors == {"corrupt": 3, "empty": 1}
    assert report.examples == {"corrupt": [example(1), example(3)], "empty": [example(2)]}


def test_long_ids_and_messages_are_capped(tmp_path):
    report = write_unit_of(Folder(str(tmp_path)), [("i" * 300, "failed", "m" * 301), ("x", "failed", None)])
    assert report.examples["failed"] == [
        {"image_id": "i" * 300, "error": "m" * 299 + "…"}, {"image_id": "x", "error": ""},
    ]  # fmt: skip


def test_a_summary_keeps_two_examples_of_each_kind(tmp_path):
    summary = Summary(
        "job", str(tmp_path), expected=4, examples={"corrupt": [example(1)]}, errors=error_rows.Counter({"corrupt": 1})
    )
    output = Folder(str(tmp_path))
    for number in (2, 3):
        summary.add(write_unit_of(output, [bad(number), bad(9, "empty")], shard=number))
    assert summary.to_dict()["errors"] == {"corrupt": 3, "empty": 2}
    assert summary.to_dict()["examples"] == {"corrupt": [example(1), example(2)], "empty": [example(9)]}


@pytest.fixture
def read(monkeypatch):
    """The names of the files whose rows were read."""
    files: list[str] = []
    real = error_rows._error_rows

    def counted(output, name, columns):
        files.append(name.file)
        return real(output, name, columns)

    monkeypatch.setattr(error_rows, "_error_rows", counted)
    return files


def test_rows_are_read_only_from_as_many_files_as_examples_need(tmp_path, read):
    output = write_output(tmp_path, [GOOD], [bad(1)], [GOOD, GOOD], [bad(2), GOOD], [bad(3)], [bad(4, "empty")])
    assert errors_in_files(output, list_units(output)) == (
        {"corrupt": 3, "empty": 1}, {"corrupt": [example(1), example(2)], "empty": [example(4)]},
    )  # fmt: skip
    assert [file[:7] for file in read] == ["s000001", "s000003", "s000005"]


def test_all_error_rows_one_after_the_other(tmp_path, read):
    output = write_output(tmp_path, [GOOD, bad(1)], [GOOD], [bad(2, "empty"), GOOD, bad(3)])
    rows = list(iterate_errors(output))
    assert rows[0] == {
        "image_id": "1.jpg", "uri": "/photos/1.jpg", "shard": 0, "index": 1, "error_kind": "corrupt", "error": "why 1",
    }  # fmt: skip
    assert [(row["shard"], row["index"], row["error_kind"]) for row in rows] == [
        (0, 1, "corrupt"), (2, 0, "empty"), (2, 2, "corrupt"),
    ]  # fmt: skip
    assert [file[:7] for file in read] == ["s000000", "s000002"]


def test_no_file_is_read_after_the_rows_that_are_wanted(tmp_path, read):
    output = write_output(tmp_path, [bad(1), bad(2)], [bad(3, "empty"), bad(4)], [bad(5), bad(6, "empty")])
    rows = first_errors(output, {"corrupt": 4, "empty": 2}, 1)
    assert [row["image_id"] for row in rows] == ["1.jpg", "3.jpg"]
    assert [file[:7] for file in read] == ["s000000", "s000001"]


def test_a_merge_in_between_loses_and_doubles_no_row(tmp_path):
    output = write_output(tmp_path, [bad(0), bad(1)], [])
    parts = [(0, False), (2, False), (4, True)]
    (Path(output.uri) / "data" / list_units(output)[1].file).unlink()
    for start, last in parts:
        write_unit_of(output, [bad(10 + start), bad(11 + start)], shard=1, start=start, last=last)
    rows = iterate_errors(output)
    seen = [next(rows)["image_id"] for _ in range(3)]  # the third is in the first file of the second shard
    merge_shard(output, [name for name in list_units(output) if name.shard == 1])
    seen += [row["image_id"] for row in rows]
    assert seen == [f"{number}.jpg" for number in (0, 1, 10, 11, 12, 13, 14, 15)]


def test_a_file_that_holds_no_labels_is_named(tmp_path):
    output = write_output(tmp_path, [bad(1)])
    file = Path(output.uri) / "data" / list_units(output)[0].file
    file.write_bytes(b"nothing")
    with pytest.raises(OutputError, match=rf"{file} is not a file of labels"):
        errors_in_files(output, list_units(output))
    pq.write_table(pq.ParquetFile(Path(output.uri) / "plan.parquet").read(), file)
    assert errors_in_files(output, list_units(output)) == ({}, {})
