"""From a person's box to the network's input, and from heatmap cells back to pixels of the photo.

UDP (Huang et al., "The Devil is in the Details", CVPR 2020) measures lengths between the centres of the first
and the last pixel. So a crop of `size` photo pixels on W network pixels has the scale (W - 1) / size, and mapping
back is the exact inverse at any resolution of the heatmap.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sapiens_ray.tasks.network import NETWORK_HEIGHT, NETWORK_WIDTH

PADDING = 1.25  # margin around the box, as in training
SMALLEST = 1.0  # pixels; without it an empty box would have no scale


@dataclass(frozen=True)
class Crop:
    """A rectangle of the photo in pixels: its centre, and its size after padding and growing to the aspect."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> float:
        return self.x - self.width / 2

    @property
    def top(self) -> float:
        return self.y - self.height / 2


def crop_around(box: np.ndarray, aspect: float) -> Crop:
    """The crop of a box (x1, y1, x2, y2): padded, then its shorter side enlarged to width / height = aspect.

    Computed in the dtype of the box: float32 gives Sapiens-Lite's numbers to the last bit.
    """
    corner, opposite = box[:2], box[2:4]
    x, y = (corner + opposite) * box.dtype.type(0.5)
    width, height = np.maximum(opposite - corner, SMALLEST) * box.dtype.type(PADDING)
    if width > height * aspect:
        height = width / aspect
    else:
        width = height * aspect
    return Crop(x, y, width, height)


def warp_matrix(crop: Crop, width: int, height: int) -> np.ndarray:
    """The 2 x 3 affine matrix from pixels of the photo to pixels of a width x height canvas that shows the crop."""
    scale_x, scale_y = (width - 1) / crop.width, (height - 1) / crop.height
    return np.array([[scale_x, 0, -crop.left * scale_x], [0, scale_y, -crop.top * scale_y]])


def trained_geometry(box: np.ndarray) -> Crop:
    """The crop of the training: the box grown to 3:4."""
    return crop_around(np.asarray(box, np.float64), NETWORK_WIDTH / NETWORK_HEIGHT)


def trained_crop(image: np.ndarray, crop: Crop) -> np.ndarray:
    """H x W x 3 uint8 BGR to 1024 x 768 x 3 uint8 BGR in one warp, black outside the photo."""
    matrix = warp_matrix(crop, NETWORK_WIDTH, NETWORK_HEIGHT)
    return cv2.warpAffine(image, matrix, (NETWORK_WIDTH, NETWORK_HEIGHT), flags=cv2.INTER_LINEAR)


def sapiens2_geometry(box: np.ndarray) -> Crop:
    """The crop of Sapiens2: as in its training, in float32 as its programs compute it."""
    return crop_around(np.asarray(box, np.float32), NETWORK_WIDTH / NETWORK_HEIGHT)


def sapiens2_crop(image: np.ndarray, crop: Crop) -> np.ndarray:
    """H x W x 3 uint8 BGR to 1024 x 768 x 3 uint8 BGR in one warp, black outside the photo: bicubic where the crop is
    enlarged along both sides, else linear."""
    matrix = warp_matrix(crop, NETWORK_WIDTH, NETWORK_HEIGHT).astype(np.float32)
    how = cv2.INTER_CUBIC if min(matrix[0, 0], matrix[1, 1]) >= 1 else cv2.INTER_LINEAR
    return cv2.warpAffine(image, matrix, (NETWORK_WIDTH, NETWORK_HEIGHT), flags=how)


def lite_geometry(box: np.ndarray, width: int, height: int) -> Crop:
    """The crop Sapiens-Lite makes: the box grown to the aspect of the whole photo."""
    return crop_around(np.asarray(box, np.float32), width / height)


def lite_crop(image: np.ndarray, crop: Crop) -> np.ndarray:
    """H x W x 3 uint8 BGR, warped to a canvas of its own size, then resized to 1024 x 768 x 3 uint8 BGR.

    For equality with Sapiens-Lite's outputs; it distorts persons in wide photos.
    """
    height, width = image.shape[:2]
    canvas = cv2.warpAffine(image, warp_matrix(crop, width, height), (width, height), flags=cv2.INTER_LINEAR)
    return cv2.resize(canvas, (NETWORK_WIDTH, NETWORK_HEIGHT), interpolation=cv2.INTER_LINEAR)


def to_photo(points: np.ndarray, crop: Crop, heatmap_width: int, heatmap_height: int) -> np.ndarray:
    """N x 2 (x, y) in cells of the heatmap to pixels of the photo, float64. Not clipped to the photo."""
    scale = np.array([crop.width / (heatmap_width - 1), crop.height / (heatmap_height - 1)])
    places: np.ndarray = np.asarray(points, np.float64) * scale + np.array([crop.left, crop.top], np.float64)
    return places
