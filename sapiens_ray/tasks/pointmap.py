"""Pointmaps of Sapiens2: for every pixel the point in the space of the camera that it shows, in metres.

Axes: x to the right, y down, z forward, from the camera. The network gives points up to a scale, and the scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from sapiens_ray.errors import CheckpointError
from sapiens_ray.imaging import annotate, maps
from sapiens_ray.tasks.base import Output, Size, TaskKind
from sapiens_ray.tasks.dense import FloatMapOptions, FloatMapTask, as_float16, stored
from sapiens_ray.tasks.foreground import foreground_at
from sapiens_ray.tasks.network import NETWORK_HEIGHT, NETWORK_WIDTH, PADDED, pad, place_of
from sapiens_ray.tasks.outputs import output_maps
from sapiens_ray.tasks.points import TURN, at_photo_size, focal_length, nearness, turned_view
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.tasks.stored import About, Files, MapColumn, StoredLabels, stored_map
from sapiens_ray.units import Row

if TYPE_CHECKING:
    import torch

OUTSIDE_GREY = 100
TURBO = cv2.COLORMAP_TURBO


class PointmapOptions(FloatMapOptions):
    """Options of `task: pointmap`."""

    map_channels: ClassVar[int] = 3

    task: Literal["pointmap"]
    dtype: Literal["float16", "float32"] = Field(
        "float32",
        description="Type in which the points are stored. float16 halves the size; its steps of 2 mm at 2 to 4 m show "
        "as terraces in a cloud of points.",
    )

    @property
    def published_kind(self) -> str:
        return "pointmap"

    def stored_bytes(self, pixels: int) -> int:
        values = pixels if self.resolution == "original" else NETWORK_WIDTH * NETWORK_HEIGHT
        return values * self.map_channels * np.dtype(self.dtype).itemsize


class Points(NamedTuple):
    """The output of the network for one photo. metres: h x w x 3 float32. scale: what it was divided by."""

    metres: np.ndarray
    scale: float


class Pointmap(FloatMapTask[PointmapOptions]):
    """The task pointmap. The input keeps the aspect of the photo; the part of the map that shows it is stored."""

    @property
    def input_kind(self) -> str:
        return PADDED

    @property
    def fields(self) -> list[pa.Field]:
        """Arrow columns: the points as `.npy`, h x w x 3; over the foreground at this size the median, the smallest and
        the largest z in metres, and the focal length in pixels of the photo (`points.focal_length`), null if there is
        no foreground or its mask is missing; and the scale."""
        numbers = ("depth_m", "min_m", "max_m", "focal_px", "scale")
        return [
            pa.field(self.column, pa.binary()),
            *(pa.field(f"{self.column}_{name}", pa.float32()) for name in numbers),
        ]

    @property
    def metadata(self) -> About:
        return {
            "unit": "metre",
            "axes": "x to the right, y down, z forward, from the camera",
            "resolution": self.options.resolution,
            "dtype": self.options.dtype,
        }

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return pad(image)

    def check_output(self, output: Output, batch: int) -> torch.Tensor:
        """B x 4 x 1024 x 768, of the points and the scales that the model returned: x, y, z in metres, and the scale,
        the same everywhere. Raises CheckpointError for anything else."""
        import torch

        points, scale = output if isinstance(output, tuple) and len(output) == 2 else (output, None)
        size = (NETWORK_HEIGHT, NETWORK_WIDTH)
        points = output_maps(points, batch, self.options.channels, self.options, "points", size)
        if not isinstance(scale, torch.Tensor) or scale.shape != (batch, 1):
            raise CheckpointError(
                f"{self.column}: the model returns no scales, {batch} x 1, beside its points; task pointmap needs a "
                "pointmap model of Sapiens2"
            )
        scale = scale[..., None, None]
        return torch.cat([points / scale, scale.expand(-1, 1, *size)], 1)

    def reduce(self, points: torch.Tensor, sizes: list[Size]) -> list[Points]:
        """B x 4 x 1024 x 768 to the points of B photos, without the margins."""
        cut = [one[:, *place_of(*size).inside].float() for one, size in zip(points, sizes, strict=True)]
        return [Points(one[:3].permute(1, 2, 0).cpu().numpy(), float(one[3, 0, 0])) for one in cut]

    def finish(self, results: list[Points], row: Row) -> Row:
        """The columns of one row. Without a mask the whole photo counts as foreground."""
        points, scale = results[0]
        width, height = row["width"], row["height"]
        inside = self._inside(row, points)
        z = points[..., 2][inside]
        least, middle, most = (float(z.min()), float(np.median(z)), float(z.max())) if z.size else (None, None, None)
        kept = at_photo_size(points, width, height) if self.options.resolution == "original" else points
        return {
            self.column: stored(kept, self.options),
            f"{self.column}_depth_m": middle,
            f"{self.column}_min_m": least,
            f"{self.column}_max_m": most,
            f"{self.column}_focal_px": focal_length(points, inside, width, height),
            f"{self.column}_scale": scale,
        }

    def _inside(self, row: Row, points: np.ndarray) -> np.ndarray:
        """h x w bool: the foreground at the size of the points; nowhere if the user's mask is missing."""
        height, width = points.shape[:2]
        inside = foreground_at(self.options.mask, row, width, height)
        return np.full((height, width), self.options.mask.source == "none") if inside is None else inside

    def draw(self, photo: np.ndarray, row: Row, settings: Visualize) -> np.ndarray:
        """The picture [photo | z in turbo colours, near is red | the points from the right and above, in the colours of
        the photo]; uint8 BGR. Outside the foreground it is grey; without a mask the whole photo is drawn.

        Style lite: h x 3w x 3. Style explained: with titles and a scale bar, which is linear in 1/z.
        """
        height, width = photo.shape[:2]
        points = at_photo_size(maps.decode_npy(row[self.column]), width, height)
        mask = foreground_at(self.options.mask, row, width, height)
        inside = np.ones((height, width), bool) if mask is None else mask
        near, ends = nearness(points[..., 2], inside)
        colours = cv2.applyColorMap((near * 255).astype(np.uint8), TURBO)
        colours[~inside] = OUTSIDE_GREY
        view = turned_view(points[inside], photo[inside], np.full_like(photo, OUTSIDE_GREY))
        if settings.style == "lite":
            return np.hstack([photo, colours, view])
        panels = [
            ("photo", photo),
            (f"{self.column}: distance z", colours),
            (f"points, {TURN} degrees from the right", view),
        ]
        return annotate.compose(panels, self._key(row, ends, annotate.Layout(width, height, len(panels))))

    def _key(self, row: Row, ends: tuple[float, float] | None, layout: annotate.Layout) -> list[np.ndarray]:
        if ends is None:
            return [annotate.words(layout, ["no foreground"], annotate.INK)]
        focal = row[f"{self.column}_focal_px"]
        lines = ["grey: background"] if self.options.mask.source != "none" else []
        lines += ["focal length", "unknown" if focal is None else f"{focal:.0f} pixels"]
        title, rest = annotate.words(layout, ["distance z"]), annotate.words(layout, lines)
        near, far = (f"{metres:.3g} m" for metres in ends)
        taken = title.shape[0] + rest.shape[0] + 2 * layout.gap
        return [title, annotate.scale_bar(layout, TURBO, [near, "near"], ["far", far], taken), rest]


class StoredPointmap(StoredLabels):
    """Pointmaps, h x w x 3."""

    @property
    def maps(self) -> dict[str, MapColumn]:
        return {self.column: MapColumn(stored_map, full_points, self.about["dtype"], "float32", 3)}

    @property
    def unknown_to_sapiens2(self) -> str:
        return ""

    def sapiens2_files(self, row: Row) -> Files:
        """`.npy` float32 H x W x 3, and `_depth.npy` float16 H x W: z, which is what the demo saves."""
        full = full_points(row[self.column], row["width"], row["height"])
        return [(".npy", maps.encode_npy(full)), ("_depth.npy", maps.encode_npy(as_float16(full[..., 2])))]


def full_points(cell: bytes, width: int, height: int) -> np.ndarray:
    """height x width x 3 float32, in metres."""
    return at_photo_size(maps.decode_npy(cell), width, height)


TASK = TaskKind("pointmap", PointmapOptions, Pointmap, StoredPointmap)
