"""Against Sapiens-Lite's own answers, where the parity kit is at hand: all tasks in one job."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import cv2
import pytest
import yaml

from tests.conftest import SHARED, read_output

PARITY = SHARED / "parity"


@pytest.mark.skipif(not PARITY.is_dir(), reason="the parity kit is not at hand")
def test_every_task_equals_sapiens_lite(cluster, sapiens_ray, tmp_path):
    command = [sys.executable, PARITY / "make_models.py", tmp_path / "models"]
    subprocess.run(command, check=True, capture_output=True)
    images = json.loads((PARITY / "golden" / "images.json").read_text())
    boxes = json.loads((PARITY / "golden" / "boxes.json").read_text())
    lines = [{"image": str(PARITY / "images" / about["file"]), "id": about["file"], "boxes": boxes[stem]}
             for stem, about in images.items()]  # fmt: skip
    (tmp_path / "photos.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def task(kind: str, file: str, **options: object) -> dict[str, object]:
        return {"task": kind, "checkpoint": f"models/sapiens_tiny_{file}_torchscript.pt2", **options}

    drawn = [
        task("seg", "seg"),
        task("depth", "depth", dtype="float32"),
        task("normal", "normal", dtype="float32"),
    ]
    tasks = [task("features", "pretrain", name="pretrain", save="map", dtype="float32")]
    for count in (17, 133, 308):
        pose = {"keypoints": count, "crop": "lite", "batch_size": 4}
        tasks.append(task("pose", f"pose{count}", name=f"pose{count}_full", boxes="none", **pose))
        tasks.append(task("pose", f"pose{count}", name=f"pose{count}_boxes", boxes={"column": "boxes"}, **pose))
    # As Sapiens-Lite's other mode: three programs of torch.export, and TorchScript that is cast.
    half = {"mode": "bfloat16", "dtype": "float32"}
    for kind, file, column in (
        ("seg", "seg", "seg"),
        ("depth", "depth", "depth"),
        ("features", "pretrain", "pretrain"),
    ):
        options = {key: value for key, value in half.items() if kind != "seg" or key == "mode"}
        options |= {"save": "map"} if kind == "features" else {}
        checkpoint = f"models/sapiens_tiny_{file}_bfloat16.pt2"
        tasks.append({**task(kind, file, name=f"half_{column}", **options), "checkpoint": checkpoint})
    tasks.append(task("normal", "normal", name="half_normal", **half))
    pose = {"keypoints": 17, "crop": "lite", "boxes": {"column": "boxes"}, "mode": "bfloat16"}
    tasks.append(task("pose", "pose17", name="half_pose17_boxes", **pose))
    for output, those, fraction in (("out", drawn, 1), ("more", tasks, 0)):  # pictures of full size take their time
        job = {
            "input": {"uri": "photos.jsonl", "id_column": "id"},
            "output": {"uri": output, "visualize": {"max_side": 16384, "format": "png", "fraction": fraction}},
            "tasks": those,
            "unit_size": 4,
        }
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
        done = sapiens_ray("run", tmp_path / "job.yaml", timeout=280)
        assert done.code == 0, done.text
        assert sapiens_ray("export", tmp_path / output, "--format", "lite", "--to", tmp_path / "lite").code == 0
    for column in ("seg", "depth", "normal", "pretrain", "pose17_boxes"):
        (tmp_path / "half").mkdir(exist_ok=True)
        (tmp_path / "lite" / f"half_{column}").rename(tmp_path / "half" / column)
    compare = subprocess.run(
        [sys.executable, PARITY / "compare.py", tmp_path / "half", "--profile", "bf16"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(compare.stdout)
    assert compare.returncode == 0, compare.stdout
    assert compare.stdout.count("images=7/7") == 5
    compare = subprocess.run(
        [sys.executable, PARITY / "compare.py", tmp_path / "lite", "--tol", "seg.agree_min=1", "seg.miou_min=1",
         "depth.max=1e-4", "depth.mean=1e-6", "normal.deg_p999=2e-3", "pretrain.max=2e-3", "pose.within_min=1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(compare.stdout)
    assert compare.returncode == 0, compare.stdout
    assert compare.stdout.count("images=7/7") == 10

    # The pictures are those of Sapiens-Lite too: same layout, same mean colours.
    statistics = json.loads((PARITY / "golden" / "vis_stats.json").read_text())
    pictures = {row["image_id"]: row["visualization"] for row in read_output(tmp_path / "out").to_pylist()}
    for stem, about in images.items():
        for column in ("seg", "depth", "normal"):
            name = pictures[about["file"]].replace("/seg/", f"/{column}/")  # the row names that of the first task
            picture = cv2.imread(str(tmp_path / "out" / name))
            wanted = statistics[stem][column]
            assert list(picture.shape) == wanted["shape"], (stem, column)
            right = picture[:, picture.shape[1] // 2 :]
            for region, key in ((picture, "mean_bgr"), (right, "right_half_mean_bgr")):
                difference = abs(region.reshape(-1, 3).mean(0) - wanted[key]).max()
                print(stem, column, key, difference)
                assert difference < 1.0, (stem, column, key, region.reshape(-1, 3).mean(0), wanted[key])
    shutil.rmtree(tmp_path / "out")
