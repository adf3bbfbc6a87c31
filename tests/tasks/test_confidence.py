"""Confidence columns against a plain reference in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.imaging.images import encode_png
from sapiens_ray.tasks import confidence
from sapiens_ray.tasks.argmax import network_argmax
from sapiens_ray.tasks.normal import Normal, NormalOptions
from sapiens_ray.tasks.pose import Pose, PoseOptions
from sapiens_ray.tasks.seg import Seg, SegOptions
from tests.conftest import photo

SEEDS = st.integers(0, 2**32 - 1)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the first axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(0))
    return shifted / shifted.sum(0)


@given(SEEDS, st.integers(1, 28), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.1, 3.0, 60.0]))
def test_probabilities_equal_softmax(seed, classes, height, width, scale):
    logits = np.random.default_rng(seed).normal(0, scale, (classes, height, width)).astype(np.float32)
    cells = network_argmax(torch.from_numpy(logits))
    found = confidence.largest_probability(torch.from_numpy(logits), cells.largest).numpy()
    expected = softmax(logits)
    np.testing.assert_allclose(found, expected.max(0), rtol=2e-6)
    assert (np.take_along_axis(expected, cells.classes.numpy()[None].astype(int), 0)[0] == expected.max(0)).all()


@given(SEEDS, st.integers(1, 30), st.integers(1, 30), st.integers(1, 28))
def test_columns_of_seg(seed, height, width, classes):
    random = np.random.default_rng(seed)
    cells = random.integers(0, classes, (height, width)).astype(np.uint8)
    probability = random.uniform(1 / 28, 1, (height, width)).astype(np.float32)
    present = np.flatnonzero(random.random(28) < 0.5)
    found = confidence.of_class_map("s", probability, cells, present)
    inside = probability[cells > 0].astype(np.float64)
    if inside.size:
        assert found["s_confidence"] == pytest.approx(inside.mean(), rel=1e-6)
        ordered = np.sort(inside)
        place = 0.05 * (len(ordered) - 1)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        assert found["s_confidence_p05"] == pytest.approx(low + (high - low) * (place % 1), rel=1e-6)
    else:
        assert found["s_confidence"] is None and found["s_confidence_p05"] is None
    expected = [probability[cells == number].astype(np.float64) for number in present]
    for value, one in zip(found["s_class_confidence"], expected, strict=True):
        assert value == (pytest.approx(one.mean(), rel=1e-6) if one.size else None)


def test_seg_by_hand():
    """Two cells of foreground, of which one is in doubt, and one of background."""
    logits = torch.zeros(1, 28, 1, 3)
    logits[0, 0, 0, 0] = 1000.0  # background, certain
    logits[0, 5, 0, 1] = 1000.0  # class 5, certain
    logits[0, 5, 0, 2] = math.log(27)  # class 5 beside 27 others: 27 / (27 + 27)
    task = Seg(SegOptions(task="seg", checkpoint="x"))
    row = task.finish(task.reduce(logits, [(3, 1)]), {"width": 3, "height": 1})
    assert row["seg_classes"] == [0, 5]
    assert row["seg_confidence"] == pytest.approx(0.75)
    assert row["seg_confidence_p05"] == pytest.approx(0.525)
    assert row["seg_class_confidence"] == [pytest.approx(1.0), pytest.approx(0.75)]


def test_without_foreground_and_with_a_class_between_cells():
    task = Seg(SegOptions(task="seg", checkpoint="x"))
    logits = torch.zeros(1, 28, 2, 2)
    logits[0, 0] = 5.0
    row = task.finish(task.reduce(logits, [(4, 4)]), {"width": 4, "height": 4})
    assert (row["seg_confidence"], row["seg_confidence_p05"]) == (None, None)
    assert row["seg_class_confidence"] == [pytest.approx(math.exp(5) / (math.exp(5) + 27), rel=1e-6)]

    logits = torch.full((1, 28, 1, 2), -50.0)
    logits[0, 1, 0], logits[0, 2, 0] = torch.tensor([10.0, 0.0]), torch.tensor([0.0, 10.0])
    logits[0, 3, 0] = 9.0  # largest in the middle only, where the others are 5
    row = task.finish(task.reduce(logits, [(8, 1)]), {"width": 8, "height": 1})
    assert row["seg_classes"] == [1, 2, 3]
    assert row["seg_class_confidence"][2] is None


@given(SEEDS, st.sampled_from([1, 17, 133]), st.one_of(st.none(), st.floats(0, 1)))
def test_persons(seed, keypoints, box_score):
    scores = np.random.default_rng(seed).uniform(-0.2, 1.1, keypoints).astype(np.float32)
    found = confidence.of_person(scores, box_score)
    above = [float(score) for score in scores if score > np.float32(0.2)]
    mean = sum(above) / len(above) if above else 0.0
    assert found["score"] == pytest.approx(mean * (1 if box_score is None else box_score), rel=1e-9)
    assert found["visible"] == sum(score >= np.float32(0.3) for score in scores)


def test_persons_by_hand():
    scores = np.float32([0.2, 0.2000001, 0.3, 0.9])
    assert confidence.of_person(scores, 0.5) == {"score": pytest.approx(1.4000001 / 3 * 0.5), "visible": 2}
    assert confidence.of_person(np.float32([0.1, 0.2]), None) == {"score": 0.0, "visible": 0}


def test_pose_has_them_for_every_person():
    task = Pose(PoseOptions(task="pose", checkpoint="x", keypoints=17, boxes={"column": "b"}))
    heatmaps = torch.zeros(2, 17, 16, 12)
    heatmaps[0, :, 8, 6] = 0.5
    heatmaps[1, :5, 8, 6] = 0.9
    boxes = [[0, 0, 60, 80, 0.5], [0, 0, 30, 40, math.nan]]
    row = {"width": 60, "height": 80, "_boxes:column:b": boxes}
    persons = task.finish(task.reduce(heatmaps, []), row)["persons"]
    assert [(one["score"], one["visible"]) for one in persons] == [(pytest.approx(0.25), 17), (pytest.approx(0.9), 5)]
    assert persons[0]["scores"].tolist() == [0.5] * 17


@given(SEEDS, st.integers(1, 20), st.integers(1, 20))
def test_lengths(seed, height, width):
    random = np.random.default_rng(seed)
    vectors = random.normal(0, 1, (height, width, 3)).astype(np.float32)
    inside = random.random((height, width)) < 0.5
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=2)
    assert confidence.mean_length(vectors, None) == pytest.approx(lengths.mean(), rel=1e-6)
    found = confidence.mean_length(vectors, inside)
    assert found == (pytest.approx(lengths[inside].mean(), rel=1e-6) if inside.any() else None)


@pytest.mark.parametrize("resolution", ["network", "original"])
def test_normals_are_measured_as_the_network_gave_them(resolution):
    options = NormalOptions(task="normal", checkpoint="x", mask={"source": "none"}, resolution=resolution)
    raw = np.tile(np.float32([0.0, 0.6, 0.8]) * 0.5, (4, 3, 1))
    row = Normal(options).finish([raw], {"width": 6, "height": 8})
    assert row["normal_length"] == pytest.approx(0.5)


@pytest.mark.parametrize(("mask", "expected"), [("none", 0.5), ("gone", None), ("there", 0.25)])
def test_a_missing_mask_is_not_the_whole_photo(mask, expected):
    """As depth_min: lengths over the whole photo and over persons cannot be ranked together."""
    source = "none" if mask == "none" else {"column": "m"}
    options = NormalOptions(task="normal", checkpoint="x", mask=source)
    raw = np.zeros((4, 4, 3), np.float32)
    raw[:2, :, 0], raw[2:, :, 1] = 0.25, 0.75
    inside = np.repeat(np.uint8([1, 1, 0, 0]), 4).reshape(4, 4)
    row = {"width": 4, "height": 4, "_mask:column:m": encode_png(inside) if mask == "there" else None}
    assert Normal(options).finish([raw], row)["normal_length"] == (expected and pytest.approx(expected))


def test_results_do_not_depend_on_neighbours(model):
    import sapiens_ray as sr

    images = [photo(60, 90, number) for number in range(3)]
    together = sr.Labeler(task="seg", checkpoint=model, batch_size=3)(images)
    alone = [row for image in images for row in sr.Labeler(task="seg", checkpoint=model)([image])]
    columns = ("seg_confidence", "seg_confidence_p05", "seg_class_confidence")
    for one, other in zip(together, alone, strict=True):
        for name in columns:  # the last bits of logits depend on the batch size
            assert one[name] == pytest.approx(other[name], rel=1e-4), name
        assert all(1 / 28 <= value <= 1 for value in one["seg_class_confidence"] if value is not None)
