"""Images at which the worker dies or hangs: one error row per image, and all other images are labelled."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import cv2
import pytest

import sapiens_ray as sr
from sapiens_ray.execution.preflight import prepare_job, save_job
from tests.conftest import PATIENCE_S, photo, read_output, write_photos

# The size of an image decides what goes wrong with it. Workers would import the original tasks; pickled by value, they
# get the patched ones.
SCRIPT = """
import ctypes, os, signal, sys, threading, time, ray, sapiens_ray as sr
from sapiens_ray.engine import watchdog
from sapiens_ray.tasks.seg import Seg

plain_prepare, plain_reduce, plain_draw = Seg.prepare, Seg.reduce, Seg.draw

def die():
    os.kill(os.getpid(), signal.SIGSEGV)

# An image may take ten minutes, so that no other image times out on a slow machine. These two functions let the time
# of their image expire: for the timer in Python, and for the one in C.
def late():
    watchdog._watches[threading.get_ident()].deadline = time.monotonic()

def late_in_c():
    with watchdog._lock:
        watchdog._watches[threading.get_ident()].timeout_s = 0
        watchdog._arm()

def prepare(self, image):
    if image.shape[:2] == (20, 31):
        die()
    if image.shape[:2] == (20, 32):
        late()
        while True:
            pass
    if image.shape[:2] == (20, 33):  # while holding the GIL, as a loop in C does
        late_in_c()
        ctypes.PyDLL(None).sleep(3600)
    return plain_prepare(self, image)

def reduce(self, outputs, sizes):
    if (34, 20) in sizes:
        os.kill(os.getpid(), signal.SIGKILL)
    while (35, 20) in sizes:  # the thread that waits for the result is the one that is watched
        for watch in list(watchdog._watches.values()):
            watch.deadline = time.monotonic()
        time.sleep(0.05)
    return plain_reduce(self, outputs, sizes)

def draw(self, photo, row, settings):
    if row["width"] == 36:
        die()
    return plain_draw(self, photo, row, settings)

Seg.prepare, Seg.reduce, Seg.draw = prepare, reduce, draw
import ray.cloudpickle
ray.cloudpickle.register_pickle_by_value(sys.modules["sapiens_ray.tasks.seg"])
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
print(sr.run(sr.Job.load(sys.argv[1])).errors)
"""


def run_script(path) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, path],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        env=env,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_images_that_kill_or_stop_their_worker_become_rows(write_job, tmp_path):
    files = write_photos(tmp_path / "photos", 20)
    poison = {2: 31, 4: 32, 5: 33, 9: 34, 11: 35, 17: 36}
    for number, width in poison.items():
        files[number].write_bytes(cv2.imencode(".png", photo(width, 20))[1].tobytes())
    path = write_job(tmp_path / "photos", unit_size=8, image_timeout_s=600)
    done = run_script(path)
    assert "Counter({'crashed': 3, 'timeout': 2})" in done.stdout, done.stdout + done.stderr[-3000:]

    table = read_output(tmp_path / "job-out")
    assert table["image_id"].to_pylist() == [file.name for file in files]
    kinds = dict(enumerate(table["error_kind"].to_pylist()))
    # Image 5 is ended by the timer in C, which cannot write a note, so it looks like a crash.
    assert {number: kind for number, kind in kinds.items() if kind} == {
        2: "crashed", 4: "timeout", 5: "crashed", 9: "crashed", 11: "timeout",
    }  # fmt: skip
    errors = table["error"].to_pylist()
    assert errors[2] == "prepare: the worker died 3 times at this image (a crash, or out of memory)"
    assert errors[4] == "prepare: took longer than image_timeout_s = 600"
    assert errors[9].startswith("seg: the worker died") and errors[11].startswith("seg: took longer")
    labelled = [number for number in range(20) if kinds[number] is None]
    assert all(table["seg"][number].as_py() for number in labelled)
    pictures = table["visualization"].to_pylist()
    assert [number for number in labelled if pictures[number] is None] == [17], "labels without a picture"
    output = tmp_path / "job-out"
    assert not list((output / "attempts").glob("*")), "no notes are left"
    assert not (output / "lock.json").exists()
    # Two images kill the worker three times, one is ended once by the timer in Python, one by the timer in C, ...
    assert json.loads((output / "summary.json").read_text())["repeated"] >= 8


def test_an_image_that_an_earlier_run_quarantined_is_not_tried_again(cluster, write_job, tmp_path):
    """The note of the earlier run is enough: the image is never touched."""
    files = write_photos(tmp_path / "photos", 6)
    path = write_job(tmp_path / "photos", unit_size=4)
    save_job(prepare_job(sr.Job.load(path)))  # a run that died before its first file
    note = {"at": 2, "deaths": {"2": 3}, "condemned": {"2": ["crashed", "seg: the worker died 3 times"]}}
    attempts = tmp_path / "job-out" / "attempts"
    attempts.mkdir(parents=True)
    (attempts / "s000000-00000000-00000004.seg.json").write_text(json.dumps(note))
    sr.run(sr.Job.load(path))
    table = read_output(tmp_path / "job-out")
    assert table["error_kind"].to_pylist() == [None, None, "crashed", None, None, None]
    assert table["error"][2].as_py() == "seg: the worker died 3 times"
    summary = sr.run(sr.Job.load(path), retry_errors=True)
    assert (summary.images, summary.failed) == (6, 0)
    table = read_output(tmp_path / "job-out")
    assert table["image_id"].to_pylist() == [file.name for file in files] and table["error_kind"].null_count == 6


def test_a_unit_that_is_processed_image_by_image_is_alone_in_its_process():
    """The image of another call must not be blamed for a death."""
    import threading
    import time

    from sapiens_ray.execution.attempts import Turns

    room, inside, seen = Turns(), [], []

    def call(kind: str, number: int) -> None:
        with room.alone() if kind == "alone" else room.shared():
            inside.append(kind)
            seen.append(list(inside))
            time.sleep(0.01)
            inside.remove(kind)

    threads = [
        threading.Thread(target=call, args=("alone" if n % 3 == 0 else "shared", n), daemon=True) for n in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(seen) == 30 and all(len(one) == 1 for one in seen if "alone" in one)
