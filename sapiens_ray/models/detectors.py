"""Person detectors: torchvision's detection models by name, or any TorchScript that answers like one."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision

from sapiens_ray.errors import CheckpointError, ImageError
from sapiens_ray.models.runner import choose_device, load_torchscript
from sapiens_ray.tasks.persons import DetectorOptions

TORCHSCRIPT = "torchscript"
MOST_ASPECT = 50


def weights_url(name: str) -> str:
    """Where torchvision publishes the COCO weights of a detection model. Raises CheckpointError for other names."""
    check_name(name)
    return str(torchvision.models.get_model_weights(name).DEFAULT.url)


def check_name(name: str) -> None:
    """Raise CheckpointError unless torchvision has a detection model of that name."""
    known = torchvision.models.list_models(module=torchvision.models.detection)
    if name not in known:
        raise CheckpointError(f"{name!r} is no detection model of torchvision: {', '.join(known)}; or `torchscript`")


class Detector:
    """Holds one detection model: photo in, boxes of persons out.

    One photo at a time: torchvision pads the photos of a batch to a common size, and what a photo gives would
    depend on its neighbours.
    """

    def __init__(self, options: DetectorOptions, weights: Path, device: str, threads: int | None = None) -> None:
        """Load the model. `weights`: a state dict, or a TorchScript file. Raises CheckpointError."""
        if threads:
            torch.set_num_threads(threads)
        self.options = options
        self.device = choose_device(device)
        self._lock = threading.Lock()
        if options.model == TORCHSCRIPT:
            model = load_torchscript(weights, self.device)
            self._forward: Callable[[torch.Tensor], Any] = _caller(model)
        else:
            network = load_torchvision(options.model, weights).to(self.device)
            self._forward = lambda image: network([image])

    def __call__(self, photo: np.ndarray) -> np.ndarray:
        """H x W x 3 uint8 BGR to N x 5 float64 (x1, y1, x2, y2, score), best first; pixels of the photo.

        Kept are boxes with the wanted label and score, after non-maximum suppression. Raises ImageError
        `not_finite` if the model's answer is not made of numbers.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "not writable": it is only read
            pixels = torch.from_numpy(photo)
        rgb = pixels.to(self.device).permute(2, 0, 1).flip(0).to(torch.float32) / 255
        height, width = rgb.shape[1:]
        least = max(height, width) // MOST_ASPECT
        if min(height, width) < least:  # torchvision would scale such a strip to nothing
            rgb = F.pad(rgb, (0, max(0, least - width), 0, max(0, least - height)))
        with self._lock, torch.inference_mode():
            boxes, labels, scores = detections(self._forward(rgb))
        if rgb.shape[1:] != (height, width):
            boxes = torchvision.ops.clip_boxes_to_image(boxes, (height, width))
        wanted = (labels == self.options.label) & (scores >= self.options.score)
        boxes, scores = boxes[wanted], scores[wanted]
        if not bool(boxes.isfinite().all()):
            raise ImageError("not_finite", "the detector's boxes hold NaN or infinity")
        kept = torchvision.ops.nms(boxes, scores, self.options.nms)
        return torch.cat([boxes[kept], scores[kept, None]], 1).double().cpu().numpy()


def load_torchvision(name: str, weights: Path) -> torch.nn.Module:
    """A torchvision detection model with the weights of a file (a state dict, or one under `model`), in eval mode."""
    check_name(name)
    network: torch.nn.Module = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        network.load_state_dict(state.get("model", state))
    except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CheckpointError(f"{weights} does not hold the weights of {name}: {' '.join(lines)[:300]}") from None
    return network.eval()


def _caller(model: torch.jit.ScriptModule) -> Callable[[torch.Tensor], Any]:
    """A TorchScript detector takes a list of 3 x H x W images, like torchvision's, or a 1 x 3 x H x W batch."""
    arguments = model.forward.schema.arguments  # type: ignore[attr-defined]
    takes_list = len(arguments) > 1 and isinstance(arguments[1].type, torch._C.ListType)
    return lambda image: model([image]) if takes_list else model(image[None])


def detections(answer: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """N x 4 boxes, N labels and N scores in what a detector returned for one image: a mapping or a tuple of them,
    alone or in a list, or behind the losses as scripted torchvision models answer. Raises CheckpointError."""
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
        if boxes.dim() == 3:  # a batch of one
            boxes, labels, scores = boxes[0], labels[0], scores[0]
        if boxes.dim() == 2 and boxes.shape[1] == 4 and labels.shape == scores.shape == boxes.shape[:1]:
            return boxes, labels, scores
    shapes = ", ".join(str(tuple(part.shape)) if isinstance(part, torch.Tensor) else str(type(part)) for part in parts)
    raise CheckpointError(f"detector: boxes, labels and scores must be N x 4, N and N; the model returns {shapes}")
