"""Files of ground truth: what is read from each kind of PNG."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from sapiens_ray.evaluation.truth_files import index_map

GREY, PALETTE = 0, 3  # colour types of PNG


def index_png(ids: np.ndarray, bits: int, colour_type: int) -> bytes:
    """A PNG by the specification, with `bits` per pixel: Pillow and OpenCV do not write grey ones of 2 or 4 bits."""
    height, width = ids.shape
    digits = [((ids.astype(np.int64) >> place) & 1).astype(np.uint8) for place in range(bits)[::-1]]
    rows = np.packbits(np.stack(digits, -1).reshape(height, -1), axis=1)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
              (b"IEND", b"")]  # fmt: skip
    if colour_type == PALETTE:
        chunks.insert(1, (b"PLTE", bytes(range(255, 255 - 3 * min(2**bits, 80), -1))))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@pytest.mark.parametrize(
    ("bits", "colour_type"),
    [(1, GREY), (2, GREY), (4, GREY), (8, GREY), (16, GREY), (1, PALETTE), (2, PALETTE), (4, PALETTE), (8, PALETTE)],
)
def test_class_ids_of_every_bit_depth(bits, colour_type):
    ids = np.arange(30).reshape(5, 6) % min(2**bits, 28)
    ids[-1, -1] = min(2**bits - 1, 79)
    assert np.array_equal(index_map(index_png(ids, bits, colour_type), "a.png", 6, 5), ids)
