"""Arg-max of bilinearly upsampled logits, without upsampling most of them.

Bilinear upsampling is a convex combination of four network cells. Where the four agree on the largest class,
every pixel between them has that class, so only pixels on class borders need the interpolation. Between four
given cells, a class can only win if its largest corner reaches the highest of the smallest corners of all classes,
which leaves a few of the 28. Up to the rounding of ties, the result equals
`interpolate(..., mode="bilinear", align_corners=False).argmax(0)`. On a CPU it is many times faster
(benchmarks/argmax.py). A GPU upsamples everything, a few classes at a time: each of the steps above has a size that
only the GPU knows, and would wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

PIXELS_AT_ONCE = 1 << 18  # bounds the memory for border pixels
VALUES_AT_ONCE = 1 << 25  # bounds the memory of plain upsampling: 128 MB of float32
# What a cell on class borders costs, and a pixel there, in pixels that are upsampled plainly (measured).
CELL_COST, PIXEL_COST = 45, 5
MIXED = 255  # in place of a class: no model has so many


class Cells(NamedTuple):
    """The arg-max at the size of the network. classes: h x w uint8. largest: h x w float32, the logit of that class."""

    classes: torch.Tensor
    largest: torch.Tensor


def network_argmax(logits: torch.Tensor) -> Cells:
    """The arg-max of C x h x w float32 logits, without upsampling."""
    if logits.is_cpu:
        return _argmax(logits)
    largest, classes = logits.max(0)
    return Cells(classes.to(torch.uint8), largest)


def upsampled_argmax(
    logits: torch.Tensor, height: int, width: int, everything: bool | None = None, cells: torch.Tensor | None = None
) -> torch.Tensor:
    """C x h x w float32 logits to a height x width uint8 class map: the arg-max after bilinear resizing
    (`align_corners=False`). If logits are equal, the first class wins, as with `torch.argmax`.

    everything: whether to upsample all logits; None: on a GPU, and on a CPU where it is cheaper. cells: the classes of
    `network_argmax`, if they are known.
    """
    if logits.is_cpu:  # each class by itself: our own models give channels-last
        logits = logits.contiguous()
    _, h, w = logits.shape
    pixels = height * width
    if everything or (everything is None and not logits.is_cpu):
        return _plain(logits, height, width)
    top, weight_y = _axis(h, height, logits)
    left, weight_x = _axis(w, width, logits)
    cells = network_argmax(logits).classes if cells is None else cells

    # Settled pixels: a cell and its right, lower and diagonal neighbours agree.
    down = torch.cat([cells[1:], cells[-1:]])
    mixed = (cells != down) | (cells != _shift(cells)) | (cells != _shift(down))
    share = float(mixed.float().mean())
    if everything is None and share * (CELL_COST * h * w + PIXEL_COST * pixels) > pixels:
        return _plain(logits, height, width)
    # Columns first: rows are then copied whole.
    classes = cells.masked_fill(mixed, MIXED).index_select(1, left).index_select(0, top)
    position = _places(classes.view(-1) == MIXED)
    if position.numel() == 0:
        return classes

    y, x = position // width, position % width
    corners = _Corners(logits, mixed)
    cell = corners.number[top[y], left[x]]
    flat = classes.view(-1)
    for few in (2, 4, logits.shape[0]):
        chosen = corners.needs(few)[cell].nonzero().squeeze(1)
        candidates = corners.candidates(few)
        values = corners.values(candidates)  # 4 x few x M
        for part in chosen.split(max(1, PIXELS_AT_ONCE * 4 // few)):
            c, wy, wx = cell[part], weight_y[y[part]], weight_x[x[part]]
            upper = values[0][:, c] * (1 - wx) + values[1][:, c] * wx
            lower = values[2][:, c] * (1 - wx) + values[3][:, c] * wx
            best = _largest(upper * (1 - wy) + lower * wy)
            flat[position[part]] = candidates[best, c].to(torch.uint8)
    return classes


def _places(flags: torch.Tensor) -> torch.Tensor:
    """Where M flags are set. numpy looks at many at once: 8 million in 0.5 ms instead of 4."""
    return torch.from_numpy(np.flatnonzero(flags.numpy())) if flags.is_cpu else flags.nonzero().squeeze(1)


def _largest(values: torch.Tensor) -> torch.Tensor:
    """N x M logits to the M places of the first largest one."""
    return _argmax(values).classes.long() if values.is_cpu else values.argmax(0)


def _argmax(planes: Iterable[torch.Tensor]) -> Cells:
    """Logits of each class on a CPU, of any shape, to the first class with the largest one, and that logit. 10 times
    faster than `torch.max` over the first dimension (28 x 512 x 384, contiguous, measured)."""
    numbered = enumerate(planes)
    _, first = next(numbered)
    best = first.clone()
    classes = torch.zeros_like(best, dtype=torch.uint8)
    for number, plane in numbered:
        _keep_larger(best, classes, plane, number)
    return Cells(classes, best)


def _keep_larger(best: torch.Tensor, classes: torch.Tensor, plane: torch.Tensor, number: int) -> None:
    """Put the logits of the next class, in place, where they are larger than the best so far. In numpy: torch would
    share each of these short steps among all cores, beside a model that has them."""
    highest, chosen, logits = best.numpy(), classes.numpy(), plane.numpy()
    larger = np.greater(logits, highest).view(np.uint8)
    larger *= np.uint8(number)
    np.maximum(chosen, larger, out=chosen)  # classes come in ascending order
    np.maximum(highest, logits, out=highest)


def _plain(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Upsample everything, and keep the largest logit of each pixel."""
    if logits.is_cpu:  # one class at a time is fastest: it stays in the cache
        return _argmax(_upsampled(plane[None], height, width)[0] for plane in logits).classes
    return _several_at_once(logits, height, width)


def _several_at_once(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Upsample as many classes at a time as the memory of a GPU allows."""
    best = torch.full((height, width), float("-inf"), device=logits.device)
    classes = torch.zeros((height, width), dtype=torch.uint8, device=logits.device)
    at_once = max(1, VALUES_AT_ONCE // (height * width))
    for start in range(0, logits.shape[0], at_once):
        values, indices = _upsampled(logits[start : start + at_once], height, width).max(0)
        better = values > best  # not >=: the first of equal logits wins
        classes = torch.where(better, (indices + start).to(torch.uint8), classes)
        best = torch.where(better, values, best)
    return classes


def _upsampled(planes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(planes[None], (height, width), mode="bilinear", align_corners=False)[0]


class _Corners:
    """The logits at the four corners of every mixed cell: upper left, upper right, lower left, lower right."""

    def __init__(self, logits: torch.Tensor, mixed: torch.Tensor) -> None:
        classes, h, w = logits.shape
        row, column = mixed.nonzero(as_tuple=True)
        below, beside = (row + 1).clamp(max=h - 1), (column + 1).clamp(max=w - 1)
        flat = logits.reshape(classes, -1)
        self.logits = torch.stack(
            [flat[:, r * w + c] for r, c in ((row, column), (row, beside), (below, column), (below, beside))]
        )  # 4 x C x M
        self.number = torch.full((h, w), -1, dtype=torch.long, device=logits.device)
        self.number[row, column] = torch.arange(row.numel(), device=logits.device)
        self.largest = self.logits.amax(0)
        self.can_win = self.largest >= self.logits.amin(0).amax(0)
        self.count = self.can_win.sum(0)

    def needs(self, few: int) -> torch.Tensor:
        """M bools: the cell has at most `few` classes that can win, and too many for the next smaller group."""
        smaller = {2: 0, 4: 2}.get(few, 4)
        return (self.count <= few) & (self.count > smaller)

    def candidates(self, few: int) -> torch.Tensor:
        """few x M class ids, ascending. They include every class that can win in cells with at most `few` of them."""
        few = min(few, self.largest.shape[0])
        masked = self.largest.masked_fill(~self.can_win, float("-inf"))
        return masked.topk(few, dim=0).indices.sort(dim=0).values

    def values(self, candidates: torch.Tensor) -> torch.Tensor:
        """4 x few x M corner logits of the candidates."""
        return self.logits.gather(1, candidates.expand(4, -1, -1))


def _shift(cells: torch.Tensor) -> torch.Tensor:
    """The right neighbour of each cell; cells of the last column are their own neighbours."""
    return torch.cat([cells[:, 1:], cells[:, -1:]], 1)


def _axis(size: int, target: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each of `target` pixels along an axis of `size` cells: its lower cell, and the weight of the next one.

    The half-pixel rule: source = (pixel + 0.5) * size / target - 0.5, clamped at 0, in float32 as in torch.
    """
    scale = torch.tensor(size, dtype=torch.float32) / target
    pixel = torch.arange(target, dtype=torch.float32)
    source = ((pixel + 0.5) * scale - 0.5).clamp(min=0)
    lower = source.long().clamp(max=size - 1)
    weight = (source - lower).clamp(0, 1)
    return lower.to(like.device), weight.to(like.device)
