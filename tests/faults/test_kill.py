"""Real kills at random moments: one row per image, no torn files, little work repeated."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from sapiens_ray.planning.status import output_status
from sapiens_ray.storage import Folder
from sapiens_ray.units import UnitName
from tests.conftest import PATIENCE_S, ROOT, models_held, read_output, write_photos

IMAGES, UNIT = 240, 4
EXECUTABLE = Path(sys.executable).parent / "sapiens-ray"


def start(path: Path, log: Path, *options: str) -> subprocess.Popen[bytes]:
    """`sapiens-ray run` with a local Ray of its own, as on a laptop."""
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with log.open("ab") as file:
        command = [EXECUTABLE, "run", path, *options]
        return subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, env=env, start_new_session=True)


def wait_for_workers(driver: subprocess.Popen[bytes]) -> None:
    """Wait until the workers of a killed driver have ended: they may still write for some seconds."""
    deadline = time.monotonic() + PATIENCE_S
    while any(is_worker(one, driver.pid) for one in psutil.process_iter()):
        assert time.monotonic() < deadline, "the workers of a dead driver do not end"
        time.sleep(0.1)


def is_worker(process: psutil.Process, session: int) -> bool:
    try:
        title = process.cmdline()[:1] if os.getsid(process.pid) == session else []
    except (psutil.Error, OSError):
        return False
    # Ray's agents stay for a minute, and write nothing.
    return bool(title) and title[0].startswith("ray::") and not title[0].endswith("Agent")


def units(output: Path) -> list[UnitName]:
    names = [UnitName.parse(file.name) for file in (output / "data").glob("*.parquet")]
    return [name for name in names if name is not None]


def wait_for_units(process: subprocess.Popen[bytes], output: Path, count: int) -> bool:
    """Wait until there are `count` more units; False if the process ends first."""
    rows = sum(name.stop - name.start for name in units(output)) + count * UNIT
    deadline = time.monotonic() + PATIENCE_S
    while sum(name.stop - name.start for name in units(output)) < rows:
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.01)
    return True


def check_whole(output: Path, images: int = IMAGES) -> None:
    """Check that every image has one row and a picture, every shard is one file, and no temporary file is left."""
    table = read_output(output)
    assert table["image_id"].to_pylist() == [f"{number:03d}.jpg" for number in range(images)]
    assert table["error_kind"].null_count == images
    for name in table["visualization"].to_pylist():
        assert (output / name).stat().st_size > 0
    names = units(output)
    assert len(names) == len({name.shard for name in names})
    left = [path.name for path in output.rglob("*") if path.name.startswith(".tmp-")]
    assert left == []


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_driver_killed_five_times(write_job, tmp_path):
    write_photos(tmp_path / "photos", IMAGES)
    path = write_job(tmp_path / "photos", unit_size=UNIT, input={"shard_size": 50})
    output = tmp_path / "job-out"
    dice = random.Random(5)
    for kill in range(5):
        process = start(path, tmp_path / "log.txt")
        if kill == 0:
            while not (output / "lock.json").exists():  # kill it before it has written any label
                assert process.poll() is None, (tmp_path / "log.txt").read_text()
                time.sleep(0.01)
        else:
            assert wait_for_units(process, output, dice.randrange(1, 8)), (tmp_path / "log.txt").read_text()
            time.sleep(dice.uniform(0, 0.2))
        process.kill()
        process.wait()
        if kill > 0:
            status = output_status(Folder(str(output)))
            assert (status["state"], status["run"]["pid"], status["complete"]) == ("killed", process.pid, False)
        if kill == 4:
            wait_for_workers(process)  # the late files of its workers must do no harm, and are counted
        for file in (output / "data").glob("s*.parquet"):
            name = UnitName.parse(file.name)
            assert pq.read_table(file).num_rows == name.stop - name.start, "a torn file was published"
    before = sum(name.stop - name.start for name in units(output))
    assert start(path, tmp_path / "log.txt").wait(PATIENCE_S) == 0, (tmp_path / "log.txt").read_text()
    summary = json.loads((output / "summary.json").read_text())
    assert summary["images"] == IMAGES and summary["state"] == "done"
    assert summary["already_done"] == before > 0, "written rows are not labelled again"
    check_whole(output)


@pytest.mark.nightly
def test_actors_and_workers_killed(write_job, tmp_path):
    write_photos(tmp_path / "photos", IMAGES)
    path = write_job(tmp_path / "photos", unit_size=UNIT, input={"shard_size": 50})
    output = tmp_path / "job-out"
    dice = random.Random(7)
    process = start(path, tmp_path / "log.txt")
    killed: list[str] = []
    while len(killed) < 8 and wait_for_units(process, output, 2):
        # not the agents of the node: without them the raylet ends, and the whole node is lost
        wanted = ("ray::MapWorker",) if len(killed) % 3 == 0 else ("ray::Map", "ray::IDLE", "ray::merge")
        workers = [
            (child, child.cmdline()[0])
            for child in psutil.Process(process.pid).children(recursive=True)
            if child.status() != psutil.STATUS_ZOMBIE and child.cmdline() and child.cmdline()[0].startswith(wanted)
        ]
        if workers:
            victim, title = dice.choice(workers)
            victim.kill()
            killed.append(title)
    assert process.wait(PATIENCE_S) == 0, (tmp_path / "log.txt").read_text()
    assert len(killed) >= 5 and any("MapWorker" in title for title in killed), killed
    check_whole(output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGTERM, 143, marks=pytest.mark.nightly), (signal.SIGINT, 130)]
)
def test_a_second_run_is_refused_and_the_first_stopped_by_a_signal(write_job, tmp_path, number, code):
    write_photos(tmp_path / "photos", IMAGES)
    path = write_job(tmp_path / "photos", unit_size=UNIT, input={"shard_size": 50})
    output = tmp_path / "job-out"
    process = start(path, tmp_path / "log.txt", "--json")
    assert wait_for_units(process, output, 1)
    with models_held(process.pid):  # so that the first does not finish while the second starts
        command = [EXECUTABLE, "run", path]
        second = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert second.returncode == 2 and f"being written by another run: process {process.pid}" in second.stderr
        assert "Traceback" not in second.stderr
        status = output_status(Folder(str(output)))
        assert (status["state"], status["run"]["pid"]) == ("running", process.pid)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
    assert process.wait(PATIENCE_S) == code
    log = (tmp_path / "log.txt").read_text()
    assert "Run the same command again to continue" in log and "Traceback" not in log
    last = [json.loads(line) for line in log.splitlines() if line.startswith("{")][-1]
    assert (last["event"], last["exit_code"], last["error"], last["expected"]) == ("stopped", code, None, IMAGES)
    assert json.loads((output / "summary.json").read_text())["state"] == "stopped"
    assert output_status(Folder(str(output)))["state"] == "stopped"
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert alive == [], "processes of the local Ray still run"
    if number == signal.SIGTERM:
        assert start(path, tmp_path / "log.txt").wait(PATIENCE_S) == 0
        check_whole(output)


@pytest.mark.parametrize(
    "script",
    [
        "import ray; ray.shutdown = forever; stopping.end_process(143)",
        """
with stopping.StopSignals().installed():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        forever()
""",
    ],
    ids=["of Ray", "ours"],
)
def test_a_stop_does_not_wait_for_a_cleanup_that_hangs(script):
    head = "import os, signal, threading; from sapiens_ray.cli import stopping; forever = threading.Event().wait"
    env = {**os.environ, "RAY_JOB_STOP_WAIT_TIME_S": "1"}
    command = [sys.executable, "-c", f"{head}\n{script}"]
    assert subprocess.run(command, env=env, cwd=ROOT, timeout=PATIENCE_S, check=False).returncode == 143
