"""The cover picture: with stand-ins, and from a tree of checkpoints. Real weights cannot be had here, so the tree holds
small models with random weights under the names of the published ones."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

import sapiens_ray as sr
from sapiens_ray.models.catalogue import Mode, published, target_in_tree
from sapiens_ray.models.stand_ins import write_model
from sapiens_ray.tasks.sections import Visualize
from tests.conftest import PATIENCE_S, ROOT
from tests.small_models import small, write

SCRIPT = ROOT / "docs" / "images" / "make_cover.py"
PANELS = {"photo": 726, "seg": 876, "depth": 1026}  # column: its left edge
ROWS = (170, 328)  # upper edges of the two photos


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_cover", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def put(tree: Path, name: str, mode: Mode) -> Path:
    path = target_in_tree(tree, published(name), mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def drawn(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["make_cover.py", *map(str, arguments)])
    script.main()


def test_the_cover_in_the_repository_is_what_the_script_draws(script, monkeypatch, tmp_path, capsys):
    drawn(script, monkeypatch, "--to", tmp_path / "cover.png")
    assert "stand-ins that show what the columns hold. They are not Sapiens output." in capsys.readouterr().out
    ours, kept = cv2.imread(str(tmp_path / "cover.png")), cv2.imread(str(SCRIPT.with_name("cover.png")))
    assert ours.shape == kept.shape and np.abs(ours.astype(int) - kept).mean() < 0.5


def test_make_cover_shows_the_labels_of_a_checkpoint_tree(tmp_path):
    tree = tmp_path / "my checkpoints"
    write(put(tree, "seg-0.3b", "original"), small("seg"), "pth")
    for name, task in (("depth-1b", "depth"), ("normal-1b", "normal"), ("pose17-0.6b", "pose17")):
        write_model(put(tree, name, "torchscript"), task)
    write_model(put(tree, "depth-0.3b", "torchscript"), "depth", seed=1)  # the larger one is taken
    write_model(put(tree, "pretrain-1b", "torchscript"), "features")
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "docs" / "images", checkout / "docs" / "images")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout / name)
    command = ["make", "cover", f"VENV={sys.prefix}", f"--old-file={sys.prefix}/installed", f"CHECKPOINTS={tree}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=checkout, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    models = "seg-0.3b, depth-1b, normal-1b, pose17-0.6b, pretrain-1b"
    assert f"Labels: {models} of Sapiens by Meta, CC-BY-NC 4.0, not for commercial use." in done.stdout

    cover, stand_ins = (cv2.imread(str(root / "docs" / "images" / "cover.png")) for root in (checkout, ROOT))
    assert cover.shape == stand_ins.shape
    changed = (cover != stand_ins).any(-1)
    assert changed[610:645].any() and not changed[650:].any(), "credit and licence; the photos are the same"
    assert not changed[:132].any() and not changed[:, :720][:600].any()
    seg = sr.Labeler(task="seg", checkpoint=target_in_tree(tree, published("seg-0.3b"), "original"))
    depth = sr.Labeler(
        tasks=[
            {"task": "depth", "checkpoint": str(target_in_tree(tree, published("depth-1b"), "torchscript"))},
            {"task": "seg", "checkpoint": str(target_in_tree(tree, published("seg-0.3b"), "original"))},
        ]
    )
    look = Visualize(style="lite", opacity=0.7)
    for top, photo in zip(ROWS, ("astronaut.jpg", "grace_hopper.jpg"), strict=True):
        path = ROOT / "sapiens_ray" / "samples" / photo
        for column, picture in (("seg", seg.preview(path, look)), ("depth", depth.preview(path, look))):
            wanted = cv2.resize(picture[:512, 512:1024], (142, 142), interpolation=cv2.INTER_AREA)
            found = cover[top : top + 142, PANELS[column] : PANELS[column] + 142]
            inside = np.s_[12:-12, 12:-12]  # corners are round
            assert np.abs(found[inside].astype(int) - wanted[inside]).mean() < 3, (photo, column)


def test_the_preferred_model_is_the_largest_with_the_most_keypoints(script, tmp_path):
    for name, mode in (("pose17-2b", "torchscript"), ("pose308-0.3b", "bfloat16"), ("pose308-0.6b", "original")):
        put(tmp_path, name, mode).touch()
    name, file, mode = script.checkpoint(tmp_path, "pose")
    assert (name, mode, file) == ("pose308-0.6b", "original", put(tmp_path, name, "original"))
    put(tmp_path, name, "torchscript").touch()
    assert script.checkpoint(tmp_path, "pose")[2] == "torchscript", "as it is published"


def test_a_missing_checkpoint_is_named(script, monkeypatch, tmp_path):
    with pytest.raises(SystemExit) as caught:
        drawn(script, monkeypatch, "--checkpoints", tmp_path, "--to", tmp_path / "cover.png")
    fetch = f"sapiens-ray checkpoints pull seg-1b --to {tmp_path}"
    assert str(caught.value) == f"no checkpoint for seg in {tmp_path}; fetch one: {fetch}"
    assert not (tmp_path / "cover.png").exists()
