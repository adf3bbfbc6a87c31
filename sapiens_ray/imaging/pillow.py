"""Images that Pillow holds in memory, as files: they are then decoded like all others."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from sapiens_ray.errors import ImageError
from sapiens_ray.imaging.images import check_size, encode_png

# Orientation of EXIF -> what turns the stored pixels upright (EXIF 2.32, tag 0x0112).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {"PNG": {"compress_level": 1}, "TIFF": {"compression": "raw"}}


def encode_pillow(image: Image.Image, max_pixels: int) -> bytes:
    """A file for which `images.decode` gives the pixels that it gives for a file with this content: EXIF orientation
    applied, alpha dropped, grey, palettes and CMYK as colours, 16 bits scaled to 8.

    Raises ImageError with kind zero_size, too_large, corrupt (the file behind the image is damaged) or failed (a mode
    that no photo has).
    """
    check_size(*image.size, max_pixels)
    kind = image.format
    try:
        image.load()
    except Exception as error:  # Pillow raises many kinds of errors on damaged files
        raise ImageError("corrupt", f"Pillow: {type(error).__name__}: {error}") from None
    turn = _UPRIGHT.get(_orientation(image))
    if turn is not None and kind != "AVIF":  # OpenCV does not turn AVIF
        image = image.transpose(turn)
    return _encode(image, kind)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 if there is none. `Image.getexif` would add that of XMP, which OpenCV does not read."""
    exif = Image.Exif()
    with contextlib.suppress(Exception):  # OpenCV ignores broken EXIF, too
        exif.load(image.info.get("exif", b""))
    found = exif.get(ExifTags.Base.Orientation)
    return found if isinstance(found, int) else 1


def _encode(image: Image.Image, kind: str | None) -> bytes:
    """kind: the format of the file that the image was read from, if any."""
    mode = image.mode
    if mode in ("RGB", "RGBX", "RGBA"):
        return encode_png(np.ascontiguousarray(np.asarray(image)[:, :, 2::-1]))
    if mode in ("L", "LA"):
        return encode_png(np.ascontiguousarray(np.asarray(image).reshape(image.height, image.width, -1)[:, :, 0]))
    if mode == "1":
        return encode_png(np.uint8(255) * np.asarray(image))
    if mode == "P":  # transparent pixels of a GIF show its background
        return _saved(image, "GIF" if kind == "GIF" else "PNG")
    if mode == "CMYK":
        return _saved(image, "TIFF") if kind == "TIFF" else encode_png(_bgr_of_cmyk(np.asarray(image)))
    if mode.startswith("I"):
        return encode_png(_eight_bits(np.asarray(image), mode))
    if mode in ("PA", "RGBa", "La", "YCbCr", "HSV"):
        return _encode(image.convert("RGBA" if mode in ("PA", "RGBa") else "LA" if mode == "La" else "RGB"), kind)
    raise ImageError("failed", f"a Pillow image of mode {mode!r} has no 8 or 16 bit colours; convert it to RGB first")


def _saved(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **_SAVE_OPTIONS.get(kind, {}))
    return file.getvalue()


def _bgr_of_cmyk(inks: np.ndarray) -> np.ndarray:
    """H x W x 4 uint8 ink, 255 is full, to H x W x 3 BGR, as OpenCV converts CMYK in JPEG files."""
    light = 255 - inks.astype(np.uint16)
    black = light[:, :, 3:]
    return (black - ((255 - light[:, :, 2::-1]) * black >> 8)).astype(np.uint8)


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """H x W with 16 bits to uint8, as OpenCV does it. Older Pillows hold 16 bits in mode I, which has 32."""
    if values.min() < 0 or values.max() > 65535:
        text = f"a Pillow image of mode {mode!r} with values beyond 16 bits; convert it to RGB first"
        raise ImageError("failed", text)
    eight: np.ndarray = (values >> 8).astype(np.uint8)
    return eight
