"""The same calls on a local disk, in fsspec's memory and on S3."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sapiens_ray import storage
from sapiens_ray.storage import Folder
from tests.conftest import PATIENCE_S
from tests.s3_server import s3_server


@pytest.fixture(scope="module")
def server():
    with s3_server() as s3:
        s3.direct.mkdir("bucket")
        yield s3


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request, tmp_path):
    if request.param == "local":
        return Folder(str(tmp_path / "a folder"))
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        return Folder("memory://bucket/below")
    server = request.getfixturevalue("server")
    server.clean()
    return Folder(f"s3://bucket/{tmp_path.name}", server.options)


def test_the_same_calls_on_every_file_system(folder):
    assert folder.files("data") == [] and not folder.exists("data/a")
    folder.write("data/a", b"one")
    folder.write("data/b", b"two")
    folder.write("data/a", b"three")
    folder.write("data/sub/c", b"four")
    assert folder.files("data") == ["a", "b"] and folder.read("data/a") == b"three"
    with folder.open("data/b") as stream:
        stream.seek(1)
        assert stream.read() == b"wo"
    assert sorted(name for name, is_file in storage.walk(folder) if is_file) == ["data/a", "data/b", "data/sub/c"]
    size, stamp = storage.stamp(folder.join("data/a"), folder.options)
    folder.write("data/a", b"fivee")
    assert (size == 5 and (5, stamp) != storage.stamp(folder.join("data/a"), folder.options)) or not stamp
    folder.delete("data/a")
    folder.delete("data/a")
    assert folder.files("data") == ["b"]
    with folder.replacing("data/t.parquet") as temporary:
        pq.write_table(pa.table({"x": [1, 2]}), temporary)
        assert not folder.exists("data/t.parquet"), "a file is not visible before it is complete"
    assert folder.exists("data/t.parquet") and not temporary.exists()


def test_a_folder_exists_as_soon_as_it_has_a_file(folder):
    folder.write("data/a", b"one")
    assert folder.files("data") == ["a"] and not folder.exists("visualizations")
    folder.write("visualizations/seg/a.jpg", b"two")
    assert folder.exists("visualizations")


def test_only_the_first_one_creates_a_file(folder):
    assert folder.create("lock", b"mine")
    assert not folder.create("lock", b"yours")
    assert folder.read("lock") == b"mine" and folder.files() == ["lock"]


def test_a_failed_write_leaves_nothing(folder, monkeypatch):
    with pytest.raises(RuntimeError), folder.replacing("data/x") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert not temporary.exists() and folder.files("data") == [] and not folder.exists("data/x")
    if folder.remote:
        return

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    folder.write("data/y", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        folder.write("data/y", b"new")
    assert folder.read("data/y") == b"old" and [path.name for path in Path(folder.uri, "data").iterdir()] == ["y"]


def test_an_upload_that_is_cut_off_leaves_nothing(server, monkeypatch):
    """The connection is lost during every PUT, for longer than the retry deadline."""
    from sapiens_ray.storage import retries

    server.clean()
    folder = Folder("s3://bucket/cut", server.options)
    server.fault = lambda method, path, number: "reset" if method == "PUT" else None
    monkeypatch.setattr(retries, "_deadline_s", 1.0)
    with pytest.raises(Exception):  # noqa: B017  # the type depends on which library notices first
        folder.write("data/x", b"x" * 1000)
    server.clean()
    assert folder.files("data") == []


def test_reads_that_are_cut_off_are_repeated(server):
    """A body that ends early is not mistaken for a short file."""
    server.clean()
    folder = Folder("s3://bucket/short", server.options)
    data = os.urandom(300_000)
    folder.write("x", data)
    cuts = []

    def fault(method: str, path: str, number: int) -> str | None:
        if method == "GET" and len(cuts) < 3:
            cuts.append(path)
            return "truncate"
        return None

    server.fault = fault
    assert folder.read("x") == data
    cuts.clear()
    with folder.open("x") as stream:
        assert stream.read(1000) == data[:1000] and stream.read() == data[1000:]
    assert len(cuts) == 3


def test_files_of_others_are_seen_after_a_listing(server):
    """s3fs keeps listings. Another process writes and deletes files meanwhile."""
    folder = Folder("s3://bucket/shared", server.options)
    folder.write("data/a", b"a")
    assert folder.files("data") == ["a"]
    server.direct.pipe_file("bucket/shared/data/b", b"b")
    with folder.open("data/b") as stream:
        assert stream.read() == b"b"
    assert folder.files("data") == ["a", "b"]
    server.direct.pipe_file("bucket/shared/data/c", b"c")
    server.direct.rm_file("bucket/shared/data/a")
    assert folder.exists("data/c") and not folder.exists("data/a")


def test_times_of_files(folder):
    assert folder.modified("data") == {}, "there is no such folder"
    folder.write("data/x", b"1")
    folder.write("data/below/y", b"1")
    told = ["x"] if "memory" not in folder.uri else []  # fsspec's memory tells no time
    assert list(folder.modified("data")) == told
    assert all(abs(at - time.time()) < PATIENCE_S for at in folder.modified("data").values())


def test_times_of_files_of_others_are_seen_after_a_listing(server):
    """s3fs keeps listings. Another process writes a file meanwhile."""
    server.clean()
    folder = Folder("s3://bucket/times", server.options)
    folder.write("data/a", b"1")
    assert list(folder.modified("data")) == ["a"]
    server.direct.pipe_file("bucket/times/data/b", b"1")
    assert sorted(folder.modified("data")) == ["a", "b"]


def test_a_file_that_vanishes_while_times_are_read_is_left_out(tmp_path, monkeypatch):
    folder = Folder(str(tmp_path))
    for name in "abc":
        folder.write(name, b"1")
    scandir = os.scandir

    @contextlib.contextmanager
    def listing(path):
        with scandir(path) as entries:
            found = list(entries)
        (tmp_path / "b").unlink()
        yield iter(found)

    monkeypatch.setattr(os, "scandir", listing)
    assert sorted(folder.modified()) == ["a", "c"]
