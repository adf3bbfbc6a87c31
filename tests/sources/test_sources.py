"""Parquet files, lists in all their forms, and folders as sources. Tars: test_tars.py."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sapiens_ray import storage
from sapiens_ray.errors import InputError
from sapiens_ray.sources import Entry, Reading, folders, lists, parquet
from sapiens_ray.units import Done
from tests.archives import write_parquet
from tests.conftest import write_photos
from tests.sources.drain import drain

NOTHING = Done()


def test_a_damaged_row_group_gives_one_error_row_per_image(tmp_path):
    files = write_photos(tmp_path / "photos", 9)
    path = tmp_path / "x.parquet"
    write_parquet(path, files, row_group_size=3, compression="none")
    metadata = pq.ParquetFile(path).metadata.row_group(1)
    data = bytearray(path.read_bytes())
    start = metadata.column(0).data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    found, total = drain(parquet.read(str(path), "x.parquet", Done(), Reading()))
    assert total == 9 and [image.index for image in found] == list(range(9))
    assert [image.error.kind if image.error else None for image in found] == [None] * 3 + ["unreadable"] * 3 + [
        None
    ] * 3
    assert found[8].data == files[8].read_bytes()


def test_a_parquet_file_without_footer_is_one_row(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and then nothing")
    (image,), total = drain(parquet.read(str(tmp_path / "x.parquet"), "x.parquet", Done(), Reading()))
    assert (image.error.kind, image.image_id, total) == ("shard_damaged", "x.parquet", 1)


def test_parquet_nulls_and_paths_next_to_the_table(tmp_path):
    (file,) = write_photos(tmp_path, 1)
    table = pa.table({"image": [{"bytes": None, "path": file.name}, {"bytes": None, "path": None}, None]})
    pq.write_table(table, tmp_path / "x.parquet")
    found, _ = drain(parquet.read(str(tmp_path / "x.parquet"), "x.parquet", Done(), Reading()))
    assert found[0].data == file.read_bytes()
    assert [image.error.kind for image in found[1:]] == ["missing", "missing"]


def test_the_image_column_is_found_or_must_be_named():
    two = pa.schema([("photo", pa.binary()), ("mask", pa.binary()), ("n", pa.int32())])
    assert parquet.choose_column(two, "mask", "x") == "mask"
    with pytest.raises(InputError, match="photo, mask"):
        parquet.choose_column(two, None, "x")
    with pytest.raises(InputError, match="is not of type bytes"):
        parquet.choose_column(two, "n", "x")
    with pytest.raises(InputError, match="does not exist"):
        parquet.choose_column(two, "image", "x")


def test_lists(tmp_path):
    (tmp_path / "a.txt").write_text("x.jpg\n\n  sub/y.jpg  \n/abs/z.jpg\ns3://b/w.jpg\n")
    found = list(lists.SOURCE.entries(str(tmp_path / "a.txt"), "", Reading()))
    assert [entry.uri for entry in found] == [
        f"{tmp_path}/x.jpg",
        f"{tmp_path}/sub/y.jpg",
        "/abs/z.jpg",
        "s3://b/w.jpg",
    ]
    assert [entry.image_id for entry in found] == ["x.jpg", "sub/y.jpg", "/abs/z.jpg", "s3://b/w.jpg"]
    (tmp_path / "a.csv").write_text('id,file_name\n1,"with, comma.jpg"\n')
    (entry,) = lists.SOURCE.entries(str(tmp_path / "a.csv"), "", Reading(id_column="id", passthrough=("id",)))
    assert entry == Entry(f"{tmp_path}/with, comma.jpg", "1", {"id": "1"})
    (tmp_path / "a.jsonl").write_text('"x.jpg"\n' + json.dumps({"path": "y.jpg", "z.jpg": "any name of a field"}))
    assert [entry.image_id for entry in lists.SOURCE.entries(str(tmp_path / "a.jsonl"), "", Reading())] == [
        "x.jpg",
        "y.jpg",
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "a,b\n1,2\n", "say which column .* it has a, b"),
        ("a.csv", 'path\nx.jpg\n""\n', "line 3: no path"),
        ("a.csv", "x.jpg,1\ny.jpg,2\n", "the first line must hold the names of the columns, .*; it holds x.jpg, 1$"),
        ("a.csv", "x.jpg\ny.jpg\n", "the first line must hold the names of the columns, .*; it holds x.jpg$"),
        ("a.csv", "image;caption\nx.jpg;one\n", "separated by commas; the first line is 'image;caption'"),
        ("a.jsonl", '{"path": "x"}\n{nonsense', "line 2: not valid JSON"),
        ("a.jsonl", "[1]", "line 1: neither an object nor a string"),
    ],
)
def test_errors_in_lists_name_the_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        list(lists.SOURCE.entries(str(tmp_path / name), "", Reading()))


def test_folders_are_walked_in_order_without_following_loops(tmp_path):
    for name in ("b/2.jpg", "a/1.png", "c.JPG", "b/notes.txt", "a/deep/0.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "deep")
    found = [entry.image_id for entry in folders.find(storage.Folder(str(tmp_path)), [])]
    assert found == ["a/1.png", "a/deep/0.webp", "b/2.jpg", "c.JPG", "link/0.webp"]
    chosen = [entry.image_id for entry in folders.find(storage.Folder(str(tmp_path)), ["a/*", "*.txt"])]
    assert chosen == ["a/1.png", "a/deep/0.webp", "b/notes.txt"]


def test_names_that_are_not_utf8(tmp_path):
    import os

    path = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(path, "wb") as file:
        file.write(b"data")
    (entry,) = folders.find(storage.Folder(str(tmp_path)), [])
    assert entry.image_id == "caf\\xe9.jpg"
    (image,), _ = drain(folders.read([entry], Done(), {}))
    assert image.data == b"data"
    image.uri.encode()


def test_a_folder_on_another_file_system(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/another/a/1.jpg", b"one")
    memory.pipe_file("/another/2.jpg", b"two")
    entries = list(folders.find(storage.Folder("memory://another"), []))
    assert [entry.image_id for entry in entries] == ["2.jpg", "a/1.jpg"]
    found, _ = drain(folders.read([*entries, Entry("memory://another/gone.jpg", "gone")], Done(), {}))
    assert [image.data for image in found] == [b"two", b"one", None]
    assert found[2].error.kind == "missing"
