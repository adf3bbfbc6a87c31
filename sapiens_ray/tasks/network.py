"""What the networks see: the sizes of their inputs, and the check of their outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sapiens_ray.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from sapiens_ray.tasks.options import ModelOptions

NETWORK_HEIGHT, NETWORK_WIDTH = 1024, 768  # of all tasks but features
ENCODER_SIDE = 1024  # the encoder alone sees squares
RESIZED = f"resized_{NETWORK_HEIGHT}x{NETWORK_WIDTH}"  # input kind of tasks that see the whole photo
RESIZED_SQUARE = f"resized_{ENCODER_SIDE}x{ENCODER_SIDE}"


def resize_to_network(image: np.ndarray, height: int = NETWORK_HEIGHT, width: int = NETWORK_WIDTH) -> np.ndarray:
    """H x W x 3 uint8 BGR to the network's height x width x 3 uint8 BGR, bilinear, aspect not kept."""
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def output_maps(
    output: Any, batch: int, channels: int | None, options: ModelOptions, what: str, side: int | None = None
) -> torch.Tensor:
    """The B x channels x h x w tensor in what a model returned (itself, or alone in a tuple or list).

    channels: None for any number. side: h and w, if they are settled. Raises CheckpointError for anything else;
    `what` names what was expected.
    """
    import torch

    if isinstance(output, tuple | list) and len(output) == 1:
        output = output[0]
    if not isinstance(output, torch.Tensor):
        raise CheckpointError(f"{options.column}: the model returns {type(output).__name__}, not a tensor of {what}")
    wrong = output.dim() != 4 or output.shape[0] != batch or 0 in output.shape
    wrong = wrong or (channels is not None and output.shape[1] != channels)
    if wrong or (side is not None and output.shape[2:] != (side, side)):
        shape = " x ".join(map(str, output.shape))
        raise CheckpointError(
            f"{options.column}: the model returns {shape} for {batch} images; task {options.task} needs {batch} x "
            f"{channels or 'C'} x {side or 'h'} x {side or 'w'} {what}. Is this the checkpoint of another task?"
        )
    return output
