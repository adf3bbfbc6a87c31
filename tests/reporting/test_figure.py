from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest

from sapiens_ray.labels import keypoints
from sapiens_ray.reporting.figure import draw_figure, places


@pytest.mark.parametrize("count", [17, 133, 308])
def test_every_keypoint_has_a_place_of_its_own(count):
    table = keypoints(count)
    found = places(table.names)
    assert list(found) == list(range(count))
    assert all(0 <= x <= 310 and 0 <= y <= 220 for x, y in found.values())
    assert len({(round(x, 2), round(y, 2)) for x, y in found.values()}) == count


@pytest.mark.parametrize("count", [17, 133, 308])
def test_left_and_right_are_mirrored_and_the_right_is_on_the_left(count):
    table = keypoints(count)
    found = places(table.names)
    for number, (name, other) in enumerate(zip(table.names, table.swap, strict=True)):
        if other == number or not name.startswith(("left_", "l_")):
            continue
        assert found[number][0] > found[other][0], name
    assert found[table.names.index("left_wrist")][0] + found[table.names.index("right_wrist")][0] == 120


def test_the_figure_has_a_title_per_point_and_escapes_names():
    svg = draw_figure(["nose", "left_eye", "<script>"], [[0, 1], [0, 2]], [0.25, None, 0.5])
    tree = ElementTree.fromstring(svg)
    circles = [part for part in tree if part.tag == "circle"]
    assert [circle[0].text for circle in circles] == ["nose: 0.25"], "without a value or a place, nothing is drawn"
    assert len([part for part in tree if part.tag == "path"]) == 1
    assert not [part for part in tree if part.tag == "text"], "texts would shrink with the drawing"


def test_fingers_end_at_their_tips():
    names = keypoints(133).names
    found = places(names)
    root, base, tip = (found[names.index(f"left_{name}")] for name in ("hand_root", "forefinger1", "forefinger4"))
    assert math.dist(root, tip) > math.dist(root, base)
