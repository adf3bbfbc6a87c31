"""Object keypoint similarity (OKS), and non-maximum suppression by OKS.

OKS is that of COCO (cocodataset.org/#keypoints-eval): the mean over keypoints of exp(-d^2 / (2 area k^2)), with
k = 2 sigma. OKS-NMS is that with which Sapiens' and other top-down models are evaluated
(Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018, and the defaults of mmpose).
"""

from __future__ import annotations

import numpy as np

NMS_OKS = 0.9  # persons that are more similar than this to a better one are dropped


def oks(keypoints: np.ndarray, others: np.ndarray, areas: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """The similarity of one person (K x 2, pixels) to N others (N x K x 2), over all keypoints: N float64 in 0..1.

    areas: N, in square pixels, by which each distance is measured. sigmas: K, COCO's constants.
    """
    squared = np.sum((np.asarray(others, np.float64) - np.asarray(keypoints, np.float64)) ** 2, axis=-1)
    spread = 2 * (2 * np.asarray(sigmas, np.float64)) ** 2
    each = np.exp(-squared / spread / (np.asarray(areas, np.float64)[:, None] + np.spacing(1)))
    similarity: np.ndarray = each.mean(-1)
    return similarity


def oks_nms(
    keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray, sigmas: np.ndarray, limit: float = NMS_OKS
) -> list[int]:
    """The indices of the persons of one image that are kept, best first.

    The best person is kept, those with an OKS above `limit` to it are dropped, and so on with the rest. The area of a
    pair is the mean of both. keypoints: N x K x 2. scores, areas: N. Equal scores keep their order.
    """
    left = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    kept = []
    while left.size:
        best, left = int(left[0]), left[1:]
        kept.append(best)
        similarity = oks(keypoints[best], keypoints[left], (areas[best] + areas[left]) / 2, sigmas)
        left = left[similarity <= limit]
    return kept
