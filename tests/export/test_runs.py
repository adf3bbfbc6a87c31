"""Run lengths against plain decoders, written from the rules of the formats, and against Label Studio's own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis.extra import numpy as arrays

from sapiens_ray.export.runs import cvat_runs, label_studio_rle

MASKS = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40))
HALF = np.arange(300 * 280).reshape(300, 280) % 280 < 140
WIDE = np.zeros((2, 70_000), bool)  # runs longer than 16 bits can say
WIDE[1, 65_536 // 4 :] = True


def decoded_cvat(lengths: list[int], shape: tuple[int, int]) -> np.ndarray:
    """Zeros and ones in turn, row by row."""
    values = [number % 2 for number, length in enumerate(lengths) for _ in range(length)]
    return np.array(values, bool).reshape(shape)


def decoded_brush(rle: list[int]) -> list[int]:
    """rle-pack, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    number, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    found: list[int] = []
    while len(found) < number:
        repeats, length = read(1), read(sizes[read(2)]) + 1
        found += [read(word)] * length if repeats else [read(word) for _ in range(length)]
    assert len(found) == number and len(bits) - at < 8 and "1" not in bits[at:]
    return found


@given(MASKS)
@example(np.zeros((1, 1), bool))
@example(np.ones((3, 2), bool))
@example(WIDE)
def test_masks_survive(mask):
    assert np.array_equal(decoded_cvat(cvat_runs(mask), mask.shape), mask)
    rle = label_studio_rle(mask)
    assert {type(one) for one in rle} == {int} and min(rle) >= 0 and max(rle) < 256
    assert np.array_equal(np.array(decoded_brush(rle)).reshape(*mask.shape, 4), np.repeat(mask[..., None] * 255, 4, 2))


def test_cvat_goes_row_by_row_and_begins_with_zeros():
    assert cvat_runs(np.array([[0, 1, 1], [1, 0, 0]], bool)) == [1, 3, 2]
    assert cvat_runs(np.array([[1, 1], [0, 1]], bool)) == [0, 2, 1, 1]


# What `decode_rle` of label-studio-sdk 2.1.2 decodes to the same masks: the nightly test below shows it.
CONFIRMED = [
    (np.array([[0, 1, 1], [1, 0, 0]], bool), [0, 0, 0, 24, 57, 27, 252, 96, 22, 255, 231, 0]),
    (np.ones((130, 130), bool), [0, 1, 8, 16, 57, 27, 255, 255, 255, 255, 225, 1, 255, 224]),
]


@pytest.mark.parametrize(("mask", "rle"), CONFIRMED)
def test_brushes_are_the_bytes_that_label_studio_reads(mask, rle):
    assert label_studio_rle(mask) == rle


@pytest.mark.nightly  # installs label-studio-sdk, alone: its dependencies pin an old numpy
def test_label_studio_reads_brushes(tmp_path):
    install = ["install", "--quiet", "--no-deps", "--target", str(tmp_path), "label-studio-sdk==2.1.2"]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, timeout=600)
    spec = importlib.util.spec_from_file_location("brush", tmp_path / "label_studio_sdk" / "converter" / "brush.py")
    assert spec is not None and spec.loader is not None
    brush = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(brush)
    noise = np.random.default_rng(0).random((61, 47)) < 0.5
    for mask in (*(mask for mask, _ in CONFIRMED), HALF, noise, np.zeros((5, 7), bool)):
        read = brush.decode_rle(label_studio_rle(mask)).reshape(*mask.shape, 4)
        assert np.array_equal(read, np.repeat(mask[..., None] * 255, 4, 2))
