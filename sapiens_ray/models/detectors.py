"""Person detectors: torchvision's detection models by name, or any TorchScript program with the same kind of output."""

from __future__ import annotations

import hashlib
import pickle
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision

from sapiens_ray.errors import CheckpointError, ImageError, error_lines
from sapiens_ray.models.device import Lane, choose_device, empty_cache, out_of_memory
from sapiens_ray.models.environment import hub_folder
from sapiens_ray.models.weights import load_torchscript
from sapiens_ray.tasks.persons import FARTHEST, DetectorOptions
from sapiens_ray.tasks.repositories import DETECTORS

TORCHSCRIPT = "torchscript"
MOST_ASPECT = 50
STRIP_SIDE = 4000
MOST_PIXELS = 32_000_000  # that run together: 0.4 GB as float32, four photos of 8 megapixels

Detections = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # N x 4 boxes, N labels, N scores
Found = tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]  # the same of several photos


def weights_url(name: str) -> str:
    """The URL of torchvision's COCO weights for a detection model. Raises CheckpointError for other names."""
    check_name(name)
    return str(torchvision.models.get_model_weights(name).DEFAULT.url)


def check_name(name: str) -> None:
    """Raise CheckpointError unless torchvision has a detection model with this name."""
    known = torchvision.models.list_models(module=torchvision.models.detection)
    if name not in known:
        raise CheckpointError(
            f"{name!r} is not a detection model of torchvision: {', '.join(known)}; nor `torchscript`, nor one of "
            f"{', '.join(DETECTORS)}; write others of the Hugging Face hub as OWNER/NAME, and a folder as ./folder"
        )


class Detector:
    """Holds one detection model: photos in, boxes of persons out.

    Photos of one size run together, up to `batch_size` of them. torchvision pads the photos of a batch to a common
    size, so beside larger ones the boxes of a photo would depend on its neighbours; beside equal ones they do not.

    batch_size: the most photos that run together at the moment: less after memory ran out. label: that of persons.
    """

    label: int

    def __init__(
        self, options: DetectorOptions, weights: Path, device: str, threads: int | None = None, batch_size: int = 1
    ) -> None:
        """Load the model. weights: a state dict or a TorchScript file. batch_size: 1 for programs that take no lists.
        Raises CheckpointError."""
        if threads:
            torch.set_num_threads(threads)
        self.options = options
        self.device = choose_device(device)
        self.lane = Lane(self.device)
        self.batch_size = batch_size
        self.load(weights)

    def load(self, weights: Path) -> None:
        """Load the model. weights: a state dict or a TorchScript file. Raises CheckpointError."""
        options = self.options
        self.label = int(options.label)
        self._forward: Callable[[list[torch.Tensor]], object]
        if options.model == TORCHSCRIPT:
            model = load_torchscript(weights, self.device)
            if _takes_list(model):
                self._forward = model
            else:
                self._forward, self.batch_size = lambda images: model(images[0][None]), 1
        else:
            self._forward = load_torchvision(options.model, weights).to(self.device)

    def __call__(self, photo: np.ndarray) -> np.ndarray:
        """`persons` of one photo, H x W x 3 uint8 BGR."""
        (boxes,), (labels,), (scores,) = self.forward(self.stage([photo]))
        return self.persons(boxes, labels, scores, (photo.shape[1], photo.shape[0]))

    def stage(self, photos: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Photos, H x W x 3 uint8 BGR of any sizes, as tensors on the device. Those that run together are copied
        together."""
        seen = [_padded_strip(photo) if _is_strip(photo) else photo for photo in photos]
        staged: dict[int, torch.Tensor] = {}
        for places in self._together([photo.shape for photo in seen]):
            staged.update(zip(places, self.lane.upload([seen[place] for place in places]), strict=True))
        return [staged[place] for place in range(len(photos))]

    def forward(self, photos: Sequence[torch.Tensor]) -> Found:
        """What the model finds on staged photos. When memory runs out, fewer run together from then on."""
        found: dict[int, Detections] = {}
        waiting = list(range(len(photos)))
        while waiting:
            shapes = [tuple(photos[place].shape) for place in waiting]
            places = [waiting[number] for number in self._together(shapes)[0]]
            smaller = False
            try:
                found.update(zip(places, self._detections([photos[place] for place in places]), strict=True))
            except Exception as error:
                if len(places) == 1 or not out_of_memory(error):
                    raise
                smaller = True
            if smaller:  # outside `except`: its traceback keeps the tensors that were too large
                empty_cache(self.device)
                self.batch_size = len(places) // 2
            else:
                waiting = [place for place in waiting if place not in found]
        in_order = [found[place] for place in range(len(photos))]
        return [one[0] for one in in_order], [one[1] for one in in_order], [one[2] for one in in_order]

    def _detections(self, photos: list[torch.Tensor]) -> list[Detections]:
        """Run photos of one size together."""
        with torch.inference_mode():
            images = [self.lane.use(photo).permute(2, 0, 1).flip(0).to(torch.float32).div_(255) for photo in photos]
            answer = self._forward(images)
            if len(images) == 1:
                return [detections(answer)]
            answers = answer[1] if isinstance(answer, tuple) and len(answer) == 2 else answer  # after the losses
            if isinstance(answers, list) and len(answers) == len(images) and not isinstance(answers[0], torch.Tensor):
                return [detections(one) for one in answers]
            self.batch_size = 1  # a program that takes a list, but answers for one photo only
            return [detections(self._forward([image])) for image in images]

    def _together(self, shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
        """Which photos run together, by their places: equal ones, not too many, and not too many pixels."""
        groups: list[list[int]] = []
        open_group: dict[tuple[int, ...], list[int]] = {}
        for place, shape in enumerate(shapes):
            most = max(1, min(self.batch_size, MOST_PIXELS // (shape[0] * shape[1])))
            group = open_group.get(shape)
            if group is None or len(group) >= most:
                group = open_group[shape] = []
                groups.append(group)
            group.append(place)
        return groups

    def persons(
        self, boxes: torch.Tensor, labels: torch.Tensor, scores: torch.Tensor, size: tuple[int, int]
    ) -> np.ndarray:
        """N x 5 float64 (x1, y1, x2, y2, score), best first; pixels of the photo, whose width and height is `size`.

        Boxes with the wanted label and score are kept, after non-maximum suppression. Raises ImageError
        `not_finite` if the model's output holds NaN or infinity.
        """
        wanted = labels == self.label
        boxes, scores = boxes[wanted], scores[wanted]
        if not bool(boxes.isfinite().all() and scores.isfinite().all()):
            raise ImageError("not_finite", "the detector's boxes or scores hold NaN or infinity")
        good = scores >= self.options.score
        boxes, scores = boxes[good], scores[good]
        if bool((boxes[:, 2:] < boxes[:, :2]).any() or (boxes.abs() > FARTHEST).any()):
            raise ImageError("bad_boxes", "the detector gives boxes that are not x1, y1, x2, y2 in pixels")
        if max(size) > MOST_ASPECT * min(size):
            boxes = boxes * (max(size) / min(max(size), STRIP_SIDE))
            boxes = torchvision.ops.clip_boxes_to_image(boxes, (size[1], size[0]))
            inside = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)  # not in the black padding
            boxes, scores = boxes[inside], scores[inside]
        kept = torchvision.ops.nms(boxes, scores, self.options.nms)
        return torch.cat([boxes[kept], scores[kept, None]], 1).double().cpu().numpy()


def _is_strip(photo: np.ndarray) -> bool:
    height, width = photo.shape[:2]
    return bool(max(height, width) > MOST_ASPECT * min(height, width))


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


def _takes_list(model: torch.jit.ScriptModule) -> bool:
    """Whether the signature of a TorchScript detector takes a list of 3 x H x W images, like torchvision's models; else
    it gets a 1 x 3 x H x W batch."""
    arguments = model.forward.schema.arguments  # type: ignore[attr-defined]
    return len(arguments) > 1 and isinstance(arguments[1].type, torch._C.ListType)


def detections(answer: object) -> Detections:
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
