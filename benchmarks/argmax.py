"""Arg-max of upsampled logits: our function against upsampling everything, in one run on one machine.

    python benchmarks/argmax.py [ROUNDS]

Prints a table; the last column is the ratio of the medians.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from sapiens_ray.tasks.argmax import upsampled_argmax

SIZES = {"0.9 megapixels": (1280, 720), "8.3 megapixels": (3840, 2160)}
# The size of the label regions: cells of the random field from which the logits are interpolated.
FIELDS = {"a person": (24, 18), "large regions": (12, 9), "small regions": (48, 36), "noise": (512, 384)}


def everything(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The definition: upsample 28 channels, then arg-max."""
    full = F.interpolate(logits[None], (height, width), mode="bilinear", align_corners=False)
    return full[0].argmax(0).to(torch.uint8)


def person(generator: torch.Generator, height: int, width: int) -> torch.Tensor:
    """As trained models see a person: parts of a body before a background, all of them with a clear margin."""
    field = torch.randn(1, 28, height, width, generator=generator) - 6
    parts = torch.randint(1, 28, (6, 4), generator=generator).repeat_interleave(4, 0).repeat_interleave(5, 1)
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    body = y**2 / 0.8 + x**2 / 0.25 < 1
    classes = torch.where(body, parts[:height, :width], 0)
    return field.scatter(1, classes[None, None], 6.0)


def median_ms(function: Callable[[], torch.Tensor], rounds: int) -> float:
    """Median time of `rounds` calls in milliseconds, after one warm-up call."""
    function()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{'photo':>15} {'labels':>14} {'all, ms':>9} {'ours, ms':>9} {'ratio':>6} {'differ':>8}")
    generator = torch.Generator().manual_seed(0)
    for size, (height, width) in SIZES.items():
        for kind, cells in FIELDS.items():
            random = kind != "a person"
            field = torch.randn(1, 28, *cells, generator=generator) if random else person(generator, *cells)
            logits = F.interpolate(field, (512, 384), mode="bicubic", align_corners=False)[0]
            slow = median_ms(lambda: everything(logits, height, width), rounds)  # noqa: B023
            fast = median_ms(lambda: upsampled_argmax(logits, height, width), rounds)  # noqa: B023
            differ = int((everything(logits, height, width) != upsampled_argmax(logits, height, width)).sum())
            print(f"{size:>15} {kind:>14} {slow:9.0f} {fast:9.0f} {slow / fast:6.1f} {differ:8d}")


if __name__ == "__main__":
    main()
