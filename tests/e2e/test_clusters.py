"""The same job file on clusters: submitted, stopped, with one CPU, with logical GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sapiens_ray as sr
from tests.conftest import PATIENCE_S, ROOT, models_held, read_output, write_photos

RAY = Path(sys.executable).parent / "ray"


def submit(cluster, *command: object, no_wait: bool = False) -> subprocess.CompletedProcess[str]:
    arguments = [RAY, "job", "submit", "--address", cluster.dashboard, "--working-dir", ROOT]
    arguments += ["--no-wait"] if no_wait else []
    return subprocess.run(
        [*map(str, arguments), "--", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.nightly  # test_docs.py submits a job as the README does
@pytest.mark.parametrize("entry", [("python", "jobs/label.py"), ("sapiens-ray", "run")])
def test_ray_job_submit(cluster, write_job, tmp_path, entry):
    write_photos(tmp_path / "photos", 5)
    done = submit(cluster, *entry, write_job(tmp_path / "photos", unit_size=2))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 (5 ok, 0 errors)" in done.stdout
    assert read_output(tmp_path / "job-out")["image_id"].to_pylist() == [f"{number:03d}.jpg" for number in range(5)]


def test_an_output_that_ray_would_delete_is_refused(cluster, write_job, tmp_path):
    write_photos(tmp_path / "photos", 1)
    done = submit(cluster, "python", "jobs/label.py", write_job(tmp_path / "photos"), "--set", "output.uri=runs/lost")
    assert done.returncode != 0
    assert "Ray deletes after the job" in done.stdout


@pytest.mark.nightly
def test_ray_job_stop_leaves_a_folder_that_the_next_run_completes(cluster, sapiens_ray, write_job, tmp_path):
    write_photos(tmp_path / "photos", 80)
    path = write_job(tmp_path / "photos", unit_size=2, input={"shard_size": 40})
    output = tmp_path / "job-out"
    submitted = submit(cluster, "python", "jobs/label.py", path, no_wait=True)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    job_id = next(word.strip("'") for word in submitted.stdout.split() if word.strip("'").startswith("raysubmit_"))
    deadline = time.monotonic() + PATIENCE_S
    while not list((output / "data").glob("s*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with models_held():  # so that the job does not finish while these commands start
        halfway = json.loads(sapiens_ray("status", output, "--json").out)
        assert 0 < halfway["images"] < 80 and halfway["expected"] == 80, "status works while a job runs elsewhere"
        subprocess.run([RAY, "job", "stop", "--address", cluster.dashboard, job_id], check=True, capture_output=True)
    stopped = json.loads(sapiens_ray("status", output, "--json").out)
    assert stopped["complete"] is False
    assert json.loads((output / "summary.json").read_text())["state"] == "stopped"
    assert sr.run(sr.Job.load(path)).images == 80
    assert read_output(output)["image_id"].to_pylist() == [f"{number:03d}.jpg" for number in range(80)]


SCRIPT = """
import sys, ray, sapiens_ray as sr
ray.init(address="local", include_dashboard=False, log_to_driver=False, **eval(sys.argv[2]))
print(sr.run(sr.Job.load(sys.argv[1])).images)
"""


@pytest.mark.parametrize(
    ("resources", "task"),
    [
        ({"num_cpus": 1, "num_gpus": 1}, {"actors": 2, "num_gpus": 0.5}),
        pytest.param({"num_cpus": 1}, {}, marks=pytest.mark.nightly),
        pytest.param({"num_cpus": 2, "num_gpus": 2}, {}, marks=pytest.mark.nightly),
    ],
)
def test_jobs_on_small_and_unusual_machines_do_not_hang(write_job, tmp_path, model, resources, task):
    write_photos(tmp_path / "photos", 12)
    tasks = [{"task": "seg", "checkpoint": str(model), **task}]
    path = write_job(tmp_path / "photos", unit_size=2, tasks=tasks, input={"shard_size": 5})
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, path, repr(resources)],
        capture_output=True, text=True, timeout=PATIENCE_S, env=env, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[-1] == "12"
    assert read_output(tmp_path / "job-out").num_rows == 12


def test_too_many_actors_for_the_cluster_give_a_one_line_error(cluster, sapiens_ray, write_job, tmp_path, model):
    write_photos(tmp_path / "photos", 1)
    tasks = [{"task": "seg", "checkpoint": str(model), "actors": 2000}]
    done = sapiens_ray("run", write_job(tmp_path / "photos", tasks=tasks))
    assert done.code == 2
    (line,) = [line for line in done.err.splitlines() if line.startswith("sapiens-ray:")]
    assert "2000 actors are too many for the 2 CPUs" in line
