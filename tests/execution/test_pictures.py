"""`output.visualize.fraction: auto`: all pictures of a small job, few of a large one."""

from __future__ import annotations

import subprocess
import sys
import tarfile

import cv2
import numpy as np
import pytest
import yaml

from sapiens_ray.execution import preflight
from sapiens_ray.execution.preflight import prepare_job, save_job
from sapiens_ray.job.config import Job
from sapiens_ray.models.stand_ins import write_model
from sapiens_ray.planning.subset import make_subset


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job of six images, in a package that draws all of jobs of up to five."""
    monkeypatch.setattr(preflight, "ALL_DRAWN", 5)
    write_model(tmp_path / "model.pt2")
    (tmp_path / "photos").mkdir()
    for number in range(6):
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.jpg"), np.full((64, 48, 3), 40 * number, np.uint8))
    return Job.parse({
        "input": {"uri": str(tmp_path / "photos")},
        "output": {"uri": str(tmp_path / "out")},
        "tasks": [{"task": "seg", "checkpoint": str(tmp_path / "model.pt2")}],
    })  # fmt: skip


def prepared(job, **options):
    ready = prepare_job(job, **options)
    ready.settle_units(8, 512 << 20)
    return ready


def with_fraction(job, fraction):
    raw = job.model_dump()
    raw["output"]["visualize"]["fraction"] = fraction
    return Job.parse(raw)


def recorded(tmp_path):
    return yaml.safe_load((tmp_path / "out" / "job.yaml").read_text()).get("visualize_fraction")


def test_small_jobs_draw_all_and_large_ones_few(job, tmp_path):
    assert prepared(job).visualize.fraction == 0.01
    (tmp_path / "photos" / "0.jpg").unlink()
    assert prepared(job).visualize.fraction == 1.0
    assert prepared(job, listing_s=0).visualize.fraction == 0.01, "how many there are is not known yet"


def test_files_that_cannot_be_counted_are_judged_by_their_size(job, tmp_path, monkeypatch):
    """The images of a compressed tar are only known when they are read."""
    with tarfile.open(tmp_path / "photos.tar.gz", "w:gz") as tar:
        for file in sorted((tmp_path / "photos").iterdir()):
            tar.add(file, file.name)
    raw = job.model_dump()
    raw["input"]["uri"] = [str(tmp_path / "photos.tar.gz")]
    for small_photo, fraction in ((50_000, 1.0), (1, 0.01)):
        monkeypatch.setattr(preflight, "SMALL_PHOTO", small_photo)
        ready = prepared(Job.parse(raw))
        assert ready.expected is None and ready.visualize.fraction == fraction


def test_what_the_job_says_counts(job):
    for fraction in (0.0, 0.3, 1.0):
        assert prepared(with_fraction(job, fraction)).visualize.fraction == fraction


def test_the_first_run_settles_it(job, tmp_path, cluster):
    from sapiens_ray import run

    (tmp_path / "photos" / "0.jpg").rename(tmp_path / "0.jpg")
    assert run(job).images == 5 and recorded(tmp_path) == 1.0
    assert len(list((tmp_path / "out" / "visualizations").iterdir())) == 5
    (tmp_path / "0.jpg").rename(tmp_path / "photos" / "0.jpg")
    assert run(job).images == 6 and recorded(tmp_path) == 1.0
    assert len(list((tmp_path / "out" / "visualizations").iterdir())) == 6
    assert run(job, restart=True).images == 6 and recorded(tmp_path) == 0.01
    assert not list((tmp_path / "out" / "visualizations").iterdir())


def test_an_output_of_an_earlier_version_keeps_its_pictures(job, tmp_path, cluster):
    """It recorded a number, which was the default."""
    from sapiens_ray import run

    assert run(job, limit=3).images == 3
    file = tmp_path / "out" / "job.yaml"
    record = yaml.safe_load(file.read_text())
    record["job"]["output"]["visualize"]["fraction"] = 1.0
    file.write_text(yaml.safe_dump(record))
    ready = prepared(job)
    assert ready.visualize.fraction == 1.0 and ready.notes == []
    assert "output.visualize: fraction changed" in prepared(with_fraction(job, 0.2)).notes[0]
    save_job(ready)
    assert recorded(tmp_path) == 1.0 and prepared(job).notes == []
    assert prepared(with_fraction(job, 1.0)).notes == []


def test_photos_of_folders_count_beside_files_that_cannot_be_counted(job, tmp_path):
    with tarfile.open(tmp_path / "one.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "photos" / "0.jpg", "0.jpg")
    raw = job.model_dump()
    raw["input"]["uri"] = [str(tmp_path / "photos"), str(tmp_path / "one.tar.gz")]
    ready = prepared(Job.parse(raw))
    assert ready.expected is None and ready.visualize.fraction == 0.01, "six in the folder"


def test_a_trial_settles_nothing(job, tmp_path, cluster):
    from sapiens_ray import run

    assert run(job, limit=3).images == 3 and recorded(tmp_path) is None
    assert len(list((tmp_path / "out" / "visualizations").iterdir())) == 3
    assert run(job).images == 6 and recorded(tmp_path) == 0.01
    trial = prepare_job(job, subset=make_subset(2, None, None))
    trial.settle_units(8, 512 << 20)
    save_job(trial)
    assert trial.visualize.fraction == recorded(tmp_path) == 0.01


def test_photos_are_not_kept_for_tasks_without_pictures(job):
    raw = job.model_dump()
    features = {"task": "features", "checkpoint": raw["tasks"][0]["checkpoint"]}
    assert prepared(Job.parse({**raw, "tasks": [features]})).visualize.fraction == 0


@pytest.mark.parametrize("value", ["2", "-0.1", "some", "true"])
def test_other_words_are_refused(tmp_path, value):
    (tmp_path / "job.yaml").write_text("input: {uri: x}\noutput: {uri: y}\ntasks: [{task: seg, checkpoint: z}]\n")
    command = [sys.executable, "-m", "sapiens_ray", "check", str(tmp_path / "job.yaml")]
    command += ["--set", f"output.visualize.fraction={value}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "output.visualize.fraction: should be a number from 0 to 1, or auto (got " in done.stderr
