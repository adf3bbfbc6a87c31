"""Rotary positions of Sapiens2: queries and keys of patches are rotated by angles that depend on where the patch is.

Su et al., "RoFormer" (2021), in the form of DINOv3 for two axes. Written from the published description of the model.

The original makes everything here in bfloat16, also where the model runs in float32: periods, coordinates, angles,
sine, cosine, and the rotation, with a rounding after each product and after the sum. Its models are trained so, and one
rounding instead of three moves the features as far as float32 does. `transformers` computes it in float32. Both can be
chosen.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import nn

Precision = Literal["bfloat16", "float32"]
BASE = 100.0
BFLOAT16_UNIT, HALF_UNIT = 0xFFFF, 0x7FFF  # bits of a float32 that bfloat16 lacks, and just under half of its last one


class Tables(NamedTuple):
    """Cosine and sine of the angles of every token: N x 1 x D / 2 each, in the precision of the rotation."""

    cosine: torch.Tensor
    sine: torch.Tensor


class RotaryPositions(nn.Module):
    """Holds the periods, which are in the checkpoints, and the tables that are made of them."""

    periods: torch.Tensor

    def __init__(self, head_width: int, grid: tuple[int, int], others: int) -> None:
        """head_width: D, of each attention head. grid: rows and columns of patches. others: tokens in front of the
        patches, which have no position and are not rotated."""
        super().__init__()
        self.head_width, self.grid, self.others = head_width, grid, others
        self.register_buffer("periods", torch.empty(head_width // 4, dtype=torch.bfloat16))
        self.register_buffer("_cosine", None, persistent=False)
        self.register_buffer("_sine", None, persistent=False)

    @property
    def tables(self) -> Tables:
        return Tables(self._cosine, self._sine)

    def prepare(self, precision: Precision) -> None:
        """Make the tables, on the CPU, so that they are the same for all devices. bfloat16: from the periods of the
        checkpoint. float32: from the formula, since those of the checkpoint are rounded."""
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        periods = self.periods.cpu() if precision == "bfloat16" else default_periods(self.head_width, dtype)
        angles = angles_of(self.grid, periods)
        still = torch.zeros(self.others, angles.shape[1], dtype=dtype)
        angles = torch.cat([still, angles])[:, None]
        device = self.periods.device
        self._cosine, self._sine = angles.cos().to(device), angles.sin().to(device)


def default_periods(head_width: int, dtype: torch.dtype) -> torch.Tensor:
    """The D / 4 periods 100^(2i / (D / 2)), every step rounded to the dtype."""
    steps = torch.arange(head_width // 4, dtype=dtype)
    periods: torch.Tensor = BASE ** (2 * steps / (head_width // 2))
    return periods


def angles_of(grid: tuple[int, int], periods: torch.Tensor) -> torch.Tensor:
    """rows * columns x D / 2 angles, row by row: 2 pi y / period, then 2 pi x / period, in the dtype of the D / 4
    periods. x and y are the centres of the patches between -1 and 1, each along its own axis."""
    axes = [2 * (torch.arange(0.5, count, dtype=periods.dtype) / count) - 1 for count in grid]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)  # N x 2
    return (2 * math.pi * centres[:, :, None] / periods).flatten(1)


def rotate(heads: torch.Tensor, tables: Tables) -> torch.Tensor:
    """B x N x heads x D, rotated: each pair (a, b) of values D / 2 apart becomes (a cos - b sin, b cos + a sin).

    Computed in the dtype of the tables, which is also that of the result (compiled: float32 with the same values).
    """
    cosine, sine = tables
    if cosine.dtype == torch.bfloat16 and torch.compiler.is_compiling():
        # Fused code keeps float32 between the steps of a chain in bfloat16, and would round once.
        cosine, sine = cosine.float(), sine.float()
        first, second = rounded(heads).chunk(2, -1)
        turned = rounded(rounded(first * cosine) - rounded(second * sine))
        return torch.cat([turned, rounded(rounded(second * cosine) + rounded(first * sine))], -1)
    first, second = heads.to(cosine.dtype).chunk(2, -1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def rounded(values: torch.Tensor) -> torch.Tensor:
    """float32 values rounded to the nearest bfloat16, ties to even, still as float32. By their bits: compilers may drop
    a conversion to bfloat16 and back."""
    bits = values.float().view(torch.int32)
    nearest = bits + HALF_UNIT + ((bits >> 16) & 1)
    return (nearest & ~BFLOAT16_UNIT).view(torch.float32)
