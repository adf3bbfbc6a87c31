"""Person detectors against direct calls of torchvision, and TorchScript detectors with every signature."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

import sapiens_ray as sr
from sapiens_ray.engine.host import DEFAULT_BATCH
from sapiens_ray.errors import CheckpointError, ImageError
from sapiens_ray.models import detectors
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


def lively(name: str) -> torch.nn.Module:
    """A torchvision detector with seeded random weights that finds many boxes, with scores that differ by photo."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"weights": None, "weights_backbone": None}
    if "ssd" not in name:
        options.update(min_size=256, max_size=400)  # small, for speed
    prefix = "box_" if "rcnn" in name else ""  # no box is cut off: near the cut the last bits decide
    options.update({f"{prefix}score_thresh": 0.3, f"{prefix}detections_per_img": 100_000})
    if "rcnn" not in name:
        options["topk_candidates"] = 100_000
    network = torchvision.models.get_model(name, **options).eval()
    for module in network.backbone.modules():  # else deep networks without training give the same for every photo
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    network.backbone.train()
    with torch.no_grad():
        network.backbone(torch.stack([tensor_of(photo(320, 320, seed)) for seed in (8, 9)]) * 2.5 - 1)
    network.eval()

    def spread(module: Any, inputs: object, output: torch.Tensor) -> torch.Tensor:
        factor = 4 / max(output.std().item(), 1e-12)
        module.weight.mul_(factor)
        module.bias.fill_(-10)  # where every class has a score of its own, few are then over the threshold
        return output * factor - 10

    classifiers = [
        module for path, module in network.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
        and (path == "rpn.head.cls_logits" or module.weight.shape[0] % 91 == 0)
    ]  # fmt: skip
    hooks = [module.register_forward_hook(spread) for module in classifiers]
    with torch.no_grad():
        network([tensor_of(photo(120, 90, 9))])
    for hook in hooks:
        hook.remove()
    assert hooks
    return network


def tensor_of(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1) / 255


def together(monkeypatch: pytest.MonkeyPatch, network: Any, batch_size: int, **options: Any) -> Detector:
    """A detector that runs this network, so many photos at a time."""
    monkeypatch.setattr(detectors, "load_torchvision", lambda name, weights: network)
    return Detector(DetectorOptions(model=SSD, checkpoint="x", **options), Path("x"), "cpu", batch_size=batch_size)


def persons(detector: Detector, photos: list[np.ndarray]) -> list[np.ndarray]:
    found = detector.forward(detector.stage(photos))
    sizes = [(image.shape[1], image.shape[0]) for image in photos]
    return [detector.persons(*one) for one in zip(*found, sizes, strict=True)]


SLOW = [name for name in torchvision.models.list_models(module=torchvision.models.detection) if name != SSD]


@pytest.mark.parametrize("name", [SSD, *(pytest.param(name, marks=pytest.mark.nightly) for name in SLOW)])
def test_photos_of_one_size_have_the_same_persons_together_as_alone(monkeypatch, name):
    """Each is paired with the other's answer by overlap: kernels for other batch sizes differ in the last bits, which
    may change the order of equal scores."""
    network = lively(name)
    photos = [photo(120, 90, seed) for seed in range(3)]
    with torch.inference_mode():
        labels = torch.cat([network([tensor_of(image)])[0]["labels"] for image in photos])
    label = int(labels.mode().values)
    alone = together(monkeypatch, network, 1, label=label)
    batched = together(monkeypatch, network, 3, label=label)
    one_by_one, at_once = persons(alone, photos), persons(batched, photos)
    assert sum(map(len, one_by_one)) > 5 and not np.array_equal(one_by_one[0], one_by_one[1])
    for wanted, found in zip(one_by_one, at_once, strict=True):
        assert wanted.shape == found.shape
        assert np.allclose(wanted[:, 4], found[:, 4], atol=1e-3)
        nearest = np.abs(wanted[:, None, :4] - found[None, :, :4]).max(2).min(1)
        assert nearest.max(initial=0) < 0.05, "pixels"


class Watched(torch.nn.Module):
    """Finds one box per photo, with its mean as the score; remembers the batches. `fits`: photos in memory."""

    def __init__(self, fits: int = 1000) -> None:
        super().__init__()
        self.fits, self.batches = fits, list[list[tuple[int, ...]]]()

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        self.batches.append([tuple(image.shape[1:]) for image in images])
        if len(images) > self.fits:
            raise torch.cuda.OutOfMemoryError("too much")
        one = torch.ones(1, dtype=torch.int64)
        return [{"boxes": torch.tensor([[0.0, 0, 2, 2]]), "labels": one, "scores": image.mean()[None]}
                for image in images]  # fmt: skip


def grey(level: int, height: int = 6, width: int = 8) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def test_only_photos_of_one_size_run_together_and_answers_keep_their_places(monkeypatch):
    network = Watched()
    photos = [grey(1), grey(2, 9), grey(3), grey(4, 500, 4), grey(5), grey(6, 9), grey(7)]
    detector = together(monkeypatch, network, 3, score=0.0)
    scores = [float(one[0, 4]) for one in persons(detector, photos)]
    assert network.batches == [[(6, 8)] * 3, [(9, 8)] * 2, [(500, 10)], [(6, 8)]], "the strip is padded"
    wanted = [1, 2, 3, 4 * 4 / 10, 5, 6, 7]
    assert np.allclose(scores, np.array(wanted) / 255)


def test_large_photos_run_in_smaller_batches(monkeypatch):
    monkeypatch.setattr(detectors, "MOST_PIXELS", 100)
    network = Watched()
    persons(together(monkeypatch, network, 8), [grey(1), grey(2), grey(3), grey(4, 90), grey(5, 90)])
    assert network.batches == [[(6, 8)] * 2, [(6, 8)], [(90, 8)], [(90, 8)]]


def test_memory_that_runs_out_halves_the_batch_of_a_detector(monkeypatch):
    network = Watched(fits=2)
    detector = together(monkeypatch, network, 5, score=0.0)
    scores = [float(one[0, 4]) for one in persons(detector, [grey(level) for level in range(5)])]
    assert np.allclose(scores, np.arange(5) / 255)
    assert [len(batch) for batch in network.batches] == [5, 2, 2, 1] and detector.batch_size == 2
    network.fits = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        persons(detector, [grey(1)])


@pytest.mark.parametrize(("module", "batch_size"), [(Bright, 4), (LikeTorchvision, 4), (BrightBatch, 1)])
def test_programs_that_take_lists_run_photos_together(tmp_path, module, batch_size):
    path = scripted(module(), tmp_path / "d.pt2")
    options = DetectorOptions(model="torchscript", checkpoint="x", score=0.5)
    detector = Detector(options, path, "cpu", batch_size=4)
    photos = [halves(255, 204), halves(0, 10), halves(153, 204)]
    found, wanted = persons(detector, photos), [detector(image) for image in photos]
    assert [len(one) for one in found] == [2, 0, 2] and detector.batch_size == batch_size
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_a_program_that_answers_for_one_photo_gets_one_at_a_time(tmp_path):
    class OnlyTheFirst(Bright):
        def forward(self, images: list[torch.Tensor]) -> list[torch.Tensor]:  # type: ignore[override]
            found = self.halves(images[0])
            return [found["boxes"], found["labels"], found["scores"]]

    path = scripted(OnlyTheFirst(), tmp_path / "d.pt2")
    detector = Detector(DetectorOptions(model="torchscript", checkpoint="x", score=0.5), path, "cpu", batch_size=4)
    photos = [halves(255, 204), halves(0, 10), halves(153, 0)]  # as many as the parts of an answer
    assert [len(one) for one in persons(detector, photos)] == [2, 0, 1] and detector.batch_size == 1


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


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_photo_that_the_detector_cannot_take_is_one_error_row(tmp_path, monkeypatch, batch_size):
    class Picky(Bright):
        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            assert images[0].shape[1] > 10, "too small"
            for image in images:
                assert image.max() > 0, "too dark"
            found = [self.halves(image) for image in images]
            for one in found:
                if one["scores"].max() < 0.1:
                    one["boxes"] = one["boxes"] / 0.0
            return found

    monkeypatch.setitem(DEFAULT_BATCH, "cpu", batch_size)

    write_model(tmp_path / "p17.pt2", "pose17")
    detector = {"model": "torchscript", "checkpoint": str(scripted(Picky(), tmp_path / "d.pt2")), "score": 0.5}
    label = sr.Labeler(task="pose", keypoints=17, checkpoint=tmp_path / "p17.pt2", boxes={"detector": detector})
    rows = label([halves(255, 255), photo(8, 8), halves(0, 0), halves(255, 0), halves(9, 9), halves(0, 255, 90)])
    assert [row["error_kind"] for row in rows] == [None, "failed", "failed", None, "not_finite", None]
    assert [len(row["persons"] or []) for row in rows] == [2, 0, 0, 1, 0, 1]


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
