"""An image at which its worker dies ends the job with a word, and not in a loop."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import read_output, write_photos

# Workers would import the task anew; by value they get the one that crashes.
SCRIPT = """
import os, signal, sys, ray, sapiens_ray as sr
from sapiens_ray import stages
from sapiens_ray.tasks.seg import Seg

plain = Seg.prepare

def crash(self, image):
    if image.shape[:2] == (20, 30):
        os.kill(os.getpid(), signal.SIGSEGV)
    return plain(self, image)

Seg.prepare = crash
import ray.cloudpickle, sapiens_ray.errors
ray.cloudpickle.register_pickle_by_value(sys.modules["sapiens_ray.tasks.seg"])
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
try:
    sr.run(sr.Job.load(sys.argv[1]))
except sr.errors.JobFailed as error:
    print("FAILED", error)
"""


@pytest.mark.slow
def test_an_image_that_kills_its_worker_ends_the_job_with_a_word(write_job, tmp_path):
    import cv2

    from tests.conftest import photo

    files = write_photos(tmp_path / "photos", 6)
    files[3].write_bytes(cv2.imencode(".png", photo(30, 20))[1].tobytes())
    path = write_job(tmp_path / "photos", unit_size=1)
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, path], capture_output=True, text=True, timeout=150, env=env, check=False
    )
    assert "FAILED a worker died 6 times at the same images" in done.stdout, done.stdout + done.stderr
    assert read_output(tmp_path / "job-out").num_rows >= 1, "what is written stays"
