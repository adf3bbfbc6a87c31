"""Redoing rows and continuing: --retry-errors, --restart, inputs that grow, shrink and change, other versions."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pyarrow.parquet as pq
import pytest
import yaml

import sapiens_ray as sr
from sapiens_ray.execution import redo
from sapiens_ray.output.done import list_units
from sapiens_ray.storage import Folder
from tests.archives import write_tar
from tests.conftest import PATIENCE_S, photo, read_output, write_photos


def ids(output: Path) -> list[str]:
    return read_output(output)["image_id"].to_pylist()


def kinds(output: Path) -> dict[str, str]:
    table = read_output(output)
    pairs = zip(table["image_id"].to_pylist(), table["error_kind"].to_pylist(), strict=True)
    return {image_id: kind for image_id, kind in pairs if kind}


@pytest.fixture(scope="module")
def finished(cluster, model, tmp_path_factory):
    """A folder with 10 photos, of which 000, 003, 004 and 009 are broken, a job with shards of 5 images, its output."""
    folder = tmp_path_factory.mktemp("finished") / "here"
    files = write_photos(folder / "photos", 10)
    for number in (0, 3, 4, 9):
        files[number].write_bytes(b"broken")
    job = {
        "input": {"uri": "photos", "shard_size": 5},
        "output": {"uri": "job-out"},
        "tasks": [{"task": "seg", "checkpoint": str(model)}],
        "unit_size": 2,
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    assert sr.run(sr.Job.load(folder / "job.yaml")).failed == 4
    return folder


@pytest.fixture
def labelled(finished):
    """The finished folder, restored to its first state, at the path that its plan contains."""
    kept = finished.with_name("kept")
    if not kept.exists():
        shutil.copytree(finished, kept)
    shutil.rmtree(finished)
    shutil.copytree(kept, finished)
    return finished / "job.yaml", sorted((finished / "photos").iterdir()), finished / "job-out"


def repair(file: Path) -> None:
    file.write_bytes(cv2.imencode(".jpg", photo(64, 80, 3))[1].tobytes())


def test_retry_errors_redoes_error_rows_and_nothing_else(labelled):
    path, files, output = labelled
    before = read_output(output).to_pylist()
    for file in (files[0], files[4]):
        repair(file)
    summary = sr.run(sr.Job.load(path), retry_errors=True)
    assert (summary.labelled, summary.already_done, summary.failed) == (4, 6, 2)
    after = read_output(output).to_pylist()
    assert [row["image_id"] for row in after] == [file.name for file in files]
    assert kinds(output) == {"003.jpg": "not_an_image", "009.jpg": "not_an_image"}
    for number in (1, 2, 5, 6, 7, 8):
        assert after[number] == before[number]
    assert [(row["width"], row["height"]) for row in after if row["image_id"] in ("000.jpg", "004.jpg")] == [
        (64, 80)
    ] * 2
    assert [file.name for file in sorted((output / "data").iterdir())] == [
        "s000000-00000000-00000005-end.parquet",
        "s000001-00000000-00000005-end.parquet",
    ]
    for file in (output / "data").iterdir():
        assert json.loads(pq.read_schema(file).metadata[b"sapiens_ray.errors"]) == {"not_an_image": 1}


def test_retry_errors_with_another_job_removes_no_rows(labelled):
    path, _, output = labelled
    job = yaml.safe_load(path.read_text())
    job["max_pixels"] = 5
    path.write_text(yaml.safe_dump(job))
    said = r"made with other settings: max_pixels: was 134217728, now 5\. Give .* --restart"
    with pytest.raises(sr.errors.OutputError, match=said):
        sr.run(sr.Job.load(path), retry_errors=True)
    assert len(kinds(output)) == 4 and not (output / "lock.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("crash_at", range(1, 5))
def test_removing_error_rows_may_be_interrupted_anywhere(labelled, monkeypatch, crash_at):
    """At every moment readers see each good row once; a later run completes the rest."""
    path, files, output = labelled
    folder = Folder(str(output))
    calls = [0]

    def counted(function):
        def call(self, *arguments, **keywords):
            calls[0] += 1
            if calls[0] >= crash_at:
                raise KeyboardInterrupt
            return function(self, *arguments, **keywords)

        return call

    monkeypatch.setattr(Folder, "delete", counted(Folder.delete))
    monkeypatch.setattr(Folder, "replacing", counted(Folder.replacing))
    with pytest.raises(KeyboardInterrupt):
        for unit in list_units(folder):  # in one thread, so that the crash is always at the same place
            redo._drop_error_rows(folder, unit)
    monkeypatch.undo()
    seen = sr.read_labels(str(output))["image_id"].tolist()
    assert len(seen) == len(set(seen)) and {files[number].name for number in (1, 2, 5, 6, 7, 8)} <= set(seen)
    assert sr.run(sr.Job.load(path)).images == 10
    assert ids(output) == [file.name for file in files] and len(kinds(output)) == 4


def test_restart_asks_before_it_deletes(sapiens_ray, labelled, tmp_path):
    path, files, output = labelled
    (output / "notes.txt").write_text("a file of the user")
    refused = sapiens_ray("run", path, "--restart")
    assert refused.code == 2 and "deletes the labels of 10 images" in refused.err and "--yes" in refused.err
    executable = Path(sys.executable).parent / "sapiens-ray"

    def answer(text: bytes) -> tuple[int, str]:
        parent, child = pty.openpty()
        os.write(parent, text)
        done = subprocess.run(
            [executable, "run", path, "--restart"], stdin=child, capture_output=True, timeout=PATIENCE_S, check=False
        )
        os.close(parent), os.close(child)
        return done.returncode, (done.stdout + done.stderr).decode()

    code, said = answer(b"n\n")
    assert code == 2 and "Continue? [y/N]" in said and "nothing was deleted" in said
    assert len(ids(output)) == 10
    for file in files:
        repair(file)
    files[9].unlink()
    job = yaml.safe_load(path.read_text())
    job["max_pixels"] = 10_000_000  # changed settings are the reason for a restart
    path.write_text(yaml.safe_dump(job))
    code, said = answer(b"y\n")
    assert code == 0 and "9 (9 ok, 0 errors)" in said, said
    assert ids(output) == [file.name for file in files[:9]]
    assert (output / "notes.txt").exists() and not (output / "visualizations" / "009.jpg").exists()


def test_restart_with_a_wrong_job_deletes_nothing(sapiens_ray, labelled):
    path, _, output = labelled
    done = sapiens_ray("run", path, "--restart", "--yes", "--set", "tasks.0.checkpoint=/none.pt2")
    assert done.code == 2 and len(ids(output)) == 10


def test_an_input_that_shrinks(cluster, write_job, tmp_path):
    """Photos and tars that are deleted before they are labelled become error rows of kind missing."""
    files = write_photos(tmp_path / "photos", 6)
    write_tar(tmp_path / "a.tar", files[:2])
    write_tar(tmp_path / "b.tar", files[2:4])
    path = write_job([str(tmp_path / "photos"), str(tmp_path / "*.tar")], unit_size=2)
    from sapiens_ray.execution.preflight import prepare_job, save_job

    save_job(prepare_job(sr.Job.load(path)))  # a run that was killed before its first unit
    files[1].unlink()
    (tmp_path / "b.tar").unlink()
    summary = sr.run(sr.Job.load(path))
    assert (summary.images, dict(summary.errors)) == (9, {"missing": 2})
    assert kinds(tmp_path / "job-out") == {"photos/001.jpg": "missing", "b.tar": "missing"}


def test_another_version_continues_if_the_settings_are_equal(labelled):
    path, files, output = labelled
    record = yaml.safe_load((output / "job.yaml").read_text())
    record["versions"] = {"sapiens_ray": "99.0", "torch": "9.9", "new": "1"}
    (output / "job.yaml").write_text(yaml.safe_dump(record))
    repair(files[0])
    extra = files[0].with_name("010.jpg")
    repair(extra)
    summary = sr.run(sr.Job.load(path))
    assert (summary.labelled, summary.already_done) == (1, 10)
    assert ids(output)[-1] == "010.jpg"


def test_an_output_of_another_layout_is_refused(labelled):
    path, _, output = labelled
    table = pq.read_table(output / "plan.parquet").drop_columns(["group"])
    pq.write_table(table, output / "plan.parquet")
    with pytest.raises(sr.errors.OutputError, match="not a plan of this version"):
        sr.run(sr.Job.load(path))


def test_photos_and_labels_in_one_folder(cluster, write_job, tmp_path):
    files = write_photos(tmp_path / "photos", 3)
    path = write_job(tmp_path / "photos", output={"uri": str(tmp_path / "photos")})
    assert sr.run(sr.Job.load(path)).images == 3
    assert sr.run(sr.Job.load(path)).images == 3, "the output of a run is not input of the next"
    assert ids(tmp_path / "photos") == [file.name for file in files]


def test_restart_keeps_files_that_no_run_wrote(cluster, write_job, tmp_path):
    """In a folder that no run has written to, and in one that contains more than labels."""
    write_photos(tmp_path / "photos", 2)
    output = tmp_path / "job-out"
    (output / "data").mkdir(parents=True)
    (output / "data" / "thesis.txt").write_text("mine")
    (output / "visualizations").mkdir()
    (output / "visualizations" / "figure.png").write_text("mine")
    path = write_job(tmp_path / "photos")
    for _ in range(2):  # first in a folder without output, then in an output
        assert sr.run(sr.Job.load(path), restart=True).images == 2
        assert (output / "data" / "thesis.txt").read_text() == "mine"
        assert sorted(file.name for file in (output / "visualizations").iterdir()) == [
            "000.jpg", "001.jpg", "figure.png",
        ]  # fmt: skip
    assert len(list((output / "data").glob("*.parquet"))) == 1


def test_restart_of_a_plan_of_many_shards(cluster, write_job, tmp_path, monkeypatch):
    from sapiens_ray.planning import growth

    monkeypatch.setattr(growth, "SHARDS_PER_FILE", 2)
    write_photos(tmp_path / "photos", 3)
    path = write_job(tmp_path / "photos", input={"shard_size": 1})
    for restart in (False, True):
        assert sr.run(sr.Job.load(path), restart=restart).images == 3
    assert sr.run(sr.Job.load(path)).already_done == 3


def test_preparing_a_job_without_running_it_writes_nothing(cluster, labelled):
    """Not even with more shards than fit into one file of entries."""
    from sapiens_ray.execution.preflight import prepare_job
    from sapiens_ray.planning import growth

    path, files, output = labelled
    before = {file: file.read_bytes() for file in output.rglob("*") if file.is_file()}
    kept, growth.SHARDS_PER_FILE = growth.SHARDS_PER_FILE, 1
    try:
        for number in range(12):
            repair(files[0].with_name(f"x{number:02d}.jpg"))
        prepare_job(sr.Job.load(path)).growth.discard()
    finally:
        growth.SHARDS_PER_FILE = kept
    assert {file: file.read_bytes() for file in output.rglob("*") if file.is_file()} == before
