"""The heads of Sapiens: transposed convolutions that enlarge the encoder's map, then 1 x 1 convolutions.

All tasks have the same kind of head. Heads differ in the number of transposed convolutions, the widths, the number of
output channels, and the name of the last layer. Written from the published description of the checkpoints; submodules
are named like the tensors in them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

NORM_EPS = 1e-5
STRIP = 64  # rows of the output that are computed at a time
CACHED_ROWS = 16  # rows that fit into a CPU's cache


class InstanceNorm(nn.Module):
    """Normalises each channel of each image to mean 0 and variance 1; no weights. Statistics are float32."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """B x C x H x W to the same shape."""
        exact = maps.dtype == torch.float32 and not maps.is_contiguous(memory_format=torch.channels_last)
        if not maps.is_cpu or exact or torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return F.instance_norm(maps, eps=NORM_EPS)
        # On a CPU, instance_norm would undo the channels-last order, in which convolutions are fast, and rounds the
        # mean to the maps' dtype; group_norm loses digits where the mean is large. Sums of differences from a value
        # near the mean, in strips that fit into the cache, avoid both.
        strips = maps.split(CACHED_ROWS, 2)
        near = strips[0].float().mean((2, 3), keepdim=True)
        total, squares = torch.zeros_like(near), torch.zeros_like(near)
        for strip in strips:
            centred = strip.float() - near
            total += centred.sum((2, 3), keepdim=True)
            squares += centred.square_().sum((2, 3), keepdim=True)
        count = maps.shape[2] * maps.shape[3]
        mean = near + total / count
        scale = (squares / count - (total / count).square() + NORM_EPS).rsqrt()
        normal = torch.empty_like(maps)
        for strip, there in zip(strips, normal.split(CACHED_ROWS, 2), strict=True):
            there.copy_((strip.float() - mean).mul_(scale))
        return normal


class Head(nn.Module):
    """From the encoder's features to the task's output: logits, heatmaps, depth or normals."""

    def __init__(self, width: int, deconv: Sequence[int], conv: Sequence[int], channels: int, last: str) -> None:
        """width: channels of the encoder. deconv, conv: channels of the layers. last: name of the last layer."""
        super().__init__()
        sizes = [width, *deconv, *conv]
        enlarge: list[nn.Module] = []
        for before, after in zip(sizes, deconv, strict=False):
            layer = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
            enlarge += [layer, InstanceNorm(), nn.SiLU(inplace=True)]
        self.deconv_layers = nn.Sequential(*enlarge)
        mix: list[nn.Module] = []
        for before, after in zip(sizes[len(deconv) :], conv, strict=False):
            mix += [nn.Conv2d(before, after, 1), InstanceNorm(), nn.SiLU(inplace=True)]
        self.conv_layers = nn.Sequential(*mix)
        self.last = last
        self.add_module(last, nn.Conv2d(sizes[-1], channels, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """B x C x h x w to float32 B x channels x (h * 2^n) x (w * 2^n), n the number of transposed convolutions."""
        dtype = next(self.deconv_layers.parameters()).dtype
        maps: torch.Tensor = self.conv_layers(self.deconv_layers(features.to(dtype)))
        return in_float32(self.get_submodule(self.last), maps)


def in_float32(last: nn.Module, maps: torch.Tensor) -> torch.Tensor:
    """The last layer of a head, whose weights are float32, on B x C x H x W maps of any dtype.

    The eight bits of bfloat16 would turn peaks into ties, and depth into steps. The wide input is converted in strips:
    converted at once it would be the largest tensor by far.
    """
    if maps.dtype == torch.float32:
        exact: torch.Tensor = last(maps)
        return exact
    return torch.cat([last(strip.float()) for strip in maps.split(STRIP, 2)], 2)
