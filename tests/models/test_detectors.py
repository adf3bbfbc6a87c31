"""Person detectors against direct calls of torchvision, and TorchScript detectors with every signature."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

import sapiens_ray as sr
from sapiens_ray.errors import CheckpointError, ImageError
from sapiens_ray.models.detectors import Detector
from sapiens_ray.models.stand_ins import write_model
from sapiens_ray.tasks.persons import DetectorOptions
from tests.conftest import photo

SSD = "ssdlite320_mobilenet_v3_large"
WHERE = "tasks[2].boxes.detector"


class Bright(torch.nn.Module):
    """Finds bright rectangles: the left half and the right half of the image, each if its mean is over 0.5."""

    def halves(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        height, width = image.shape[1], image.shape[2]
        middle = width // 2
        boxes = torch.tensor(
            [[0.0, 0.0, float(middle), float(height)], [float(middle), 0.0, float(width), float(height)]]
        )
        scores = torch.stack([image[:, :, :middle].mean(), image[:, :, middle:].mean()])
        return {"boxes": boxes, "labels": torch.tensor([1, 1]), "scores": scores}

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        return [self.halves(image) for image in images]


class BrightBatch(Bright):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # type: ignore[override]
        found = self.halves(images[0])
        return found["boxes"][None], found["labels"][None], found["scores"][None]


class LikeTorchvision(Bright):
    def forward(  # type: ignore[override]
        self, images: list[torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
        empty: dict[str, torch.Tensor] = {}
        return empty, [self.halves(image) for image in images]


def scripted(module: torch.nn.Module, path: Any) -> Any:
    torch.jit.script(module).save(str(path))
    return path


@pytest.fixture(scope="module")
def ssd(tmp_path_factory):
    torch.manual_seed(0)
    network = torchvision.models.get_model(SSD, weights=None, weights_backbone=None)
    path = tmp_path_factory.mktemp("ssd") / "ssd.pth"
    torch.save(network.state_dict(), path)
    return path


def halves(left: int, right: int, width: int = 80, height: int = 60) -> np.ndarray:
    image = np.full((height, width, 3), left, np.uint8)
    image[:, width // 2 :] = right
    return image


@pytest.mark.parametrize("module", [Bright, BrightBatch, LikeTorchvision])
def test_torchscript_detectors_of_every_signature(tmp_path, module):
    path = scripted(module(), tmp_path / "d.pt2")
    detector = Detector(DetectorOptions(model="torchscript", checkpoint="x", score=0.5), path, "cpu")
    assert np.allclose(detector(halves(255, 204)), [[0, 0, 40, 60, 1.0], [40, 0, 80, 60, 0.8]])
    assert np.allclose(detector(halves(153, 204)), [[40, 0, 80, 60, 0.8], [0, 0, 40, 60, 0.6]]), "best first"
    assert detector(halves(0, 10)).shape == (0, 5)
    other = Detector(DetectorOptions(model="torchscript", checkpoint="x", label=2), path, "cpu")
    assert other(halves(255, 255)).shape == (0, 5)


def test_the_detector_sees_rgb(tmp_path):
    class Red(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([1]), images[0, 0].mean().reshape(1)

    path = scripted(Red(), tmp_path / "red.pt2")
    detector = Detector(DetectorOptions(model="torchscript", checkpoint="x", score=0.01), path, "cpu")
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 2] = 51  # red, in BGR
    assert detector(image)[0, 4] == pytest.approx(0.2)


def test_overlapping_boxes_of_one_person_become_one(tmp_path):
    class Doubled(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 0.0, 30.0, 9.0]])
            return boxes, torch.tensor([1, 1, 1]), torch.tensor([0.6, 0.9, 0.4])

    path = scripted(Doubled(), tmp_path / "doubled.pt2")
    found = {nms: Detector(DetectorOptions(model="torchscript", checkpoint="x", nms=nms), path, "cpu")(halves(0, 0))
             for nms in (0.3, 1.0)}  # fmt: skip
    assert np.allclose(found[0.3][:, 4], [0.9, 0.4]) and np.allclose(found[1.0][:, 4], [0.9, 0.6, 0.4])


def test_a_program_that_is_not_a_detector_is_refused(tmp_path):
    path = scripted(torch.nn.Identity(), tmp_path / "identity.pt2")
    with pytest.raises(CheckpointError, match="not boxes, labels and scores"):
        Detector(DetectorOptions(model="torchscript", checkpoint="x"), path, "cpu")(halves(0, 0))


def test_boxes_with_nan_are_an_error(tmp_path):
    class Nan(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            nan = float("nan")
            bright = bool(images.mean() > 0.5)
            boxes = torch.tensor([[nan, 0.0, 4.0, 4.0]]) if bright else torch.ones(1, 4)
            return boxes, torch.tensor([1]), torch.tensor([0.9 if bright else nan])

    path = scripted(Nan(), tmp_path / "nan.pt2")
    for brightness in (0, 255):
        with pytest.raises(ImageError, match="NaN"):
            Detector(DetectorOptions(model="torchscript", checkpoint="x"), path, "cpu")(halves(brightness, brightness))


def test_torchvision_models_give_the_boxes_of_torchvision(ssd):
    network = torchvision.models.get_model(SSD, weights=None, weights_backbone=None)
    network.load_state_dict(torch.load(ssd, weights_only=True))
    for size in ((120, 90), (1, 1), (333, 47)):
        image = photo(*size)
        tensor = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1) / 255
        with torch.inference_mode():
            (expected,) = network.eval()([tensor])
        label = int(expected["labels"].mode().values)  # weights are random: take the most frequent label
        wanted = expected["labels"] == label
        assert int(wanted.sum()) > 5
        found = Detector(DetectorOptions(model=SSD, checkpoint="x", score=0.0, nms=1.0, label=label), ssd, "cpu")(image)
        assert len(found) == int(wanted.sum())
        assert np.allclose(found[:, :4], expected["boxes"][wanted]), size
        assert np.allclose(found[:, 4], expected["scores"][wanted])


@pytest.mark.parametrize("size", [(3, 700), (5000, 3), (1_000_000, 3)])
def test_persons_are_found_on_strips_at_little_cost(tmp_path, size):
    path = scripted(Bright(), tmp_path / "d.pt2")
    width, height = size
    options = DetectorOptions(model="torchscript", checkpoint="x", score=0.001)
    found = Detector(options, path, "cpu")(np.full((height, width, 3), 255, np.uint8))
    assert len(found) and (found[:, :4] >= 0).all()
    assert found[:, [0, 2]].max() <= width and found[:, [1, 3]].max() <= height
    assert found[:, 3].max() == pytest.approx(height, rel=0.02)


def test_published_weights_are_loaded_as_torchvision_does(ssd):
    """For this model it is the same network; the oldest models have other constants for published weights."""
    from sapiens_ray.models.detectors import load_published, load_torchvision, weights_url

    published = load_published(SSD, ssd, weights_url(SSD).rsplit("/", 1)[-1])
    tensor = torch.from_numpy(photo(120, 90)).permute(2, 0, 1) / 255
    with torch.inference_mode():
        (one,), (other,) = published([tensor]), load_torchvision(SSD, ssd)([tensor])
    assert len(one["boxes"]) and torch.equal(one["boxes"], other["boxes"])


def test_boxes_that_are_not_corners_are_an_error(tmp_path):
    class Sizes(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return torch.tensor([[50.0, 50.0, 10.0, 10.0]]), torch.tensor([1]), torch.tensor([0.9])

    path = scripted(Sizes(), tmp_path / "sizes.pt2")
    with pytest.raises(ImageError, match="not x1, y1, x2, y2"):
        Detector(DetectorOptions(model="torchscript", checkpoint="x"), path, "cpu")(halves(0, 0))


def test_empty_outputs_of_any_shape_mean_no_persons(tmp_path):
    class NoPersons(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return torch.zeros(0), torch.zeros(0), torch.zeros(1, 0)

    path = scripted(NoPersons(), tmp_path / "empty.pt2")
    assert Detector(DetectorOptions(model="torchscript", checkpoint="x"), path, "cpu")(halves(0, 0)).shape == (0, 5)


def test_a_photo_that_the_detector_cannot_take_is_one_error_row(tmp_path):
    class Picky(Bright):
        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            assert images[0].shape[1] > 10, "too small"
            return [self.halves(image) for image in images]

    write_model(tmp_path / "p17.pt2", "pose17")
    detector = {"model": "torchscript", "checkpoint": str(scripted(Picky(), tmp_path / "d.pt2")), "score": 0.5}
    label = sr.Labeler(task="pose", keypoints=17, checkpoint=tmp_path / "p17.pt2", boxes={"detector": detector})
    rows = label([halves(255, 255), photo(8, 8), halves(255, 0)])
    assert [row["error_kind"] for row in rows] == [None, "failed", None]
    assert [len(row["persons"] or []) for row in rows] == [2, 0, 1]


def test_weights_of_another_model_are_refused(ssd):
    with pytest.raises(CheckpointError, match="does not hold the weights of fasterrcnn"):
        Detector(DetectorOptions(model="fasterrcnn_mobilenet_v3_large_320_fpn", checkpoint="x"), ssd, "cpu")


def test_weights_come_from_the_torch_hub_cache(ssd, tmp_path, monkeypatch):
    """A file of the published name in the cache is used as it is; nothing is downloaded."""
    from sapiens_ray.models.detectors import weights_url
    from sapiens_ray.models.resolving import resolve_detector

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = weights_url(SSD)
    cached = tmp_path / "hub" / "checkpoints" / url.rsplit("/", 1)[-1]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(ssd.read_bytes())
    found = resolve_detector(DetectorOptions(model=SSD), WHERE, {})
    assert found.local_file() == cached and found.sha256 == hashlib.sha256(cached.read_bytes()).hexdigest()
    with pytest.raises(CheckpointError, match=r"^tasks\[2\]\.boxes\.detector\.model: 'yolov99' is not a detection"):
        resolve_detector(DetectorOptions(model="yolov99"), WHERE, {})
    with pytest.raises(CheckpointError, match=r"^tasks\[2\]\.boxes\.detector\.checkpoint: https.* pins"):
        resolve_detector(DetectorOptions(model=SSD, sha256="0" * 64), WHERE, {})


def test_persons_are_found_and_posed(tmp_path):
    """End to end: detector, crops, keypoints. Two tasks share one detector; no persons give an empty list."""
    write_model(tmp_path / "p17.pt2", "pose17")
    detector = {"model": "torchscript", "checkpoint": str(scripted(Bright(), tmp_path / "d.pt2")), "score": 0.5}
    pose = {"task": "pose", "keypoints": 17, "checkpoint": str(tmp_path / "p17.pt2"), "boxes": {"detector": detector}}
    label = sr.Labeler(tasks=[pose, {**pose, "name": "again", "flip_test": True}])
    assert len(label._engine._models) == 3
    rows = label([halves(255, 204), halves(0, 0), b"junk", halves(0, 204)])
    assert [row["error_kind"] for row in rows] == [None, None, "not_an_image", None]
    assert [len(row["persons"] or []) for row in rows] == [2, 0, 0, 1] and rows[2]["persons"] is None
    assert rows[0]["persons"][1]["box"].tolist() == [40, 0, 80, 60]
    assert rows[0]["persons"][1]["box_score"] == pytest.approx(0.8)
    for row in rows:
        again, persons = row["again"] or [], row["persons"] or []
        assert [person["box"].tolist() for person in again] == [person["box"].tolist() for person in persons]
