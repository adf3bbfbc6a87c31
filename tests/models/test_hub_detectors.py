"""Detectors of transformers against its own pipeline, their folders, and the Hugging Face hub."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from sapiens_ray.errors import CheckpointError, ConfigError, ImageError
from sapiens_ray.job.config import Job
from sapiens_ray.models import repositories
from sapiens_ray.models.hub_detectors import HubDetector, load_detector
from sapiens_ray.models.resolving import resolve_detector
from sapiens_ray.tasks.persons import DetectorOptions
from sapiens_ray.tasks.repositories import DETECTORS, detector_licence, on_hub
from tests.conftest import photo
from tests.models.test_detectors import persons
from tests.tiny_detectors import MAKERS, write_detector

WHERE = "tasks[2].boxes.detector"
SIZES = ((120, 90), (47, 333), (640, 480), (90, 120), (120, 90), (7, 5))  # width, height


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("detectors")
    return {kind: write_detector(base / kind, kind) for kind in MAKERS}


@pytest.fixture
def copied(folders, tmp_path):
    return Path(shutil.copytree(folders["rtdetr_v2"], tmp_path / "model"))


def options(folder: Path | str, **given: Any) -> DetectorOptions:
    return DetectorOptions(model=str(folder), **given)


def load(folder: Path, batch_size: int = 1, **given: Any) -> HubDetector:
    detector = load_detector(options(folder, **given), folder, "cpu", batch_size=batch_size)
    assert isinstance(detector, HubDetector)
    return detector


@pytest.mark.parametrize("kind", MAKERS)
def test_the_persons_are_those_of_the_pipeline_of_transformers(folders, kind):
    from transformers import pipeline

    folder = folders[kind]
    reference = pipeline("object-detection", model=str(folder), device="cpu")
    detector = load(folder, score=0.2, nms=1.0)
    total = 0
    for seed, size in enumerate(SIZES):
        image = photo(*size, seed)
        answer = reference(Image.fromarray(image[..., ::-1]), threshold=0.2)
        wanted = [one for one in answer if one["label"] == "person"]
        found = detector(image)
        total += len(found)
        assert len(found) == len(wanted)
        assert np.allclose(found[:, 4], sorted((one["score"] for one in wanted), reverse=True), atol=1e-6)
        corners = sorted(tuple(one["box"][name] for name in ("xmin", "ymin", "xmax", "ymax")) for one in wanted)
        assert sorted(map(tuple, found[:, :4].astype(int).tolist())) == corners, "the pipeline cuts off the decimals"
    assert total > 10


@pytest.mark.parametrize("kind", MAKERS)
def test_neighbours_in_a_batch_change_nothing(folders, kind):
    photos = [photo(*size, seed) for seed, size in enumerate(SIZES)]
    alone, batched = load(folders[kind], 1, score=0.2, nms=1.0), load(folders[kind], 4, score=0.2, nms=1.0)
    batches: list[tuple[int, ...]] = []
    batched._model.register_forward_pre_hook(
        lambda model, args, given: batches.append(tuple(given["pixel_values"].shape)), with_kwargs=True
    )
    one_by_one, at_once = persons(alone, photos), persons(batched, photos)
    assert not np.array_equal(one_by_one[0], one_by_one[4]), "two photos of one size"
    for wanted, found in zip(one_by_one, at_once, strict=True):
        assert wanted.shape == found.shape and np.allclose(wanted[:, 4], found[:, 4], atol=1e-5)
        nearest = np.abs(wanted[:, None, :4] - found[None, :, :4]).max(2).min(1)
        assert nearest.max(initial=0) < 0.01, "pixels"
    if kind == "detr_dc5":  # no photo is padded for the sake of others
        assert batches == [(3, 3, 64, 85), (1, 3, 100, 14), (1, 3, 85, 64), (1, 3, 64, 89)]
    else:
        assert batches == [(4, 3, 64, 64), (2, 3, 64, 64)]


def test_persons_are_the_label_of_that_name(folders, tmp_path):
    folder = folders["rtdetr_v2"]
    assert load(folder).label == 1
    image = photo(120, 90)
    assert not np.array_equal(load(folder, score=0.0)(image), load(folder, score=0.0, label="Bicycle")(image))
    assert load(folder, label="Bicycle").label == 0 and load(folder, label=2).label == 2
    for label, message in (("dog", "no label 'dog' in its id2label: 0 bicycle, 1 person, 2 N/A"), (7, "no label 7")):
        with pytest.raises(CheckpointError, match=rf"^tasks\[2\]\.boxes\.detector\.model: .* has {message}"):
            resolve_detector(options(folder, label=label), WHERE, {})
    twice = tmp_path / "twice"
    twice.mkdir()
    config = {"id2label": {"0": "person", "1": "Person"}}
    with pytest.raises(CheckpointError, match="more than one label 'person'"):
        repositories.person_label(config, options(folder), "x")
    with pytest.raises(CheckpointError, match="no label 'person' in its id2label, which is missing"):
        repositories.person_label({}, options(folder), "x")
    assert repositories.person_label({}, options(folder, label=1), "x") == 1


def test_a_model_whose_output_is_not_finite_is_an_error_of_the_photo(copied):
    state = safetensors.torch.load_file(copied / "model.safetensors")
    (name,) = [name for name in state if name.endswith("class_embed.1.bias")]
    state[name][:] = torch.nan
    safetensors.torch.save_file(state, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(ImageError, match="NaN or infinity"):
        load(copied)(photo(20, 20))


def test_folders_that_hold_no_detector_are_refused(copied, tmp_path):
    def refusal(**given: Any) -> str:
        with pytest.raises(CheckpointError) as caught:
            resolve_detector(options(copied, **given), WHERE, {})
            load(copied)
        return str(caught.value)

    state = safetensors.torch.load_file(copied / "model.safetensors")
    whole = dict(state)
    del state["model.backbone.model.embedder.embedder.0.convolution.weight"]
    safetensors.torch.save_file(state, copied / "model.safetensors", {"format": "pt"})
    assert "lacks 1 of the weights" in refusal() and "embedder.0.convolution.weight" in refusal()
    safetensors.torch.save_file(whole, copied / "model.safetensors", {"format": "pt"})
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    assert "does not hold an object detector of transformers" in refusal()
    (copied / "config.json").write_text("{")
    assert f"{copied}/config.json cannot be read" in refusal()
    (copied / "model.safetensors").unlink()
    assert "has no weights: neither model.safetensors nor pytorch_model.bin" in refusal()
    (copied / "preprocessor_config.json").unlink()
    assert "has no preprocessor_config.json" in refusal()
    shutil.rmtree(copied)
    assert refusal().startswith(f"{WHERE}.model: {copied} does not exist on node ")


def test_missing_transformers_is_one_line(copied, monkeypatch):
    monkeypatch.setattr(repositories, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"needs transformers, .*: pip install 'sapiens-ray\[detectors\]'$"):
        resolve_detector(options(copied), WHERE, {})


def test_a_model_is_identified_by_its_files_wherever_they_are(copied, tmp_path, monkeypatch):
    monkeypatch.setenv("SAPIENS_RAY_CACHE", str(tmp_path / "cache"))
    found = resolve_detector(options(copied), WHERE, {})
    names = ["config.json", "model.safetensors", "preprocessor_config.json"]
    lines = subprocess.run(["sha256sum", *names], cwd=copied, capture_output=True, check=True).stdout
    said = subprocess.run(["sha256sum"], input=lines, capture_output=True, check=True).stdout.split()[0].decode()
    assert found.sha256 == said and found.size == sum((copied / name).stat().st_size for name in names)
    assert resolve_detector(options(copied, sha256=said.upper()), WHERE, {}).sha256 == said
    with pytest.raises(CheckpointError, match=rf"^tasks\[2\]\.boxes\.detector\.sha256: .* pins {'0' * 64}"):
        resolve_detector(options(copied, sha256="0" * 64), WHERE, {})
    memory = fsspec.filesystem("memory")
    memory.put(str(copied), "/bucket/model", recursive=True)
    remote = resolve_detector(options("memory://bucket/model"), WHERE, {})
    assert remote.sha256 == said and load(remote.local_file())(photo(20, 20)).shape[1] == 5
    assert options(copied).result_settings() == options("memory://bucket/model").result_settings()
    assert options(copied).key != options("memory://bucket/model").key
    (copied / "README.md").write_text("not part of the model")
    assert resolve_detector(options(copied), WHERE, {}).sha256 == said
    (copied / "preprocessor_config.json").write_text((copied / "preprocessor_config.json").read_text() + " ")
    assert resolve_detector(options(copied), WHERE, {}).sha256 != said
    with pytest.raises(CheckpointError, match="does not hold the model this job was started with"):
        found.local_file()


def test_weights_in_several_files_are_all_needed(tmp_path):
    names = ["config.json", "preprocessor_config.json", "model.safetensors.index.json", "pytorch_model.bin"]
    names += ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert repositories.model_files([*names, "model.safetensors"], "x") == [*names[:1], "model.safetensors", names[1]]
    for name in names:
        (tmp_path / name).write_text("{}")
    (tmp_path / names[2]).write_text(json.dumps({"weight_map": {"a": names[4], "b": names[5]}}))
    assert repositories.model_files([*names[:2], names[3]], "x") == [*names[:2], "pytorch_model.bin"]
    del names[3]
    assert repositories.model_files([*names, "pytorch_model.bin"], "x") == sorted(names), "as transformers chooses"
    assert repositories.is_complete(tmp_path)
    (tmp_path / names[4]).unlink()
    assert not repositories.is_complete(tmp_path)


def test_what_the_job_file_may_say(tmp_path):
    def detector(said: object) -> DetectorOptions:
        task = {"task": "pose", "keypoints": 17, "checkpoint": "p.pt2", "boxes": {"detector": said}}
        (tmp_path / "job.yaml").write_text(
            json.dumps({"input": {"uri": "in"}, "output": {"uri": "out"}, "tasks": [task]})
        )
        (found,) = Job.load(tmp_path / "job.yaml").detectors
        return found

    assert detector("rtdetr_v2_r18vd").model == "rtdetr_v2_r18vd"
    assert detector("rtdetr_v2_r18vd").label == "person" and detector("ssd300_vgg16").label == 1
    assert (detector("rf-detr-medium").score, detector("rf-detr-medium").nms) == (0.3, 0.3)
    assert detector("./models/d") == detector({"model": "./models/d"}) and detector("./models/d").model.startswith("/")
    assert detector("./models/d").model == str(tmp_path / "models" / "d")
    assert detector("me/finetuned@v2").model == "me/finetuned@v2" and on_hub("me/finetuned@v2") == (
        "me/finetuned",
        "v2",
    )
    assert detector("s3://bucket/d").model == "s3://bucket/d" and on_hub("rf-detr-medium")[1] == "main"
    for said, message in (
        ("rf-detr-large", "should be a detection model of torchvision, one of rtdetr_v2_r50vd"),
        ({"model": "me/d", "checkpoint": "x.pth"}, "has no `checkpoint`; give its folder as `model`"),
        ({"model": "ssd300_vgg16", "label": "person"}, "the labels of ssd300_vgg16 are numbers"),
        ({"model": "me/d", "label": -1}, "label: should be a number from 0 on, or the name of a label"),
    ):
        with pytest.raises(ConfigError, match=message):
            detector(said)


def test_licences_are_known():
    assert {one.licence for one in DETECTORS.values()} == {"Apache-2.0"}
    assert detector_licence("Roboflow/rf-detr-medium") == detector_licence("rf-detr-medium") == "Apache-2.0"
    assert detector_licence("me/finetuned") is None
