"""Arrays to small pictures inside a page."""

from __future__ import annotations

import base64

import cv2
import numpy as np

QUALITY = 60  # of WebP: 5 to 15 kB for 320 pixels


def fitted(picture: np.ndarray, side: int) -> np.ndarray:
    """H x W x 3 uint8 BGR, reduced so that its longer side has at most `side` pixels; smaller ones stay."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def data_uri(picture: np.ndarray, quality: int = QUALITY) -> str:
    """H x W x 3 uint8 BGR as a `data:` URI of a WebP file. Raises ValueError if OpenCV cannot encode it."""
    done, encoded = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not done:
        raise ValueError(f"OpenCV could not encode an array of shape {picture.shape} as WebP")
    return f"data:image/webp;base64,{base64.b64encode(encoded.data).decode()}"
