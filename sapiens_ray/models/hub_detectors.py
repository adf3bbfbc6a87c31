"""Object detectors of transformers: what `AutoModelForObjectDetection` and `AutoImageProcessor` load from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sapiens_ray.errors import CheckpointError, error_lines
from sapiens_ray.models import detectors
from sapiens_ray.models.detectors import Detections, Found
from sapiens_ray.models.repositories import INSTALL, person_label, read_config
from sapiens_ray.tasks.persons import DetectorOptions


def load_detector(
    options: DetectorOptions, path: Path, device: str, threads: int | None = None, batch_size: int = 1
) -> detectors.Detector:
    """The detector of some options, from its file or folder. Raises CheckpointError."""
    kind = HubDetector if options.of_transformers else detectors.Detector
    return kind(options, path, device, threads, batch_size)


@dataclass(frozen=True)
class NetworkInput:
    """One photo as the network sees it.

    tensors: the arguments of the model, each with a first axis of length 1: `pixel_values`, 1 x 3 x h x w float32, and
    with some models `pixel_mask`, 1 x h x w. size: height and width of the photo.
    """

    tensors: dict[str, torch.Tensor]
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """h, w, 3: inputs of one shape run together."""
        _, channels, height, width = self.tensors["pixel_values"].shape
        return height, width, channels


class HubDetector(detectors.Detector):
    """An object detector of transformers: photos in, boxes of persons out.

    Every photo is resized and normalized alone, by the model's own image processor, as in transformers' pipeline. Those
    that are then of one shape run together, whatever their sizes were: no photo is padded for its neighbours.
    """

    def load(self, weights: Path) -> None:
        """weights: the folder. Always float32. Raises CheckpointError, also if weights are missing."""
        self.label = person_label(read_config(weights), self.options, str(weights))
        model, self._processor = load_transformers(weights)
        self._model = model.to(self.device)
        self._on_device = getattr(self._processor, "backend", None) == "torchvision"  # else it takes arrays

    def forward(self, photos: Sequence[Any]) -> Found:
        """What the model finds on staged photos. When memory runs out, fewer run together from then on."""
        with torch.inference_mode():
            inputs: list[Any] = [self._network_input(photo) for photo in photos]
            return super().forward(inputs)

    def _network_input(self, photo: torch.Tensor) -> NetworkInput:
        """photo: H x W x 3 uint8 BGR."""
        rgb = self.lane.use(photo).permute(2, 0, 1).flip(0)
        image = rgb if self._on_device else rgb.cpu().numpy()
        made = self._processor(images=[image], input_data_format="channels_first", return_tensors="pt")
        tensors = {name: tensor.to(self.device) for name, tensor in made.items()}
        return NetworkInput(tensors, (photo.shape[0], photo.shape[1]))

    def _detections(self, photos: list[Any]) -> list[Detections]:
        """Run inputs of one shape together. Boxes are in pixels of the photos."""
        tensors = {name: torch.cat([one.tensors[name] for one in photos]) for name in photos[0].tensors}
        output = self._model(**tensors)
        found = self._processor.post_process_object_detection(
            output, threshold=0.0, target_sizes=[one.size for one in photos]
        )
        finite = (output.pred_boxes.isfinite().flatten(1).all(1) & ~output.logits.isnan().flatten(1).any(1)).tolist()
        return [
            (one["boxes"].float(), one["labels"].float(), one["scores"].float()) if good else self._not_finite()
            for one, good in zip(found, finite, strict=True)
        ]

    def _not_finite(self) -> Detections:
        """A person at NaN, which becomes the error of its photo. The threshold would drop NaN scores, and the photo
        would seem to show nobody."""
        nan = torch.full((1, 4), torch.nan, device=self.device)
        return nan, torch.full((1,), float(self.label), device=self.device), nan[:, 0]


def load_transformers(folder: Path) -> tuple[torch.nn.Module, Any]:
    """The model of a folder in float32 and eval mode, and its image processor. Code in the folder is never run.

    Raises CheckpointError.
    """
    try:
        from transformers import AutoImageProcessor, AutoModelForObjectDetection
        from transformers.utils import logging
    except ImportError:
        raise CheckpointError(f"{folder} needs transformers, which is not installed: {INSTALL}") from None
    logging.disable_progress_bar()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, told = AutoModelForObjectDetection.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, **local
        )
        processor = AutoImageProcessor.from_pretrained(folder, **local)
    except ImportError as error:  # of timm, in whose layout some backbones are
        raise CheckpointError(f"{folder}: {' '.join(error_lines(error))[:200]} Install all: {INSTALL}") from None
    except Exception as error:  # of many kinds: files that are damaged, or of another kind of model
        reason = " ".join(error_lines(error))[:300]
        raise CheckpointError(f"{folder} does not hold an object detector of transformers: {reason}") from None
    if not hasattr(processor, "post_process_object_detection"):
        raise CheckpointError(f"{folder}: its image processor {type(processor).__name__} does not give boxes")
    absent = sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]]))
    if absent:  # transformers would leave them random
        raise CheckpointError(
            f"{folder} lacks {len(absent)} of the weights that its config.json asks for, the first is {absent[0]}"
        )
    return model.eval(), processor
