"""Where `report`, `compare`, `query`, `evaluate` and `export` write: not over an output or over what they read."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from sapiens_ray.cli.targets import file_target
from sapiens_ray.output.layout import FILES, FOLDERS
from sapiens_ray.planning.plan import Plan, Shard, save_plan
from sapiens_ray.storage import Folder
from tests.evaluation.labelled import png, write_labels

MAP = png(np.zeros((6, 8), np.uint8))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output with all its files, whose job took a list of images."""
    folder = tmp_path / "out"
    row = {"image_id": "a.jpg", "uri": "/a.jpg", "seg": MAP, "seg_classes": [0], "seg_area": [1.0]}
    write_labels(folder, [{"task": "seg"}], [row])
    (tmp_path / "list.csv").write_text("image\n/a.jpg\n")
    record = yaml.safe_load((folder / "job.yaml").read_text())
    record["job"]["input"] = {"uri": [str(tmp_path / "list.csv")]}
    (folder / "job.yaml").write_text(yaml.safe_dump(record))
    save_plan(Plan([Shard(0, "images", "/", "/#0", images=1)], 64, pa.schema([])), Folder(str(folder)))
    for name in FILES:
        if not (folder / name).exists():
            (folder / name).write_bytes(b"{}")
    for name in FOLDERS:
        (folder / name).mkdir(exist_ok=True)
    (tmp_path / "gt").mkdir()
    (tmp_path / "gt" / "a.png").write_bytes(MAP)
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def writing(output: Path, to: object) -> list[list[object]]:
    """The commands that write a file, to this one."""
    truth = ["--task", "seg", "--ground-truth", output.parent / "gt"]
    return [
        ["report", output, "--to", to],
        ["compare", output, output, "--to", to],
        ["query", output, "true", "--to", to],
        ["evaluate", output, *truth, "--to", to],
    ]


@pytest.mark.parametrize("part", [*FILES, *(f"{folder}/x.json" for folder in FOLDERS)])
def test_the_files_of_an_output_are_not_written_over(command, output, part):
    before = contents(output.parent)
    for arguments in writing(output, output / part):
        done = command(*arguments)
        assert done.code == 2, done.text
        said = "should be the name of a .json file" if arguments[0] == "evaluate" else "is a part of the output"
        assert (said if not part.endswith(".json") else "is a part of the output") in done.err, done.text
    done = command("export", output, "--format", "masks", "--to", output / part)
    assert done.code == 2 and "holds the labels themselves" in done.err
    assert contents(output.parent) == before


def test_other_names_of_the_same_files(command, output, tmp_path, monkeypatch):
    elsewhere = tmp_path / "disk"
    (output / "visualizations").rmdir()
    elsewhere.mkdir()
    (output / "visualizations").symlink_to(elsewhere)
    (tmp_path / "plan").write_bytes((output / "plan.parquet").read_bytes())
    (output / "plan.parquet").unlink()
    (output / "plan.parquet").symlink_to(tmp_path / "plan")
    (tmp_path / "link").symlink_to(output)
    (tmp_path / "file.html").symlink_to(output / "job.yaml")
    monkeypatch.chdir(output / "data")
    before = contents(tmp_path)
    for to in (
        "x.html", "../job.yaml", tmp_path / "gt" / ".." / "out" / "lock.json", tmp_path / "link" / "summary.json",
        tmp_path / "file.html", output / "visualizations" / "x.html", elsewhere / "x.html", output / "plan.parquet",
        tmp_path / "plan", f"file://{output}/plan.parquet", f"local://{output}/plan.parquet",
    ):  # fmt: skip
        done = command("report", output, "--to", to)
        assert done.code == 2 and "is a part of the output" in done.err, (to, done.text)
    assert contents(tmp_path) == before


def test_what_a_command_reads_is_not_written_over(command, output, tmp_path):
    before = contents(tmp_path)
    for arguments in writing(output, tmp_path / "list.csv")[:3]:
        done = command(*arguments)
        assert done.code == 2 and f"is the input of the job that made {output}" in done.err, done.text
    truth = tmp_path / "gt.json"
    truth.write_text(json.dumps({"images": [], "annotations": []}))
    done = command("evaluate", output, "--task", "seg", "--ground-truth", truth, "--to", tmp_path / "gt/../gt.json")
    assert done.code == 2 and "is read by this command" in done.err
    truth.unlink()
    assert contents(tmp_path) == before


def test_a_file_beside_those_of_the_output_is_written(command, output):
    for name in ("summary.json", "lock.json"):  # which hold nothing here
        (output / name).unlink()
    for name, arguments in zip(
        ("report.html", "compare.html", "some.jsonl", "found.json"), writing(output, ""), strict=True
    ):
        done = command(*arguments[:-1], output / name)
        assert done.code == 0 and (output / name).stat().st_size > 20, done.text


@pytest.mark.parametrize(
    ("to", "folder", "name"),
    [
        ("x.json", ".", "x.json"),
        ("/x.json", "/", "x.json"),
        ("file:///x.json", "/", "x.json"),
        ("a/b/x.json", "a/b", "x.json"),
        ("s3://bucket/x.json", "s3://bucket", "x.json"),
    ],
)
def test_folder_and_name(tmp_path, to, folder, name):
    arguments = argparse.Namespace(to=to, storage_options=[])
    found, file = file_target(arguments, [Folder(str(tmp_path))], "x.json")
    assert (found.uri, file) == (folder, name)
