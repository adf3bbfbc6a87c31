"""GPUs that fail: once, again and again, or that are not there. The rest of the job goes on; no image pays for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE_S, ROOT, read_output, write_photos
from tests.faults.gpus import WORDS

COUNT = 48


@pytest.fixture
def run(write_job, tmp_path: Path, model: Path) -> Any:
    """Runs a job of depth on logical GPUs, some of them broken. Returns the exit code and the summary."""
    write_photos(tmp_path / "photos", COUNT)
    write_job(tmp_path / "photos", tasks=[{"task": "seg", "checkpoint": str(model)}], unit_size=2)

    def started(gpus: int, broken: str, when: str) -> tuple[int, dict[str, Any]]:
        command = [sys.executable, "-m", "tests.faults.gpus", str(tmp_path), str(gpus), broken, when]
        env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        said = [line for line in done.stdout.splitlines() if line.startswith("{")]
        assert len(said) == 1, done.stdout + done.stderr
        return done.returncode, json.loads(said[0])

    return started


def labelled(tmp_path: Path) -> list[Any]:
    table = read_output(tmp_path / "job-out")
    assert table.num_rows == COUNT and table["seg"].null_count == 0
    return list(table["error_kind"].to_pylist())


@pytest.mark.parametrize(("broken", "when"), [("0", "start"), pytest.param("1", "missing", marks=pytest.mark.nightly)])
def test_the_rest_goes_on_without_a_broken_gpu(run, tmp_path, broken, when):
    code, summary = run(2, broken, when)
    assert code == 0 and summary["state"] == "done", summary
    assert labelled(tmp_path) == [None] * COUNT and summary["images"] == summary["ok"] == COUNT
    (note,) = [note for note in summary["notes"] if "left out" in note]
    said = "torch finds none" if when == "missing" else WORDS
    assert note.startswith(f"GPU {broken} of ") and note.endswith(said), "said once, by host and GPU"


@pytest.mark.nightly
def test_a_gpu_that_fails_once_is_used_again(run, tmp_path):
    code, summary = run(1, "0", "once")
    assert (code, labelled(tmp_path)) == (0, [None] * COUNT)
    assert summary["repeated"] >= 1 and not [note for note in summary["notes"] if "left out" in note]


@pytest.mark.nightly
def test_a_job_without_a_gpu_that_works_says_so(run):
    code, summary = run(1, "0", "start")
    assert code == 1 and summary["failed"].startswith("GPU 0 of "), summary
    assert WORDS in summary["failed"] and "no other GPU is there; everything written is kept" in summary["failed"]


@pytest.mark.nightly
def test_a_gpu_that_fails_at_every_batch_costs_few_images(run, tmp_path):
    code, summary = run(2, "1", "batch")
    assert code == 0 and summary["state"] == "done", summary
    table = read_output(tmp_path / "job-out")
    kinds = table["error_kind"].to_pylist()
    assert table.num_rows == COUNT and set(kinds) <= {None, "crashed"}
    assert kinds.count("crashed") == table["seg"].null_count <= 3, "ten batches, and three tries of an image"
    assert [note for note in summary["notes"] if note.startswith("GPU 1 of ")]
