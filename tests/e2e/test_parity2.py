"""Compares the tasks of Sapiens2 with outputs of the original programs. Needs the parity kit of Sapiens2."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import pytest
import yaml

import sapiens_ray as sr
from tests.conftest import SHARED

KIT = SHARED / "parity2"
PHOTOS = SHARED / "parity" / "images"
ROPES = {"bfloat16": "bf16", "float32": "fp32"}
# With OpenCV 4, crops differ from those of the reference, which was made with OpenCV 5.
OPENCV = ["--boxes-opencv", "4"] if cv2.__version__.startswith("4.") else []

pytestmark = pytest.mark.skipif(not (KIT.is_dir() and PHOTOS.is_dir()), reason="needs the parity kit of Sapiens2")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kit2")
    tasks = ["seg", "normal", "pretrain", "pose", "pointmap", "matting"]
    command = [sys.executable, KIT / "make_checkpoints.py", folder, "--tasks", *tasks]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture
def folder(tmp_path, models) -> Path:
    (tmp_path / "models").symlink_to(models)
    return tmp_path


def task(kind: str, name: str, file: str = "", **options: object) -> dict[str, object]:
    return {"task": kind, "name": name, "checkpoint": f"models/sapiens2_tiny_{file or name}.safetensors", **options}


def maps(rope: str) -> list[dict[str, object]]:
    return [
        task("seg", "seg", rope=rope),
        task("normal", "normal", rope=rope, dtype="float32", mask="none"),
        task("features", "pretrain", rope=rope, save="map"),
        task("pointmap", "pointmap", rope=rope, mask="none"),
        task("matting", "matting", rope=rope, bits=16, foreground=True),
    ]


def poses(rope: str, *which: str) -> list[dict[str, object]]:
    """which: names of the kit, such as pose_boxes_flip."""
    return [
        task("pose", name, "pose", rope=rope, keypoints=308, flip_test=name.endswith("_flip"), batch_size=2,
             boxes={"column": "boxes"} if "boxes" in name else "none")
        for name in which
    ]  # fmt: skip


def equal(sapiens_ray, folder: Path, tasks: list[dict[str, object]], rope: str, stems: Sequence[str] = ()) -> None:
    """Label photos of the kit, export the labels in format sapiens2, and compare them with the kit's outputs."""
    golden = {name: json.loads((KIT / "golden" / f"{name}.json").read_text()) for name in ("images", "boxes")}
    chosen = stems or list(golden["images"])
    lines = [{"image": str(PHOTOS / golden["images"][stem]["file"]), "id": golden["images"][stem]["file"],
              "boxes": golden["boxes"][stem]} for stem in chosen]  # fmt: skip
    (folder / "photos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    job = {
        "input": {"uri": "photos.jsonl", "id_column": "id"},
        "output": {"uri": "out", "visualize": {"fraction": 0}},
        "tasks": tasks,
        "unit_size": 4,
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    assert sr.run(sr.Job.load(folder / "job.yaml")).images == len(chosen)
    files = folder / "files"
    assert sapiens_ray("export", folder / "out", "--format", "sapiens2", "--to", files).code == 0
    if (files / "pointmap").is_dir():
        rows = sr.read_labels(folder / "out", columns=["image_id", "pointmap_scale"])
        scales = {Path(name).stem: scale for name, scale in zip(rows["image_id"], rows["pointmap_scale"], strict=True)}
        (files / "pointmap" / "scale.json").write_text(json.dumps(scales))
    command = [sys.executable, KIT / "compare.py", files, "--rope", ROPES[rope], *OPENCV, "--verbose"]
    command += ["--allow-missing"] if stems else []
    compared = subprocess.run(command, capture_output=True, text=True, check=False)
    print(compared.stdout)
    assert compared.returncode == 0, compared.stdout
    assert compared.stdout.count(f"compared={len(chosen)}/6") == len(tasks)


def test_labels_of_some_photos_equal_sapiens2(cluster, sapiens_ray, folder):
    """A photo that is enlarged along one axis only, an odd one, and one smaller than its crops."""
    tasks = [*maps("bfloat16"), *poses("bfloat16", "pose_boxes_flip")]
    equal(sapiens_ray, folder, tasks, "bfloat16", ["wide_900x310", "odd_299x401", "tiny_33x47"])


@pytest.mark.nightly
@pytest.mark.parametrize("rope", ROPES)
def test_maps_equal_sapiens2(cluster, sapiens_ray, folder, rope):
    equal(sapiens_ray, folder, maps(rope), rope)


@pytest.mark.nightly
@pytest.mark.parametrize("rope", ROPES)
def test_poses_equal_sapiens2(cluster, sapiens_ray, folder, rope):
    names = ["pose_full", "pose_full_flip", "pose_boxes", "pose_boxes_flip"]
    equal(sapiens_ray, folder, poses(rope, *names), rope)
