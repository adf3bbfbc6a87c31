"""Arg-max of upsampled logits against the definition, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapiens_ray.tasks import argmax
from sapiens_ray.tasks.argmax import upsampled_argmax


def reference(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """C x h x w to C x height x width: bilinear, align_corners=False, straight from the definition."""

    def axis(size: int, target: int) -> np.ndarray:
        weights = np.zeros((target, size))
        for pixel in range(target):
            source = max((pixel + 0.5) * size / target - 0.5, 0.0)
            lower = min(int(source), size - 1)
            upper = min(lower + 1, size - 1)
            weights[pixel, lower] += 1 - (source - lower)
            weights[pixel, upper] += source - lower
        return weights

    rows, columns = axis(logits.shape[1], height), axis(logits.shape[2], width)
    return np.einsum("yh,chw,xw->cyx", rows, logits.astype(np.float64), columns)


def check(logits: np.ndarray, height: int, width: int, everything: bool | None = None) -> None:
    """The chosen class has the largest logit, up to the precision of float32."""
    values = reference(logits, height, width)
    chosen = upsampled_argmax(torch.from_numpy(logits), height, width, everything).numpy()
    assert chosen.shape == (height, width) and chosen.dtype == np.uint8
    reached = np.take_along_axis(values, chosen[None].astype(int), 0)[0]
    slack = 1e-5 * max(1.0, float(np.abs(logits).max()))
    assert (values.max(0) - reached <= slack).all()


@st.composite
def fields(draw: st.DrawFn) -> np.ndarray:
    """Logits of every kind: smooth, noisy, with ties, constant."""
    classes, h, w = draw(st.integers(1, 28)), draw(st.integers(1, 12)), draw(st.integers(1, 12))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["noise", "smooth", "few", "constant"]))
    if kind == "noise":
        return random.standard_normal((classes, h, w)).astype(np.float32) * draw(st.sampled_from([1e-3, 1, 1e4]))
    if kind == "smooth":
        y, x = np.mgrid[:h, :w] / 12
        a, b, c = random.standard_normal((3, classes, 1, 1))
        return (a * x + b * y + c).astype(np.float32)
    if kind == "few":
        return random.integers(-1, 2, (classes, h, w)).astype(np.float32)
    return np.zeros((classes, h, w), np.float32)


@settings(max_examples=150, deadline=None)
@given(fields(), st.integers(1, 60), st.integers(1, 60), st.sampled_from([None, True, False]))
def test_equals_the_definition(logits, height, width, everything):
    check(logits, height, width, everything)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 3), (47, 33), (1024, 768), (1500, 2000)])
@pytest.mark.parametrize("cells", [(9, 12), (64, 48), (256, 192)])
def test_equals_torch_on_odd_sizes(height, width, cells):
    generator = torch.Generator().manual_seed(height + width)
    coarse = torch.randn(1, 28, *cells, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, (512, 384), mode="bicubic")
    full = torch.nn.functional.interpolate(logits, (height, width), mode="bilinear", align_corners=False)[0]
    top = full.topk(2, dim=0).values
    chosen = upsampled_argmax(logits[0], height, width)
    differ = chosen != full.argmax(0)
    assert (top[0] - top[1])[differ].le(1e-5).all(), "differs although it is not a tie"
    assert differ.float().mean() < 1e-5


def test_the_first_class_of_equal_logits_wins():
    logits = torch.zeros(28, 16, 12)
    assert (upsampled_argmax(logits, 100, 100) == 0).all()
    logits[3:5] = 1
    assert (upsampled_argmax(logits, 100, 100) == 3).all()


@pytest.mark.parametrize("at_once", [2, 3, 28, 100])
def test_upsampling_several_classes_at_once_is_the_same(monkeypatch, at_once):
    """A GPU does so."""
    logits = torch.randn(28, 20, 30, generator=torch.Generator().manual_seed(1))
    logits[4] = logits[3]  # equal logits: the first class wins
    whole = upsampled_argmax(logits, 40, 50, everything=True)
    monkeypatch.setattr(argmax, "VALUES_AT_ONCE", 40 * 50 * at_once)
    assert torch.equal(argmax._several_at_once(logits, 40, 50), whole)
    assert 4 not in whole and 3 in whole


def test_the_order_of_memory_does_not_matter():
    """Our own models give channels-last logits."""
    logits = torch.randn(1, 28, 64, 48, generator=torch.Generator().manual_seed(3))
    other = logits.to(memory_format=torch.channels_last)
    assert torch.equal(upsampled_argmax(logits[0], 200, 300), upsampled_argmax(other[0], 200, 300))


@pytest.mark.parametrize(("classes", "mixed"), [(2, True), (254, True), (254, False)])
def test_as_many_classes_as_a_byte_can_tell(classes, mixed):
    logits = torch.zeros(classes, 8, 6)
    logits[-1, :, : 3 if mixed else 6] = 1
    chosen = upsampled_argmax(logits, 80, 60, everything=False)
    assert (chosen[:, :20] == classes - 1).all() and (chosen[:, 40:] == (0 if mixed else classes - 1)).all()


@pytest.mark.parametrize(("height", "width"), [(47, 33), (1500, 2000)])
def test_upsampling_everything_gives_the_same(height, width):
    coarse = torch.randn(1, 28, 16, 12, generator=torch.Generator().manual_seed(2))
    logits = torch.nn.functional.interpolate(coarse, (512, 384), mode="bicubic")[0]
    chosen = upsampled_argmax(logits, height, width, everything=True)
    differ = chosen != upsampled_argmax(logits, height, width, everything=False)
    assert chosen.dtype == torch.uint8 and differ.float().mean() < 1e-5


def test_a_gpu_is_not_waited_for():
    """On any device but a CPU everything is upsampled: nothing there asks for a value. `meta` has no values."""
    for height, width in ((2000, 1500), (6000, 8000)):  # of the second, one class at a time
        chosen = upsampled_argmax(torch.empty(28, 16, 12, device="meta"), height, width)
        assert chosen.shape == (height, width) and chosen.dtype == torch.uint8
