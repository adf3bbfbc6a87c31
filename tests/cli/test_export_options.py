"""`sapiens-ray export` with formats of other packages: their options, and those that are broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.outputs import write_output, write_unit_of

MODULE = """
from sapiens_ray.export.base import Export, Exported, Option

def parsed(text):
    if not text.isdigit():
        raise ValueError("should be a number of digits")
    return int(text)

def write(source, target, options):
    print(options)
    return Exported(images=1)

OPTIONS = (Option("min_score", "of its own", 7, parsed), Option("digits", "how many", 2, parsed),
           Option("whole", "all of it", False, flag=True))
EXPORT = Export("100 % of it", write, OPTIONS)
"""


@pytest.fixture
def export(tmp_path: Path):
    """Runs `sapiens-ray export` where a package adds a format, and another one is broken."""
    (tmp_path / "own_format.py").write_text(MODULE)
    for name, place in (("own", "own_format:EXPORT"), ("broken", "no_such_module:EXPORT")):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[sapiens_ray.exports]\n{name} = {place}\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {
            **os.environ,
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "COLUMNS": "200",
        }
        command = [sys.executable, "-m", "sapiens_ray", "export", *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    return run


def test_help_shows_every_format_and_survives_a_broken_one(export):
    done = export("--help")
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "own: 100 % of it" in text and "broken: cannot be used here" in text
    assert "coco: keypoints with a lower score" in text and "own: of its own" in text


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ([], "{'min_score': 7, 'digits': 2, 'whole': False}"),
        (["--min-score", "1", "--digits", "4", "--whole"], "{'min_score': 1, 'digits': 4, 'whole': True}"),
    ],
)
def test_options_are_those_of_the_chosen_format(export, tmp_path, options, values):
    done = export(str(tmp_path), "--format", "own", "--to", str(tmp_path / "to"), *options)
    assert done.returncode == 0 and done.stdout.splitlines()[0] == values, done.stderr


def test_an_export_of_an_output_that_is_not_complete_says_so(export, tmp_path):
    output = write_output(tmp_path / "out", [("a.jpg", None, None)], [("b.jpg", None, None), ("c.jpg", None, None)])
    (file,) = (tmp_path / "out" / "data").glob("s000001-*")
    file.unlink()
    write_unit_of(output, [("b.jpg", None, None)], shard=1, last=False)
    done = export(str(tmp_path / "out"), "--format", "own", "--to", str(tmp_path / "to"))
    assert f"{tmp_path}/out is not complete: 1 image without a row; run the job again, then export\n" == done.stderr
    write_unit_of(output, [("c.jpg", None, None)], shard=1, start=1)
    assert not export(str(tmp_path / "out"), "--format", "own", "--to", str(tmp_path / "to")).stderr


def test_an_export_to_a_folder_with_files_says_that_they_stay(export, tmp_path):
    write_output(tmp_path / "out", [("a.jpg", None, None)])
    target = tmp_path / "to"
    target.mkdir()
    (target / "old.json").write_text("{}")
    done = export(str(tmp_path / "out"), "--format", "own", "--to", str(target))
    assert done.stderr == f"{target} held files before; those that were not written again are still there\n"
    assert (target / "old.json").exists()


def test_an_option_has_a_value_in_all_formats_or_in_none(export, tmp_path):
    (tmp_path / "own_format.py").write_text(MODULE.replace('Option("whole"', 'Option("val"'))
    done = export(str(tmp_path), "--format", "own", "--to", str(tmp_path / "to"))
    assert done.returncode == 2, done.stderr
    assert done.stderr == "sapiens-ray: export option --val has a value in some formats, and none in own\n"


def test_what_is_wrong_is_one_line(export, tmp_path):
    where = (str(tmp_path), "--to", str(tmp_path / "to"), "--format")
    done = export(*where, "own", "--digits", "many")
    assert (done.returncode, done.stderr) == (2, "sapiens-ray: --digits many: should be a number of digits\n")
    done = export(*where, "broken")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "package broken adds 'broken' to sapiens_ray.exports, but no_such_module:EXPORT cannot be" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["masks", "--persons"], "--persons: format masks has no such option; it belongs to coco-panoptic, yolo-seg"),
        (["coco", "--codec", "vp9"], "--codec: format coco has no such option; it belongs to video"),
        (["coco", "--min-score", "-0.1"], "--min-score -0.1: should be a number from 0 on; most scores are between"),
        (["cvat", "--min-score", "nan"], "--min-score nan: should be a number from 0 on; most scores are between"),
    ],
)
def test_what_a_format_does_not_take_is_refused(command, tmp_path, options, message):
    write_output(tmp_path / "out", [("a.jpg", None, None)])
    done = command("export", tmp_path / "out", "--to", tmp_path / "to", "--format", *options)
    assert done.code == 2 and done.err.startswith(f"sapiens-ray: {message}"), done.text
    assert not (tmp_path / "to").exists()
