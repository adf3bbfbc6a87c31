"""Bytes to arrays and back: decode with limits or at picture size, encode PNG and JPEG.

Arrays are H x W x 3 uint8 in OpenCV's BGR order unless a name says otherwise.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sapiens_ray.errors import ImageError
from sapiens_ray.imaging.complaints import complaints

# Every suffix that OpenCV reads (docs.opencv.org, imread), in lower case.
SUFFIXES = frozenset([
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".jp2", ".j2k", ".avif", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".pxm", ".pfm", ".sr", ".ras", ".hdr", ".pic",
])  # fmt: skip

# First bytes of the same formats, to distinguish a damaged image from a file that is not an image.
_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+", b"GIF8",
    b"\x00\x00\x00\x0cjP", b"\xff\x4f\xff\x51", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"PF", b"Pf",
    b"\x59\xa6\x6a\x95", b"#?RADIANCE", b"#?RGBE",
)  # fmt: skip

MAX_SIDE = 1 << 20
ORIENTATION, QUARTERS = 0x0112, (5, 6, 7, 8)  # of EXIF, and its values that swap width and height
EXACT_IN_FLOAT32 = 1 << 24  # integers up to this one
# The formats that Pillow may try on untrusted bytes: formats of OpenCV whose headers it parses in Python. For WebP and
# AVIF it would start a decoder, which may crash.
_PILLOW_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "TIFF", "JPEG2000", "GIF", "PPM", "SUN")


class _QuietOpenCV:
    """While any thread decodes, OpenCV prints nothing: a damaged image is reported in its row. The user's log level
    is restored when the last thread has finished."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._level = 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    cv2.utils.logging.setLogLevel(self._level)


quiet_opencv = _QuietOpenCV().__call__


def has_image_suffix(name: str) -> bool:
    """Whether the name ends like an image that OpenCV reads, in any letter case."""
    dot = name.rfind(".")
    return dot >= 0 and name[dot:].lower() in SUFFIXES


def looks_like_image(data: bytes | memoryview) -> bool:
    """Whether the first bytes are those of an image format that OpenCV reads."""
    head = bytes(data[:16])
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_avif = head[4:12] in (b"ftypavif", b"ftypavis", b"ftypmif1")
    return head.startswith(_SIGNATURES) or is_webp or is_avif


def header_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """(width, height) from the header, before EXIF rotation and without decoding; None if unknown."""
    try:
        size = _pillow_size(bytes(data[:16]), io.BytesIO(data))
    except Exception:  # Pillow raises many kinds of errors on broken headers; OpenCV decides
        size = None
    return size or _size_without_pillow(bytes(data[:4096]))


def shown_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """(width, height) of the image that `decode` gives: after EXIF rotation, without decoding; None if unknown."""
    size = header_size(data)
    return size[::-1] if size is not None and _is_turned(data) else size


def _is_turned(data: bytes | memoryview) -> bool:
    """Whether OpenCV turns an image by a quarter. It does not turn AVIF, and Pillow's size of a TIFF is turned."""
    head = bytes(data[:16])
    try:
        found = None
        if head.startswith((b"\xff\xd8", b"\x89PNG")):
            found = _with_pillow(head, io.BytesIO(data), lambda image: image.info.get("exif"))
        elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            found = _webp_exif(data)
        exif = Image.Exif()
        exif.load(found or b"")
        return exif.get(ORIENTATION) in QUARTERS
    except Exception:  # Pillow raises many kinds of errors on broken headers
        return False


def _webp_exif(data: bytes | memoryview) -> bytes | None:
    """The EXIF chunk of a WebP file (RFC 9649, 2.3: chunks have a kind, a length and padding to an even length)."""
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if bytes(data[at : at + 4]) == b"EXIF":
            return bytes(data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    return None


def _pillow_size(head: bytes, file: io.BytesIO) -> tuple[int, int] | None:
    """The size that Pillow reads from the header of a file."""
    size = _with_pillow(head, file, lambda image: image.size)
    return None if size is None else (int(size[0]), int(size[1]))


def _with_pillow(head: bytes, file: io.BytesIO, ask: Callable[[Any], Any]) -> Any:
    """What `ask` tells of the image that the first of Pillow's formats that accepts the file opens; None if none does.

    The formats are called directly: `Image.open` compares the size with a limit of its own, which is global.
    """
    with _PILLOW_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, accept in _pillow_formats():
            accepted = accept is None or accept(head)
            if not accepted or isinstance(accepted, str):  # a str says which library is missing
                continue
            file.seek(0)
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):  # as Image.open does
                factory: Any = Image.OPEN[name][0]
                with factory(file, "") as image:
                    return ask(image)
    return None


_PILLOW_LOCK = threading.Lock()  # filters of warnings are global to the process


@cache
def _pillow_formats() -> list[tuple[str, Any]]:
    """Name of each of `_PILLOW_FORMATS` that this Pillow has, and its test of the first bytes."""
    # By name: `Image.init()` imports all of Pillow's formats, which takes a quarter of a second.
    from PIL import Jpeg2KImagePlugin, SunImagePlugin, TiffImagePlugin  # noqa: F401

    Image.preinit()
    return [(name, Image.OPEN[name][1]) for name in _PILLOW_FORMATS if name in Image.OPEN]


# Text headers of the formats that OpenCV reads and Pillow does not: Radiance, PFM, PAM.
_TEXT_SIZES = (
    re.compile(rb"[-+]Y (?P<height>\d+) [-+]X (?P<width>\d+)\n"),
    re.compile(rb"P[Ff]\s+(?P<width>\d+)\s+(?P<height>\d+)\s"),
    re.compile(rb"WIDTH (?P<width>\d+)\s+HEIGHT (?P<height>\d+)\s"),
)


def _size_without_pillow(head: bytes) -> tuple[int, int] | None:
    if head.startswith(b"\x89PNG") and len(head) >= 24:  # Pillow does not open images without pixels
        return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP" and len(head) >= 30:
        return _webp_size(head)
    sizes = [found.end() for found in re.finditer(b"ispe", head)] if head[4:8] == b"ftyp" else []
    if sizes:  # of an AVIF: the sizes of the image, its tiles and its thumbnails
        pairs = [(int.from_bytes(head[at + 4 : at + 8]), int.from_bytes(head[at + 8 : at + 12])) for at in sizes]
        return max(pairs, key=lambda pair: pair[0] * pair[1])
    if head.startswith((b"#?", b"PF", b"Pf", b"P7")):
        for pattern in _TEXT_SIZES:
            found = pattern.search(head)
            if found:
                return int(found["width"]), int(found["height"])
        return MAX_SIDE, MAX_SIDE  # a header of these formats without a size in its first bytes is not trusted
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """(width, height) of the three kinds of WebP (RFC 9649)."""

    def little(start: int, stop: int) -> int:
        return int.from_bytes(head[start:stop], "little")

    if head[12:16] == b"VP8X":
        return little(24, 27) + 1, little(27, 30) + 1
    if head[12:16] == b"VP8L":
        bits = little(21, 25)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if head[12:16] == b"VP8 ":
        return little(26, 28) & 0x3FFF, little(28, 30) & 0x3FFF
    return None


def decode(data: bytes | memoryview, max_pixels: int) -> np.ndarray:
    """Decode an image file as Sapiens-Lite does: `cv2.imdecode` with IMREAD_COLOR.

    EXIF rotation is applied, alpha dropped, grey and CMYK converted, 16 bits scaled to 8.
    Returns H x W x 3 uint8, BGR. Raises ImageError with kind empty, not_an_image, corrupt, zero_size or
    too_large. A truncated file is corrupt: OpenCV returns nothing for it. So is a JPEG with a damaged place, for which
    OpenCV, and Sapiens-Lite, give pixels that are partly grey.
    """
    if len(data) == 0:
        raise ImageError("empty", "the file has no bytes")
    if not looks_like_image(data):
        raise ImageError("not_an_image", f"not a format that OpenCV reads: starts with {bytes(data[:12])!r}")
    size = header_size(data)
    if size is not None:
        check_size(*size, max_pixels)
    try:
        with quiet_opencv(), complaints() as damage:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError("corrupt", f"OpenCV: {error.err or error}") from None
    if damage:  # a part of the pixels is made up
        raise ImageError("corrupt", f"damaged: {damage[0]} ({len(data)} bytes)")
    if image is None and (samples := _unreadable_samples(data)):
        raise ImageError("not_an_image", f"OpenCV makes no colours of {samples} samples; save it with 8 or 16 bits")
    if image is None:
        shown = f"header says {size[0]}x{size[1]}; " if size else ""
        raise ImageError("corrupt", f"cannot be decoded: truncated or damaged ({shown}{len(data)} bytes)")
    check_size(image.shape[1], image.shape[0], max_pixels)
    return _with_colours(image)


def _unreadable_samples(data: bytes | memoryview) -> str | None:
    """The kind of samples of a sound image that IMREAD_COLOR does not read, such as float32 in a TIFF."""
    with contextlib.suppress(cv2.error), quiet_opencv(), complaints():
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        return None if image is None else str(image.dtype)
    return None


def _with_colours(image: np.ndarray) -> np.ndarray:
    """The decoded image as H x W x 3: OpenCV returns grey PFM files as H x W even with IMREAD_COLOR."""
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise ImageError zero_size or too_large for an image that is not to be decoded."""
    if width < 1 or height < 1:
        raise ImageError("zero_size", f"the header says {width}x{height} pixels")
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width}x{height} pixels are more than max_pixels = {max_pixels}")


def decode_small(data: bytes | memoryview, width: int, height: int, max_side: int, min_side: int = 0) -> np.ndarray:
    """Decode for a picture, at `picture_size`; JPEGs are decoded at reduced size.

    `width` and `height` are those of the full image after EXIF rotation. Returns h x w x 3 uint8, BGR.
    """
    longest = max(width, height)
    flag = cv2.IMREAD_COLOR
    for factor, reduced in ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4),
                            (2, cv2.IMREAD_REDUCED_COLOR_2)):  # fmt: skip
        if longest // factor >= max_side and min(width, height) >= factor:
            flag = reduced
            break
    with quiet_opencv():
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    if image is None:
        raise ImageError("corrupt", "cannot be decoded at reduced size")
    size = picture_size(width, height, max_side, min_side)
    how = cv2.INTER_CUBIC if size[0] > width or size[1] > height else cv2.INTER_AREA
    return cv2.resize(_with_colours(image), size, interpolation=how)


def picture_size(width: int, height: int, max_side: int, min_side: int = 0) -> tuple[int, int]:
    """(width, height) scaled so that the longer side is at least `min_side` and at most `max_side`."""
    longest = max(width, height)
    scale = min(max(longest, min_side), max_side) / longest
    return max(1, round(width * scale)), max(1, round(height * scale))


def histogram(array: np.ndarray) -> np.ndarray:
    """How often each of the 256 values occurs in H x W uint8, as int64. Six times faster than `np.bincount`."""
    counts = np.zeros(256, np.int64)
    rows = max(1, EXACT_IN_FLOAT32 // max(1, array.shape[1]))  # OpenCV answers in float32
    for top in range(0, array.shape[0], rows):
        found = cv2.calcHist([array[top : top + rows]], [0], None, [256], [0, 256])
        counts += found.reshape(-1).astype(np.int64)
    return counts


def encode_png(array: np.ndarray) -> bytes:
    """Encode uint8 or uint16, H x W (grey) or H x W x 3 (BGR), as PNG.

    Level 1 with run-length strategy: label maps consist of long runs, so deflate's search for matches gains nothing.
    Each row as its difference to the one above, where OpenCV lets one choose: libpng would try five filters per row,
    which takes three times as long, for files that are 6 % smaller.
    """
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV 4.12
        options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    return _encode(".png", array, options)


def encode_bmp(array: np.ndarray) -> bytes:
    """Encode H x W x 3 uint8 BGR as BMP: the pixels as they are, behind a header."""
    return _encode(".bmp", array, [])


def encode_picture(array: np.ndarray, format: str, quality: int) -> bytes:
    """Encode H x W x 3 uint8 BGR as jpg or png."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if format == "jpg" else []
    return _encode(f".{format}", array, options)


def _encode(suffix: str, array: np.ndarray, options: list[int]) -> bytes:
    done, encoded = cv2.imencode(suffix, array, options)
    if not done:
        raise ValueError(f"OpenCV could not encode an array of shape {array.shape} as {suffix}")
    return bytes(encoded.data)


def decode_map(png: bytes) -> np.ndarray:
    """Decode a PNG label map: H x W, or H x W x 3 (BGR), in the dtype of the file."""
    with quiet_opencv():
        array: np.ndarray | None = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ValueError("not a PNG label map")
    return array
