"""What the tasks with one value a pixel share: the squeezed input, the check of the output, stored float maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from pydantic import Field

from sapiens_ray import maps
from sapiens_ray.errors import CheckpointError
from sapiens_ray.tasks.foreground import Mask
from sapiens_ray.tasks.options import ModelOptions

if TYPE_CHECKING:
    import torch

NETWORK_WIDTH, NETWORK_HEIGHT = 768, 1024
SQUEEZE = f"squeeze_{NETWORK_HEIGHT}x{NETWORK_WIDTH}"  # input kind of seg, depth and normal


class FloatMapOptions(ModelOptions):
    """What depth and normal have in common."""

    mask: Mask = Field(
        Mask(source="auto"),
        description="Where the persons are: auto (the seg task of the same job, if there is one), none, seg, "
        "{seg: name}, {column: name} or {folder: uri}.",
    )
    resolution: Literal["network", "original"] = Field(
        "network",
        description="Size in which the map is stored. network: as the model gave it, all there is to know, and 10 to "
        "40 times smaller; read_labels(size='original') and export resize it.",
    )
    dtype: Literal["float16", "float32"] = Field("float16", description="Type in which the map is stored.")

    @property
    def needs(self) -> list[str]:
        """Columns of the unit that show the foreground."""
        column = self.mask.seg if self.mask.source == "seg" else self.mask.carried
        return [column] if column else []

    def result_settings(self) -> dict[str, Any]:
        settings = super().result_settings()
        folder = self.mask.folder
        return {**settings, "mask": {**settings["mask"], "folder": folder and folder.rstrip("/")}}

    def stored_bytes(self, pixels: int) -> int:
        values = NETWORK_WIDTH * NETWORK_HEIGHT  # normals: three values at a quarter of the pixels
        if self.resolution == "original":
            values = pixels * (3 if self.task == "normal" else 1)
        return values * np.dtype(self.dtype).itemsize


def squeeze(image: np.ndarray) -> np.ndarray:
    """H x W x 3 uint8 BGR to the network's 1024 x 768 x 3 uint8 BGR, bilinear, aspect not kept."""
    return cv2.resize(image, (NETWORK_WIDTH, NETWORK_HEIGHT), interpolation=cv2.INTER_LINEAR)


def output_maps(
    output: Any, batch: int, channels: int | None, options: ModelOptions, what: str, side: int | None = None
) -> torch.Tensor:
    """The B x channels x h x w tensor in what a model returned (itself, or alone in a tuple or list).

    channels: None for any number. side: h and w, if they are settled. Raises CheckpointError,
    with `what` was expected, for anything else.
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


def stored(array: np.ndarray, options: FloatMapOptions) -> bytes:
    """The bytes of a map for its column."""
    kind = np.dtype(options.dtype)
    if kind == np.float16:  # values beyond would become infinite
        limit = float(np.finfo(kind).max)
        array = np.clip(array, -limit, limit)
    return maps.encode_npy(array.astype(kind))
