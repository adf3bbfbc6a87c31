"""Stand-in models for `make demo`, tests and benchmarks: small, and free to use.

    python -m sapiens_ray.demo checkpoints/demo

The models have the inputs, outputs and file format of Sapiens-Lite's checkpoints, and seeded random weights. Their
output depends on colours; their labels mean nothing.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from sapiens_ray.models.sapiens import Sapiens, SapiensArchitecture

CLASSES = 28
FEATURES = 64
TASKS = ("seg", "depth", "normal", "pose17", "pose133", "pose308", "features")


def _smooth(images: torch.Tensor) -> torch.Tensor:
    small = F.avg_pool2d(images, 16)
    return F.avg_pool2d(F.pad(small, [1, 1, 1, 1], mode="replicate"), 3, stride=1)


class RandomSegmenter(nn.Module):
    """B x 3 x 1024 x 768 float32 to B x 28 x 512 x 384 logits: the nearest of 28 random colours, smoothed."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        prototypes = torch.randn(CLASSES, 3, generator=generator)
        self.classify = nn.Conv2d(3, CLASSES, 1)
        with torch.no_grad():
            # -|x - p|^2, up to a term that all classes share, as a 1 x 1 convolution
            self.classify.weight.copy_(2 * prototypes[:, :, None, None])
            self.classify.bias.copy_(-(prototypes**2).sum(1))  # type: ignore[union-attr]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.classify(_smooth(images)), (512, 384), mode="bilinear", align_corners=False)


class RandomMaps(nn.Module):
    """B x 3 x 1024 x 768 float32 to B x channels x height x width: a random mix of smoothed colours.

    One channel: depth between 0 and 1. Three channels: normals that roughly face the camera.
    """

    def __init__(self, channels: int, height: int, width: int, seed: int = 0) -> None:
        super().__init__()
        self.size = (height, width)
        self.mix = nn.Conv2d(3, channels, 1, bias=False)
        self.facing = nn.Parameter(torch.tensor([0.5] if channels == 1 else [0.5, 0.5, 1.25]))
        with torch.no_grad():
            self.mix.weight.copy_(torch.randn(channels, 3, 1, 1, generator=torch.Generator().manual_seed(seed)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mixed = torch.tanh(self.mix(_smooth(images))) / 2 + self.facing.view(1, -1, 1, 1)
        return F.interpolate(mixed, self.size, mode="bilinear", align_corners=False)


class RandomPose(nn.Module):
    """B x 3 x 1024 x 768 float32 to B x K x 256 x 192 heatmaps: a Gaussian per map, slightly moved by the colours."""

    def __init__(self, count: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.places = nn.Parameter(torch.rand(count, 2, generator=generator) * 0.6 + 0.2)
        self.pull = nn.Parameter(torch.randn(count, 3, generator=generator) * 0.03)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pulled = images.mean((2, 3)) @ self.pull.t()
        x = (self.places[:, 0] + pulled)[:, :, None, None] * 191
        y = (self.places[:, 1] - pulled)[:, :, None, None] * 255
        columns, rows = torch.arange(192.0).to(x), torch.arange(256.0).to(x)[:, None]
        return 0.9 * torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 72)


class RandomEncoder(nn.Module):
    """B x 3 x 1024 x 1024 float32 to a tuple of B x 64 x 64 x 64 features, normalised over the channels."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, FEATURES, 16, stride=16)
        with torch.no_grad():
            shape = self.patches.weight.shape
            self.patches.weight.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 16)
            nn.init.zeros_(self.patches.bias)  # type: ignore[arg-type]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        tokens = self.patches(images).permute(0, 2, 3, 1)
        return (F.layer_norm(tokens, (FEATURES,)).permute(0, 3, 1, 2),)


def build(task: str, seed: int = 0) -> nn.Module:
    """The model of one of TASKS, in eval mode."""
    if task.startswith("pose"):
        model: nn.Module = RandomPose(int(task.removeprefix("pose")), seed)
    elif task == "depth":
        model = RandomMaps(1, 1024, 768, seed)
    elif task == "normal":
        model = RandomMaps(3, 512, 384, seed)
    else:
        model = RandomSegmenter(seed) if task == "seg" else RandomEncoder(seed)
    return model.eval()


def write_model(path: Path, task: str = "seg", seed: int = 0) -> None:
    """Write a model as a TorchScript file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = torch.zeros(2, 3, 1024, 1024 if task == "features" else 768)
        torch.jit.trace(build(task, seed), images, check_trace=False).save(str(path))


def write_checkpoint(path: Path, seed: int = 0) -> None:
    """Write a seg model of the Sapiens architecture, of width 64 with 2 layers, as training code saves it."""
    about = SapiensArchitecture("seg", 64, 2, 4, 256, (32,) * 3, (32,) * 3, CLASSES, "decode_head", "conv_seg")
    torch.manual_seed(seed)
    model = Sapiens(about)
    nn.init.normal_(model.backbone.pos_embed)
    torch.save({"meta": {}, "state_dict": model.state_dict()}, path)
