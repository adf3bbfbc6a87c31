"""Against Sapiens-Lite's own answers, where the parity kit is at hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import SHARED

PARITY = SHARED / "parity"


@pytest.mark.skipif(not PARITY.is_dir(), reason="the parity kit is not at hand")
def test_seg_equals_sapiens_lite(cluster, sapiens_ray, write_job, tmp_path):
    command = [sys.executable, PARITY / "make_models.py", tmp_path, "--tasks", "seg", "--no-export"]
    subprocess.run(command, check=True, capture_output=True)
    tasks = [{"task": "seg", "checkpoint": str(tmp_path / "sapiens_tiny_seg_torchscript.pt2")}]
    assert sapiens_ray("run", write_job(PARITY / "images", tasks=tasks)).code == 0
    assert sapiens_ray("export", tmp_path / "job-out", "--format", "lite", "--to", tmp_path / "lite").code == 0
    tolerances = ["seg.agree_min=1", "seg.miou_min=1", "seg.mask_agree_min=1"]
    compare = subprocess.run(
        [sys.executable, PARITY / "compare.py", tmp_path / "lite", "--tasks", "seg", "--tol", *tolerances],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert compare.returncode == 0, compare.stdout
    assert "images=7/7" in compare.stdout
