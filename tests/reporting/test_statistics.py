"""Statistics against plain loops over the same rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sapiens_ray.output.chunks import read_chunks
from sapiens_ray.output.reading import labels_of
from sapiens_ray.reporting import ReportOptions, make_report
from sapiens_ray.reporting.rows import ShownRows
from sapiens_ray.reporting.statistics import Statistics
from tests.reporting.made import error_row, random_row, schema, write_rows


def made_rows(count: int = 60) -> list[dict]:
    random = np.random.default_rng(5)
    rows = [random_row(f"{number:03d}.jpg", random) for number in range(count)]
    for number in (3, 17, 18):
        rows[number] = error_row(f"{number:03d}.jpg", "corrupt" if number < 18 else "empty")
    rows[20]["persons"] = []
    rows[21]["seg_classes"], rows[21]["seg_area"], rows[21]["seg_class_confidence"] = [0], [1.0], [None]
    return rows


def statistics_of(output):
    statistics = Statistics(labels_of(output), schema(), ShownRows(1000))
    statistics.add_all(read_chunks(output, statistics.columns))
    return statistics


def mean(values):
    values = list(values)
    return sum(values) / len(values)


@pytest.fixture(params=[True, False], ids=["confidence", "earlier"])
def found(request, tmp_path):
    """(rows, result, whether the output has columns of confidence)."""
    rows = made_rows()
    output = write_rows(tmp_path / "out", rows, files=3, confidence=request.param)
    return rows, statistics_of(output).result(), request.param


def test_counts(found):
    rows, result, _ = found
    assert (result["images"], result["ok"], result["errors"]) == (60, 57, {"corrupt": 2, "empty": 1})
    good = [row for row in rows if not row.get("error_kind")]
    pixels = [row["width"] * row["height"] / 1e6 for row in good]
    assert result["photos"]["megapixels"]["median"] == pytest.approx(float(np.median(pixels)))
    assert result["photos"]["width"]["max"] == max(row["width"] for row in good)


def test_classes(found):
    rows, result, has_confidence = found
    good = [row for row in rows if not row.get("error_kind")]
    seg = result["tasks"]["seg"]
    every_pixel = sum(row["width"] * row["height"] for row in good)
    for number, one in enumerate(seg["classes"]):
        with_it = [row for row in good if number in row["seg_classes"]]
        places = [row["seg_classes"].index(number) for row in with_it]
        placed = list(zip(with_it, places, strict=True))
        pixels = sum(row["seg_area"][at] * row["width"] * row["height"] for row, at in placed)
        sure = [row["seg_class_confidence"][at] for row, at in placed]
        sure = [value for value in sure if value is not None]
        assert (one["id"], one["photos"]) == (number, len(with_it))
        assert one["share_of_photos"] == pytest.approx(len(with_it) / len(good))
        assert one["share_of_pixels"] == pytest.approx(pixels / every_pixel, rel=1e-6)
        assert one["confidence"] == (pytest.approx(mean(sure), rel=1e-6) if sure and has_confidence else None)
        for other in range(28):
            both = sum(other in row["seg_classes"] for row in with_it)
            assert seg["together"][number][other] == both
    known = [row["seg_confidence"] for row in good if row["seg_confidence"] is not None]
    if has_confidence:
        assert seg["confidence"]["mean"] == pytest.approx(mean(known), rel=1e-6)
        assert (seg["confidence"]["count"], seg["confidence"]["missing"]) == (len(known), len(good) - len(known))
    else:
        assert seg["confidence"]["count"] == 0


def test_persons(found):
    rows, result, has_confidence = found
    good = [row for row in rows if not row.get("error_kind")]
    pose = result["tasks"]["persons"]
    people = [person for row in good for person in row["persons"]]
    assert pose["persons"] == len(people)
    counts = [len(row["persons"]) for row in good]
    assert pose["persons_per_photo"] == [counts.count(number) for number in range(11)]
    sides = [math.sqrt((x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in (person["box"] for person in people)]
    assert pose["box_side_px"]["median"] == pytest.approx(float(np.median(sides)), rel=1e-5)
    assert pose["box_score"]["missing"] == sum(person["box_score"] is None for person in people)
    scores = [person["score"] if has_confidence else score_of(person) for person in people]
    assert pose["score"]["mean"] == pytest.approx(mean(scores), rel=1e-5)
    assert pose["visible_keypoints"]["mean"] == pytest.approx(mean(person["visible"] for person in people))
    for number, one in enumerate(pose["keypoints"]):
        assert one["mean_score"] == pytest.approx(mean(person["scores"][number] for person in people), rel=1e-5)
        assert one["visible"] == pytest.approx(mean(person["scores"][number] >= 0.3 for person in people))


def score_of(person) -> float:
    counted = [score for score in person["scores"] if score > 0.2]
    score = sum(counted) / len(counted) if counted else 0.0
    return score if person["box_score"] is None else score * person["box_score"]


def test_maps(found):
    rows, result, has_confidence = found
    good = [row for row in rows if not row.get("error_kind")]
    known = [row for row in good if row["depth_min"] is not None]
    depth, normal = result["tasks"]["depth"], result["tasks"]["normal"]
    assert depth["share_without_foreground"] == pytest.approx(1 - len(known) / len(good))
    assert depth["range"]["mean"] == pytest.approx(mean(row["depth_max"] - row["depth_min"] for row in known), rel=1e-5)
    if has_confidence:
        assert normal["length"]["mean"] == pytest.approx(mean(row["normal_length"] for row in known), rel=1e-5)
        assert normal["share_without_foreground"] == depth["share_without_foreground"]
    else:
        assert normal["share_without_foreground"] is None


def test_files_do_not_matter(tmp_path):
    rows = made_rows()
    results = [statistics_of(write_rows(tmp_path / str(files), rows, files=files)).result() for files in (1, 7)]
    for column in ("seg", "persons", "depth", "normal"):
        one, other = (result["tasks"][column] for result in results)
        assert one.keys() == other.keys()
    assert results[0]["tasks"]["seg"]["together"] == results[1]["tasks"]["seg"]["together"]
    assert results[0]["errors"] == results[1]["errors"]


def test_shown_rows(tmp_path):
    rows = made_rows(400)
    output = write_rows(tmp_path / "out", rows, files=2)
    statistics = Statistics(labels_of(output), schema(), ShownRows(250))
    statistics.add_all(read_chunks(output, statistics.columns))
    shown = statistics.shown.finish()
    assert shown.rows.num_rows == 250 and not shown.complete
    ids = shown.rows["image_id"].to_pylist()
    assert ids == sorted(ids) and len(set(ids)) == 250
    assert {"003.jpg", "017.jpg", "018.jpg"} == {ids[place] for place in shown.errors}, "error rows are never left out"
    sure = [row for row in rows if row.get("seg_confidence") is not None]
    least = sorted(sure, key=lambda row: row["seg_confidence"])
    # Three tasks have 200 each, which do not fit with the sample; those of the first task come first.
    assert [ids[place] for place in shown.least["seg"]] == [row["image_id"] for row in least[:200]]


def without(output, change) -> None:
    """Rewrite the files of an output as a package would that stores less. change: of a table."""
    for file in (Path(output.uri) / "data").iterdir():
        pq.write_table(change(pq.read_table(file)), file)


def boxes_only(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("persons")
    boxes = [None if row is None else [{"box": one["box"]} for one in row] for row in table["persons"].to_pylist()]
    kind = pa.list_(pa.struct([pa.field("box", pa.list_(pa.float32(), 4))]))
    return table.set_column(place, pa.field("persons", kind), pa.array(boxes, kind))


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("seg", lambda table: table.drop_columns(["seg_area"])),
        ("seg", lambda table: table.drop_columns(["seg_classes"])),
        ("persons", boxes_only),
        ("persons", lambda table: table.drop_columns(["persons"])),
    ],
)
def test_labels_without_the_columns_beside_them_have_no_statistics(tmp_path, column, change):
    output = write_rows(tmp_path / "out", made_rows(), files=2)
    whole = make_report(output, ReportOptions(thumbnails=0)).statistics["tasks"]
    without(output, change)
    report = make_report(output, ReportOptions(thumbnails=0))
    tasks = report.statistics["tasks"]
    assert tasks[column] == {"task": "pose" if column == "persons" else "seg"}
    assert {name: one for name, one in tasks.items() if name != column} == {
        name: one for name, one in whole.items() if name != column
    }
