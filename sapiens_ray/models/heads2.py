"""The heads of Sapiens2 that enlarge with pixel shuffles: normals, points, mattes. Those of seg and pose are in
`heads.py`.

Written from the published description of the checkpoints; submodules are named like the tensors in them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sapiens_ray.models.heads import InstanceNorm, in_float32


class ShuffleHead(nn.Module):
    """From the encoder's map to maps of the size of the input. Each 3 x 3 convolution in front of a pixel shuffle gives
    the four pixels that a pixel becomes (Shi et al., "Real-Time Single Image ... Sub-Pixel ...", CVPR 2016)."""

    def __init__(self, width: int, shuffled: Sequence[int], conv: Sequence[int], channels: int, last: str) -> None:
        """width: channels of the encoder. shuffled, conv: channels of the layers. last: name of the last layer."""
        super().__init__()
        sizes = [width, *shuffled, *conv]
        self.input_conv = nn.Sequential(*_convolution(width, width))
        self.upsample_blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, 4 * after, 3, padding=1), nn.PixelShuffle(2), InstanceNorm(), _activation())
            for before, after in zip(sizes, shuffled, strict=False)
        )
        mix = [_convolution(before, after) for before, after in zip(sizes[len(shuffled) :], conv, strict=False)]
        self.conv_layers = nn.Sequential(*(layer for layers in mix for layer in layers))
        self.last = last
        self.add_module(last, nn.Conv2d(sizes[-1], channels, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """B x C x h x w to float32 B x channels x (h * 2^n) x (w * 2^n), n the number of shuffles."""
        maps = self.input_conv(features.to(next(self.input_conv.parameters()).dtype))
        for block in self.upsample_blocks:
            maps = block(maps)
        return in_float32(self.get_submodule(self.last), self.conv_layers(maps))


class MattingHead(ShuffleHead):
    """Foreground colours, multiplied by alpha, and alpha: four values between 0 and 1 per pixel."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features).sigmoid()


class PointmapHead(ShuffleHead):
    """Points in the camera's space, up to a scale, and that scale: a number for the whole image."""

    def __init__(
        self,
        width: int,
        shuffled: Sequence[int],
        conv: Sequence[int],
        channels: int,
        last: str,
        scale_conv: Sequence[int],
        scale_linear: Sequence[int],
        cells: int,
    ) -> None:
        """scale_conv, scale_linear: widths of the layers that find the scale. cells: of the map that the linear ones
        see, which fixes the size of the input."""
        super().__init__(width, shuffled, conv, channels, last)
        shrink: list[nn.Module] = []
        for before, after in zip([width, *scale_conv], scale_conv, strict=False):
            shrink += [nn.Conv2d(before, after, 1, stride=2), InstanceNorm(), _activation()]
        self.scale_conv_layers = nn.Sequential(*shrink)
        sizes = [cells * scale_conv[-1], *scale_linear]
        layers: list[nn.Module] = [nn.Flatten()]  # channel by channel, each row by row
        for before, after in zip(sizes, scale_linear, strict=False):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.scale_final_layer = nn.Sequential(*layers[:-1])

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        """B x C x h x w to B x 3 x H x W (x to the right, y down, z forward), and the scale, B x 1. Divided by the
        scale the points are in metres. Both float32; the scale is never computed in bfloat16."""
        return super().forward(features), self.scale_final_layer(self.scale_conv_layers(features))


def _convolution(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1), InstanceNorm(), _activation()]


def _activation() -> nn.Module:
    return nn.SiLU(inplace=True)
