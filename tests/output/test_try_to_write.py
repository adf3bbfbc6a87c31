"""`check` tries whether a run could write to the output, and leaves no trace of it."""

from __future__ import annotations

import pytest

from sapiens_ray.errors import OutputError
from sapiens_ray.output.lock import try_to_write
from sapiens_ray.storage import Folder
from tests.conftest import write_photos


def everything_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_check_refuses_an_output_that_run_refuses(command, write_job, tmp_path):
    write_photos(tmp_path / "photos", 1)
    (tmp_path / "list.csv").write_text("path\n")
    path = write_job(tmp_path / "photos", output={"uri": str(tmp_path / "list.csv" / "foo")})
    before = everything_in(tmp_path)
    for call in ("check", "run"):
        done = command(call, path)
        assert done.code == 2
        assert f"output.uri: cannot write to {tmp_path}/list.csv/foo: NotADirectoryError" in done.err
    assert everything_in(tmp_path) == before


def test_check_leaves_no_trace(command, write_job, tmp_path):
    write_photos(tmp_path / "photos", 1)
    path = write_job(tmp_path / "photos", output={"uri": str(tmp_path / "new" / "deep" / "out")})
    before = everything_in(tmp_path)
    assert command("check", path).code == 0
    assert everything_in(tmp_path) == before


def test_an_existing_output_keeps_its_files(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    try_to_write(Folder(str(tmp_path)))
    assert everything_in(tmp_path) == ["summary.json"]


@pytest.mark.parametrize("operation", ["create", "write", "delete"])
def test_every_operation_that_a_run_needs_is_tried(tmp_path, monkeypatch, operation):
    def refuse(self, *arguments):
        raise PermissionError("not allowed")

    monkeypatch.setattr(Folder, operation, refuse)
    with pytest.raises(OutputError, match=r"output.uri: cannot write to .*/out: PermissionError: not allowed"):
        try_to_write(Folder(str(tmp_path / "out")))


def test_nothing_is_left_if_a_write_fails_half_way(tmp_path, monkeypatch):
    def full(self, *arguments):
        raise OSError("quota exceeded")

    monkeypatch.setattr(Folder, "write", full)
    with pytest.raises(OutputError, match="quota exceeded"):
        try_to_write(Folder(str(tmp_path / "out")))
    assert everything_in(tmp_path) == []


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "labels").write_text("mine")
    with pytest.raises(OutputError, match=r"labels is a file; name a folder$"):
        try_to_write(Folder(str(tmp_path / "labels")))
