"""Numbers of every kind of task: by hand, and against plain references."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sapiens_ray.comparing.features import FeatureComparison, cosine
from sapiens_ray.comparing.maps import DepthComparison, NormalComparison
from sapiens_ray.comparing.pairing import TaskPair, pair_tasks
from sapiens_ray.comparing.pose import PersonComparison, box_iou, match_boxes
from sapiens_ray.comparing.seg import ClassComparison
from sapiens_ray.comparing.tasks import TaskComparison
from sapiens_ray.errors import ConfigError
from sapiens_ray.evaluation.segmentation_metrics import confusion_counts, pair_counts
from sapiens_ray.imaging.maps import encode_npy
from sapiens_ray.labels import keypoints
from sapiens_ray.reporting.numbers import PARTS, Spread
from sapiens_ray.tasks.depth import StoredDepth
from sapiens_ray.tasks.features import StoredFeatures
from sapiens_ray.tasks.normal import StoredNormal
from sapiens_ray.tasks.stored import StoredClassMap, StoredLabels, StoredPersons
from tests.evaluation.labelled import person, png

GREY = [9, 9, 9]


def classes(column: str, *names: str) -> StoredClassMap:
    return StoredClassMap(column, {"task": "seg", "class_names": names, "class_colours_rgb": [GREY] * len(names)})


def measured(comparison: TaskComparison, *rows: tuple[dict, dict]):
    found = [comparison.measure({"image_id": "a.jpg", **a}, {"image_id": "a.jpg", **b}) for a, b in rows]
    for one in found:
        comparison.add(one)
    return found


def test_class_maps_by_hand_with_tables_that_differ():
    a, b = classes("seg", "Background", "Hair", "Torso"), classes("seg", "Background", "Torso", "Eyeglass", "Hair")
    comparison = ClassComparison(TaskPair(a, b))
    in_a = np.array([[0, 0, 1, 1], [2, 2, 2, 2]], np.uint8)  # Background 2, Hair 2, Torso 4
    in_b = np.array([[0, 3, 3, 2], [1, 1, 1, 0]], np.uint8)  # Background 2, Hair 2, Eyeglass 1, Torso 3
    (one,) = measured(comparison, ({"seg": png(in_a)}, {"seg": png(in_b)}))
    assert not one.identical and one.difference == pytest.approx(3 / 8)
    found = comparison.result()
    assert found["pixels"] == 8 and found["pixel_agreement"] == 5 / 8
    assert {row["name"]: row["iou"] for row in found["classes"]} == {
        "Background": 1 / 3, "Hair": 1 / 3, "Torso": 3 / 4, "Eyeglass": None,
    }  # fmt: skip
    assert found["mean_iou"] == pytest.approx((1 / 3 + 1 / 3 + 3 / 4) / 3)
    assert [row["only_in"] for row in found["classes"]] == [None, None, None, "b"]
    assert found["image_mean_iou"]["max"] == found["mean_iou"]
    assert {(row["a"], row["b"], row["pixels"]) for row in found["swaps"]} == {
        ("Background", "Hair", 1), ("Hair", "Eyeglass", 1), ("Torso", "Background", 1),
    }  # fmt: skip


@given(data=st.data(), shape=array_shapes(min_dims=2, max_dims=2, max_side=6))
def test_pixels_are_counted_as_where_labels_are_evaluated(data, shape):
    one, other = (data.draw(arrays(np.uint8, shape, elements=st.integers(0, 255))) for _ in range(2))
    counts = pair_counts(one, other)
    assert (counts == confusion_counts(one, other, 256, ignored=-1)).all()
    plain = np.zeros((256, 256), np.int64)
    for pair in zip(one.flat, other.flat, strict=True):
        plain[pair] += 1
    assert (counts == plain).all()


def test_class_maps_that_cannot_be_compared_are_counted():
    comparison = ClassComparison(TaskPair(classes("seg", "Background", "Hair"), classes("seg", "Background", "Hair")))
    good, large, unknown = (
        np.full(shape, number, np.uint8) for shape, number in (((2, 2), 1), ((3, 2), 1), ((2, 2), 7))
    )
    measured(
        comparison, ({"seg": png(good)}, {"seg": png(large)}), ({"seg": png(good)}, {"seg": png(unknown)}),
        ({"seg": png(good)}, {}), ({"seg": png(good)}, {"seg": png(good)}),
    )  # fmt: skip
    found = comparison.result()
    assert (found["images"], found["identical"], found["mean_iou"]) == (1, 1, 1.0)
    assert {one["reason"]: one["images"] for one in found["not_compared"]} == {
        "the class maps have different sizes": 1, "a class map has a class without a name": 1, "B has no labels": 1,
    }  # fmt: skip


def pose(count: int = 17) -> StoredPersons:
    table = keypoints(count)
    return StoredPersons("persons", {"task": "pose", "keypoint_names": table.names, "keypoint_links": table.links})


def test_persons_by_hand():
    comparison = PersonComparison(TaskPair(pose(), pose()))
    points = np.stack([np.linspace(10, 40, 17), np.linspace(10, 50, 17)], 1)  # box 30 x 40: diagonal 50
    scores = np.full(17, 0.9)
    unsure = scores.copy()
    unsure[3] = 0.2
    moved = {**person(points + np.array([3, 4]), unsure), "box": person(points)["box"]}
    far = person(points + 1000)
    (one,) = measured(comparison, ({"persons": [person(points, scores), far]}, {"persons": [moved]}))
    found = comparison.result()
    assert found["persons"] == {"in_both": 1, "only_in_a": 1, "only_in_b": 0}
    assert found["distance_pixels"]["count"] == 16
    assert found["distance_pixels"]["mean"] == pytest.approx(5) and found["distance_share"]["p95"] == pytest.approx(0.1)
    assert one.difference == pytest.approx((0.1 + 1) / 2)
    used = np.delete(np.array(keypoints(17).sigmas), 3)
    wanted = np.mean([math.exp(-25 / (2 * 30 * 40 * (2 * sigma) ** 2)) for sigma in used])
    assert found["oks"]["mean"] == pytest.approx(wanted)
    assert [row["count"] for row in found["keypoints"]] == [1, 1, 1, 0, *[1] * 13]
    assert found["images_with_other_persons"] == 1


def test_persons_of_earlier_versions_are_identical_to_those_with_a_score():
    old = person(np.arange(34.0).reshape(17, 2))
    comparison = PersonComparison(TaskPair(pose(), pose()))
    (one, other, nobody) = measured(
        comparison, ({"persons": [old]}, {"persons": [{**old, "score": 0.9, "visible": 17}]}),
        ({"persons": [old]}, {"persons": []}), ({"persons": []}, {"persons": []}),
    )  # fmt: skip
    assert (one.identical, one.difference) == (True, 0) and (other.identical, other.difference) == (False, 1)
    assert (nobody.identical, nobody.difference) == (True, 0)


def test_keypoints_of_two_tables_are_matched_by_name():
    comparison = PersonComparison(TaskPair(pose(17), pose(308)))
    names = comparison.names
    assert 10 < len(names) <= 17 and names[0] == "nose"
    points, many = np.zeros((17, 2)), np.full((308, 2), 999.0)
    for name in names:
        many[keypoints(308).names.index(name)] = 0
    box = {"box": [0, 0, 3, 4]}
    measured(comparison, ({"persons": [{**person(points), **box}]}, {"persons": [{**person(many), **box}]}))
    assert comparison.result()["distance_pixels"]["max"] == 0


def test_boxes_are_matched_greedily():
    a = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]], float)
    b = np.array([[0, 0, 10, 8], [0, 0, 10, 10], [50, 50, 54, 60]], float)
    assert match_boxes(a, b) == [(0, 1), (1, 0)]  # the last two overlap by 0.4
    same = np.array([[0, 0, 1, 1]] * 3, float)
    assert match_boxes(same, same) == [(0, 0), (1, 1), (2, 2)]
    assert match_boxes(a, np.empty((0, 4))) == []


boxes = st.lists(st.tuples(*[st.integers(0, 6)] * 4), min_size=1, max_size=3)


@given(boxes, boxes)
def test_the_iou_of_boxes_is_that_of_sets_of_pixels(of_a, of_b):
    def pixels(box) -> set:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    found = box_iou(np.array(of_a, float), np.array(of_b, float))
    for at, one in enumerate(of_a):
        for where, other in enumerate(of_b):
            both, either = pixels(one) & pixels(other), pixels(one) | pixels(other)
            assert found[at, where] == pytest.approx(len(both) / len(either) if either else 0)


def test_depth_is_compared_after_a_fit_over_the_foreground():
    stored = StoredDepth("depth", {"task": "depth", "dtype": "float16"})
    comparison = DepthComparison(TaskPair(stored, stored), classes("seg", "Background", "Hair"))
    mask = np.zeros((8, 12), np.uint8)  # twice the size of the map
    mask[4:] = 1
    a = np.arange(24, dtype=np.float64).reshape(4, 6)
    b = 2 * a + 7
    b[3, 5] += 1  # in the foreground
    b[0, 0] += 100  # not in the foreground
    row = {"seg": png(mask), "depth": encode_npy(a)}
    one, same, turned = measured(
        comparison, (row, {"depth": encode_npy(b)}), (row, {"depth": encode_npy(a)}), (row, {"depth": encode_npy(-a)})
    )
    inside = slice(12, 24)
    design = np.stack([b.reshape(-1)[inside], np.ones(12)], 1)
    solved, *_ = np.linalg.lstsq(design, a.reshape(-1)[inside], rcond=None)
    rmse = np.sqrt(np.mean((design @ solved - a.reshape(-1)[inside]) ** 2)) / 11
    assert one.difference == pytest.approx(rmse) and one.difference > 0.001
    assert one.values.largest == 107 and one.values.correlation == pytest.approx(
        np.corrcoef(a.reshape(-1)[inside], b.reshape(-1)[inside])[0, 1]
    )
    assert same.identical and same.difference == 0 and same.values.largest == 0
    assert turned.difference == pytest.approx(0, abs=1e-12) and turned.values.correlation == pytest.approx(-1)
    assert comparison.result()["negative_scale"] == 1 and comparison.result()["mask"] == "seg"


def test_depth_without_foreground_or_range_is_not_compared():
    stored = StoredDepth("depth", {"task": "depth", "dtype": "float16"})
    masked = DepthComparison(TaskPair(stored, stored), classes("seg", "Background", "Hair"))
    everywhere = DepthComparison(TaskPair(stored, stored), None)
    nothing = {"seg": png(np.zeros((4, 6), np.uint8)), "depth": encode_npy(np.arange(24.0).reshape(4, 6))}
    assert "no foreground" in measured(masked, (nothing, nothing))[0].problem
    flat = {"depth": encode_npy(np.ones((4, 6)))}
    assert "flat" in measured(everywhere, (flat, nothing))[0].problem
    assert measured(everywhere, (flat, flat))[0].difference == 0
    small = {"depth": encode_npy(np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::2])}
    assert measured(everywhere, (nothing, small))[0].problem == "", "maps of two sizes are compared at that of A"


def test_normals_by_hand():
    stored = StoredNormal("normal", {"task": "normal", "dtype": "float16"})
    comparison = NormalComparison(TaskPair(stored, stored), None)
    up = np.zeros((10, 10, 3), np.float32)
    up[..., 2] = 1
    turned = up.copy()
    turned[0, :, 1] = math.tan(math.radians(20.5))  # a tenth of the pixels by 20.5 degrees
    turned[5, 5] = 0  # no data
    one, same = measured(
        comparison, ({"normal": encode_npy(up)}, {"normal": encode_npy(turned)}),
        ({"normal": encode_npy(2 * turned)}, {"normal": encode_npy(2 * turned)}),
    )  # fmt: skip
    found = comparison.result()
    assert one.difference == pytest.approx(20.5 * 10 / 99, rel=1e-6) and (same.difference, same.identical) == (0, True)
    assert found["pixels"] == 198 and found["share_above_5_degrees"] == pytest.approx(10 / 198)
    assert found["mean_degrees"] == pytest.approx(205 / 198, rel=1e-6)
    assert found["p95_degrees"] == pytest.approx(20.5, abs=0.1)
    assert found["median_degrees"] < 0.1


def test_normals_that_are_equal_have_no_angle():
    stored = StoredNormal("normal", {"task": "normal", "dtype": "float16"})
    comparison = NormalComparison(TaskPair(stored, stored), None)
    row = {"normal": encode_npy(np.random.default_rng(0).normal(size=(5, 5, 3)).astype(np.float16))}
    measured(comparison, (row, row))
    found = comparison.result()
    assert [found[key] for key in ("mean_degrees", "median_degrees", "p95_degrees", "share_above_5_degrees")] == [0] * 4


def test_features():
    both = StoredFeatures("features", {"task": "features", "save": "both", "dtype": "float32"})
    mean = StoredFeatures("features", {"task": "features", "save": "mean", "dtype": "float32"})
    only_map = StoredFeatures("features", {"task": "features", "save": "map", "dtype": "float32"})
    row = {"features": [3.0, 4.0], "features_map": encode_npy(np.ones((2, 2, 2)))}
    other = {"features": [4.0, 3.0], "features_map": encode_npy(np.ones((2, 2, 2)) * [1, 1.5])}
    comparison = FeatureComparison(TaskPair(both, both))
    one, same = measured(comparison, (row, other), (row, row))
    assert one.difference == pytest.approx(1 - 24 / 25) and one.values.largest == 1
    assert one.values.map == pytest.approx(2.5 / math.sqrt(2 * 3.25))
    assert (same.identical, same.difference) == (True, 0)
    assert measured(FeatureComparison(TaskPair(mean, both)), (row, other))[0].values.largest == 1
    (longer,) = measured(FeatureComparison(TaskPair(mean, mean)), (row, {"features": [1.0, 2.0, 3.0]}))
    assert longer.problem == "features of 2 and 3: the models differ in size"
    assert (
        "mean vectors, the other has maps"
        in measured(FeatureComparison(TaskPair(mean, only_map)), (row, row))[0].problem
    )
    assert cosine(np.zeros(2), np.ones(2)) == 0 and cosine(np.zeros(2), np.zeros(2)) == 1


def test_tasks_of_other_packages_are_equal_or_not():
    stored = StoredLabels("edges", {"task": "edges"})
    comparison = TaskComparison(TaskPair(stored, stored))
    measured(comparison, ({"edges": b"1"}, {"edges": b"1"}), ({"edges": b"1"}, {"edges": b"2"}))
    found = comparison.result()
    assert (found["images"], found["identical"], found["difference"]["mean"]) == (2, 1, 0.5)


def test_single_numbers_are_held_in_few_arrays():
    values = np.random.default_rng(0).normal(size=3000)
    one_by_one, at_once = Spread(), Spread()
    for value in values:
        one_by_one.add(np.array([value]))
    at_once.add(values)
    assert len(one_by_one._values) <= PARTS
    found, wanted = one_by_one.result(), at_once.result()
    assert found.pop("mean") == pytest.approx(wanted.pop("mean")) and found == wanted


def test_tasks_are_paired_by_name_and_kind():
    seg, parts, persons = classes("seg", "Hair"), classes("parts", "Hair"), pose()
    paired = pair_tasks([seg, persons], [persons, parts])
    assert [pair.name for pair in paired.pairs] == ["persons"]
    assert (paired.only_in_a, paired.only_in_b) == (["seg"], ["parts"])
    assert [pair.name for pair in pair_tasks([seg, persons], [persons, parts], ["seg:parts"]).pairs] == ["seg:parts"]
    for chosen, message in (
        ("depth", "A has no task 'depth'; it has seg, persons \\(pose\\)"),
        ("seg:depth", "B has no task 'depth'"),
        ("seg:persons", "seg and pose cannot be compared"),
    ):
        with pytest.raises(ConfigError, match=f"--task {chosen}: {message}"):
            pair_tasks([seg, persons], [persons, parts], [chosen])
    with pytest.raises(ConfigError, match="A has seg, B has parts \\(seg\\); --task A_COLUMN:B_COLUMN"):
        pair_tasks([seg], [parts])
