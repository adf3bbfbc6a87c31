"""Run lengths of masks, and the two ways in which annotation tools write them: CVAT and Label Studio.

Both go through the mask row by row. COCO's run lengths go column by column and are another format.
"""

from __future__ import annotations

import numpy as np

SIZES = np.array([3, 4, 8, 16])  # bits in which Label Studio writes the length of a run
LONGEST = 1 << 16  # that 16 bits can say
TOGETHER = 1 << 16  # words whose bits are in memory as 8 bytes each
CHANNELS = 4  # Label Studio packs red, green, blue and alpha of each pixel


def runs(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(values, lengths) of the runs of equal values in a flat array; lengths as int64."""
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))[: flat.size]
    return flat[starts], np.diff(starts, append=flat.size)


def cvat_runs(mask: np.ndarray) -> list[int]:
    """CVAT's run lengths of H x W bool: row by row, zeros first, so that the first is 0 if the first pixel is set."""
    values, lengths = runs(mask.reshape(-1))
    return [*([0] if values.size and values[0] else []), *lengths.tolist()]


def label_studio_rle(mask: np.ndarray) -> list[int]:
    """The bytes in which Label Studio stores a brush, from H x W bool.

    The format is rle-pack of thi.ng/umbrella, over the four channels of each pixel, 0 or 255: 32 bits for the number
    of values, 5 bits for the bits of a value minus 1, 4 bits for each of the four sizes of lengths minus 1. Then, for
    each run: a bit 1, 2 bits for the size, the length minus 1 in so many bits, the value. A bit 0 would begin values
    that do not repeat; here each repeats at least four times. Zeros fill the last byte.
    """
    values, lengths = runs(mask.reshape(-1))
    values, lengths = _split(values, lengths * CHANNELS)
    size = np.searchsorted(1 << SIZES, lengths)  # the smallest in which the length minus 1 has a place
    bits = SIZES[size]
    words = ((0b100 | size) << bits | lengths - 1) << 8 | values.astype(np.int64) * 255
    header = _bits(np.array([mask.size * CHANNELS, 7, *(SIZES - 1)]), np.array([32, 5, 4, 4, 4, 4]))
    packed = np.packbits(np.concatenate([header, _bits(words, 3 + bits + 8)]))
    return packed.tolist()


def _split(values: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same runs, none longer than LONGEST."""
    parts = -(-lengths // LONGEST)
    cut = np.full(parts.sum(), LONGEST, np.int64)
    cut[np.cumsum(parts) - 1] = lengths - (parts - 1) * LONGEST
    return np.repeat(values, parts), cut


def _bits(words: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The last `lengths` bits of each word, one after the other, as uint8 0 or 1; the most significant bit first."""
    parts = []
    for start in range(0, len(words), TOGETHER):
        some = lengths[start : start + TOGETHER]
        left = np.repeat(np.cumsum(some), some) - np.arange(some.sum()) - 1  # bits of the word that follow
        parts.append((np.repeat(words[start : start + TOGETHER], some) >> left & 1).astype(np.uint8))
    return np.concatenate(parts)
