"""Tars as a source: order, damage at every byte, names, and the JSON beside an image."""

from __future__ import annotations

import gzip
import io
import tarfile

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapiens_ray import storage
from sapiens_ray.engine.assemble import Contents, make_unit
from sapiens_ray.sources import Encoded, Entry, Reading, folders, parquet, webdataset
from sapiens_ray.units import Done
from tests.archives import tar_bytes, write_parquet
from tests.conftest import write_photos
from tests.sources.drain import drain

MEMBERS = [(f"dir/{number}.a.jpg", bytes([number]) * (300 * number + 1)) for number in range(4)]
NOTHING = Done()


def read_tar(path, data, done=NOTHING, include=()):
    path.write_bytes(data)
    found, total = drain(webdataset.read(str(path), "x.tar", done, Reading(include=tuple(include))))
    assert [image.index for image in found] == [index for index in range(total) if not done.has(index)]
    return found


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_gives_its_images_in_order(tmp_path, format):
    members = [*MEMBERS, ("n" * 150 + "/é.png", b"long"), ("key.json", b"{}"), ("key.txt", b""), ("./dot.JPG", b"dot")]
    found = read_tar(tmp_path / "x.tar", tar_bytes(members, format=format))
    expected = [*MEMBERS, ("n" * 150 + "/é.png", b"long"), ("dot.JPG", b"dot")]
    assert [(image.image_id, image.data) for image in found] == [(f"x.tar/{name}", data) for name, data in expected]
    assert [image.extra["key"] for image in found[:4]] == ["dir/0", "dir/1", "dir/2", "dir/3"]
    assert found[0].uri.endswith("x.tar#dir/0.a.jpg")


def test_several_images_of_one_key_and_members_without_suffix(tmp_path):
    jpeg = b"\xff\xd8\xff\xe0 something"
    members = [("a.1.jpg", b"1"), ("a.2.jpg", b"2"), ("a", jpeg), ("b", b"no image"), ("c.img", jpeg), ("d.cls", b"7")]
    found = read_tar(tmp_path / "x.tar", tar_bytes(members))
    assert [image.image_id for image in found] == ["x.tar/a.1.jpg", "x.tar/a.2.jpg", "x.tar/a", "x.tar/c.img"]
    assert [image.extra["key"] for image in found] == ["a", "a", "a", "c"]
    assert found[2].data == jpeg
    chosen = read_tar(tmp_path / "y.tar", tar_bytes(members), include=["*.1.jpg", "*.cls"])
    assert [image.data for image in chosen] == [b"1", b"7"]


def test_every_truncation_of_a_tar_is_reported(tmp_path):
    whole = tar_bytes(MEMBERS)
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        stops = [member.offset_data + member.size for member in tar]
    end = len(tar_bytes(MEMBERS, end=False))
    for cut in range(0, end + 512, 101):
        *rows, damage = read_tar(tmp_path / "x.tar", whole[:cut])
        readable = sum(stop <= cut for stop in stops)
        assert damage.error.kind == "shard_damaged" and damage.image_id == "x.tar", cut
        assert [image.data for image in rows if image.error is None] == [data for _, data in MEMBERS[:readable]]
        assert [image.error.kind for image in rows[readable:]] in ([], ["unreadable"])
    found = read_tar(tmp_path / "x.tar", whole[: end + 512])
    assert [image.error for image in found] == [None] * 4, "one block of zeros ends the archive"


def test_every_truncation_of_a_compressed_tar_is_reported(tmp_path):
    whole = gzip.compress(tar_bytes(MEMBERS), 1)
    for cut in range(0, len(whole), 7):
        *rows, damage = read_tar(tmp_path / "x.tar", whole[:cut])
        assert damage.error.kind == "shard_damaged", cut
        good = [image for image in rows if image.error is None]
        assert [image.data for image in good] == [data for _, data in MEMBERS[: len(good)]]
        assert len(rows) - len(good) <= 1


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_a_damaged_tar_never_raises_and_never_ends_silently(tmp_path_factory, data):
    whole = bytearray(tar_bytes(MEMBERS))
    start = data.draw(st.integers(0, len(tar_bytes(MEMBERS, end=False)) - 1))
    garbage = data.draw(st.binary(min_size=1, max_size=700))
    whole[start : start + len(garbage)] = garbage
    found = read_tar(tmp_path_factory.mktemp("tar") / "x.tar", bytes(whole))
    names = {name for name, _ in MEMBERS}
    seen = {image.image_id.removeprefix("x.tar/") for image in found}
    if not names <= seen:
        # a header was overwritten: its member is missing or has another name, and this must be reported
        assert any(image.error for image in found) or seen - names or _still_a_tar(bytes(whole))


def _still_a_tar(data: bytes) -> bool:
    """Whether the damaged tar still looks intact (only names or unchecked fields were hit)."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return len(tar.getmembers()) > 0
    except tarfile.TarError:
        return False


def test_done_ranges_of_a_tar_are_skipped(tmp_path):
    found = read_tar(tmp_path / "x.tar", tar_bytes(MEMBERS), Done(((0, 1), (2, 3))))
    assert [image.index for image in found] == [1, 3]
    packed = gzip.compress(tar_bytes(MEMBERS))
    assert [image.index for image in read_tar(tmp_path / "x.tar.gz", packed, Done(((0, 3),)))] == [3]


def test_two_members_of_the_same_name_have_two_ids(tmp_path):
    found = read_tar(tmp_path / "x.tar", tar_bytes([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3")]))
    assert [(image.image_id, image.data) for image in found] == [
        ("x.tar/a.jpg", b"1"), ("x.tar/b.jpg", b"2"), ("x.tar/a.jpg#2", b"3"),
    ]  # fmt: skip


def test_a_negative_size_does_not_send_the_reader_back(tmp_path):
    info = tarfile.TarInfo("a.txt")
    info.size = 1024
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" + (2**88 - 1024).to_bytes(11)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    whole = tar_bytes(MEMBERS)
    found = read_tar(tmp_path / "x.tar", bytes(header) + whole)
    assert found[0].error.kind == "shard_damaged"
    assert [image.data for image in found[1:]] == [data for _, data in MEMBERS]


def test_a_failing_storage_is_not_damage(tmp_path, monkeypatch):
    """A row that says 'damaged' is permanent; a reset connection is not."""
    (tmp_path / "x.tar").write_bytes(tar_bytes(MEMBERS))
    write_parquet(tmp_path / "x.parquet", write_photos(tmp_path, 9), row_group_size=3)

    class Resetting(io.FileIO):
        def read(self, size=-1):
            if 2000 < self.tell() < 20_000:
                raise ConnectionResetError(104, "reset by peer")
            return super().read(size)

    monkeypatch.setattr(storage, "open_read", lambda uri, options=None: Resetting(uri))
    with pytest.raises(ConnectionResetError):
        drain(webdataset.read(str(tmp_path / "x.tar"), "x.tar", NOTHING, Reading()))
    with pytest.raises(ConnectionResetError):
        drain(parquet.read(str(tmp_path / "x.parquet"), "x.parquet", NOTHING, Reading()))
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        drain(webdataset.read(str(tmp_path / "gone.tar"), "gone.tar", NOTHING, Reading()))


def test_reading_leaks_no_file_descriptors(tmp_path):
    import os

    (tmp_path / "folder.jpg").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    drain(folders.read([Entry(str(tmp_path / "folder.jpg"), "x")] * 50, NOTHING, {}))
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_links_in_a_tar_are_rows_too(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("link.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "../../etc/passwd"
        tar.addfile(info)
    (image,) = read_tar(tmp_path / "x.tar", buffer.getvalue())
    assert image.error.kind == "unreadable" and "link" in image.error.message


def test_boxes_are_read_from_the_json_next_to_the_image(tmp_path):
    members = [
        ("a.json", b'{"boxes": [[1, 2, 3, 4]], "other": 1}'),
        ("a.jpg", b"\xff\xd8\xff a"),
        ("b.jpg", b"\xff\xd8\xff b"),
        ("b.crop.jpg", b"\xff\xd8\xff b2"),
        ("b.json", b'{"boxes": []}'),
        ("b.meta.json", b'{"boxes": [[0, 0, 1, 1]]}'),
        ("c.jpg", b"\xff\xd8\xff c"),
        ("d.json", b'{"boxes": [[5, 6, 7, 8]]}'),
        ("e.jpg", b"\xff\xd8\xff e"),
        ("e.json", b'{"boxes": [[1, 2'),
        ("f/g.jpg", b"\xff\xd8\xff g"),
        ("f/g.json", b'{"boxes": [[9, 9, 10, 10]]}'),
    ]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))

    def read(done: Done) -> list[Encoded]:
        return drain(webdataset.read(str(tmp_path / "x.tar"), "x.tar", done, Reading(labels=("boxes",))))[0]

    found = read(NOTHING)
    assert [(image.image_id, image.extra.get("boxes", "not given")) for image in found] == [
        ("x.tar/a.jpg", [[1, 2, 3, 4]]),
        ("x.tar/b.jpg", []),
        ("x.tar/b.crop.jpg", []),
        ("x.tar/c.jpg", "not given"),
        ("x.tar/e.jpg", "not given"),
        ("x.tar/f/g.jpg", [[9, 9, 10, 10]]),
    ]
    assert [image.error.kind if image.error else None for image in found] == [None] * 4 + ["bad_boxes", None]
    assert "e.json cannot be used" in str(found[4].error)
    resumed = read(Done(((0, 2), (3, 5)), 6))
    assert [(image.index, image.extra["boxes"]) for image in resumed] == [(2, []), (5, [[9, 9, 10, 10]])]


def test_a_tar_in_which_all_images_share_a_key_gives_errors_and_does_not_fill_memory(tmp_path):
    members = [(f"frame.{number}.jpg", b"\xff\xd8\xff") for number in range(300)]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    found, total = drain(webdataset.read(str(tmp_path / "x.tar"), "x.tar", NOTHING, Reading(labels=("boxes",))))
    assert total == len(found) == 300
    assert {image.error.kind for image in found if image.error} == {"bad_boxes"}
    assert all(image.error for image in found), "no image may silently have no persons"


def test_the_fields_of_the_json_of_a_tar_are_carried_over(tmp_path):
    members = [
        ("a.jpg", b"\xff\xd8\xff a"),
        ("a.json", b'{"caption": "one", "score": 0.5, "key": "their own", "unread": 1}'),
        ("b.jpg", b"\xff\xd8\xff b"),
        ("c.jpg", b"\xff\xd8\xff c"),
        ("c.json", b'{"caption": "cut off'),
        ("d.1.jpg", b"\xff\xd8\xff d"),
        ("d.2.jpg", b"\xff\xd8\xff d"),
        ("d.json", b'{"caption": "both", "score": null}'),
    ]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    reading = Reading(passthrough=("caption", "score"))
    found, total = drain(webdataset.read(str(tmp_path / "x.tar"), "x.tar", NOTHING, reading))
    assert [(image.extra.get("caption"), image.extra.get("score"), image.extra["key"]) for image in found] == [
        ("one", 0.5, "a"), (None, None, "b"), (None, None, "c"), ("both", None, "d"), ("both", None, "d"),
    ]  # fmt: skip
    assert total == 5 and not any(image.error for image in found), "labels do not need the captions"
    note = "input.columns: some <key>.json of tars cannot be read; their values are null"
    assert [image.note for image in found] == ["", webdataset.NO_JSON, note, "", ""]
    assert make_unit(found, pa.schema([("caption", pa.string())])).notes == (webdataset.NO_JSON, note)
    with_boxes = Reading(passthrough=("caption",), labels=("boxes",))
    found, _ = drain(webdataset.read(str(tmp_path / "x.tar"), "x.tar", NOTHING, with_boxes))
    assert [image.error.kind if image.error else None for image in found] == [None, None, "bad_boxes", None, None]


def test_an_image_whose_json_is_elsewhere_in_the_tar_says_so(tmp_path):
    boxes = b'{"boxes": [[1, 2, 3, 4]]}'
    members = [("a.jpg", b"\xff\xd8\xff a"), ("b.json", boxes), ("b.jpg", b"\xff\xd8\xff b"), ("a.json", boxes)]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    reading = Reading(labels=("boxes",))
    found, _ = drain(webdataset.read(str(tmp_path / "x.tar"), "x.tar", NOTHING, reading))
    unit = make_unit(found, pa.schema([]), Contents(box_columns=("boxes",)))
    assert unit.rows["error"].to_pylist() == [f"column 'boxes': missing for this image; {webdataset.NO_JSON}", None]
    assert "tar --sort=name" in webdataset.NO_JSON and unit.notes == (webdataset.NO_JSON,)
    with_captions = Reading(passthrough=("boxes",))
    found, _ = drain(webdataset.read(str(tmp_path / "x.tar"), "x.tar", NOTHING, with_captions))
    assert make_unit(found, pa.schema([("boxes", pa.string())])).notes == (webdataset.NO_JSON,)
    found, _ = drain(webdataset.read(str(tmp_path / "x.tar"), "x.tar", NOTHING, Reading()))
    assert not any(image.note for image in found)


@pytest.mark.parametrize("damaged", ["empty", "text", "cut"])
def test_a_damaged_tar_is_not_said_to_be_packed_wrongly(tmp_path, damaged):
    members = [("a.jpg", b"\xff\xd8\xff a"), ("a.json", b'{"n": 1}'), ("b.jpg", b"\xff\xd8\xff b"), ("b.json", b"{}")]
    whole = tar_bytes(members)
    (tmp_path / "x.tar").write_bytes({"empty": b"", "text": b"no tar " * 300, "cut": whole[: 6 * 512 + 100]}[damaged])
    found, _ = drain(webdataset.read(str(tmp_path / "x.tar"), "x.tar", NOTHING, Reading(passthrough=("n",))))
    assert found[-1].error.kind == "shard_damaged" and not any(image.note for image in found)
    assert [image.extra.get("n") for image in found[:-1]] == ([1, None] if damaged == "cut" else [])


def test_an_image_whose_json_is_lost_before_it_is_not_said_to_be_packed_wrongly(tmp_path):
    image, boxes = b"\xff\xd8\xff", b'{"n": 1}'
    members = [("a.json", boxes), ("a.jpg", image), ("b.json", boxes), ("b.jpg", image), ("c.jpg", image)]
    damaged = bytearray(tar_bytes(members))
    damaged[4 * 512 : 4 * 512 + 300] = b"\xaa" * 300  # the header of b.json
    (tmp_path / "x.tar").write_bytes(damaged)
    found, _ = drain(webdataset.read(str(tmp_path / "x.tar"), "x.tar", NOTHING, Reading(passthrough=("n",))))
    assert [(one.image_id, one.extra.get("n"), one.note) for one in found] == [
        ("x.tar/a.jpg", 1, ""), ("x.tar", None, ""), ("x.tar/b.jpg", None, ""),
        ("x.tar/c.jpg", None, webdataset.NO_JSON),
    ]  # fmt: skip
    found, _ = drain(webdataset.read(str(tmp_path / "x.tar"), "x.tar", NOTHING, Reading(passthrough=("key",))))
    assert not any(one.note for one in found), "the key is there without a JSON"


def test_the_first_records_of_a_tar(tmp_path):
    members = [
        ("a.jpg", b"\xff\xd8\xff a"),
        ("a.json", b'{"caption": "one"}'),
        ("b.json", b'{"caption": "two", "n": 1}'),
        ("b.1.jpg", b"\xff\xd8\xff b"),
        ("b.2.jpg", b"\xff\xd8\xff b"),
        ("c.json", b"[1]"),
        ("c.jpg", b"\xff\xd8\xff c"),
        ("only.json", b'{"caption": "of no image"}'),
    ]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    b = {"key": "b", "caption": "two", "n": 1}
    records = [{"key": "a", "caption": "one"}, b, b, {"key": "c"}]
    for count in range(6):
        found = webdataset.SOURCE.first_records(str(tmp_path / "x.tar"), Reading(), count)
        assert found == records[:count]
    assert list(webdataset.SOURCE.read_numbers(str(tmp_path / "x.tar"), Reading())) == [0, 1, 2, 3]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members)[:2000])
    assert webdataset.SOURCE.first_records(str(tmp_path / "x.tar"), Reading(), 9) == records[:1]


@given(st.integers(0, 9000))
@settings(max_examples=30)
def test_images_are_counted_as_they_are_read(tmp_path_factory, cut):
    """Also in a damaged tar, with its rows for damage."""
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    path.write_bytes(tar_bytes(MEMBERS)[:cut])
    _, total = drain(webdataset.read(str(path), "x.tar", NOTHING, Reading()))
    assert len(list(webdataset.SOURCE.read_numbers(str(path), Reading()))) == total
