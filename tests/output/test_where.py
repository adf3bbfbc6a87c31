"""Conditions on rows: what they choose, what of a file is read for them, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sapiens_ray as sr
from sapiens_ray.errors import ConfigError, OutputError
from sapiens_ray.output.reading import chosen_rows, iterate_rows
from sapiens_ray.output.where import Order, Where, _connection
from sapiens_ray.storage import Folder
from tests.outputs import write_output

PERSON = pa.struct([("score", pa.float32()), ("visible", pa.int32())])
ROWS = pa.table(
    {
        "index": pa.array(range(4), pa.int32()),
        "image_id": ["a.jpg", "b.jpg", "c's.jpg", "d.jpg"],
        "Width": pa.array([640, 1280, None, 320], pa.int32()),
        "seg": pa.array([b"png", None, b"png", b"png"]),
        "seg_confidence": pa.array([0.5, 0.9, None, 0.7], pa.float32()),
        "seg_classes": pa.array([[0, 3], [0], None, []], pa.list_(pa.int8())),
        "persons": pa.array(
            [[{"score": 0.5, "visible": 9}], [], None, [{"score": 0.9, "visible": 17}, {"score": 0.1, "visible": 1}]],
            pa.list_(PERSON),
        ),
        "box": pa.array([[1, 2], [3, 4], None, [5, 6]], pa.list_(pa.float32(), 2)),
    }
)
SCHEMA = ROWS.schema


@pytest.mark.parametrize(
    ("text", "chosen", "columns"),
    [
        ("seg_confidence < 0.6 and len(persons) > 0", [0], ("seg_confidence", "persons")),
        ("seg_confidence < 0.8", [0, 3], ("seg_confidence",)),  # null is not chosen
        ("not (seg_confidence < 0.8)", [1], ("seg_confidence",)),
        ("WIDTH between 300 and 700", [0, 3], ("Width",)),
        ("labels.width = 1280", [1], ("Width",)),
        ("persons[1].visible >= 17", [3], ("persons",)),
        ("len(list_filter(persons, lambda p: p.score > 0.4)) = 1", [0, 3], ("persons",)),
        ("list_contains(seg_classes, 3)", [0], ("seg_classes",)),
        ("persons[9].score > 0 or width < 500", [3], ("persons", "Width")),  # null or true
        ("width > 500) or (width < 400", [0, 1, 3], ("Width",)),  # brackets of its own
        ("image_id like '%''s%' -- a comment", [2], ("image_id",)),
        ("box[1] > 2", [1, 3], ("box",)),
        ("true", [0, 1, 2, 3], ()),
        ("null", [], ()),
    ],
)
def test_what_is_chosen_and_which_columns_are_read(text, chosen, columns):
    where = Where.parse(text, SCHEMA)
    assert where.columns == columns
    assert np.flatnonzero(where.mask(ROWS)).tolist() == chosen
    assert not where.mask(ROWS.slice(0, 0)).size
    again = pickle.loads(pickle.dumps(where))
    assert np.flatnonzero(again.mask(ROWS.select(again.read_columns))).tolist() == chosen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("seg_confidence <", "is no SQL: syntax error"),
        ("true) or (true; drop table labels", "syntax error"),
        ("confidence < 1", r"\"confidence\" not found.*the columns are index, image_id, Width, seg, seg_confidence"),
        ("width", "is INTEGER, not a condition"),
        ("sum(width) > 1", "aggregates"),
        ("width > (select max(width) from labels)", "no sub-queries and no window functions"),
        ("row_number() over () = 1", "no sub-queries and no window functions"),
        ("width in (select 1)", "no sub-queries"),
        ("random() < 0.5", r"random\(\) gives another answer each time.*hash\(image_id\)"),
        ("uuid() is null", "gives another answer each time"),
        ("COLUMNS(*) is not null", "names columns only by"),
        ("#1 = 0", "names columns only by"),
        ("labels::varchar like '%timeout%'", "names columns only by"),
        ("seg is null", "seg holds encoded maps"),
        ("true) union select (1", "is more than one expression"),
        ("true); select (true", "is more than one expression"),
        ("true) group by (width", "is more than one expression"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Where.parse(text, SCHEMA)


def test_no_file_is_read_by_a_condition(tmp_path):
    (tmp_path / "a.csv").write_text("x\n1\n")
    with _connection().cursor() as cursor, pytest.raises(duckdb.PermissionException):
        cursor.execute(f"from read_csv('{tmp_path}/a.csv')").fetchall()


def test_a_value_that_cannot_be_computed_is_an_error():
    where = Where.parse("image_id::int > 3", SCHEMA)
    with pytest.raises(ConfigError, match=r"image_id::int > 3.*Could not convert string 'a.jpg'"):
        where.mask(ROWS)


def test_orders_are_numbers():
    assert Order.parse("len(persons)", SCHEMA).values(ROWS).tolist()[:2] == [1, 0]
    values = Order.parse("seg_confidence", SCHEMA).values(ROWS)
    np.testing.assert_array_equal(values, np.array([0.5, np.float32(0.9), np.nan, np.float32(0.7)]))
    assert Order.parse("width > 500", SCHEMA).values(ROWS).tolist()[0] == 1
    assert Order.parse("seg_confidence", SCHEMA).values(ROWS.slice(0, 0)).size == 0
    with pytest.raises(ConfigError, match="order-by: 'image_id' is VARCHAR; rows are sorted by numbers"):
        Order.parse("image_id", SCHEMA)
    with pytest.raises(ConfigError, match="order-by: 'width desc' is no SQL"):
        Order.parse("width desc", SCHEMA)


@given(st.lists(st.one_of(st.none(), st.integers(-5, 5)), max_size=50), st.integers(-5, 5))
def test_rows_keep_their_order(values, bound):
    rows = pa.table({"index": pa.array(values, pa.int64())})
    where = Where.parse(f'"index" >= {bound}', rows.schema)
    assert where.mask(rows).tolist() == [value is not None and value >= bound for value in values]


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    """Two shards; of each the second image is an error row."""
    images = [
        [(f"{shard}/{number}.jpg", "empty" if number == 1 else None, None) for number in range(40)] for shard in (0, 1)
    ]
    return write_output(tmp_path / "output", *images)


def test_readers_see_chosen_rows_only(output):
    folder = chosen_rows(output, "error_kind is null and (\"index\" in (1, 2, 39) or image_id = '1/17.jpg')")
    ids = ["0/2.jpg", "0/39.jpg", "1/2.jpg", "1/17.jpg", "1/39.jpg"]
    assert [row["image_id"] for row in iterate_rows(folder, ["image_id"])] == ids
    frame = sr.read_labels(output.uri, columns=["image_id"], where=folder.where.text)
    assert frame["image_id"].tolist() == ids
    assert list(frame.columns) == ["image_id"]
    assert list(iterate_rows(chosen_rows(output, "error_kind = 'timeout'"), ["image_id"])) == []
    assert len(sr.read_labels(output.uri, where="false")) == 0
    assert chosen_rows(output, None) is output


def test_the_condition_is_checked_before_anything_is_read(tmp_path, output):
    with pytest.raises(ConfigError, match="not found"):
        sr.read_labels(output.uri, where="nothing = 1")
    with pytest.raises(OutputError, match="holds no labels"):
        sr.read_labels(tmp_path / "elsewhere", where="true")


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("len(list_filter(persons, lambda p: p.width > 1)) > 0", ("persons",)),
        ("labels.width > 1 and labels.face.height > 1", ("width", "face")),
        ("face.width > height", ("face", "height")),
    ],
)
def test_a_field_is_no_column(text, columns):
    """Structs have fields by the names of columns."""
    size = pa.struct([("width", pa.int32()), ("height", pa.int32())])
    schema = pa.schema([("persons", pa.list_(size)), ("face", size), ("width", pa.int32()), ("height", pa.int32())])
    assert Where.parse(text, schema).columns == columns
