"""Keypoints from heatmaps with sub-pixel accuracy: DARK decoding as used with unbiased data processing (UDP).

Zhang et al., "Distribution-Aware Coordinate Representation for Human Pose Estimation", CVPR 2020: around a peak
a trained heatmap is a Gaussian, whose logarithm is a paraboloid, so one Newton step from the largest cell finds
its centre. The map is blurred first, since trained maps have more than one maximum.

Blurring whole maps is nearly all of the cost (308 maps of 256 x 192 per person), but the step needs only 3 x 3
blurred values. Only these are computed here, in float64, so that rounding does not cause a step on flat maps. The
factor that restores the maximum of a blurred map cancels in the derivative of the logarithm. It matters only through
the clip bounds, so it is computed only for maps that come near them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

RADIUS = 5  # of the 11 x 11 blur; small against the sigma of 6 that the models are trained with, as published
SIGMA = 0.3 * (RADIUS - 1) + 0.8  # OpenCV's rule for a kernel of 2 * RADIUS + 1, getGaussianKernel: 2.0
LOWEST, HIGHEST = 1e-3, 50.0
EPSILON = torch.finfo(torch.float32).eps
ABSENT = -1.0  # both coordinates of a keypoint whose map is nowhere positive
MAPS_AT_ONCE = 64  # bounds the memory of blurring whole maps in float64


def decode_heatmaps(heatmaps: torch.Tensor, middle_of_ties: bool = False) -> torch.Tensor:
    """B x K x h x w heatmaps to B x K x 3 float64 (x, y, score), x and y in cells of the heatmap.

    The score is the largest value of the raw map; it is not a probability. Among equal peaks the first in reading
    order is taken, as in Sapiens-Lite; with middle_of_ties the one nearest to their mean, which is right for
    bfloat16 maps, whose peaks are flat. Where no value is positive, x = y = -1. As in the paper, the step is not
    limited: on maps with a nearly singular Hessian it can be long.
    """
    batch, count, h, w = heatmaps.shape
    maps = heatmaps.reshape(batch * count, h, w)
    peak = maps.flatten(1).argmax(1)
    largest_value = maps.flatten(1).gather(1, peak[:, None])
    if middle_of_ties:
        several = (maps.flatten(1) == largest_value).sum(1) > 1
        for part in several.nonzero().squeeze(1).split(MAPS_AT_ONCE):
            peak[part] = _middle(maps[part] == largest_value[part, :, None])
    score = largest_value[:, 0].double()
    x, y = peak % w, peak // w
    blurred = _blur_around(maps, x, y)
    present = score > 0

    # Blurring and scaling back never raises a value above the peak, and scaling back never lowers a value.
    clips = present & ((blurred.flatten(1).amin(1) < LOWEST) | (score > HIGHEST))
    usable = present.clone()
    for part in clips.nonzero().squeeze(1).split(MAPS_AT_ONCE):
        largest = _blur(maps[part].double()).flatten(1).amax(1)
        usable[part] = (
            largest > 0
        )  # else a single positive cell among negative ones: the blurred map has no peak to refine
        blurred[part] *= (score[part] / torch.where(largest > 0, largest, 1.0))[:, None, None]

    step = _newton_step(blurred.clamp(LOWEST, HIGHEST).log())
    step = torch.where((usable[:, None]) & step.isfinite().all(1, keepdim=True), step, 0.0)
    place = torch.stack([x, y], 1).double() + step
    place = torch.where(present[:, None], place, ABSENT)
    return torch.cat([place, score[:, None]], 1).view(batch, count, 3)


def _middle(tied: torch.Tensor) -> torch.Tensor:
    """N x h x w bool to N cell numbers in reading order: the True cell nearest to the mean of all True cells."""
    rows = torch.arange(tied.shape[1], device=tied.device, dtype=torch.float64)[:, None]
    columns = torch.arange(tied.shape[2], device=tied.device, dtype=torch.float64)
    count = tied.sum((1, 2), keepdim=True)
    y = (tied * rows).sum((1, 2), keepdim=True) / count
    x = (tied * columns).sum((1, 2), keepdim=True) / count
    distance = torch.where(tied, (rows - y) ** 2 + (columns - x) ** 2, torch.inf)
    return distance.flatten(1).argmin(1)


def _newton_step(logs: torch.Tensor) -> torch.Tensor:
    """N x 3 x 3 logarithms around N peaks, indexed [y, x], to N x 2 steps (x, y): -(H + eps I)^-1 gradient.

    Central differences; for the mixed derivative the seven-point formula 25.3.27 of Abramowitz and Stegun.
    """
    above, here, below = logs.unbind(1)
    left, middle, right = here.unbind(1)
    up, down = above[:, 1], below[:, 1]
    dx, dy = (right - left) / 2, (down - up) / 2
    dxx = right - 2 * middle + left + EPSILON
    dyy = down - 2 * middle + up + EPSILON
    dxy = (below[:, 2] - right - down + 2 * middle - left - up + above[:, 0]) / 2
    determinant = dxx * dyy - dxy * dxy
    return torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], 1) / determinant[:, None]


def _kernel(like: torch.Tensor) -> torch.Tensor:
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64, device=like.device)
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    return weights / weights.sum()


def _blur_around(maps: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Blurred values (zeros outside the map) of the 3 x 3 cells around (x, y) of each of N maps. A neighbour
    outside the map gets the value of the nearest cell at the edge. N x h x w to N x 3 x 3 float64."""
    count, h, w = maps.shape
    near = torch.arange(-1, 2, device=maps.device)
    reach = torch.arange(2 * RADIUS + 1, device=maps.device)  # in a map padded by RADIUS
    rows = (y[:, None] + near).clamp(0, h - 1)[:, :, None] + reach  # N x 3 x 11
    columns = (x[:, None] + near).clamp(0, w - 1)[:, :, None] + reach
    # Zeros outside without padding whole maps: read the edge, with weight zero.
    kernel = _kernel(maps)
    inside_y, inside_x = rows - RADIUS, columns - RADIUS
    weight_y = kernel * ((inside_y >= 0) & (inside_y < h))
    weight_x = kernel * ((inside_x >= 0) & (inside_x < w))
    cell = inside_y.clamp(0, h - 1).flatten(1)[:, :, None] * w + inside_x.clamp(0, w - 1).flatten(1)[:, None]
    window = maps.flatten(1).gather(1, cell.flatten(1)).double().view(count, *rows.shape[1:], *columns.shape[1:])
    return torch.einsum("nyaxb,nya,nxb->nyx", window, weight_y, weight_x)


def _blur(maps: torch.Tensor) -> torch.Tensor:
    """N x h x w float64, blurred with zeros outside."""
    kernel = _kernel(maps)
    across = F.conv2d(maps[:, None], kernel.view(1, 1, 1, -1), padding=(0, RADIUS))
    return F.conv2d(across, kernel.view(1, 1, -1, 1), padding=(RADIUS, 0))[:, 0]
