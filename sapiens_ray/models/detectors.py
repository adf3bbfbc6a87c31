"""Person detectors: torchvision's detection models by name, or any TorchScript program with the same kind of output."""

from __future__ import annotations

import hashlib
import pickle
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision

from sapiens_ray.errors import CheckpointError, ImageError, error_lines
from sapiens_ray.models.device import choose_device
from sapiens_ray.models.environment import hub_folder
from sapiens_ray.models.weights import load_torchscript
from sapiens_ray.tasks.persons import FARTHEST, DetectorOptions

TORCHSCRIPT = "torchscript"
MOST_ASPECT = 50
STRIP_SIDE = 4000


def weights_url(name: str) -> str:
    """The URL of torchvision's COCO weights for a detection model. Raises CheckpointError for other names."""
    check_name(name)
    return str(torchvision.models.get_model_weights(name).DEFAULT.url)


def check_name(name: str) -> None:
    """Raise CheckpointError unless torchvision has a detection model with this name."""
    known = torchvision.models.list_models(module=torchvision.models.detection)
    if name not in known:
        raise CheckpointError(f"{name!r} is not a detection model of torchvision: {', '.join(known)}; or `torchscript`")


class Detector:
    """Holds one detection model: photo in, boxes of persons out.

    It runs one photo at a time: torchvision pads the photos of a batch to a common size, so the boxes of a photo would
    depend on its neighbours.
    """

    def __init__(self, options: DetectorOptions, weights: Path, device: str, threads: int | None = None) -> None:
        """Load the model. weights: a state dict or a TorchScript file. Raises CheckpointError."""
        if threads:
            torch.set_num_threads(threads)
        self.options = options
        self.device = choose_device(device)
        if options.model == TORCHSCRIPT:
            model = load_torchscript(weights, self.device)
            self._forward: Callable[[torch.Tensor], object] = _caller(model)
        else:
            network = load_torchvision(options.model, weights).to(self.device)
            self._forward = lambda image: network([image])

    def __call__(self, photo: np.ndarray) -> np.ndarray:
        """H x W x 3 uint8 BGR to N x 5 float64 (x1, y1, x2, y2, score), best first; pixels of the photo.

        Boxes with the wanted label and score are kept, after non-maximum suppression. Raises ImageError
        `not_finite` if the model's output holds NaN or infinity.
        """
        height, width = photo.shape[:2]
        seen = photo
        if max(height, width) > MOST_ASPECT * min(height, width):
            seen = _padded_strip(photo)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "not writable": the array is only read
            pixels = torch.from_numpy(seen)
        rgb = pixels.to(self.device).permute(2, 0, 1).flip(0).to(torch.float32) / 255
        with torch.inference_mode():
            boxes, labels, scores = detections(self._forward(rgb))
        wanted = labels == self.options.label
        boxes, scores = boxes[wanted], scores[wanted]
        if not bool(boxes.isfinite().all() and scores.isfinite().all()):
            raise ImageError("not_finite", "the detector's boxes or scores hold NaN or infinity")
        good = scores >= self.options.score
        boxes, scores = boxes[good], scores[good]
        if bool((boxes[:, 2:] < boxes[:, :2]).any() or (boxes.abs() > FARTHEST).any()):
            raise ImageError("bad_boxes", "the detector gives boxes that are not x1, y1, x2, y2 in pixels")
        if seen is not photo:
            boxes = boxes * (max(height, width) / max(seen.shape[:2]))
            boxes = torchvision.ops.clip_boxes_to_image(boxes, (height, width))
            inside = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)  # not in the black padding
            boxes, scores = boxes[inside], scores[inside]
        kept = torchvision.ops.nms(boxes, scores, self.options.nms)
        return torch.cat([boxes[kept], scores[kept, None]], 1).double().cpu().numpy()


def _padded_strip(strip: np.ndarray) -> np.ndarray:
    """A very long photo, which torchvision would scale to a side of zero pixels: shrunk to STRIP_SIDE if it is longer,
    and padded with black."""
    height, width = strip.shape[:2]
    scale = min(1.0, STRIP_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(strip, size, interpolation=cv2.INTER_AREA) if scale < 1 else strip
    least = max(size) // MOST_ASPECT
    below, beside = max(0, least - size[1]), max(0, least - size[0])
    return np.pad(small, ((0, below), (0, beside), (0, 0)))


def load_torchvision(name: str, weights: Path) -> torch.nn.Module:
    """A torchvision detection model with the weights of a file (a state dict, or one under `model`), in eval mode."""
    check_name(name)
    published = weights_url(name)
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if published.rpartition("-")[2].removesuffix(".pth") == digest[:8]:
        return load_published(name, weights, published.rsplit("/", 1)[-1])
    network: torch.nn.Module = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        network.load_state_dict(state.get("model", state))
    except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError) as error:
        reason = " ".join(error_lines(error))[:300]
        raise CheckpointError(f"{weights} does not hold the weights of {name}: {reason}") from None
    return network.eval()


def load_published(name: str, weights: Path, published_as: str) -> torch.nn.Module:
    """A torchvision model as torchvision builds it for its published weights: some models then have other constants
    (frozen batch norms, with epsilon 0 in the oldest ones). torchvision finds the file, under its published name, in a
    temporary hub folder."""
    with tempfile.TemporaryDirectory() as folder, hub_folder(Path(folder)) as checkpoints:
        checkpoints.mkdir(parents=True)
        (checkpoints / published_as).symlink_to(weights.resolve())
        network: torch.nn.Module = torchvision.models.get_model(name, weights="DEFAULT")
    return network.eval()


def _caller(model: torch.jit.ScriptModule) -> Callable[[torch.Tensor], object]:
    """A function that calls a TorchScript detector with what its signature takes: a list of 3 x H x W images, like
    torchvision's models, or a 1 x 3 x H x W batch."""
    arguments = model.forward.schema.arguments  # type: ignore[attr-defined]
    takes_list = len(arguments) > 1 and isinstance(arguments[1].type, torch._C.ListType)
    return lambda image: model([image]) if takes_list else model(image[None])


def detections(answer: object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """N x 4 boxes, N labels and N scores from the output of a detector for one image: a mapping or a tuple of them,
    alone or in a list, or after the losses as in scripted torchvision models. Raises CheckpointError."""
    if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], list):
        answer = answer[1]
    if isinstance(answer, list | tuple) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, dict) and {"boxes", "labels", "scores"} <= set(answer):
        parts = [answer["boxes"], answer["labels"], answer["scores"]]
    elif isinstance(answer, list | tuple) and len(answer) == 3:
        parts = list(answer)
    else:
        raise CheckpointError(
            f"detector: the model returns {type(answer).__name__}, not boxes, labels and scores of one image"
        )
    if all(isinstance(part, torch.Tensor) for part in parts):
        boxes, labels, scores = (part.float() for part in parts)
        if boxes.numel() == 0:  # without persons, traced detectors return tensors of many shapes
            boxes, labels, scores = boxes.reshape(0, 4), labels.reshape(-1)[:0], scores.reshape(-1)[:0]
        if boxes.dim() == 3:  # a batch of one
            boxes, labels, scores = boxes[0], labels[0], scores[0]
        if boxes.dim() == 2 and boxes.shape[1] == 4 and labels.shape == scores.shape == boxes.shape[:1]:
            return boxes, labels, scores
    shapes = ", ".join(str(tuple(part.shape)) if isinstance(part, torch.Tensor) else str(type(part)) for part in parts)
    raise CheckpointError(f"detector: boxes, labels and scores must be N x 4, N and N; the model returns {shapes}")
