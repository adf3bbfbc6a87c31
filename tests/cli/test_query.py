"""`query`: which images it finds, in which order, and the lists that it writes."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sapiens_ray.planning.plan import Plan, Shard, save_plan
from tests.evaluation.labelled import person, write_labels

TASKS = [{"task": "seg"}, {"task": "pose", "keypoints": 17}]
POINTS = np.arange(34.0).reshape(17, 2)


@pytest.fixture
def output(tmp_path):
    """Seven rows in files of two: confidences 0.1 to 0.6, the third unknown, the last an error row."""
    confidences = [0.5, 0.1, None, 0.6, 0.3, 0.3, None]
    rows = [
        {
            "image_id": f"{number},x.jpg", "uri": f"/photos/{number},x.jpg", "seg_confidence": confidence,
            "seg": b"not decoded", "seg_classes": [0, number], "persons": [{**person(POINTS), "score": 0.5}] * number,
        }
        for number, confidence in enumerate(confidences)
    ]  # fmt: skip
    rows[-1] = {"image_id": "bad\n.jpg", "uri": "/photos/bad\n.jpg", "error_kind": "empty", "error": "zero bytes"}
    write_labels(tmp_path / "out", TASKS, rows, unit_size=2)
    return tmp_path / "out"


def ids(done) -> list[int]:
    assert done.code == 0, done.text
    return [int(row["image_id"].partition(",")[0]) for row in json.loads(done.out)["rows"]]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["seg_confidence < 0.6"], [0, 1, 4, 5]),
        (["seg_confidence < 0.55 and len(persons) > 0"], [1, 4, 5]),
        (["true", "--order-by", "seg_confidence", "--limit", "4"], [1, 4, 5, 0]),
        (["error_kind is null", "--order-by", "seg_confidence"], [1, 4, 5, 0, 3, 2]),
        (["error_kind is null", "--order-by", "seg_confidence", "--descending"], [3, 0, 4, 5, 1, 2]),
        (["list_contains(seg_classes, 4)"], [4]),
        (["len(persons) > 1", "--limit", "2"], [2, 3]),
        (["false"], []),
    ],
)
def test_what_is_found(command, output, arguments, found):
    assert ids(command("query", output, *arguments, "--json")) == found


def test_the_columns_that_are_shown(command, output):
    done = command("query", output, "seg_confidence < 0.4 and len(persons) > 3", "--columns", "width,seg_classes")
    assert done.out == (
        "image_id  seg_confidence  width  seg_classes\n"
        "4,x.jpg              0.3      8  [0, 4]\n"
        "5,x.jpg              0.3      8  [0, 5]\n"
        "2 images\n"
    )
    assert command("query", output, "true", "--limit", "1").out.endswith(
        "7 images, of which 1 are shown; --limit N shows more, --to writes all\n"
    )
    assert command("query", output, "error_kind = 'empty'").out == "image_id  error_kind\nbad .jpg  empty\n1 image\n"
    assert command("query", output, "true", "-q").out == "7\n"
    answer = json.loads(command("query", output, "width > 0", "--limit", "2", "--json").out)
    assert (answer["images"], len(answer["rows"])) == (7, 2), "the rest is counted"


def test_lists(command, output, tmp_path):
    where = "seg_confidence < 0.55 and len(persons) > 0"
    for name in ("a.txt", "a.csv", "a.jsonl", "a.parquet"):
        done = command("query", output, where, "--columns", "seg_classes", "--to", tmp_path / name, "--json")
        assert done.code == 0, done.text
        assert json.loads(done.out) == {
            "output": str(output), "where": where, "images": 3, "to": str(tmp_path / name), "in_archives": 0,
        }  # fmt: skip
    assert (tmp_path / "a.txt").read_text() == "/photos/1,x.jpg\n/photos/4,x.jpg\n/photos/5,x.jpg\n"
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == ["1,x.jpg", "4,x.jpg", "5,x.jpg"]
    assert list(rows[0]) == ["image_id", "uri", "shard", "index", "seg_confidence", "seg_classes"], (
        "persons only if they are asked for"
    )
    assert json.loads(rows[0]["seg_classes"]) == [0, 1]
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["uri"] for line in lines] == [row["uri"] for row in rows]
    table = pq.read_table(tmp_path / "a.parquet")
    assert table["image"].to_pylist()[0] == {"bytes": None, "path": "/photos/1,x.jpg"}
    assert table.column_names == ["image_id", "shard", "index", "seg_confidence", "seg_classes", "image"]


def test_a_place_that_cannot_be_written_is_named(command, output, tmp_path):
    (tmp_path / "file").touch()
    done = command("query", output, "true", "--to", tmp_path / "file" / "x.csv")
    assert done.code == 1 and f"--to {tmp_path}/file/x.csv: cannot be written" in done.err, done.text


def test_persons_are_counted(command, output):
    done = command("query", output, "len(persons) = 2", "--columns", "persons")
    assert "2 entries" in done.out, done.text


def test_an_empty_list_has_its_header(command, output, tmp_path):
    assert command("query", output, "seg_confidence > 2", "--to", tmp_path / "none.csv").code == 0
    assert (tmp_path / "none.csv").read_text() == "image_id,uri,shard,index,seg_confidence\n"
    assert command("query", output, "seg_confidence > 2", "--to", tmp_path / "none.parquet").code == 0
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["confidence > 1"], "where: 'confidence > 1': Binder Error: Referenced column \"confidence\" not found"),
        (["true", "--columns", "seg"], "columns: seg holds encoded maps"),
        (["true", "--columns", "nothing"], "columns: no column 'nothing'; the columns are image_id"),
        (["true", "--order-by", "image_id"], "order-by: 'image_id' is VARCHAR"),
        (["true", "--descending"], "--descending: belongs to --order-by"),
        (["true", "--to", "list.xml"], "--to list.xml: a list ends with .txt, .csv, .jsonl, .parquet"),
        (["error_kind = 'empty'", "--to", "list.txt"], "cannot be a line of a .txt"),
    ],
)
def test_what_is_refused(command, output, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    done = command("query", output, *arguments)
    assert done.code == 2 and message in done.err, done.text
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing is left behind"


def test_export_chooses_rows_in_the_same_way(command, tmp_path):
    rows = [
        {"image_id": f"{number}.jpg", "persons": [{**person(POINTS), "score": 0.5}] * number} for number in range(4)
    ]
    write_labels(tmp_path / "out", TASKS[1:], rows)
    where = ["--where", "len(persons) between 1 and 2"]
    done = command("export", tmp_path / "out", "--format", "coco", "--to", tmp_path / "coco", *where)
    assert done.code == 0, done.text
    found = json.loads((tmp_path / "coco" / "persons.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["1.jpg", "2.jpg"]
    assert len(found["annotations"]) == 3
    done = command("export", tmp_path / "out", "--format", "coco", "--to", tmp_path / "none", "--where", "width > 9")
    assert done.code == 2 and "no row of" in done.err and "meets --where 'width > 9'" in done.err


def test_images_in_archives_are_counted_and_the_first_is_named(command, tmp_path):
    uris = ["/x/\x1b[31m.tar", "/x/b.tar", "/photos/c.jpg"]
    rows = [{"image_id": f"{number}.jpg", "uri": uri} for number, uri in enumerate(uris)]
    folder = write_labels(tmp_path / "out", TASKS, rows)
    save_plan(Plan([Shard(0, "webdataset", "/x", "/x#0", images=3)], 64, pa.schema([])), folder)
    done = command("query", folder.uri, "true", "--to", tmp_path / "list.csv")
    assert done.code == 0, done.text
    assert "3 of them lie in tars, Parquet files or videos, such as /x/\\x1b[31m.tar: a list cannot name" in done.err
    assert (
        json.loads(command("query", folder.uri, "true", "--to", tmp_path / "b.csv", "--json").out)["in_archives"] == 3
    )
