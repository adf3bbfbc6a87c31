"""Surface normals: one vector per pixel.

The three channels are x, y, z in camera coordinates (as Meta says). Mirroring a photo in training negates the first,
so it is x. The direction of each axis is not documented anywhere; see docs/outputs.md.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

import cv2
import numpy as np
import pyarrow as pa

from sapiens_ray.imaging import annotate, maps
from sapiens_ray.tasks import confidence
from sapiens_ray.tasks.base import Output, Size, TaskKind
from sapiens_ray.tasks.dense import FloatMapOptions, FloatMapTask, StoredFloatMap, stored
from sapiens_ray.tasks.foreground import foreground_at
from sapiens_ray.tasks.network import PADDED, SAPIENS2, pad, place_of
from sapiens_ray.tasks.outputs import output_maps
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.tasks.stored import About, Files, MapColumn, stored_map
from sapiens_ray.units import Row

if TYPE_CHECKING:
    import torch


SHORTEST = np.float32(1e-8)  # what Sapiens2 divides vectors by at least, to give them unit length


class NormalOptions(FloatMapOptions):
    """Options of `task: normal`."""

    map_channels: ClassVar[int] = 3

    task: Literal["normal"]

    @property
    def published_kind(self) -> str:
        return "normal"


class Normal(FloatMapTask[NormalOptions]):
    """The task normal."""

    @property
    def fields(self) -> list[pa.Field]:
        """Arrow columns: the vectors as `.npy`, h x w x 3, raw at network size, normalised at original size; and the
        mean length of the raw ones over the foreground (`confidence.mean_length`); null without one, and where the
        mask is missing."""
        return [pa.field(self.column, pa.binary()), pa.field(f"{self.column}_length", pa.float32())]

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
        """The columns of one row."""
        raw = normals[0]
        height, width = raw.shape[:2]
        inside = foreground_at(self.options.mask, row, width, height)
        unknown = inside is None and self.options.mask.source != "none"  # the user's mask is missing
        length = None if unknown else confidence.mean_length(raw, inside)
        kept = self._kept(raw)
        if self.options.resolution == "original":
            kept = self._at_photo_size(kept, row["width"], row["height"])
        return {self.column: stored(kept, self.options), f"{self.column}_length": length}

    def _kept(self, raw: np.ndarray) -> np.ndarray:
        """What is stored at network size, of h x w x 3 raw vectors."""
        return raw

    def _at_photo_size(self, kept: np.ndarray, width: int, height: int) -> np.ndarray:
        return resized_then_unit(kept, width, height)

    def draw(self, photo: np.ndarray, row: Row, settings: Visualize) -> np.ndarray:
        """The picture [photo | (n + 1) / 2 as RGB, black outside the foreground]; uint8 BGR.

        Style lite: h x 2w x 3. Style explained: with titles, and a sphere as key of the colours.
        """
        height, width = photo.shape[:2]
        normals = self._at_photo_size(maps.decode_npy(row[self.column]), width, height)
        mask = foreground_at(self.options.mask, row, width, height)
        if mask is not None:
            normals[~mask] = -1
        colours = in_colours(normals)
        if settings.style == "lite":
            return np.hstack([photo, colours])
        panels = [("photo", photo), (f"{self.column}: x, y, z as RGB", colours)]
        layout = annotate.Layout(width, height, len(panels))
        z = normals[..., 2] if mask is None else normals[..., 2][mask]
        # Meta does not say whether z points to the camera. The key shows the half that the picture shows.
        front = z.size == 0 or float(z.mean()) >= 0
        key = [annotate.words(layout, ["colours of", "directions"]), sphere(layout.text, front)]
        if mask is not None:
            key.append(annotate.words(layout, ["black: background"]))
        return annotate.compose(panels, key)


class Sapiens2Normal(Normal):
    """The task normal with a model of Sapiens2: the input keeps the aspect of the photo, and vectors get their unit
    length at network size, before they are resized. Without the margins, the map shows what the photo shows."""

    @property
    def input_kind(self) -> str:
        return PADDED

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return pad(image)

    def reduce(self, normals: torch.Tensor, sizes: list[Size]) -> list[np.ndarray]:
        """B x 3 x 1024 x 768 to B float32 arrays h x w x 3 without the margins, with unchanged values."""
        cut = [one[:, *place_of(*size).inside] for one, size in zip(normals, sizes, strict=True)]
        return [one.float().permute(1, 2, 0).cpu().numpy() for one in cut]

    def _kept(self, raw: np.ndarray) -> np.ndarray:
        lengths = np.sqrt(np.einsum("ijk,ijk->ij", raw, raw))
        unit: np.ndarray = raw / np.maximum(lengths, SHORTEST)[..., None]
        return unit

    def _at_photo_size(self, kept: np.ndarray, width: int, height: int) -> np.ndarray:
        return maps.resize(kept, width, height)


def resized_then_unit(vectors: np.ndarray, width: int, height: int) -> np.ndarray:
    """h x w x 3 to height x width x 3 float32, as Sapiens-Lite does. The order matters."""
    return maps.unit_length(maps.resize(vectors, width, height))


def in_colours(normals: np.ndarray) -> np.ndarray:
    """h x w x 3 float32 vectors to (n + 1) / 2 as RGB; h x w x 3 uint8 BGR."""
    return ((normals[..., ::-1] + 1) / 2 * 255).astype(np.uint8)


@lru_cache(maxsize=64)
def sphere(size: int, front: bool) -> np.ndarray:
    """The colours of unit vectors as a labelled half sphere with x to the right and y upwards; uint8 BGR.

    size: of the text. front: the half with positive z, not that with negative z.
    """
    side, smooth = 8 * size, 4
    across = (np.arange(side * smooth, dtype=np.float32) + 0.5) / (side * smooth) * 2 - 1
    squared = across**2 + across[:, None] ** 2
    z = np.sqrt(np.maximum(0, 1 - squared)) * (1 if front else -1)
    disc = in_colours(np.dstack([*np.broadcast_arrays(across, -across[:, None]), z]))
    disc[squared > 1] = annotate.PAPER
    disc = cv2.resize(disc, (side, side), interpolation=cv2.INTER_AREA)
    centre = annotate.text("+z" if front else "-z", size, (0, 0, 0))
    y, x = ((side - length) // 2 for length in centre.shape[:2])
    middle = disc[y : y + centre.shape[0], x : x + centre.shape[1]]
    middle[:] = cv2.multiply(middle, centre, scale=1 / 255)  # the letters without their paper
    left, right, up, down = (annotate.text(axis, size) for axis in ("-x", "+x", "+y", "-y"))
    line, gap = up.shape[0], size // 3
    start = left.shape[1] + gap
    block = annotate.blank(start + side + gap + right.shape[1], side + 2 * line)
    annotate.paste(block, disc, start, line)
    for words, place, y in (
        (left, 0, line + (side - line) // 2),
        (right, start + side + gap, line + (side - line) // 2),
        (up, start + (side - up.shape[1]) // 2, 0),
        (down, start + (side - down.shape[1]) // 2, line + side),
    ):
        annotate.paste(block, words, place, y)
    block.flags.writeable = False
    return block


class StoredNormal(StoredFloatMap):
    """Normal maps, h x w x 3."""

    @property
    def maps(self) -> dict[str, MapColumn]:
        full = resized_normals if self.recipe == SAPIENS2 else full_normals
        return {self.column: MapColumn(stored_map, full, self.about["dtype"], "float32", 3)}

    @property
    def unknown_to_sapiens2(self) -> str:
        return ""

    def sapiens2_files(self, row: Row) -> Files:
        """`.npy` float32 H x W x 3."""
        return self.lite_files(row)


def full_normals(cell: bytes, width: int, height: int) -> np.ndarray:
    """height x width x 3 float32, of unit length."""
    return resized_then_unit(maps.decode_npy(cell), width, height)


def resized_normals(cell: bytes, width: int, height: int) -> np.ndarray:
    """height x width x 3 float32; those of Sapiens2, which are shorter than 1 between unlike neighbours."""
    return maps.resize(maps.decode_npy(cell), width, height)


TASK = TaskKind("normal", NormalOptions, Normal, StoredNormal, {SAPIENS2: Sapiens2Normal})
