"""Decoding and its limits."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapiens_ray.errors import ImageError
from sapiens_ray.imaging import images
from sapiens_ray.imaging.complaints import complaints
from tests.conftest import photo


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from(
        [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF0000WEBP", b"BM", b"GIF89a", b"II*\x00", b"P6\n"]
    ),
)
def test_any_bytes_give_an_image_or_an_image_error(data, head):
    try:
        image = images.decode(head + data, 1_000_000)
    except ImageError as error:
        assert error.kind in {"empty", "not_an_image", "corrupt", "zero_size", "too_large"}
        assert error.message
    else:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([".jpg", ".png", ".webp", ".bmp", ".tiff"]), st.floats(0.01, 0.995))
def test_every_truncation_is_noticed(suffix, share):
    whole = cv2.imencode(suffix, photo(64, 48, 1))[1].tobytes()
    with pytest.raises(ImageError):
        images.decode(whole[: int(len(whole) * share)], 1_000_000)


def test_limits_count_pixels():
    data = cv2.imencode(".png", photo(20, 10))[1].tobytes()
    assert images.decode(data, 200).shape == (10, 20, 3)
    with pytest.raises(ImageError, match="20x10 pixels are more than max_pixels = 199") as caught:
        images.decode(data, 199)
    assert caught.value.kind == "too_large"


@pytest.mark.parametrize(
    "header",
    [
        b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 100000 +X 100000\n",
        b"PF\n100000 100000\n-1.0\n",
        b"P7\nWIDTH 100000\nHEIGHT 100000\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n",
        b"#?RADIANCE\n" + b"# no size in sight\n" * 400,
    ],
)
def test_decompression_bombs_in_formats_that_pillow_does_not_read(header):
    with pytest.raises(ImageError) as caught:
        images.decode(header + b"\0" * 1000, 10**8)
    assert caught.value.kind == "too_large"


def test_pillows_own_limit_is_not_used():
    from PIL import Image

    assert images.header_size(cv2.imencode(".png", np.zeros((20000, 10000), np.uint8))[1].tobytes()) == (10000, 20000)
    assert Image.MAX_IMAGE_PIXELS is not None, "the caller's setting is kept"


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(16, 300))
def test_decode_small_returns_the_size_of_the_picture(width, height, max_side):
    data = cv2.imencode(".jpg", photo(width, height))[1].tobytes()
    small = images.decode_small(data, width, height, max_side)
    assert (small.shape[1], small.shape[0]) == images.picture_size(width, height, max_side)
    assert max(small.shape) <= max(max_side, 3)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_label_maps_round_trip_through_png(width, height, seed):
    class_map = np.random.default_rng(seed).integers(0, 28, (height, width), np.uint8)
    assert np.array_equal(images.decode_map(images.encode_png(class_map)), class_map)


@given(st.integers(0, 60), st.integers(1, 60), st.integers(0, 2**32 - 1), st.sampled_from([7, 100, 1 << 24]))
def test_the_histogram_is_that_of_numpy(height, width, seed, exact):
    array = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "EXACT_IN_FLOAT32", exact)  # in strips of any height
        assert np.array_equal(images.histogram(array), np.bincount(array.reshape(-1), minlength=256))


def test_the_histogram_of_many_equal_pixels_is_exact():
    array = np.zeros((4097, 4097), np.uint8)  # one more than 2 ** 24, which float32 cannot tell from 2 ** 24
    array[0, 0] = 1
    assert images.histogram(array)[:2].tolist() == [4097 * 4097 - 1, 1]


def test_grey_float_images_are_decoded_to_three_channels():
    """OpenCV returns grey PFM files as H x W even with IMREAD_COLOR."""
    grey = np.linspace(0, 255, 48, dtype=np.float32).reshape(6, 8)
    data = cv2.imencode(".pfm", grey)[1].tobytes()
    decoded = images.decode(data, 100)
    assert decoded.shape == (6, 8, 3) and (decoded == decoded[..., :1]).all()
    assert images.decode_small(data, 8, 6, 4).shape == (3, 4, 3)


def test_a_sound_image_of_other_samples_is_not_called_damaged():
    data = cv2.imencode(".tiff", np.zeros((6, 8, 3), np.float64))[1].tobytes()
    with pytest.raises(ImageError, match=r"^OpenCV makes no colours of float64 samples; save it with 8 or 16 bits$"):
        images.decode(data, 100)


def busy_jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", cv2.resize(noise, (512, 512)))[1].data)


@given(st.floats(0.3, 0.7), st.integers(0, 2**32 - 1))
def test_a_damaged_place_in_a_jpeg_is_noticed(share, seed):
    """OpenCV decodes it, with made-up pixels below the place; libjpeg says so on stderr only."""
    damaged = bytearray(busy_jpeg())
    place = int(share * len(damaged))
    damaged[place : place + 200] = np.random.default_rng(seed).bytes(200)
    try:
        image = images.decode(bytes(damaged), 10**9)
    except ImageError as error:
        assert error.kind == "corrupt"
    else:  # random bytes are valid code once in a while; then nobody can know
        assert image.shape == (512, 512, 3)


def test_damage_is_told_in_the_row_and_not_on_stderr(capfd):
    damaged = bytearray(busy_jpeg())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 200] = bytes(range(200))
    with pytest.raises(ImageError, match=r"^damaged: Corrupt JPEG data: .* \(\d+ bytes\)$"):
        images.decode(bytes(damaged), 10**9)
    assert capfd.readouterr().err == ""


def test_bytes_between_two_segments_of_a_jpeg_are_harmless(capfd):
    whole = busy_jpeg()
    odd = whole[:-2] + b"\0\0\0" + whole[-2:]
    np.testing.assert_array_equal(images.decode(odd, 10**9), images.decode(whole, 10**9))


def test_others_still_write_to_stderr(capfd):
    with complaints() as damage:
        os.write(2, b"somebody else\nCorrupt JPEG data: bad Huffman code\n")
    assert damage == ["Corrupt JPEG data: bad Huffman code"] and capfd.readouterr().err == "somebody else\n"
    with complaints() as damage:
        pass
    assert damage == []
