"""Surface normals: one vector per pixel.

The three channels are x, y, z in camera coordinates (as Meta says). Mirroring a photo in training negates the first,
so it is x. The direction of each axis is not documented anywhere; see docs/outputs.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pyarrow as pa

from sapiens_ray.imaging import maps
from sapiens_ray.tasks.base import Output, Size, TaskKind
from sapiens_ray.tasks.dense import FloatMapOptions, FloatMapTask, StoredFloatMap, stored
from sapiens_ray.tasks.foreground import foreground_at
from sapiens_ray.tasks.outputs import output_maps
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.tasks.stored import About, MapColumn, stored_map
from sapiens_ray.units import Row

if TYPE_CHECKING:
    import torch


class NormalOptions(FloatMapOptions):
    """Options of `task: normal`."""

    map_channels: ClassVar[int] = 3

    task: Literal["normal"]


class Normal(FloatMapTask[NormalOptions]):
    """The task normal."""

    @property
    def fields(self) -> list[pa.Field]:
        """Arrow column: the vectors as `.npy`, h x w x 3; raw at network size, normalised at original size."""
        return [pa.field(self.column, pa.binary())]

    @property
    def metadata(self) -> About:
        return {
            "axes": "x, y, z in camera coordinates; signs not stated",
            "resolution": self.options.resolution,
            "dtype": self.options.dtype,
        }

    def check_output(self, output: Output, batch: int) -> torch.Tensor:
        """The B x 3 x h x w vectors in what the model returned. Raises CheckpointError for anything else."""
        return output_maps(output, batch, self.options.channels, self.options, "normals")

    def reduce(self, normals: torch.Tensor, sizes: list[Size]) -> list[np.ndarray]:
        """B x 3 x h x w to B float32 arrays h x w x 3, with unchanged values."""
        return list(normals.float().permute(0, 2, 3, 1).cpu().numpy())

    def finish(self, normals: list[np.ndarray], row: Row) -> Row:
        """The column of one row. Vectors are resized first, then normalised: the order matters."""
        kept = normals[0]
        if self.options.resolution == "original":
            kept = maps.unit_length(maps.resize(kept, row["width"], row["height"]))
        return {self.column: stored(kept, self.options)}

    def draw(self, photo: np.ndarray, row: Row, settings: Visualize) -> np.ndarray:
        """The picture [photo | (n + 1) / 2 as RGB, black outside the foreground]; h x 2w x 3 uint8 BGR."""
        height, width = photo.shape[:2]
        normals = maps.unit_length(maps.resize(maps.decode_npy(row[self.column]), width, height))
        mask = foreground_at(self.options.mask, row, width, height)
        if mask is not None:
            normals[~mask] = -1
        return np.hstack([photo, ((normals[..., ::-1] + 1) / 2 * 255).astype(np.uint8)])


class StoredNormal(StoredFloatMap):
    """Normal maps, h x w x 3."""

    @property
    def maps(self) -> dict[str, MapColumn]:
        return {self.column: MapColumn(stored_map, full_normals, self.about["dtype"], "float32", 3)}


def full_normals(cell: bytes, width: int, height: int) -> np.ndarray:
    """height x width x 3 float32, of unit length."""
    return maps.unit_length(maps.resize(maps.decode_npy(cell), width, height))


TASK = TaskKind("normal", NormalOptions, Normal, StoredNormal)
