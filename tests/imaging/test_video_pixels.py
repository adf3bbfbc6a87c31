"""Colours of frames against the formula of the standards in float64."""

from __future__ import annotations

import av
import numpy as np
import pytest

from sapiens_ray.imaging.video_pixels import FrameConverter, to_frame

WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # Kr and Kb
LIMITED, FULL, UNKNOWN = 1, 2, 2  # two ranges; an unknown matrix


def frame_of(planes: list[np.ndarray], pixel_format: str) -> av.VideoFrame:
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, pixel_format)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
        rows[:, : values.shape[1]] = values
        plane.update(rows.tobytes())
    return frame


def formula(planes: list[np.ndarray], matrix: int, colour_range: int, bits: int = 8) -> np.ndarray:
    """H x W x 3 BGR, float64, 0 to 255."""
    luma, blue, red = (plane.astype(np.float64) / 2 ** (bits - 8) for plane in planes)
    if colour_range == LIMITED:
        luma, blue, red = (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224
    else:
        luma, blue, red = luma / 255, (blue - 128) / 255, (red - 128) / 255
    k_red, k_blue = WEIGHTS[matrix]
    r, b = luma + 2 * (1 - k_red) * red, luma + 2 * (1 - k_blue) * blue
    g = (luma - k_red * r - k_blue * b) / (1 - k_red - k_blue)
    return np.clip(255 * np.stack([b, g, r], axis=-1), 0, 255)


@pytest.mark.parametrize("colour_range", [LIMITED, FULL])
@pytest.mark.parametrize("matrix", WEIGHTS)
def test_colours_follow_the_tags(matrix, colour_range):
    random = np.random.default_rng(matrix)
    whole = [random.integers(16, 236, (64, 96), np.uint8) for _ in range(3)]
    frame = frame_of(whole, "yuv444p")
    frame.colorspace, frame.color_range = matrix, colour_range
    assert np.abs(FrameConverter().to_bgr(frame) - formula(whole, matrix, colour_range)).max() <= 1
    for blue, red in random.integers(16, 241, (8, 2), np.uint8):  # 4:2:0, where chroma does not change
        luma = random.integers(16, 236, (64, 96), np.uint8)
        halves = [np.full((32, 48), one, np.uint8) for one in (blue, red)]
        frame = frame_of([luma, *halves], "yuv420p")
        frame.colorspace, frame.color_range = matrix, colour_range
        expected = formula([luma, np.full_like(luma, blue), np.full_like(luma, red)], matrix, colour_range)
        assert np.abs(FrameConverter().to_bgr(frame) - expected).max() <= 1


def test_ten_bits():
    random = np.random.default_rng(0)
    planes = [random.integers(64, 940, (64, 96), np.uint16) for _ in range(3)]
    frame = frame_of(planes, "yuv444p10le")
    frame.colorspace, frame.color_range = 9, LIMITED
    assert np.abs(FrameConverter().to_bgr(frame) - formula(planes, 9, LIMITED, bits=10)).max() <= 2


@pytest.mark.parametrize(("height", "matrix"), [(720, 1), (718, 6)])
def test_without_tags_the_number_of_lines_decides(height, matrix):
    planes = [np.full((height, 32), level, np.uint8) for level in (90, 60, 200)]
    frame = frame_of(planes, "yuv444p")
    frame.colorspace, frame.color_range = UNKNOWN, 0
    assert np.abs(FrameConverter().to_bgr(frame) - formula(planes, matrix, LIMITED)).max() <= 1


def test_the_full_range_of_old_names():
    planes = [np.full((64, 32), level, np.uint8) for level in (250, 128, 128)]
    frame = frame_of(planes, "yuvj444p")
    frame.color_range = 0
    assert FrameConverter().to_bgr(frame)[0, 0].tolist() == [250, 250, 250]


@pytest.mark.parametrize("pixel_format", ["gray", "bgra", "gbrp", "nv12"])
def test_other_pixel_formats(pixel_format):
    colour = np.full((64, 96, 3), (120, 120, 120), np.uint8)
    frame = av.VideoFrame.from_ndarray(colour, format="bgr24").reformat(format=pixel_format)
    assert np.abs(FrameConverter().to_bgr(frame).astype(int) - 120).max() <= 2


def test_pictures_come_back():
    image = np.full((64, 96, 3), (200, 60, 20), np.uint8)
    frame = to_frame(image)
    assert (frame.format.name, frame.colorspace, frame.color_range) == ("yuv420p", 1, LIMITED)
    assert np.abs(FrameConverter().to_bgr(frame).astype(int) - image).max() <= 2
