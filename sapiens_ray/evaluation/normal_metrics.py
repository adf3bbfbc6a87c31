"""Surface normals compared by the angle between them.

Mean, median and shares below 11.25, 22.5 and 30 degrees, over the pixels of all images, are those of Eigen and Fergus,
"Predicting Depth, Surface Normals and Semantic Labels", ICCV 2015; Sapiens2 adds 5 degrees.
"""

from __future__ import annotations

import numpy as np

LIMITS = (5.0, 11.25, 22.5, 30.0)  # degrees
# Bins of the histogram from which medians are read: 0.1 degrees wide below 30, 1 degree above.
EDGES = np.concatenate([np.arange(300) / 10, np.arange(30, 181)]).astype(np.float64)
COUNTS = 2 + len(LIMITS) + len(EDGES) - 1  # numbers in `angle_counts`


def valid_normals(truth: np.ndarray) -> np.ndarray:
    """H x W bool: where the H x W x 3 ground truth has data. NaN, infinity and vectors of length 0 are no data."""
    finite: np.ndarray = np.isfinite(truth).all(-1)
    valid: np.ndarray = finite & (np.where(finite[..., None], truth, 0) != 0).any(-1)
    return valid


def angular_errors(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Angles in degrees between N x 3 vectors of any length, N float64. 90 where a vector has length 0: no direction.

    atan2(|a x b|, a . b) is exact near 0 and 180 degrees, where the arc cosine is not.
    """
    a, b = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    across = np.linalg.norm(np.cross(a, b), axis=-1)
    along = np.einsum("ij,ij->i", a, b)
    degrees: np.ndarray = np.degrees(np.arctan2(across, along))
    degrees[(across == 0) & (along == 0)] = 90  # atan2(0, 0) is 0, the angle of equal vectors
    return degrees


def angle_counts(degrees: np.ndarray) -> np.ndarray:
    """What is kept of one image, COUNTS float64: number of pixels, sum of the angles, number of angles below each of
    LIMITS, and the histogram over EDGES. These may be added over images."""
    below = [np.count_nonzero(degrees < limit) for limit in LIMITS]
    histogram, _ = np.histogram(degrees, EDGES)
    return np.array([degrees.size, degrees.sum(), *below, *histogram], np.float64)


def angle_scores(counts: np.ndarray) -> np.ndarray:
    """Mean, median (degrees) and the shares below LIMITS from added `angle_counts`: 2 + len(LIMITS) float64, NaN
    without pixels. The median is interpolated inside its bin, so it may be off by less than the bin's width."""
    pixels, total = counts[:2]
    if pixels == 0:
        return np.full(2 + len(LIMITS), np.nan)
    shares = counts[2 : 2 + len(LIMITS)] / pixels
    return np.array([total / pixels, angle_quantile(counts, 0.5), *shares])


def angle_quantile(counts: np.ndarray, share: float) -> float:
    """The angle in degrees below which a share of the pixels is, from added `angle_counts`; as exact as the median.
    0 if all angles are 0, NaN without pixels."""
    histogram = counts[2 + len(LIMITS) :]
    reached = np.cumsum(histogram)
    if not reached[-1]:
        return float("nan")
    if counts[1] == 0:
        return 0.0
    wanted = reached[-1] * share
    at = int(np.searchsorted(reached, wanted))
    inside = (wanted - (reached[at] - histogram[at])) / histogram[at]
    return float(EDGES[at] + inside * (EDGES[at + 1] - EDGES[at]))
