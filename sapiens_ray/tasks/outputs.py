"""Validation of what networks return."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sapiens_ray.errors import CheckpointError
from sapiens_ray.tasks.options import ModelOptions

if TYPE_CHECKING:
    import torch


def output_maps(
    output: object,
    batch: int,
    channels: int | None,
    options: ModelOptions,
    what: str,
    size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """The B x channels x h x w tensor that a model returned, alone or as the only item of a tuple or list.

    channels: None for any number. size: h and w, if they are fixed. what: the expected content, for messages. Raises
    CheckpointError for anything else.
    """
    import torch

    if isinstance(output, tuple | list) and len(output) == 1:
        output = output[0]
    if not isinstance(output, torch.Tensor):
        raise CheckpointError(f"{options.column}: the model returns {type(output).__name__}, not a tensor of {what}")
    wrong = output.dim() != 4 or output.shape[0] != batch or 0 in output.shape
    wrong = wrong or (channels is not None and output.shape[1] != channels)
    if wrong or (size is not None and output.shape[2:] != size):
        height, width = size or ("h", "w")
        shape = " x ".join(map(str, output.shape))
        files = options.label_files
        tuned = f", or should `{files[0]}:` describe what it was fine-tuned for?" if files else "?"
        raise CheckpointError(
            f"{options.column}: the model returns {shape} for {batch} images; task {options.task} needs {batch} x "
            f"{channels or 'C'} x {height} x {width} {what}. Is this the checkpoint of another task{tuned}"
        )
    return output
