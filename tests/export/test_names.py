"""Exports: two images never share a file."""

from __future__ import annotations

import tracemalloc

from hypothesis import example, given
from hypothesis import strategies as st

from sapiens_ray.export.filenames import Names

PARTS = st.sampled_from(
    [
        "a",
        "a.jpg",
        "a.png",
        "a.jpg.webp",
        "a_seg.jpg",
        "a_seg",
        "a-2",
        "a.jpg-2",
        "b/a.jpg",
        "a.jpg/b",
        "a.png/b",
        "a.png_/b",
    ]
)


@given(st.lists(PARTS, max_size=9), st.lists(PARTS, max_size=4))
@example(["a.jpg", "a.png", "a.jpg.webp"], [])
@example(["a.jpg", "a_seg.jpg"], [])
@example(["a.jpg"], ["a.png", "a_seg.jpg"])
def test_no_two_images_share_a_file(ids, later):
    """later: a run wrote them while names were given."""
    names = Names(ids)
    ids = [*ids, *(one for one in later if one not in ids)]
    written: list[str] = []
    for image_id in ids:
        name, _ = names.of(image_id)
        written += [f"{name}.npy", f"{name}_seg.npy"]
    assert len(set(written)) == len(written)
    folders = {name[:end] for name in written for end, sign in enumerate(name) if sign == "/"}
    endings = (".png", ".jpg", ".npy")
    assert folders.isdisjoint(name.removesuffix(".npy") + ending for name in written for ending in endings)


def test_unique_stems_are_used_as_names():
    ids = ["x/a.jpg", "y/a.jpg", "b.c.png"]
    names = Names(ids)
    assert [names.of(image_id) for image_id in ids] == [("x/a", False), ("y/a", False), ("b.c", False)]


def test_only_names_with_rivals_get_other_names():
    ids = ["a", "a.jpg", "a_seg.jpg", "b.jpg", "b_seg.jpg", "c.png/d.jpg"]
    names = Names(ids)
    assert [names.of(image_id)[0] for image_id in ids] == ["a-2", "a.jpg", "a_seg", "b", "b_seg.jpg", "c.png_/d"]


def test_names_without_rivals_take_little_memory():
    """Three hashes of 8 bytes, whatever the length of the name."""
    ids = [f"{'folder/' * 9}{number:09d}.jpg" for number in range(20_000)]
    tracemalloc.start()
    try:
        names = Names(ids)
        for image_id in ids:
            names.of(image_id)
        assert tracemalloc.get_traced_memory()[0] < 40 * len(ids)
    finally:
        tracemalloc.stop()
