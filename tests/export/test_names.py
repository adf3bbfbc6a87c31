"""Exports: two images never share a file."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from sapiens_ray.export.base import Names

PARTS = st.sampled_from(
    ["a", "a.jpg", "a.png", "a.jpg.webp", "a_seg.jpg", "a_seg", "a-2", "a.jpg-2", "b/a.jpg", "a.jpg/b"]
)


@given(st.lists(PARTS, max_size=9))
@example(["a.jpg", "a.png", "a.jpg.webp"])
@example(["a.jpg", "a_seg.jpg"])
def test_no_two_images_share_a_file(ids):
    names = Names(ids)
    written: list[str] = []
    for image_id in ids:
        name, _ = names.of(image_id)
        written += [f"{name}.npy", f"{name}_seg.npy"]
    assert len(set(written)) == len(written)


def test_unique_stems_are_used_as_names():
    ids = ["x/a.jpg", "y/a.jpg", "b.c.png"]
    names = Names(ids)
    assert [names.of(image_id) for image_id in ids] == [("x/a", False), ("y/a", False), ("b.c", False)]
