"""Surface normals: a vector a pixel.

Known: the three channels are x, y, z in camera coordinates (Meta's word), and mirroring a photo in training negates
the first, so it is x. Not known, since nowhere stated: which way each axis points. docs/outputs.md says more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from sapiens_ray import maps
from sapiens_ray.tasks.dense import SQUEEZE, FloatMapOptions, output_maps, squeeze, stored
from sapiens_ray.tasks.foreground import foreground_at

if TYPE_CHECKING:
    import torch

    from sapiens_ray.config import Visualize


class NormalOptions(FloatMapOptions):
    """Options of `task: normal`."""

    task: Literal["normal"]

    @property
    def channels(self) -> int:
        return 3


class Normal:
    """Everything that makes the task normals. Holds no model and no state."""

    input_kind = SQUEEZE

    def __init__(self, options: NormalOptions) -> None:
        self.options = options
        self.column = options.column
        self.needs = tuple(options.needs)

    @property
    def fields(self) -> list[pa.Field]:
        """Arrow column: the vectors as `.npy`, h x w x 3; raw at network size, of unit length at original size."""
        return [pa.field(self.column, pa.binary())]

    @property
    def metadata(self) -> dict[str, Any]:
        return {
            "axes": "x, y, z in camera coordinates; signs not stated",
            "resolution": self.options.resolution,
            "dtype": self.options.dtype,
        }

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """H x W x 3 uint8 BGR to the network's 1024 x 768 x 3 uint8 BGR, bilinear, aspect not kept."""
        return squeeze(image)

    def check_output(self, output: Any, batch: int) -> torch.Tensor:
        """The B x 3 x h x w vectors in what the model returned. Raises CheckpointError for anything else."""
        return output_maps(output, batch, 3, self.options, "normals")

    def reduce(self, normals: torch.Tensor, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
        """B x 3 x h x w to B float32 arrays h x w x 3, as the network gave them."""
        return list(normals.float().permute(0, 2, 3, 1).cpu().numpy())

    def finish(self, normals: list[np.ndarray], row: dict[str, Any]) -> dict[str, Any]:
        """The column of one row. Resizing comes first, then unit length: the other order gives other vectors."""
        kept = normals[0]
        if self.options.resolution == "original":
            kept = maps.unit_length(maps.resize(kept, row["width"], row["height"]))
        return {self.column: stored(kept, self.options)}

    def draw(self, photo: np.ndarray, row: dict[str, Any], settings: Visualize) -> np.ndarray:
        """The picture [photo | (n + 1) / 2 as RGB, black outside the foreground]; h x 2w x 3 uint8 BGR."""
        height, width = photo.shape[:2]
        normals = maps.unit_length(maps.resize(maps.decode_npy(row[self.column]), width, height))
        mask = foreground_at(self.options.mask, row, width, height)
        if mask is not None:
            normals[~mask] = -1
        return np.hstack([photo, ((normals[..., ::-1] + 1) / 2 * 255).astype(np.uint8)])
