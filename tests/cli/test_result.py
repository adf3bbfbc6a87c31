"""What `run` prints when it ends."""

from __future__ import annotations

import io
import shlex
import sys

import pytest

from sapiens_ray.cli.result import print_result, result_line
from sapiens_ray.output.layout import has_pictures
from sapiens_ray.output.summary import Summary
from sapiens_ray.storage import Folder
from sapiens_ray.units import UnitReport


@pytest.fixture(autouse=True)
def eighty(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PATH", "")  # no `python`, so that the command names this one


DEVICE = {"seg": [12.0, 16.0, 2.0], "": [4.0, 1.0, 0.0]}


def summary(output: str = "/out") -> Summary:
    one = Summary("job", output, expected=12, already_done=4, failed_before=1, state="done")
    examples = {
        "corrupt": [{"image_id": "a/1.jpg", "error": "truncated " * 9}, {"image_id": "2/" * 60, "error": "x" * 80}],
        "empty": [{"image_id": "3.jpg", "error": "no bytes"}],
    }
    one.add(UnitReport("f", 8, {"empty": 1, "corrupt": 2}, {"read": 0.1, "seg": 8.0}, [], 1, examples, DEVICE))
    one.elapsed = 16.0
    return one


def printed(one: Summary, pictures: bool = True) -> list[str]:
    out = io.StringIO()
    print_result(one, pictures, out)
    return out.getvalue().splitlines()


def test_the_hint_to_label_errors_again_is_for_errors_of_earlier_runs():
    one = summary()
    one.failed_before = 0
    assert "already done  4" in printed(one) and not any("--retry-errors" in line for line in printed(one))


def test_the_result_fits_and_shows_two_errors_of_each_kind():
    assert printed(summary()) == [
        "state         done",
        "images        12 (9 ok, 3 errors)",
        "errors        2 corrupt",
        "    a/1.jpg: truncated truncated truncated truncated truncated truncated trunca…",
        "    …/" + "2/" * 18 + ": " + "x" * 35 + "…",
        "errors        1 empty",
        "    3.jpg: no bytes",
        "already done  4",
        "              error rows count as done; --retry-errors labels them again",
        "repeated      1 unit or shard, because a worker died",
        "time          16 s with the start, 0.500 images/s",
        "ms per image  read 12.5, seg 1000",
        "device        50 % busy, 25 % waiting for input",
        "              seg: 6.00 inputs/s, batches 75 % full",
        "labels        /out/data/*.parquet",
        "pictures      /out/visualizations/",
        "read a row:",
        f"{sys.executable} -c \"import sapiens_ray as sr; print(sr.read_labels('/out').iloc[0])\"",
    ]


def test_no_line_about_pictures_where_there_are_none():
    assert not any("pictures" in line for line in printed(summary(), pictures=False))


def test_whether_an_output_has_pictures(tmp_path):
    output = Folder(str(tmp_path))
    assert not has_pictures(output)
    (tmp_path / "visualizations" / "seg").mkdir(parents=True)
    assert not has_pictures(output), "--restart leaves empty folders"
    (tmp_path / "visualizations" / "seg" / "1.jpg").write_bytes(b"x")
    assert has_pictures(output)
    assert not has_pictures(Folder("unknown://storage"))


def test_the_command_to_paste_is_one_word_for_the_shell():
    """Whatever the path holds, also spaces and what a shell would replace."""
    for path in ("/a long/path/" + "x" * 80, "/it's", '/"quoted"', "/$HOME `pwd` !!", "/back\\slash"):
        command = printed(summary(path))[-1]
        interpreter, option, code = shlex.split(command)
        assert (interpreter, option) == (sys.executable, "-c")
        assert code == f"import sapiens_ray as sr; print(sr.read_labels({path!r}).iloc[0])"
    assert not any("read a row" in line for line in printed(summary("s3://bucket/out")))


def test_the_result_in_one_line():
    assert result_line(summary()) == "done; 12 images (9 ok, 3 errors) in /out"
    nothing = Summary("job", "/out", expected=1, already_done=1, state="done")
    assert result_line(nothing) == "done: every image already had its row; 1 image (1 ok, 0 errors) in /out"
    failed = Summary("job", "/out", expected=2, already_done=1, state="failed")
    assert result_line(failed) == "not finished; 1 image (1 ok, 0 errors) in /out"
