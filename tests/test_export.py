"""Exports: no two images ever share a file."""

from __future__ import annotations

from collections import Counter

from hypothesis import example, given
from hypothesis import strategies as st

from sapiens_ray.export.lite import _file_name, _stem

PARTS = st.sampled_from(
    ["a", "a.jpg", "a.png", "a.jpg.webp", "a_seg.jpg", "a_seg", "a-2", "a.jpg-2", "b/a.jpg", "a.jpg/b"]
)


@given(st.lists(PARTS, max_size=9))
@example(["a.jpg", "a.png", "a.jpg.webp"])
@example(["a.jpg", "a_seg.jpg"])
def test_no_two_images_share_a_file(ids):
    wanted = Counter(map(_stem, ids))
    used: set[str] = set()
    written: list[str] = []
    for image_id in ids:
        name, _ = _file_name(image_id, wanted, used)
        written += [f"{name}.npy", f"{name}_seg.npy"]
    assert len(set(written)) == len(written)


def test_names_that_are_free_are_the_stems():
    used: set[str] = set()
    wanted = Counter(map(_stem, ["x/a.jpg", "y/a.jpg", "b.c.png"]))
    assert [_file_name(name, wanted, used)[0] for name in ("x/a.jpg", "y/a.jpg", "b.c.png")] == ["x/a", "y/a", "b.c"]
