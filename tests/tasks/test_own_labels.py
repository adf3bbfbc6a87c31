"""Classes and keypoints of a user's own: what descriptions are refused, and what comes of those that are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapiens_ray.errors import CheckpointError, ConfigError
from sapiens_ray.job.config import Job
from sapiens_ray.labels import body_parts, keypoints
from sapiens_ray.labels.palette import BACKGROUND, distinct_colours
from sapiens_ray.tasks import skeleton
from sapiens_ray.tasks.own_labels import OwnClasses, OwnKeypoints
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.tasks.seg import Seg, SegOptions, SegResult, id_type
from sapiens_ray.tasks.stored import StoredClassMap, StoredPersons, about_classes, about_keypoints


def refused(**task: object) -> str:
    """What is said of a job with this task."""
    with pytest.raises(ConfigError) as caught:
        Job.parse({"input": {"uri": "x"}, "output": {"uri": "y"}, "tasks": [{"checkpoint": "c", **task}]})
    return str(caught.value)


AB = {"names": ["a", "b"]}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "tasks[0].classes.names: the list is empty"),
        (["a"], "tasks[0].classes.names: a class map has 2 classes (the background and one more) to 255, not 1"),
        ([f"c{n}" for n in range(256)], "to 255, not 256: it has 8 bits"),
        (["a", "a"], "tasks[0].classes.names[1]: 'a' is the name of entry 0, too"),
        (["a", " "], "tasks[0].classes.names[1]: is empty"),
        (["a", False], "tasks[0].classes.names[1]: False is not text; write it in quotes"),
        (["a", None], "tasks[0].classes.names[1]: None is not text"),
        (["a", "b\nc"], "tasks[0].classes.names[1]: 'b\\nc' is not one line"),
        (["a", "x" * 101], "is not one line of at most 100 letters"),
        ({"names": "a, b"}, "tasks[0].classes.names: should be a list of names, such as [background, hat]"),
        ({"colours": []}, "tasks[0].classes.names: is missing"),
        ({**AB, "colors": []}, "tasks[0].classes.colors: unknown key; did you mean 'colours'?"),
        (
            {**AB, "links": []},
            "classes.links: unknown key; known keys: names, colours, flip_pairs, background",
        ),
        ({**AB, "colours": ["#ff0000"]}, "tasks[0].classes.colours: there are 1 colours for 2 names"),
        ({**AB, "colours": [None, None]}, "tasks[0].classes.colours[0]: has no value; write colours in quotes"),
        ({**AB, "colours": ["#ff0000", "red"]}, "tasks[0].classes.colours[1]: 'red' is no colour; write '#ff8000'"),
        ({**AB, "colours": ["#ff0000", [1, 2, 256]]}, "tasks[0].classes.colours[1]: '[1, 2, 256]' is no colour"),
        ({**AB, "flip_pairs": [["a", "c"]]}, "tasks[0].classes.flip_pairs[0]: 'c' is not one of the names"),
        ({**AB, "flip_pairs": [["a", 2]]}, "[0]: 2 is neither a name nor a number from 0 to 1"),
        ({**AB, "flip_pairs": [["a", True]]}, "[0]: True is neither a name nor a number"),
        ({**AB, "flip_pairs": [["a", "a"]]}, "tasks[0].classes.flip_pairs[0]: 'a' is paired with itself"),
        ({**AB, "flip_pairs": ["ab"]}, "tasks[0].classes.flip_pairs[0]: should be a pair of names"),
        ({**AB, "flip_pairs": [["a", "b"], ["b", "a"]]}, "flip_pairs[0]: 'a' is in two pairs"),
        ({**AB, "background": "sky"}, "tasks[0].classes.background: 'sky' is not one of the names"),
        ({**AB, "background": None}, "tasks[0].classes.background: has no value"),
        (5, "tasks[0].classes: should be a YAML file, a list of names, or a mapping with `names`"),
    ],
)
def test_wrong_classes_are_one_line(classes, message):
    said = refused(task="seg", classes=classes)
    assert message in said and "\n" not in said, said


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (18, "tasks[0].keypoints: should be 17, 133 or 308, or describe keypoints of your own"),
        (True, "tasks[0].keypoints: should be 17, 133 or 308"),
        ({**AB, "skeleton": []}, "keypoints.skeleton: unknown key; known keys: names, colours, flip_pairs, links, sig"),
        ({**AB, "links": [["a", "b", "a"]]}, "tasks[0].keypoints.links[0]: has 3 entries; a pair has two"),
        ({"names": ["nose", "tail"], "links": [["nsoe", "tail"]]}, "links[0]: 'nsoe' is not one of the names; did you "
                                                                  "mean 'nose'?"),
        ({**AB, "sigmas": [0.1]}, "tasks[0].keypoints.sigmas: there are 1 sigmas for 2 names"),
        ({**AB, "sigmas": [0.1, 3]}, "tasks[0].keypoints.sigmas[1]: 3 is not above 0 and at most 1"),
        ({**AB, "sigmas": 0}, "tasks[0].keypoints.sigmas: 0 is not above 0"),
        ({**AB, "sigmas": [0.1, float("nan")]}, "sigmas[1]: nan is not above 0"),
        ({**AB, "groups": ["face"]}, "tasks[0].keypoints.groups: should be a mapping"),
        ({**AB, "groups": {"hand": ["a"]}}, "'hand' is not one of body, feet, face, left_hand, right_hand, extra; did"),
        ({**AB, "groups": {"face": ["c"]}}, "tasks[0].keypoints.groups: face: 'c' is not one of the names"),
        ({**AB, "groups": {"face": ["a"], "feet": [0]}}, "tasks[0].keypoints.groups: 'a' is there twice"),
    ],
)  # fmt: skip
def test_wrong_keypoints_are_one_line(points, message):
    said = refused(task="pose", keypoints=points)
    assert message in said and "\n" not in said, said


def test_a_flip_test_needs_pairs():
    said = refused(task="pose", keypoints=["left_ear", "right_ear"], flip_test=True)
    assert "tasks[0].flip_test: the keypoints need `flip_pairs`" in said
    for pairs in ([], [[0, 1]]):
        Job.parse({
            "input": {"uri": "x"}, "output": {"uri": "y"},
            "tasks": [{"task": "pose", "checkpoint": "c", "keypoints": {**AB, "flip_pairs": pairs}, "flip_test": True}],
        })  # fmt: skip


names = st.lists(st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8), min_size=2, unique=True)


@settings(max_examples=30)
@given(names.filter(lambda found: "://" not in "".join(found)), st.data())
def test_a_description_survives_its_own_spelling(found, data):
    """What is kept of a description, in numbers, means the same when it is read again, and so do names."""
    ids = st.integers(0, len(found) - 1)
    pairs = data.draw(st.lists(st.tuples(ids, ids).filter(lambda pair: pair[0] != pair[1]), max_size=5))
    shuffled = data.draw(st.permutations(range(len(found))))
    partners = [shuffled[:2]]
    groups = {"face": shuffled[:1], "left_hand": shuffled[1:2]}
    by_number = OwnKeypoints.model_validate(
        {"names": found, "links": pairs, "flip_pairs": partners, "groups": groups, "sigmas": 0.1}
    )
    by_name = OwnKeypoints.model_validate({
        "names": found, "sigmas": [0.1] * len(found),
        "links": [[found[one], found[other]] for one, other in pairs],
        "flip_pairs": [[found[number] for number in reversed(pair)] for pair in partners],
        "groups": {group: [found[number] for number in members] for group, members in groups.items()},
    })  # fmt: skip
    assert by_name == by_number == OwnKeypoints.model_validate(by_number.model_dump(mode="json"))
    assert by_name.result_settings() == by_number.result_settings()
    table = by_name.table
    assert table.links == tuple(pairs) and set(table.sigmas) == {0.1}
    one, other = partners[0]
    assert table.swap[one] == other and [table.swap[table.swap[k]] for k in range(len(found))] == [*range(len(found))]
    assert StoredPersons("p", {"task": "pose", **about_keypoints(table)}).table == table


def test_default_colours_are_distinct_and_always_the_same():
    found = distinct_colours(254)
    assert len({BACKGROUND, *found}) == 255
    assert found[:5] == distinct_colours(5)
    few = np.array([BACKGROUND, *distinct_colours(8)], float)
    apart = np.linalg.norm(few[:, None] - few[None], axis=-1) + 999 * np.eye(9)
    assert apart.min() > 80, "of 441, the way from black to white"
    table = OwnClasses(names=("a", "b", "c"), background=1).table
    assert table.colours[1] == BACKGROUND and table.colours[0] == found[0] and table.colours[2] == found[1]


def test_metadata_of_published_tables_is_as_it_was():
    assert set(about_classes(body_parts())) == {"class_names", "class_colours_rgb"}
    stored = StoredClassMap("seg", {"task": "seg", **about_classes(body_parts())})
    assert stored.background == 0 and len(stored.class_swap_pairs) == len(body_parts().swap_pairs)
    for count in (17, 133, 308):
        about = about_keypoints(keypoints(count))
        assert set(about) == {"keypoint_names", "keypoint_links", "keypoint_swap"}
        assert StoredPersons("persons", {"task": "pose", **about}).table == keypoints(count)


def seg(classes: object) -> Seg:
    return Seg(SegOptions.model_validate({"task": "seg", "checkpoint": "x", "classes": classes}))


def test_one_channel_is_the_logit_of_the_second_class():
    """Against the sigmoid of resized logits in float64."""
    logits = torch.randn(2, 1, 8, 6, generator=torch.Generator().manual_seed(0)) * 2
    task = seg(["background", "cat"])
    results = task.reduce(task.check_output(logits, 2), [(25, 40), (6, 8)])
    for z, found, size in zip(logits, results, [(40, 25), (8, 6)], strict=True):
        full = torch.nn.functional.interpolate(z[None].double(), size, mode="bilinear", align_corners=False)[0, 0]
        sure = (full.abs() > 1e-5).numpy()
        assert found.class_map.shape == size
        assert ((found.class_map == 1) == (full.sigmoid() > 0.5).numpy())[sure].all()
        p = z[0].double().sigmoid().numpy()
        assert np.abs(found.probability - np.maximum(p, 1 - p)).max() < 1e-6
        row = task.finish([found], {})
        assert row["seg_confidence"] == pytest.approx(p[p > 0.5].mean(), abs=1e-6)


def test_two_channels_are_an_arg_max():
    logits = torch.randn(1, 2, 8, 6, generator=torch.Generator().manual_seed(1))
    task = seg(["background", "cat"])
    (found,) = task.reduce(task.check_output(logits, 1), [(6, 8)])
    assert np.array_equal(found.class_map, logits[0].argmax(0).numpy())
    assert np.abs(found.probability - logits[0].double().softmax(0).amax(0).numpy()).max() < 1e-6


@pytest.mark.parametrize(("names", "channels"), [("abc", 1), ("abc", 2), ("ab", 3), (None, 5)])
def test_another_number_of_channels_is_refused(names, channels):
    task = seg(names and list(names))
    with pytest.raises(CheckpointError, match=rf"returns 1 x {channels} x 4 x 4 .*should `classes:` describe what it"):
        task.check_output(torch.zeros(1, channels, 4, 4), 1)


def test_the_background_may_be_any_class():
    task = seg({"names": ["hat", "sky", "coat"], "background": "sky"})
    classes = np.array([[1, 1, 0, 2], [1, 1, 0, 0]], np.uint8)
    probability = np.array([[0.5, 0.5, 0.6, 0.7], [0.5, 0.5, 0.8, 1.0]], np.float32)
    row = task.finish([SegResult(classes, classes, probability)], {})
    assert row["seg_confidence"] == pytest.approx((0.6 + 0.7 + 0.8 + 1.0) / 4)
    assert row["seg_confidence_p05"] == pytest.approx(np.quantile([0.6, 0.7, 0.8, 1.0], 0.05))
    stored = StoredClassMap("seg", {"task": "seg", **task.metadata})
    assert stored.background == 1 and np.array_equal(stored.foreground(row), classes != 1)
    photo = np.full((2, 4, 3), 90, np.uint8)
    drawn = task.draw(photo, row, Visualize(style="lite", opacity=1))
    assert np.array_equal(drawn[:, 4:, ::-1], np.array(task.options.table.colours, np.uint8)[classes])


@pytest.mark.parametrize(("count", "kind"), [(28, "int8"), (128, "int8"), (129, "int16"), (255, "int16")])
def test_ids_of_many_classes_have_room(count, kind):
    assert str(id_type(count)) == kind
    task = seg([f"c{number}" for number in range(count)])
    assert str(task.fields[1].type.value_type) == kind
    logits = torch.zeros(1, count, 4, 4)
    logits[0, count - 1] = 1
    (found,) = task.reduce(task.check_output(logits, 1), [(9, 9)])
    assert (found.class_map == count - 1).all()
    assert task.finish([found], {})["seg_classes"] == [count - 1]


def test_the_flip_test_swaps_the_pairs_of_the_job():
    from sapiens_ray.tasks.pose import Pose, PoseOptions

    own = {"names": ["tip", "left", "right"], "flip_pairs": [["left", "right"]]}
    task = Pose(PoseOptions.model_validate({"task": "pose", "checkpoint": "x", "keypoints": own, "flip_test": True}))
    there = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    back = there.flip(-1)[:, [0, 2, 1]]
    assert torch.equal(task.flip_average(there, back, 1), there)


def test_own_keypoints_are_drawn_in_their_colours():
    own = OwnKeypoints.model_validate(
        {"names": ["nose", "paw"], "links": [["nose", "paw"]], "colours": ["#ff0000", "#00ff00"]}
    )
    look = skeleton.look_of(own.table)
    assert (look.points, look.links, look.thin) == (("nose", "paw"), ("paw",), (False,))
    assert look.bgr("paw") == (0, 255, 0)
    hand = OwnKeypoints.model_validate({"names": ["a", "b"], "links": [[0, 1]], "groups": {"left_hand": ["a", "b"]}})
    assert skeleton.look_of(hand.table).thin == (True,)
