"""What docs/huggingface.md and docs/training.md show runs as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.export.test_huggingface import plan_of
from tests.reporting.made import labelled_photo, write_rows

NAMES = [f"{number}.png" for number in range(20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the output runs/people."""
    place = tmp_path_factory.mktemp("docs")
    rows = [labelled_photo(place / "photos", name, seed) for seed, name in enumerate(NAMES)]
    plan_of(write_rows(place / "runs" / "people", rows, files=2), place / "photos", NAMES)
    return place


def blocks(page: str) -> list[tuple[str, str]]:
    return re.findall(r"```(bash|python)\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def run(code: str, folder: Path, language: str = "python") -> str:
    command = ["bash", "-euc", code] if language == "bash" else [sys.executable, "-c", code]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_page_about_training(folder):
    ((_, loop),) = blocks("training.md")
    assert 10 <= len([line for line in loop.splitlines() if line.strip() and "import" not in line]) <= 15
    lines = run(loop, folder).splitlines()
    assert [re.sub(r"[\d.]+$", "", line) for line in lines] == ["epoch 0: loss ", "epoch 1: loss "]


def test_the_page_about_hugging_face(folder):
    (export, load, train) = blocks("huggingface.md")
    shutil.rmtree(folder / "people", ignore_errors=True)
    assert run(export[1], folder, "bash").startswith("20 images exported, 0 error rows skipped\n")
    assert run(load[1], folder) == "(120, 160) (120, 160)\n(64, 48)\n['Hair', 'Torso']\n1 person, 17 keypoints\n"
    assert run(train[1], folder) == "torch.Size([8, 64, 48])\n"
