"""Confusion counts and the scores made of them: a case by hand, the rules for absent classes, a plain reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sapiens_ray.evaluation.segmentation_metrics import class_counts, class_scores, confusion_counts

# 2 x 4 pixels, the last one ignored. Class 2 is in neither map, class 3 only in the prediction.
TRUTH = np.array([[0, 0, 0, 1], [1, 1, 0, 255]], np.uint8)
PREDICTION = np.array([[0, 0, 1, 1], [1, 3, 0, 1]], np.uint8)


def test_a_case_by_hand():
    confusion = confusion_counts(TRUTH, PREDICTION, 5)
    assert confusion.tolist() == [[3, 1, 0, 0, 0], [0, 2, 0, 1, 0], [0] * 5, [0] * 5, [0] * 5]
    counts = class_counts(confusion)
    assert counts.tolist() == [[3, 2, 0, 0, 0], [4, 3, 0, 0, 0], [3, 3, 0, 1, 0]]
    scores = class_scores(counts)
    assert scores.iou[:2].tolist() == [3 / 4, 2 / 4] and scores.iou[3] == 0
    assert scores.accuracy[:2].tolist() == [3 / 4, 2 / 3]
    assert np.isnan(scores.iou[[2, 4]]).all() and np.isnan(scores.accuracy[2:]).all()
    assert scores.mean_iou == pytest.approx((3 / 4 + 2 / 4 + 0) / 3)
    assert scores.mean_accuracy == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert scores.pixel_accuracy == 5 / 7


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 4\) and \(4, 2\)"):
        confusion_counts(TRUTH, PREDICTION.T, 5)
    with pytest.raises(ValueError, match="prediction has class ids 0 to 3; there are 3 classes"):
        confusion_counts(TRUTH, PREDICTION, 3)


@pytest.mark.parametrize("ids", [[[0, 300]], [[-2, 0]]])
def test_ids_that_no_byte_holds_are_refused_or_ignored(ids):
    truth, zeros = np.array(ids, np.int32), np.zeros((1, 2), np.uint8)
    with pytest.raises(ValueError, match=rf"truth has class ids {truth.min()} to {truth.max()}; there are 3 classes"):
        confusion_counts(truth, zeros, 3)
    odd = int(truth[truth != 0][0])
    assert confusion_counts(truth, zeros, 3, ignored=odd).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_nothing_but_ignored_pixels_gives_no_score():
    counts = class_counts(confusion_counts(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8), 2))
    scores = class_scores(counts)
    assert math.isnan(scores.mean_iou) and math.isnan(scores.mean_accuracy) and math.isnan(scores.pixel_accuracy)


shapes = array_shapes(min_dims=2, max_dims=2, max_side=6)


@given(st.data(), shapes)
def test_scores_are_those_of_sets_of_pixels(data, shape):
    truth = data.draw(arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 255])))
    prediction = data.draw(arrays(np.uint8, shape, elements=st.integers(0, 3)))
    scores = class_scores(class_counts(confusion_counts(truth, prediction, 4)))
    pixels = [one for one in np.ndindex(shape) if truth[one] != 255]
    for number in range(4):
        true = {one for one in pixels if truth[one] == number}
        predicted = {one for one in pixels if prediction[one] == number}
        wanted = len(true & predicted) / len(true | predicted) if true | predicted else math.nan
        assert scores.iou[number] == pytest.approx(wanted, nan_ok=True)
        wanted = len(true & predicted) / len(true) if true else math.nan
        assert scores.accuracy[number] == pytest.approx(wanted, nan_ok=True)
