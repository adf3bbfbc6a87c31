"""Relative depth: one value per pixel, without unit; larger is farther.

The models are trained on depth scaled to 0..1 over the person of each photo. So values of two photos cannot be
compared, and values outside persons have no meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import pyarrow as pa

from sapiens_ray.imaging import annotate, maps
from sapiens_ray.tasks.base import Output, Size, TaskKind
from sapiens_ray.tasks.dense import FloatMapOptions, FloatMapTask, StoredFloatMap, stored
from sapiens_ray.tasks.foreground import foreground, foreground_at
from sapiens_ray.tasks.outputs import output_maps
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.tasks.stored import About, MapColumn, stored_map
from sapiens_ray.units import Row

if TYPE_CHECKING:
    import torch

OUTSIDE_GREY = 100
INFERNO = cv2.COLORMAP_INFERNO
Span = tuple[float, float]
SOBEL = 7  # kernel of the picture's normals


class DepthOptions(FloatMapOptions):
    """Options of `task: depth`."""

    task: Literal["depth"]

    @property
    def published_kind(self) -> str:
        return "depth"


class Depth(FloatMapTask[DepthOptions]):
    """The task depth."""

    @property
    def fields(self) -> list[pa.Field]:
        """Arrow columns: the map as `.npy` (h x w), and its smallest and largest value over the foreground at the
        size of the photo; null if there is no foreground or its mask is missing."""
        return [
            pa.field(self.column, pa.binary()),
            pa.field(f"{self.column}_min", pa.float32()),
            pa.field(f"{self.column}_max", pa.float32()),
        ]

    @property
    def metadata(self) -> About:
        return {
            "unit": "relative to the photo; larger is farther",
            "resolution": self.options.resolution,
            "dtype": self.options.dtype,
        }

    def check_output(self, output: Output, batch: int) -> torch.Tensor:
        """The B x 1 x h x w depth in what the model returned. Raises CheckpointError for anything else."""
        return output_maps(output, batch, self.options.channels, self.options, "depth")

    def reduce(self, depth: torch.Tensor, sizes: list[Size]) -> list[np.ndarray]:
        """B x 1 x h x w to B float32 arrays h x w, unchanged."""
        return list(depth[:, 0].float().cpu().numpy())

    def finish(self, depths: list[np.ndarray], row: Row) -> Row:
        """The columns of one row. Without a mask the whole photo counts as foreground."""
        full = maps.resize(depths[0], row["width"], row["height"])
        mask = foreground(self.options.mask, row)
        least, most = None, None
        if self.options.mask.source == "none":
            least, most, *_ = cv2.minMaxLoc(full)
        elif mask is not None and mask.any():
            least, most, *_ = cv2.minMaxLoc(full, mask.view(np.uint8))
        kept = full if self.options.resolution == "original" else depths[0]
        return {self.column: stored(kept, self.options), f"{self.column}_min": least, f"{self.column}_max": most}

    def draw(self, photo: np.ndarray, row: Row, settings: Visualize) -> np.ndarray:
        """The picture [photo | depth in inferno colours, near is bright | normals of the depth], as Sapiens-Lite
        draws it: outside the foreground the depth is grey and the normals are black; uint8 BGR.

        Without a mask the whole photo is drawn. Slopes are scaled, so the normals are those of the full-size map at
        any size of the picture. Style lite: h x 3w x 3. Style explained: with titles and a scale bar, whose ends are
        the smallest and the largest depth of the row.
        """
        height, width = photo.shape[:2]
        depth = maps.resize(maps.decode_npy(row[self.column]), width, height)
        mask = foreground_at(self.options.mask, row, width, height)
        inside = np.ones((height, width), bool) if mask is None else mask
        lite = settings.style == "lite"
        span = None if lite else self._span(row, depth[inside])
        near = nearness(depth, inside, span)
        colours = cv2.applyColorMap((near * 255).astype(np.uint8), INFERNO)
        colours[~inside] = OUTSIDE_GREY
        slopes = (width / row["width"], height / row["height"])
        normals = normals_of_depth(near, inside, slopes)
        if lite:
            return np.hstack([photo, colours, normals])
        panels = [("photo", photo), (f"{self.column}: near is bright", colours), ("normals of the depth", normals)]
        return annotate.compose(panels, _key(span, mask is not None, annotate.Layout(width, height, len(panels))))

    def _span(self, row: Row, values: np.ndarray) -> Span | None:
        """The depths at the ends of the colours; None without foreground. values: depth of the foreground."""
        least, most = row[f"{self.column}_min"], row[f"{self.column}_max"]
        if least is not None:
            return least, most
        return (float(values.min()), float(values.max())) if values.size else None  # the mask is missing


def _key(span: Span | None, masked: bool, layout: annotate.Layout) -> list[np.ndarray]:
    if span is None:
        return [annotate.words(layout, ["no foreground"], annotate.INK)]
    rest = [annotate.words(layout, ["grey, black:", "background"])] if masked else []
    rest.append(annotate.words(layout, ["normals: red", "faces right,", "green down"]))
    title = annotate.words(layout, ["relative depth"])
    near, far = (f"{depth:.3g}" for depth in span)
    taken = sum(block.shape[0] + layout.gap for block in (title, *rest))
    return [title, annotate.scale_bar(layout, INFERNO, [near, "near"], ["far", far], taken), *rest]


def nearness(depth: np.ndarray, inside: np.ndarray, span: Span | None = None) -> np.ndarray:
    """h x w float32: 1 at the nearest point of the foreground, 0 at the farthest and outside; 0.5 if it is flat.

    span: the depths that become 1 and 0; those of the foreground by default.
    """
    near = np.zeros(depth.shape, np.float32)
    values = depth[inside]
    if values.size:
        low, high = span or (values.min(), values.max())
        near[inside] = 1 - np.clip((values - low) / (high - low), 0, 1) if high > low else 0.5
    return near


def normals_of_depth(near: np.ndarray, inside: np.ndarray, slopes: tuple[float, float] = (1, 1)) -> np.ndarray:
    """h x w x 3 uint8 BGR: (n + 1) / 2 of n = (-gx, -gy, -1) / |...|, g the Sobel slopes (kernel 7) of nearness.

    Pixels whose kernel reaches outside the foreground are black: a rim of 3 pixels. slopes: factors on gx and gy.
    """
    height = near.astype(np.float32)
    height[~inside] = np.inf
    gx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=SOBEL) * np.float32(slopes[0])
    gy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=SOBEL) * np.float32(slopes[1])
    with np.errstate(invalid="ignore"):
        norm = np.sqrt(gx * gx + gy * gy + 1) + np.float32(1e-5)
        normals = np.stack([-1 / norm, -gy / norm, -gx / norm], -1)  # z, y, x are the picture's B, G, R
    normals[np.isnan(normals)] = -1
    return ((normals + 1) / 2 * 255).astype(np.uint8)


class StoredDepth(StoredFloatMap):
    """Depth maps, h x w."""

    @property
    def maps(self) -> dict[str, MapColumn]:
        return {self.column: MapColumn(stored_map, full_depth, self.about["dtype"], "float32", 2)}


def full_depth(cell: bytes, width: int, height: int) -> np.ndarray:
    """height x width float32."""
    return maps.resize(maps.decode_npy(cell), width, height)


TASK = TaskKind("depth", DepthOptions, Depth, StoredDepth)
