"""Float maps (depth, normals, features): as `.npy` bytes, and resized to the size of the photo."""

from __future__ import annotations

import io

import cv2
import numpy as np


def encode_npy(array: np.ndarray) -> bytes:
    """An array as the bytes of a `.npy` file."""
    whole = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(whole))
    return b"".join((header.getvalue(), whole.reshape(-1).view(np.uint8).data))  # one copy, without Python's lock


def decode_npy(data: bytes) -> np.ndarray:
    """The array in the bytes of a `.npy` file. Raises ValueError for anything else; unpickles nothing."""
    array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    return array


def resize(array: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize h x w or h x w x 3 bilinearly to float32, like torch's `interpolate(align_corners=False)`.

    The results differ only by the rounding of positions in float32 (7e-5 of the range for white noise). This function
    does not need torch, so labels can be read wherever OpenCV is installed.
    """
    return cv2.resize(np.asarray(array, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)


def resize_channels(array: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize C x h x w to C x height x width float32. With 1536 channels and large photos this takes gigabytes."""
    return np.stack([resize(channel, width, height) for channel in array])


def unit_length(normals: np.ndarray) -> np.ndarray:
    """Vectors (... x 3) divided by (norm + 1e-5), float32, as Sapiens-Lite does."""
    vectors = np.asarray(normals, np.float32)
    squared = vectors[..., 0] ** 2 + vectors[..., 1] ** 2 + vectors[..., 2] ** 2
    unit: np.ndarray = vectors / (np.sqrt(squared) + np.float32(1e-5))[..., None]
    return unit
