"""Image features of the pretrained encoder: patch tokens on a 64 x 64 grid, or their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from sapiens_ray import maps
from sapiens_ray.tasks.dense import output_maps
from sapiens_ray.tasks.options import ModelOptions

if TYPE_CHECKING:
    import torch

    from sapiens_ray.config import Visualize

NETWORK_SIDE = 1024
GRID = 64  # patches of 16 pixels


class FeaturesOptions(ModelOptions):
    """Options of `task: features`."""

    task: Literal["features"]
    save: Literal["mean", "map", "both"] = Field(
        "mean",
        description="mean: one vector of C an image, the mean over the grid. map: C x 64 x 64, megabytes an image.",
    )
    dtype: Literal["float16", "float32"] = Field(
        "float32", description="Type in which they are stored. float16 halves the size of maps, and rounds to 1e-3."
    )

    @property
    def network_size(self) -> tuple[int, int]:
        return NETWORK_SIDE, NETWORK_SIDE

    def stored_bytes(self, pixels: int) -> int:
        width = 1536  # C of the 1B model
        return width * np.dtype(self.dtype).itemsize * (1 if self.save == "mean" else 64 * 64)


class Features:
    """Everything that makes the task features. Holds no model and no state."""

    input_kind = f"squeeze_{NETWORK_SIDE}x{NETWORK_SIDE}"
    needs: tuple[str, ...] = ()

    def __init__(self, options: FeaturesOptions) -> None:
        self.options = options
        self.column = options.column

    @property
    def fields(self) -> list[pa.Field]:
        """Arrow columns: the mean vector as a list, the map as `.npy` (C x h x w)."""
        kind = pa.float16() if self.options.dtype == "float16" else pa.float32()
        fields = [pa.field(self.column, pa.list_(kind)), pa.field(f"{self.column}_map", pa.binary())]
        return {"mean": fields[:1], "map": fields[1:], "both": fields}[self.options.save]

    @property
    def metadata(self) -> dict[str, Any]:
        return {"save": self.options.save, "dtype": self.options.dtype}

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """H x W x 3 uint8 BGR to the network's 1024 x 1024 x 3 uint8 BGR, bilinear, aspect not kept."""
        return cv2.resize(image, (NETWORK_SIDE, NETWORK_SIDE), interpolation=cv2.INTER_LINEAR)

    def check_output(self, output: Any, batch: int) -> torch.Tensor:
        """The B x C x h x w features in what the model returned. Raises CheckpointError for anything else."""
        return output_maps(output, batch, None, self.options, "features", side=GRID)

    def reduce(self, features: torch.Tensor, sizes: list[tuple[int, int]]) -> list[dict[str, np.ndarray]]:
        """B x C x h x w to what is saved of each image: `mean`, C float32; `map`, C x h x w float32."""
        mean = features.float().mean((2, 3)).cpu().numpy()
        if self.options.save == "mean":
            return [{"mean": one} for one in mean]
        whole = features.float().cpu().numpy()
        return [{"mean": one, "map": tokens} for one, tokens in zip(mean, whole, strict=True)]

    def finish(self, features: list[dict[str, np.ndarray]], row: dict[str, Any]) -> dict[str, Any]:
        """The columns of one row."""
        kind = np.dtype(self.options.dtype)
        columns: dict[str, Any] = {}
        if self.options.save != "map":
            columns[self.column] = features[0]["mean"].astype(kind)
        if self.options.save != "mean":
            columns[f"{self.column}_map"] = maps.encode_npy(features[0]["map"].astype(kind))
        return columns

    def draw(self, photo: np.ndarray, row: dict[str, Any], settings: Visualize) -> None:
        """Features have no picture."""
