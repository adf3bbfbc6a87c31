"""Relative depth compared with ground truth, after a fit of scale and shift.

Scale and shift are the least-squares solution over the pixels of the mask, per image, as for all relative depth
(Ranftl et al., "Towards Robust Monocular Depth Estimation", TPAMI 2022, in depth instead of disparity). The errors are
those of Eigen et al., "Depth Map Prediction from a Single Image", NeurIPS 2014.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST_OF_MEDIAN = 1e-3  # fitted depth is raised to this share of the median true depth: ratios need positive depth
DELTAS = (1.25, 1.25**2, 1.25**3)


@dataclass(frozen=True)
class DepthErrors:
    """Errors of one image.

    rmse: in the unit of the ground truth. abs_rel: mean of |p - g| / g. deltas: shares of pixels with
    max(p / g, g / p) below 1.25, 1.25^2 and 1.25^3. scale, shift: of the fit. raised: share of pixels whose fitted
    depth was raised to LEAST_OF_MEDIAN.
    """

    rmse: float
    abs_rel: float
    deltas: tuple[float, float, float]
    scale: float
    shift: float
    raised: float


def valid_depth(truth: np.ndarray) -> np.ndarray:
    """H x W bool: where the ground truth has data. NaN, infinity, 0 and negative values are no data."""
    valid: np.ndarray = np.isfinite(truth) & (truth > 0)
    return valid


def fit_scale_shift(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """The scale and shift that minimise the sum of (scale * prediction + shift - truth)^2; N values each, in float64.

    A constant prediction has scale 0, and the mean of the truth as shift. Raises ValueError without values.
    """
    p, g = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    if p.size == 0:
        raise ValueError("no pixels to fit scale and shift to")
    centred = p - p.mean()
    spread = float(centred @ centred)
    scale = float(centred @ (g - g.mean())) / spread if spread > 0 else 0.0
    return scale, float(g.mean() - scale * p.mean())


def depth_errors(prediction: np.ndarray, truth: np.ndarray) -> DepthErrors:
    """Errors of N predicted values, in any unit, after the fit to N true values > 0.

    Raises ValueError without values.
    """
    scale, shift = fit_scale_shift(prediction, truth)
    g = np.asarray(truth, np.float64)
    fitted = scale * np.asarray(prediction, np.float64) + shift
    least = LEAST_OF_MEDIAN * float(np.median(g))
    raised = fitted < least
    fitted[raised] = least
    difference = fitted - g
    ratio = np.maximum(fitted / g, g / fitted)
    one, two, three = (float(np.mean(ratio < limit)) for limit in DELTAS)
    return DepthErrors(
        rmse=float(np.sqrt(np.mean(difference**2))),
        abs_rel=float(np.mean(np.abs(difference) / g)),
        deltas=(one, two, three),
        scale=scale,
        shift=shift,
        raised=float(np.mean(raised)),
    )
