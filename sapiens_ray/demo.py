"""What `make demo` needs beside the package: a small model that anybody may have.

    python -m sapiens_ray.demo checkpoints/demo/seg_random_torchscript.pt2

The model has the inputs, outputs and file format of Sapiens-Lite's segmentation checkpoints, and seeded random
weights. It finds regions of like colour; its labels mean nothing.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

CLASSES = 28


class RandomSegmenter(nn.Module):
    """B x 3 x 1024 x 768 float32 to B x 28 x 512 x 384 logits: the nearest of 28 random colours, smoothed."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        prototypes = torch.randn(CLASSES, 3, generator=generator)
        self.classify = nn.Conv2d(3, CLASSES, 1)
        with torch.no_grad():
            # -|x - p|^2 up to what all classes share, as a 1 x 1 convolution
            self.classify.weight.copy_(2 * prototypes[:, :, None, None])
            self.classify.bias.copy_(-(prototypes**2).sum(1))  # type: ignore[union-attr]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        small = F.avg_pool2d(images, 16)
        smooth = F.avg_pool2d(F.pad(small, [1, 1, 1, 1], mode="replicate"), 3, stride=1)
        return F.interpolate(self.classify(smooth), (512, 384), mode="bilinear", align_corners=False)


def write_model(path: Path, seed: int = 0) -> None:
    """Write the model as a TorchScript file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(RandomSegmenter(seed).eval(), torch.zeros(1, 3, 1024, 768)).save(str(path))


def main() -> None:
    path = Path(sys.argv[1])
    if path.exists():
        return
    write_model(path)
    print(
        f"Wrote {path}: a segmentation model with RANDOM weights, to try the pipeline with.\n"
        "Its labels mean nothing. README, 'Real weights', says where to get real ones.",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
