"""The foreground split by persons, against a plain reference in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sapiens_ray.tasks.instances import areas, split

LINKS = [(0, 1), (1, 2), (1, 3)]
ROUNDING = 1.5  # cells: a drawn line is up to 0.71 from the line that is meant, for each of two persons
Person = dict[str, Any]


def reference(foreground: np.ndarray, persons: Sequence[Person]) -> tuple[np.ndarray, np.ndarray]:
    """The person of each pixel by the definition, and by how much it is nearer than the next one in the same kind of
    box."""
    height, width = foreground.shape
    y, x = np.mgrid[:height, :width].astype(np.float64)
    distances = np.full((len(persons), height, width), np.inf)
    tiers = np.full(distances.shape, 3)
    for number, person in enumerate(persons):
        x1, y1, x2, y2 = map(float, person["box"])
        across, down = 0.125 * (x2 - x1), 0.125 * (y2 - y1)
        grown = x1 - across, y1 - down, x2 + across, y2 + down
        for tier, (left, top, right, bottom) in ((2, grown), (1, (x1, y1, x2, y2))):
            inside = (x + 0.5 >= left) & (x + 0.5 <= right) & (y + 0.5 >= top) & (y + 0.5 <= bottom)
            tiers[number][inside] = tier
        seen = [
            score >= 0.3 and grown[0] <= place[0] <= grown[2] and grown[1] <= place[1] <= grown[3]
            for place, score in zip(person["keypoints"], person["scores"], strict=True)
        ]
        lines = [(place, place) for place, good in zip(person["keypoints"], seen, strict=True) if good]
        lines += [(person["keypoints"][a], person["keypoints"][b]) for a, b in LINKS if seen[a] and seen[b]]
        for start, end in lines:
            distances[number] = np.minimum(distances[number], to_line(x, y, start, end))
        if not lines:
            distances[number] = np.hypot(x - (x1 + x2) / 2, y - (y1 + y2) / 2)
    cost = np.where(tiers < 3, tiers * 1e6 + distances, np.inf)
    owners = np.where(foreground & np.isfinite(cost.min(0)), cost.argmin(0) + 1, 0)
    ordered = np.sort(np.concatenate([cost, np.full((1, height, width), 1e9)]), 0)
    with np.errstate(invalid="ignore"):
        margin = np.where(np.isfinite(ordered[0]), ordered[1] - ordered[0], np.inf)
    return owners, np.nan_to_num(margin, nan=np.inf)


def to_line(x: np.ndarray, y: np.ndarray, start: Sequence[float], end: Sequence[float]) -> np.ndarray:
    """The distance of points from the line between two others."""
    along, across = end[0] - start[0], end[1] - start[1]
    length = along**2 + across**2
    share = np.clip(((x - start[0]) * along + (y - start[1]) * across) / length, 0, 1) if length else 0.0
    return np.hypot(x - start[0] - share * along, y - start[1] - share * across)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, list[Person]]:
    """A foreground, and persons whose keypoints are inside of their boxes, but not all inside of the photo."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    foreground = random.random((height, width)) < draw(st.sampled_from([0.05, 0.7, 1.0]))
    persons = []
    for _ in range(draw(st.integers(1, 4))):
        x, y = draw(st.integers(-10, 35)), draw(st.integers(-10, 35))
        across, down = draw(st.integers(8, 40)), draw(st.integers(8, 40))
        points = np.column_stack([random.integers(x, x + across + 1, 4), random.integers(y, y + down + 1, 4)])
        inside = ((points >= 0) & (points < (width, height))).all(1)  # elsewhere the line in the photo is another one
        scores = np.where(inside & (random.random(4) < 0.8), 0.9, 0.1)
        persons.append({"box": [x, y, x + across, y + down], "keypoints": points.tolist(), "scores": scores.tolist()})
    return foreground, persons


def person(box: Sequence[float], *points: Sequence[float], score: float = 0.9) -> Person:
    places = [*points, *[(0.0, 0.0)] * (4 - len(points))]
    scores = [score] * len(points) + [0.0] * (4 - len(points))
    return {"box": box, "keypoints": places, "scores": scores}


@given(scenes())
@example((np.ones((5, 5), bool), [person([0, 0, 5, 5], (1, 1)), person([0, 0, 5, 5], (1, 1))]))
def test_the_nearest_skeleton_of_the_reference_has_the_pixel(scene):
    foreground, persons = scene
    found = split(foreground, persons, LINKS)
    assert found.shape == foreground.shape and found.dtype == np.uint8
    centred = [one for one in persons if max(one["scores"]) < 0.3]  # the centre is rounded, or moved into the photo
    owners, margin = reference(foreground, persons)
    sure = margin > ROUNDING + 60 * bool(centred)
    assert np.array_equal(found[sure], owners[sure])
    assert not found[~foreground].any()
    assert np.array_equal(found > 0, owners > 0), "somebody has every pixel in a grown box, and nobody the others"
    assert areas(found, len(persons)) == [int((found == number + 1).sum()) for number in range(len(persons))]


@given(scenes(), st.permutations(range(4)))
def test_the_order_of_keypoints_does_not_matter(scene, order):
    foreground, persons = scene
    place = {old: new for new, old in enumerate(order)}
    moved = [
        {**one, "keypoints": [one["keypoints"][old] for old in order], "scores": [one["scores"][old] for old in order]}
        for one in persons
    ]
    links = [(place[start], place[end]) for start, end in reversed(LINKS)]
    assert np.array_equal(split(foreground, persons, LINKS), split(foreground, moved, links))


def test_boxes_come_before_distances():
    """Between two skeletons: in one box, in the other, in both, in none, and only in a grown one."""
    foreground = np.ones((1, 60), bool)
    left, right = person([0, -5, 30, 5], (5, 0)), person([20, -5, 40, 5], (38, 0))
    found = split(foreground, [left, right], LINKS)[0].tolist()
    # 21.5 is the middle of 5 and 38. The right box ends at 40, grown at 42.5, which is the middle of pixel 42.
    assert found == [1] * 22 + [2] * 21 + [0] * 17


def test_a_person_without_a_visible_keypoint_stands_in_the_middle_of_its_box():
    foreground = np.ones((1, 40), bool)
    found = split(foreground, [person([0, -2, 40, 3], (10, 0), score=0.2), person([0, -2, 40, 3], (39, 0))], LINKS)
    assert np.flatnonzero(found[0] == 2).tolist() == list(range(30, 40)), "the middle is 20, and 30 lies between"


def test_a_keypoint_far_outside_of_its_box_does_not_count():
    foreground = np.ones((10, 100), bool)
    wrong = person([0, 0, 50, 10], (20, 5), (90, 5))
    found = split(foreground, [wrong, person([40, 0, 100, 10], (60, 5))], LINKS)
    assert (found[:, 41:] == 2).all() and (found[:, :39] == 1).all()


def test_a_large_photo_is_split_on_a_coarser_grid():
    """3 x 3 pixels per cell; the edge of the foreground stays exact."""
    random = np.random.default_rng(0)
    foreground = random.random((2100, 64)) < 0.9
    persons = [
        person([0, 0, 64, 1200], (10, 40), (30, 400), (20, 900)), person([0, 700, 64, 2100], (50, 800), (40, 1900)),
        person([20, 300, 64, 1500], (60, 310), (61, 900)),
    ]  # fmt: skip
    found = split(foreground, persons, LINKS)
    owners, margin = reference(foreground, persons)
    assert not found[~foreground].any()
    near_an_edge = np.zeros(foreground.shape, bool)
    for x1, y1, x2, y2 in (one["box"] for one in persons):
        for grown in (0, 0.125):
            for column in (x1 - grown * (x2 - x1), x2 + grown * (x2 - x1)):
                near_an_edge[:, max(0, int(column) - 4) : max(0, int(column) + 4)] = True
            for row in (y1 - grown * (y2 - y1), y2 + grown * (y2 - y1)):
                near_an_edge[max(0, int(row) - 4) : max(0, int(row) + 4)] = True
    sure = (margin > 3 * ROUNDING + 3) & ~near_an_edge
    assert sure.mean() > 0.3 and np.array_equal(found[sure], owners[sure])
    assert set(np.unique(found)) == {0, 1, 2, 3}


def test_more_persons_than_fit_into_a_byte():
    foreground = np.ones((4, 600), bool)
    persons = [person([2 * number, 0, 2 * number + 2, 4], (2 * number, 1)) for number in range(300)]
    found = split(foreground, persons, LINKS)
    assert found.dtype == np.uint16 and areas(found, 300) == [8] * 300
    assert found[0, 598] == 300


@pytest.mark.parametrize("box", [[500, 500, 600, 600], [10, 10, 10, 10], [-1e6, -1e6, -5e5, 1e6]])
def test_a_box_outside_of_the_photo_or_without_size_has_no_pixel(box):
    foreground = np.ones((30, 30), bool)
    found = split(foreground, [person(box, (15, 15)), person([0, 0, 30, 30], (20, 20))], LINKS)
    assert areas(found, 2) == [0, 900]
    assert areas(split(foreground, [], LINKS), 0) == [] and not split(foreground, [], LINKS).any()
