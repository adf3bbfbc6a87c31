"""The tables of classes and keypoints: consistent in themselves, and with each other."""

from __future__ import annotations

import re

import pytest

from sapiens_ray.labels import body_parts, keypoints

COUNTS = (17, 133, 308)


def test_the_class_table_is_consistent():
    table = body_parts()
    assert len(table.names) == len(set(table.names)) == len(table.colours) == 28
    assert len(set(table.colours)) == 28
    assert table.names[0] == "Background"
    for left, right in table.swap_pairs:
        assert table.names[left].replace("Left_", "Right_") == table.names[right]
    sided = [name for name in table.names if name.startswith(("Left_", "Right_"))]
    assert len(sided) == 2 * len(table.swap_pairs)


@pytest.mark.parametrize("count", COUNTS)
def test_keypoint_tables_are_consistent(count):
    table = keypoints(count)
    columns = (table.names, table.colours, table.swap, table.groups, table.sigmas)
    assert {len(column) for column in columns} == {count}
    assert len(set(table.names)) == count
    assert all(0 <= value <= 255 for colour in (*table.colours, *table.link_colours) for value in colour)
    assert all(0 < sigma < 0.2 for sigma in table.sigmas)
    assert len(table.links) == len(table.link_colours) == len({frozenset(link) for link in table.links})
    for start, end in table.links:
        assert start != end and 0 <= start < count and 0 <= end < count
    assert set(table.groups) <= {"body", "feet", "face", "left_hand", "right_hand", "extra"}


@pytest.mark.parametrize("count", COUNTS)
def test_mirror_partners_are_left_and_right_of_the_same_point(count):
    table = keypoints(count)
    for number, partner in enumerate(table.swap):
        assert table.swap[partner] == number, table.names[number]
    sides = {"left": "right", "right": "left", "l": "r", "r": "l"}
    for number, name in enumerate(table.names):
        mirrored = "_".join(sides.get(part, part) for part in name.split("_"))
        partner = table.names[table.swap[number]]
        if mirrored != name and count < 308:
            assert partner == mirrored, name
        else:  # points of a face are numbered around it, those of an iris as on a clock, where 3 and 9 are partners
            assert re.sub(r"\d", "", partner) == re.sub(r"\d", "", mirrored), name
    hands = {"left_hand": "right_hand", "right_hand": "left_hand"}
    for number, group in enumerate(table.groups):
        assert table.groups[table.swap[number]] == hands.get(group, group)


def test_the_body_is_the_same_in_all_tables():
    coco, whole, goliath = map(keypoints, COUNTS)
    assert whole.names[:17] == coco.names and whole.swap[:17] == coco.swap
    assert set(coco.names) <= set(goliath.names)
    assert set(whole.names[17:23]) <= set(goliath.names), "feet"
