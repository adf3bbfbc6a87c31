"""Compares every task, in both modes, with outputs of Sapiens-Lite. Needs the parity kit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import yaml

import sapiens_ray as sr
from tests.conftest import SHARED, read_output

PARITY = SHARED / "parity"
# Tighter than the kit's own limits.
EXACT = ["seg.agree_min=1", "seg.miou_min=1", "depth.max=1e-4", "depth.mean=1e-6", "normal.deg_p999=2e-3",
         "pretrain.max=2e-3", "pose.within_min=1"]  # fmt: skip
LITE = {"style": "lite", "max_side": 16384, "format": "png"}

pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason="needs the parity kit")


def golden(name: str) -> dict:
    return json.loads((PARITY / "golden" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kit") / "models"
    subprocess.run([sys.executable, PARITY / "make_models.py", folder], check=True, capture_output=True)
    return folder


@pytest.fixture
def folder(tmp_path, models) -> Path:
    """The kit's models, and its photos with their boxes as a list."""
    (tmp_path / "models").symlink_to(models)
    boxes = golden("boxes")
    lines = [{"image": str(PARITY / "images" / about["file"]), "id": about["file"], "boxes": boxes[stem]}
             for stem, about in golden("images").items()]  # fmt: skip
    (tmp_path / "photos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def task(kind: str, name: str, file: str = "", half: bool = False, **options: object) -> dict[str, object]:
    """half: the checkpoint and mode of Sapiens-Lite's mode bfloat16."""
    checkpoint = f"models/sapiens_tiny_{file or name}_{'bfloat16' if half else 'torchscript'}.pt2"
    options |= {"mode": "bfloat16"} if half else {}
    options |= {"dtype": "float32"} if kind in ("depth", "normal", "features") else {}
    options |= {"save": "map"} if kind == "features" else {}
    options |= {"crop": "lite", "batch_size": 4} if kind == "pose" else {}
    return {"task": kind, "name": name, "checkpoint": checkpoint, **options}


def pose(count: int, boxes: bool, half: bool = False) -> dict[str, object]:
    where: object = {"column": "boxes"} if boxes else "none"
    name = f"pose{count}_{'boxes' if boxes else 'full'}"
    return task("pose", name, f"pose{count}", half, keypoints=count, boxes=where)


def equal(sapiens_ray, folder: Path, output: str, tasks: list[dict[str, object]], *how: str, pictures: int = 0) -> None:
    """Label the photos, export the labels in format lite, and compare them with the outputs in the kit."""
    job = {
        "input": {"uri": "photos.jsonl", "id_column": "id"},
        "output": {"uri": output, "visualize": {**LITE, "fraction": pictures}},
        "tasks": tasks,
        "unit_size": 4,
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    assert sr.run(sr.Job.load(folder / "job.yaml")).images == 7
    lite = folder / f"{output}-lite"
    assert sapiens_ray("export", folder / output, "--format", "lite", "--to", lite).code == 0
    command = [sys.executable, PARITY / "compare.py", lite, *how]
    compare = subprocess.run(command, capture_output=True, text=True, check=False)
    print(compare.stdout)
    assert compare.returncode == 0, compare.stdout
    assert compare.stdout.count("images=7/7") == len(tasks)


def test_labels_and_pictures_equal_sapiens_lite(cluster, sapiens_ray, folder):
    drawn = [task(name, name) for name in ("seg", "depth", "normal")]
    equal(sapiens_ray, folder, "out", drawn, "--tol", *EXACT, pictures=1)
    # The pictures also equal those of Sapiens-Lite: same layout, same mean colours.
    statistics = golden("vis_stats")
    pictures = {row["image_id"]: row["visualization"] for row in read_output(folder / "out").to_pylist()}
    for stem, about in golden("images").items():
        for column in ("seg", "depth", "normal"):
            name = pictures[about["file"]].replace(
                "/seg/", f"/{column}/"
            )  # the row names the picture of the first task
            picture = cv2.imread(str(folder / "out" / name))
            wanted = statistics[stem][column]
            assert list(picture.shape) == wanted["shape"], (stem, column)
            right = picture[:, picture.shape[1] // 2 :]
            for region, key in ((picture, "mean_bgr"), (right, "right_half_mean_bgr")):
                difference = abs(region.reshape(-1, 3).mean(0) - wanted[key]).max()
                print(stem, column, key, difference)
                assert difference < 1.0, (stem, column, key, region.reshape(-1, 3).mean(0), wanted[key])


def test_features_and_pose_equal_sapiens_lite(cluster, sapiens_ray, folder):
    tasks = [task("features", "pretrain"), pose(17, True), pose(133, False), pose(308, True)]
    equal(sapiens_ray, folder, "out", tasks, "--tol", *EXACT)


@pytest.mark.nightly
def test_bfloat16_is_near_sapiens_lite(cluster, sapiens_ray, folder):
    """A program of torch.export, and a TorchScript program that is cast."""
    cast = task("normal", "normal", half=True) | {"checkpoint": "models/sapiens_tiny_normal_torchscript.pt2"}
    equal(sapiens_ray, folder, "out", [task("seg", "seg", half=True), cast], "--profile", "bf16")


@pytest.mark.nightly
def test_other_combinations_equal_sapiens_lite(cluster, sapiens_ray, folder):
    tasks = [pose(17, False), pose(133, True), pose(308, False)]
    equal(sapiens_ray, folder, "out", tasks, "--tol", *EXACT)
    cast = pose(17, True, half=True) | {"checkpoint": "models/sapiens_tiny_pose17_torchscript.pt2"}
    halves = [task("depth", "depth", half=True), task("features", "pretrain", half=True), cast]
    equal(sapiens_ray, folder, "half", halves, "--profile", "bf16")
