"""Object detectors of transformers from the command line: jobs, a local hub, machines without network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from sapiens_ray.imaging.images import decode
from sapiens_ray.models.hub_detectors import load_detector
from sapiens_ray.models.repositories import folder_sha256
from sapiens_ray.models.stand_ins import write_model
from sapiens_ray.tasks.persons import DetectorOptions
from tests.conftest import read_output, write_photos
from tests.hub_server import COMMIT, Hub
from tests.tiny_detectors import write_detector


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_detector(tmp_path_factory.mktemp("detectors") / "tiny")


def test_a_job_whose_persons_are_found_by_a_folder(cluster, command, write_job, folder, tmp_path):
    write_photos(tmp_path / "photos", 3)
    write_model(tmp_path / "p17.pt2", "pose17")
    shutil.copytree(folder, tmp_path / "finder")
    detector = {"model": "./finder", "score": 0.2}
    task = {"task": "pose", "keypoints": 17, "checkpoint": str(tmp_path / "p17.pt2"), "boxes": {"detector": detector}}
    job = write_job(tmp_path / "photos", tasks=[task])
    checked = command("check", job, "--load")
    assert checked.code == 0, checked.text
    text = " ".join(checked.out.split())
    assert f"{tmp_path}/finder, label person, score at least 0.2" in text
    assert folder_sha256(folder) in text and "persons in a black photo" in text
    assert command("run", job).code == 0
    alone = load_detector(DetectorOptions(model=str(folder), score=0.2), folder, "cpu")
    rows = read_output(tmp_path / "job-out").to_pylist()
    assert len(rows) == 3 and sum(len(row["persons"]) for row in rows) > 3
    for row in rows:
        wanted = alone(decode(Path(row["uri"]).read_bytes(), 10**9))
        assert np.allclose([person["box"] for person in row["persons"]], wanted[:, :4], atol=1e-3)
        assert np.allclose([person["box_score"] for person in row["persons"]], wanted[:, 4], atol=1e-6)
    # A copy in another place is the same detector; other preprocessing is another one.
    (tmp_path / "finder").rename(tmp_path / "moved")
    moved = command("check", job, "--set", "tasks.0.boxes.detector.model=" + str(tmp_path / "moved"))
    assert moved.code == 0 and "nothing left to do" in moved.out, moved.text
    path = tmp_path / "moved" / "preprocessor_config.json"
    path.write_text(path.read_text().replace("64", "96"))
    refused = command("check", job, "--set", "tasks.0.boxes.detector.model=" + str(tmp_path / "moved"))
    assert refused.code == 2 and f"tasks[0].boxes.detector: was {tmp_path}/finder, now {tmp_path}/moved" in refused.err


def test_pulled_detectors_are_found_without_network(command, sapiens_ray, write_job, folder, tmp_path, monkeypatch):
    """Commands in this process are offline, as the tests are; those that download run in their own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("SAPIENS_LITE_CHECKPOINT_ROOT", raising=False)
    write_photos(tmp_path / "photos", 1)
    write_model(tmp_path / "p17.pt2", "pose17")
    task = {"task": "pose", "keypoints": 17, "checkpoint": str(tmp_path / "p17.pt2")}
    job = write_job(tmp_path / "photos", tasks=[{**task, "boxes": {"detector": "rtdetr_v2_r18vd"}}])
    check = command("check", job)
    assert check.code == 0 and "about 81.0 MB" in check.out and "not on this machine" in check.out, check.text
    place = "PekingU/rtdetr_v2_r18vd"
    run = command("run", job)
    assert run.code == 2 and f"tasks[0].boxes.detector.model: cannot download {place}" in run.err, run.text
    assert "checkpoints pull rtdetr_v2_r18vd --to DIR" in run.err and "Traceback" not in run.text

    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub = Hub({place: {**files, "README.md": b"x", "pytorch_model.bin": b"x"}})
    online = {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "",
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    try:
        done = sapiens_ray("checkpoints", "pull", "rtdetr_v2_r18vd", "--to", tmp_path / "tree", env=online)
        pulled = tmp_path / "tree" / "detector" / "rtdetr_v2_r18vd"
        assert done.code == 0 and done.out.strip() == str(pulled), done.text
        assert "Licence: Apache-2.0" in done.err
        assert {path.name: path.read_bytes() for path in pulled.iterdir()} == files, "no second copy of the weights"
        done = sapiens_ray("checkpoints", "pull", place, "me/nothing", "--json", env=online)
        assert done.code == 2 and "me/nothing is not on the hub" in done.err and "Traceback" not in done.text, done.text
        assert Path(json.loads(done.out.splitlines()[0])["path"]).parts[-2:] == ("snapshots", COMMIT)
    finally:
        hub.server.shutdown()
    with monkeypatch.context() as tree:
        tree.setenv("SAPIENS_LITE_CHECKPOINT_ROOT", str(tmp_path / "tree"))
        check = command("check", job)
        assert check.code == 0 and folder_sha256(folder) in check.out, check.text
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    check = command("check", job)
    assert check.code == 0 and folder_sha256(folder) in check.out, check.text
