"""Columns of the input that a job names: which formats have them, and what is said where they are missing."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from sapiens_ray.engine.assemble import Contents, make_unit
from sapiens_ray.errors import InputError
from sapiens_ray.execution.preflight import prepare_job, save_job
from sapiens_ray.job.config import Job
from sapiens_ray.planning.columns import type_of
from sapiens_ray.planning.plan import images_in
from sapiens_ray.planning.subset import Subset
from sapiens_ray.sources import Encoded, Reading, lists
from tests.archives import tar_bytes, write_parquet, write_tar
from tests.conftest import read_output, write_photos

COUNT = 6


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", COUNT)


@pytest.fixture
def tar(tmp_path, photos):
    """Every image has a caption, the first three a rating, which is a whole number in the first."""
    members = []
    for number, file in enumerate(photos):
        fields = {"caption": f"photo {number}", "boxes": [[0, 0, 50, 60]]}
        fields |= {"rating": [4, 4.5, 5][number]} if number < 3 else {}
        members += [(file.name, file.read_bytes()), (f"{file.stem}.json", json.dumps(fields).encode())]
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes(members))
    return path


HINT = "; leave it out, or mend it"


def refusal(path):
    with pytest.raises(InputError) as caught:
        prepare_job(Job.load(path))
    return str(caught.value)


def pose(model, column):
    return [{"task": "pose", "keypoints": 17, "checkpoint": str(model), "boxes": {"column": column}}]


def test_a_column_that_no_first_record_of_a_tar_has_is_refused(write_job, tmp_path, tar, model):
    said = refusal(write_job(tar, tasks=pose(model, "boxez")))
    assert said == (
        f"tasks[0].boxes.column: none of the first 6 images in {tar} has a field 'boxez' in its <key>.json; did you "
        "mean 'boxes'? the fields are key, caption, boxes, rating"
    )
    said = refusal(write_job(tar, input={"columns": ["text"]}))
    assert said == (
        f"input.columns: none of the first 6 images in {tar} has a field 'text' in its <key>.json; the fields are key, "
        "caption, boxes, rating"
    )
    bare = tmp_path / "bare.tar"
    write_tar(bare, write_photos(tmp_path / "more", 2))
    said = refusal(write_job(bare, input={"columns": ["caption"]}))
    assert "none of the first 2 images" in said and "`tar --sort=name`" in said, said
    assert "'boxes'" in refusal(write_job(bare, tasks=pose(model, "boxes")))


def test_a_column_that_only_some_records_have_is_taken(write_job, tar, model):
    prepared = prepare_job(Job.load(write_job(tar, input={"columns": ["rating", "key"]}, tasks=pose(model, "boxes"))))
    assert prepared.plan.extra_schema == pa.schema([("key", pa.string()), ("rating", pa.float64())])


@pytest.mark.parametrize("kind", ["tar", "parquet", "jsonl", "csv"])
def test_a_column_of_boxes_without_boxes_is_refused(write_job, tmp_path, photos, tar, model, kind):
    """Before a label is written; the first records are enough to see it."""
    captions = [f"photo {number}" for number in range(COUNT)]
    if kind == "parquet":
        rows = {"image": [file.read_bytes() for file in photos], "caption": captions}
        pa.parquet.write_table(pa.table(rows), tmp_path / "x.parquet")
    elif kind != "tar":
        lines = [json.dumps({"path": str(file), "caption": f"photo {n}"}) for n, file in enumerate(photos)]
        if kind == "csv":
            lines = ["path,caption", *(f"{file},photo {number}" for number, file in enumerate(photos))]
        (tmp_path / f"x.{kind}").write_text("\n".join(lines))
    said = refusal(write_job(tmp_path / f"x.{kind}", tasks=pose(model, "caption")))
    assert said == (
        f"tasks[0].boxes.column: 'caption' holds no boxes in {tmp_path}/x.{kind}, but 'photo 0' and the like; it "
        "should hold [[x1, y1, x2, y2], …]"
    )


@pytest.mark.parametrize(
    "cells",
    [
        [None, "nonsense", [[0, 0, 5, 5]], 7, None, None],  # some are boxes
        [None, None, None, None, "nonsense", "of few"],
        [[[10, 10, 5, 5]]] * 6,  # wrong ones, but boxes
        [[], [[0, 0, 10**400, 5]], [[0, 0, 5, 5, 10**400]], "[" * 100_000, "", None],
    ],
)
def test_wrong_boxes_of_some_images_are_errors_of_their_rows(write_job, tmp_path, photos, model, cells):
    lines = [json.dumps({"path": str(file), "boxes": cell}) for file, cell in zip(photos, cells, strict=True)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    assert prepare_job(Job.load(write_job(tmp_path / "x.jsonl", tasks=pose(model, "boxes")))).expected == COUNT
    for cell in cells:
        unit = make_unit([Encoded(0, "x", "x", b"x", extra={"boxes": cell})], pa.schema([]), Contents(("boxes",)))
        assert unit.rows["error_kind"][0].as_py() in (None, "bad_boxes")


def test_an_output_that_was_begun_goes_on_with_what_its_column_holds(write_job, tmp_path, photos, model):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"path": str(photos[0]), "boxes": [[0, 0, 5, 5]]}) + "\n")
    job = Job.load(write_job(path, tasks=pose(model, "boxes")))
    prepared = prepare_job(job)
    prepared.settle_units(4, 512 << 20)
    save_job(prepared)
    others = [json.dumps({"path": str(file), "boxes": "text"}) for file in photos[1:]]
    path.write_text("\n".join([json.dumps({"path": str(photos[0]), "boxes": "text"}), *others]))
    assert prepare_job(job).expected == COUNT


def test_only_the_columns_of_boxes_of_a_parquet_file_are_looked_at(write_job, tmp_path, photos, model):
    days = pa.array([3_000_000] * COUNT, pa.date32())  # after the year 9999, where Python's dates end
    images, boxes = [file.read_bytes() for file in photos], [[[0.0, 0.0, 5.0, 5.0]]] * COUNT
    pa.parquet.write_table(pa.table({"image": images, "taken": days, "boxes": boxes}), tmp_path / "x.parquet")
    path = write_job(tmp_path / "x.parquet", tasks=pose(model, "boxes"), input={"columns": ["taken"]})
    assert prepare_job(Job.load(path)).expected == COUNT


def test_only_the_first_tars_are_opened(write_job, tmp_path, tar, monkeypatch):
    from sapiens_ray.sources import webdataset

    for number in range(30):
        (tmp_path / f"y{number:02d}.tar").write_bytes(tar.read_bytes())
    opened = []
    original = webdataset.first_records
    monkeypatch.setattr(webdataset, "first_records", lambda uri, *rest: opened.append(uri) or original(uri, *rest))
    prepare_job(Job.load(write_job(str(tmp_path / "y*.tar"), input={"columns": ["caption"]})))
    assert opened == [str(tmp_path / f"y{number:02d}.tar") for number in range(4)]


def test_a_field_of_mixed_types_is_refused(write_job, tmp_path, tar):
    (tmp_path / "y.tar").write_bytes(tar_bytes([("o.json", b'{"rating": "five"}'), ("o.jpg", b"\xff\xd8\xff")]))
    path = write_job([str(tar), str(tmp_path / "y.tar")], input={"columns": ["rating"]})
    assert refusal(path) == f"input.columns: 'rating' mixes types, 4 and 'five', in {tar}, {tmp_path}/y.tar{HINT}"
    large = tmp_path / "large.jsonl"
    large.write_text("".join(f'{{"path": "{number}.jpg", "n": {1 << number}}}\n' for number in (1, 65)))
    path = write_job(str(large), input={"columns": ["n"]})
    assert refusal(path) == f"input.columns: 'n' holds {1 << 65}, which does not fit 64 bits, in {large}{HINT}"


def test_a_column_that_some_lines_of_a_list_leave_out_is_null_there(write_job, tmp_path, photos, model):
    lines = ['{"path": "photos/000.jpg", "n": 1, "boxes": []}', '{"path": "photos/001.jpg", "n": null}']
    (tmp_path / "l.jsonl").write_text("\n".join(lines))
    prepared = prepare_job(
        Job.load(write_job(str(tmp_path / "l.jsonl"), input={"columns": ["n"]}, tasks=pose(model, "boxes")))
    )
    assert prepared.plan.extra_schema.field("n").type == pa.int64()
    entries = list(lists.SOURCE.entries(str(tmp_path / "l.jsonl"), "", Reading(passthrough=("n",), labels=("boxes",))))
    assert [entry.extra for entry in entries] == [{"n": 1, "boxes": []}, {"n": None}], "not given is not nobody"
    said = refusal(write_job(str(tmp_path / "l.jsonl"), input={"columns": ["m"]}))
    assert said == f"input.columns: {tmp_path}/l.jsonl, line 1: no column 'm'; it has path, n, boxes"


@pytest.mark.parametrize(("name", "text"), [("x.csv", ""), ("x.csv", "path,n\n"), ("x.jsonl", "\n"), ("x.txt", "")])
def test_a_list_without_images_is_refused_as_what_it_is(write_job, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert refusal(write_job(str(tmp_path / name))) == f"input.uri: no image is named in {tmp_path}/{name}"


def test_a_file_that_cannot_be_read_is_told_before_the_run(write_job, tmp_path):
    for name in ("a.parquet", "b.parquet"):
        (tmp_path / name).write_text("no table")
    prepared = prepare_job(Job.load(write_job(str(tmp_path / "*.parquet"))))
    (note,) = prepared.notes
    start = f"{tmp_path}/a.parquet cannot be read, and becomes an error row if its turn comes: "
    assert note.startswith(f"{start}Parquet magic bytes not found")
    assert prepared.expected == 2


def test_a_damaged_first_tar_does_not_decide(write_job, tmp_path, tar):
    (tmp_path / "a.tar").write_bytes(tar.read_bytes()[:700])
    path = write_job([str(tmp_path / "a.tar"), str(tar)], input={"columns": ["caption"]})
    assert prepare_job(Job.load(path)).plan.extra_schema.names == ["key", "caption"]


@pytest.mark.parametrize(
    ("uri", "settings", "message"),
    [
        (
            "photos",
            {"columns": ["caption"]},
            "input.columns: 'caption' cannot be copied, since {}/photos has no columns",
        ),
        ("photos", {"id_column": "name"}, "input.id_column: {}/photos has no column 'name': only Parquet files and"),
        ("photos", {"image_column": "jpg"}, "input.image_column: {}/photos has no column 'jpg'"),
        ("photos/000.jpg", {"columns": ["x"]}, "input.columns: 'x' cannot be copied, since {}/photos/000.jpg has no"),
        ("x.tar", {"id_column": "name"}, "input.id_column: {}/x.tar has no column 'name'"),
        ("x.tar", {"image_column": "jpg"}, "leave out input.image_column"),
    ],
)
def test_what_a_format_cannot_give_is_refused_by_name(write_job, tmp_path, tar, uri, settings, message):
    assert message.format(tmp_path) in refusal(write_job(tmp_path / uri, input=settings))


def test_settings_for_one_format_of_several_are_fine(write_job, tmp_path, photos, tar):
    write_parquet(tmp_path / "t.parquet", photos)
    uris = [str(tmp_path / "photos"), str(tar), str(tmp_path / "t.parquet")]
    assert prepare_job(Job.load(write_job(uris, input={"id_column": "name", "image_column": "image"}))).plan.shards


def test_fields_of_tars_arrive_in_the_output(cluster, write_job, tmp_path, tar, monkeypatch):
    """Also of a tar that is not opened before the start: text in a column of numbers is null, with a note."""
    import sapiens_ray as sr
    from sapiens_ray.planning import growth

    monkeypatch.setattr(growth, "FIRST_FILES", 1)
    odd = [("o.json", b'{"caption": 7, "rating": "five"}'), ("o.jpg", (tmp_path / "photos" / "000.jpg").read_bytes())]
    (tmp_path / "y.tar").write_bytes(tar_bytes(odd))
    path = write_job([str(tar), str(tmp_path / "y.tar")], input={"columns": ["caption", "rating"]}, unit_size=4)
    summary = sr.run(sr.Job.load(path))
    what = "input.columns: values of 'rating' that are not double, its planned type, are null"
    assert summary.notes == [f"{what}, such as 'five' of y.tar/o.jpg"]
    rows = read_output(tmp_path / "job-out").to_pylist()
    assert [(row["caption"], row["rating"], row["key"]) for row in rows] == [
        ("photo 0", 4.0, "000"), ("photo 1", 4.5, "001"), ("photo 2", 5.0, "002"),
        *((f"photo {number}", None, f"{number:03d}") for number in range(3, 6)), ("7", None, "o"),
    ]  # fmt: skip


def test_an_output_that_was_begun_without_the_columns_of_its_tars_goes_on_without_them(write_job, tmp_path, tar):
    path = write_job(tar)
    save_job(prepare_job(Job.load(path)))
    record = tmp_path / "job-out" / "job.yaml"
    record.write_text(record.read_text().replace("columns: []", "columns: [caption]"))
    (tmp_path / "z.tar").write_bytes(tar.read_bytes())
    later = write_job([str(tar), str(tmp_path / "z.tar")], input={"columns": ["caption"]})
    prepared = prepare_job(Job.load(later))
    assert not prepared.restarted and prepared.plan.extra_schema.names == ["key"]


def test_tars_without_a_record_do_not_count_among_the_first(write_job, tmp_path, tar):
    for number in range(4):
        write_tar(tmp_path / f"a{number}.tar", [])
    path = write_job(str(tmp_path / "*.tar"), input={"columns": ["caption"]})
    assert prepare_job(Job.load(path)).plan.extra_schema == pa.schema([("key", pa.string()), ("caption", pa.string())])
    tar.unlink()
    schema = prepare_job(Job.load(path)).plan.extra_schema
    assert schema.names == ["key", "caption"], "if no tar has a record, the column is there, and null"


def test_a_task_that_reads_a_column_refuses_new_input_without_columns(write_job, tmp_path, tar, model):
    save_job(prepare_job(Job.load(write_job(tar, tasks=pose(model, "boxes")))))
    both = write_job([str(tar), str(tmp_path / "photos")], tasks=pose(model, "boxes"))
    said = refusal(both)
    assert said.startswith(f"tasks[0].boxes.column: 'boxes' must be read from the input, but {tmp_path}/photos has no")


@pytest.mark.parametrize("pattern", ["*.tar", "{0..1}.tar"])
def test_settings_that_several_tars_cannot_follow_are_refused(write_job, tmp_path, photos, pattern):
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", photos)
    assert "input.id_column" in refusal(write_job(str(tmp_path / pattern), input={"id_column": "name"}))


def test_an_earlier_output_numbers_the_images_of_tars_as_before(write_job, tmp_path, tar):
    """With an `include` that chooses JSON members, too: they were error rows with numbers of their own."""
    settings = {"include": ["*"], "columns": ["caption"]}
    path = write_job(tar, input={"include": ["*"]})
    save_job(prepare_job(Job.load(path)))
    record = tmp_path / "job-out" / "job.yaml"
    record.write_text(record.read_text().replace("columns: []", "columns: [caption]"))
    prepared = prepare_job(Job.load(write_job(tar, input=settings)))
    assert not prepared.restarted and prepared.reading.passthrough == ()
    assert images_in(prepared.plan.shards[0], prepared.reading) == 2 * COUNT
    fresh = prepare_job(Job.load(write_job(tar, name="fresh", input=settings)))
    assert images_in(fresh.plan.shards[0], fresh.reading) == COUNT
    limited = prepare_job(Job.load(write_job(tar, name="limited", input=settings)), subset=Subset(50))
    assert limited.growth.chosen == {0: ((0, COUNT),)}


@pytest.mark.parametrize(
    ("kind", "values", "kept"),
    [
        (pa.int64(), [1, 0.97, 4.0, None, "x", True], [1, None, 4, None, None, None]),
        (pa.float64(), [1, 0.97, None], [1.0, 0.97, None]),
        (pa.string(), ["a", 7, {"b": [1]}, [1, 2], None], ["a", "7", '{"b": [1]}', "[1, 2]", None]),
        (pa.list_(pa.int64()), [[1, 2], [1.5, 2], None], [[1, 2], None, None]),
        (pa.struct([("a", pa.int64())]), [{"a": 1}, {"a": 1, "b": 2}], [{"a": 1}, None]),
    ],
)
def test_values_are_never_cut_to_their_type(kind, values, kept):
    encoded = [Encoded(index, str(index), "", b"x", extra={"v": value}) for index, value in enumerate(values)]
    unit = make_unit(encoded, pa.schema([("v", kind)]))
    assert unit.rows["v"].to_pylist() == kept
    assert bool(unit.notes) == (kept.count(None) > values.count(None))


def test_lists_and_objects_of_tars_are_text(write_job, tmp_path, tar):
    prepared = prepare_job(Job.load(write_job(tar, input={"columns": ["boxes", "caption"]})))
    assert prepared.plan.extra_schema.field("boxes").type == pa.string()


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ([None, 1, 1.5, "a"], "mixes types, 1 and 'a'"),
        ([True, 2], "mixes types, True and 2"),
        ([-(2**63), "a"], "mixes types, -9223372036854775808 and 'a'"),
        ([1, 2**70], "holds 1180591620717411303424, which does not fit 64 bits"),
        ([[1], ["a"]], "has no single type ("),
        ([1, 2**53 + 1, 1.5], "has no single type ("),
    ],
)
def test_the_message_about_a_column_without_a_type(values, what):
    with pytest.raises(InputError) as caught:
        type_of("n", values, "x.jsonl")
    said = str(caught.value)
    assert said.startswith(f"input.columns: 'n' {what}") and said.endswith(f", in x.jsonl{HINT}")


def test_half_of_an_emoji_is_text():
    caption = json.loads('"cut \\ud83d"')
    assert type_of("caption", ["whole", caption], "x.jsonl") == pa.string()
    images = [Encoded(0, "a.jpg", "a.jpg", b"", extra={"caption": caption, "n": caption})]
    rows = make_unit(images, pa.schema([("caption", pa.string()), ("n", pa.int64())])).rows
    assert rows["caption"].to_pylist() == ["cut \\ud83d"] and rows["n"].to_pylist() == [None]


def test_a_photo_that_a_list_names_twice_has_two_pictures(cluster, write_job, tmp_path, photos):
    import sapiens_ray as sr

    lines = ["photos/000.jpg", "photos/001.jpg", "photos/000.jpg", "photos/000.jpg"]
    (tmp_path / "l.txt").write_text("\n".join(lines))
    sr.run(sr.Job.load(write_job(str(tmp_path / "l.txt"))))
    rows = read_output(tmp_path / "job-out").to_pylist()
    ids = ["photos/000.jpg", "photos/001.jpg", "photos/000.jpg#2", "photos/000.jpg#3"]
    assert [row["image_id"] for row in rows] == ids
    assert len({row["visualization"] for row in rows}) == 4
    assert all((tmp_path / "job-out" / row["visualization"]).is_file() for row in rows)
    assert sr.run(sr.Job.load(write_job(str(tmp_path / "l.txt")))).already_done == 4
