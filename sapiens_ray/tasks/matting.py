"""Mattes of Sapiens2: how much of each pixel belongs to persons, and optionally their colours without the background.

Alpha is 1 where only a person is seen, 0 where none is, and between at hair, edges and what moved. The foreground is
premultiplied: its colours are those of the person times alpha, so over a new background B a pixel is
foreground + (1 - alpha) B.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from sapiens_ray.imaging import annotate, images, maps
from sapiens_ray.tasks.base import Output, Size, Task, TaskKind
from sapiens_ray.tasks.network import NETWORK_HEIGHT, NETWORK_WIDTH, matted_kind, stretch
from sapiens_ray.tasks.options import ModelOptions
from sapiens_ray.tasks.outputs import output_maps
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.tasks.stored import About, Files, MapColumn, StoredLabels
from sapiens_ray.units import Row

if TYPE_CHECKING:
    import torch

CHANNELS = 4  # red, green, blue, alpha
LIGHT, DARK = 230, 170  # greys of the squares that stand for nothing


class MattingOptions(ModelOptions):
    """Options of `task: matting`."""

    task: Literal["matting"]
    foreground: bool = Field(
        False, description="Also store the colours of the persons, premultiplied by alpha, as an RGB PNG."
    )
    resolution: Literal["network", "original"] = Field(
        "network",
        description="Size at which mattes are stored. network: that of the model's output, 1024 x 768, which keeps all "
        "information; read_labels(size='original') and export resize it. original: that of the photo.",
    )
    bits: Literal[8, 16] = Field(
        8, description="Bits of each value in the PNGs. 8: rounded by up to 0.002. 16: by up to 0.00001."
    )

    @property
    def published_kind(self) -> str:
        return "matting"

    @property
    def channels(self) -> int:
        return CHANNELS

    def stored_bytes(self, pixels: int) -> int:
        # At most: what is quite inside or outside of persons compresses well.
        values = pixels if self.resolution == "original" else NETWORK_WIDTH * NETWORK_HEIGHT
        return values * (CHANNELS if self.foreground else 1) * self.bits // 8


class Matting(Task[MattingOptions]):
    """The task matting."""

    @property
    def input_kind(self) -> str:
        return matted_kind(self.options.network_size)

    @property
    def fields(self) -> list[pa.Field]:
        """Arrow columns: alpha as grey PNG, its mean over the photo, and with `foreground` the premultiplied colours as
        RGB PNG."""
        alpha = [pa.field(self.column, pa.binary()), pa.field(f"{self.column}_share", pa.float32())]
        return [*alpha, pa.field(foreground_column(self.column), pa.binary())] if self.options.foreground else alpha

    @property
    def metadata(self) -> About:
        return {
            "foreground": self.options.foreground,
            "resolution": self.options.resolution,
            "bits": self.options.bits,
        }

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """H x W x 3 uint8 BGR to 1024 x 768 x 3 uint8 BGR, aspect not kept: with averages if the photo is wider than
        the input, else bilinear."""
        return stretch(image, self.options.network_size, cv2.INTER_LINEAR)

    def check_output(self, output: Output, batch: int) -> torch.Tensor:
        """B x 4 x h x w: premultiplied red, green and blue, and alpha, from 0 to 1, in what the model returned. Raises
        CheckpointError for anything else."""
        return output_maps(output, batch, CHANNELS, self.options, "colours and alpha")

    def reduce(self, mattes: torch.Tensor, sizes: list[Size]) -> list[np.ndarray]:
        """B x 4 x h x w to B float32 arrays, h x w x 4 in the same order, or h x w x 1 if only alpha is stored."""
        kept = mattes if self.options.foreground else mattes[:, CHANNELS - 1 :]
        return list(kept.float().permute(0, 2, 3, 1).cpu().numpy())

    def finish(self, mattes: list[np.ndarray], row: Row) -> Row:
        """The columns of one row."""
        matte = mattes[0]
        share = float(matte[..., -1].mean(dtype=np.float64))
        if self.options.resolution == "original":
            matte = maps.resize(matte, row["width"], row["height"]).reshape(row["height"], row["width"], -1)
        levels = self._levels(matte)
        columns: Row = {self.column: images.encode_png(levels[..., -1]), f"{self.column}_share": share}
        if self.options.foreground:
            columns[foreground_column(self.column)] = images.encode_png(levels[..., 2::-1])
        return columns

    def _levels(self, matte: np.ndarray) -> np.ndarray:
        """0 to 1 as whole numbers with the bits of the options, rounded."""
        kind = np.uint8 if self.options.bits == 8 else np.uint16
        levels: np.ndarray = np.rint(np.clip(matte, 0, 1) * np.iinfo(kind).max).astype(kind)
        return levels

    def draw(self, photo: np.ndarray, row: Row, settings: Visualize) -> np.ndarray:
        """The picture [photo | persons over squares | alpha, white is 1]; uint8 BGR.

        Persons have the colours of the foreground if it is stored, else those of the photo. Style lite: h x 3w x 3.
        Style explained: with titles and a key.
        """
        height, width = photo.shape[:2]
        alpha = full_alpha(row[self.column], width, height)
        colours = photo.astype(np.float32) * alpha[..., None]
        if self.options.foreground:
            colours = full_foreground(row[foreground_column(self.column)], width, height)[..., ::-1] * 255
        layout = annotate.Layout(width, height, 3)
        cut_out = to_bytes(colours + (1 - alpha[..., None]) * squares(width, height, layout.text))
        grey = cv2.cvtColor(to_bytes(alpha * 255), cv2.COLOR_GRAY2BGR)
        if settings.style == "lite":
            return np.hstack([photo, cut_out, grey])
        panels = [("photo", photo), (f"{self.column}: persons", cut_out), ("alpha", grey)]
        lines = ["persons:", f"{row[f'{self.column}_share']:.1%} of the photo", "", "squares, black:", "background"]
        return annotate.compose(panels, [annotate.words(layout, lines)])


def foreground_column(column: str) -> str:
    """The column of the premultiplied colours of a column of mattes."""
    return f"{column}_foreground"


def squares(width: int, height: int, side: int) -> np.ndarray:
    """height x width x 1 float32: light and dark squares, the usual sign of what is transparent."""
    dark = (np.arange(height)[:, None] // side + np.arange(width) // side) % 2
    return np.where(dark, np.float32(DARK), np.float32(LIGHT))[..., None]


def to_bytes(values: np.ndarray) -> np.ndarray:
    """0 to 255, rounded, as uint8."""
    rounded: np.ndarray = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return rounded


class StoredMatting(StoredLabels):
    """Alpha maps, h x w, and perhaps premultiplied colours, h x w x 3; `about["foreground"]` says it."""

    @property
    def columns(self) -> list[str]:
        return [self.column, foreground_column(self.column)] if self.about["foreground"] else [self.column]

    @property
    def maps(self) -> dict[str, MapColumn]:
        readers = (MapColumn(stored_alpha, full_alpha, "float32", "float32", 2),
                   MapColumn(stored_foreground, full_foreground, "float32", "float32", 3))  # fmt: skip
        return dict(zip(self.columns, readers, strict=False))

    @property
    def compressed(self) -> list[str]:
        return self.columns

    @property
    def pictures(self) -> list[str]:
        return self.columns

    @property
    def unknown_to_sapiens2(self) -> str:
        return ""

    def sapiens2_files(self, row: Row) -> Files:
        """`_alpha.npy` float32 H x W, and `_fgr.npy` float32 H x W x 3, premultiplied RGB, if it is stored."""
        endings = dict(zip(self.columns, ("_alpha.npy", "_fgr.npy"), strict=False))
        width, height = row["width"], row["height"]
        return [
            (ending, maps.encode_npy(self.maps[column].original(row[column], width, height)))
            for column, ending in endings.items()
        ]


def stored_alpha(cell: bytes, width: int, height: int) -> np.ndarray:
    """h x w float32 from 0 to 1, at the stored size."""
    levels = images.decode_map(cell)
    shares: np.ndarray = levels / np.float32(np.iinfo(levels.dtype).max)
    return shares


def stored_foreground(cell: bytes, width: int, height: int) -> np.ndarray:
    """h x w x 3 float32 RGB from 0 to 1, premultiplied, at the stored size."""
    return np.ascontiguousarray(stored_alpha(cell, width, height)[..., ::-1])


def full_alpha(cell: bytes, width: int, height: int) -> np.ndarray:
    """height x width float32 from 0 to 1."""
    return maps.resize(stored_alpha(cell, width, height), width, height)


def full_foreground(cell: bytes, width: int, height: int) -> np.ndarray:
    """height x width x 3 float32 RGB from 0 to 1, premultiplied."""
    return maps.resize(stored_foreground(cell, width, height), width, height)


TASK = TaskKind("matting", MattingOptions, Matting, StoredMatting)
