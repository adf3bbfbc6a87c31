"""A Pillow image is decoded like the file from which it was read, or to which it could be saved."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from sapiens_ray.errors import ImageError
from sapiens_ray.imaging.images import decode
from sapiens_ray.imaging.pillow import encode_pillow
from tests.conftest import ROOT, photo

LIMIT = 1 << 20
RGB = Image.fromarray(photo(50, 40, 3)[:, :, ::-1])
ALPHA = Image.fromarray(np.arange(2000, dtype=np.uint32).reshape(40, 50).astype(np.uint8))
RGBA = RGB.copy()
RGBA.putalpha(ALPHA)
PALETTE = RGB.quantize(16)
GREY16 = np.arange(2000, dtype=np.uint16).reshape(40, 50) * np.uint16(32)


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_transparency() -> Image.Image:
    image = PALETTE.copy()
    image.info["transparency"] = 3
    return image


def turned(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file_of(RGB, kind, exif=exif, **({} if kind == "JPEG" else {"lossless": True}))


def decoded(image: Image.Image) -> np.ndarray:
    return decode(encode_pillow(image, LIMIT), LIMIT)


FILES = {
    "RGB png": file_of(RGB, "PNG"),
    "RGB bmp": file_of(RGB, "BMP"),
    "RGBA png": file_of(RGBA, "PNG"),
    "RGBA webp": file_of(RGBA, "WEBP", lossless=True),
    "L png": file_of(RGB.convert("L"), "PNG"),
    "LA png": file_of(RGBA.convert("LA"), "PNG"),
    "1 png": file_of(RGB.convert("1"), "PNG"),
    "P png": file_of(PALETTE, "PNG"),
    "P png, transparent": file_of(with_transparency(), "PNG"),
    "P png, alpha": file_of(RGBA.quantize(16), "PNG"),
    "P gif, transparent": file_of(with_transparency(), "GIF"),
    "I;16 png": cv2.imencode(".png", GREY16)[1].tobytes(),
    "I;16 tiff": cv2.imencode(".tiff", GREY16)[1].tobytes(),
    "RGB png, 16 bit": cv2.imencode(".png", np.dstack([GREY16, GREY16 + 77, GREY16[::-1]]))[1].tobytes(),
    "CMYK tiff": file_of(RGB.convert("CMYK"), "TIFF", compression="tiff_lzw"),
    "CMYK jpg": file_of(RGB.convert("CMYK"), "JPEG", quality=95),
}


@pytest.mark.parametrize("name", FILES)
def test_every_mode_is_decoded_as_from_its_file(name):
    image = Image.open(io.BytesIO(FILES[name]))
    assert image.mode == name.split()[0]
    wanted = decode(FILES[name], LIMIT)
    assert np.array_equal(decoded(image), wanted)
    assert wanted.std() > 20


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_exif_orientation_counts_as_in_a_file_of_that_kind(kind, orientation):
    data = turned(orientation, kind)
    wanted = decode(data, LIMIT)
    found = decoded(Image.open(io.BytesIO(data)))
    assert found.shape == wanted.shape
    # The pixels of lossy formats may depend on the library that decodes them; the error of a wrong turn is above 40.
    assert np.abs(found.astype(int) - wanted).mean() < (2 if kind in ("JPEG", "AVIF") else 1e-9)


def test_the_orientation_of_a_copy_counts_and_that_of_xmp_does_not():
    image = Image.open(ROOT / "sapiens_ray" / "samples" / "crops" / "astronaut_portrait_exif.jpg")
    upright = decode(Path(image.filename).read_bytes(), LIMIT)
    assert image.size == upright.shape[:2], "it is stored on its side"
    assert decoded(image.convert("L")).shape == upright.shape

    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = file_of(RGB, "JPEG", xmp=xmp)
    image = Image.open(io.BytesIO(data))
    assert image.getexif()[0x0112] == 6 and decode(data, LIMIT).shape == (40, 50, 3)
    assert decoded(image).shape == (40, 50, 3)
    image.info["exif"] = b"Exif\0\0 broken"
    assert decoded(image).shape == (40, 50, 3)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBX", "RGBa", "PA"])
def test_modes_without_a_common_file_are_converted(mode):
    image = (RGBA if mode == "RGBa" else PALETTE if mode == "PA" else RGB).convert(mode)
    wanted = np.asarray(image.convert("RGBA" if mode in ("RGBa", "PA") else "RGB"))[:, :, 2::-1]
    assert np.array_equal(decoded(image), wanted)


def test_older_pillows_hold_16_bits_in_32():
    wanted = np.repeat((GREY16 >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    assert np.array_equal(decoded(Image.fromarray(GREY16.astype(np.int32))), wanted)


def refused(image: Image.Image, limit: int = LIMIT) -> ImageError:
    with pytest.raises(ImageError) as caught:
        encode_pillow(image, limit)
    return caught.value


def test_what_is_no_photo_gets_the_error_of_a_file():
    damaged = Image.open(io.BytesIO(FILES["RGB png"][:-900]))
    assert refused(damaged).kind == "corrupt" and "truncated" in refused(damaged).message
    assert refused(Image.new("RGB", (0, 5))).kind == "zero_size"
    assert refused(RGB, 1999).kind == "too_large"
    unloaded = Image.open(io.BytesIO(FILES["RGB png"][:-900]))
    assert refused(unloaded, 1999).kind == "too_large", "it is not decoded first"
    for image in (RGB.convert("L").convert("F"), Image.fromarray(np.full((3, 4), 70000, np.int32))):
        assert refused(image).kind == "failed" and "convert it to RGB first" in refused(image).message
