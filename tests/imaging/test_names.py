from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sapiens_ray.imaging import names

PARTS = st.one_of(
    st.sampled_from(["..", ".", "", "a", "b.jpg", "b.JPG", "b.png", "b.png.jpg", "con", "x" * 300, "\0", "\n", "é"]),
    st.sampled_from([".jpg", ".png", "\ud800", "x.parquet", "00000012", "00000012.jpg", "a-0123456789abcdef"]),
    st.text("ab.jpg-_", max_size=12),
    st.text(max_size=40),
)
IDS = st.lists(PARTS, max_size=4).map("/".join)
SUFFIXES = st.sampled_from(["jpg", "png"])


@st.composite
def related(draw) -> set[str]:
    """Ids, and ids that are made from their pictures' names: what an adversary would choose."""
    ids = draw(st.sets(IDS, min_size=1, max_size=4))
    for _ in range(draw(st.integers(0, 6))):
        one = draw(st.sampled_from(sorted(ids)))
        name = names.picture_name(one, draw(SUFFIXES))
        changed = [one + ".jpg", one + ".png", one + ".png.jpg", one.removesuffix(".jpg"), one + "_", "./" + one]
        changed += [name, name.removesuffix(".jpg"), name + ".jpg", name + "/a.jpg"]
        ids.add(draw(st.sampled_from(changed)))
    return ids


@settings(max_examples=1500, deadline=None)
@example({"photo", "photo.jpg", "photo.png", "photo.png.jpg", "photo.jpg.jpg"}, "jpg")
@example({"photo", names.picture_name("photo", "jpg")}, "jpg")
@given(related(), SUFFIXES)
def test_pictures_have_names_of_their_own_inside_the_folder(ids, suffix):
    found = {one: names.picture_name(one, suffix) for one in ids}
    assert len(set(found.values())) == len(ids), found
    folders = {name[: match.start()] for name in found.values() for match in re.finditer("/", name)}
    assert not folders & set(found.values()), "no picture has the name of a folder"
    for name in found.values():
        parts = name.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert all(len(part.encode()) <= 255 for part in parts)
        assert not any(ord(char) < 32 for char in name)
        assert name.lower().endswith(f".{suffix}")


@pytest.mark.parametrize(
    ("image_id", "jpg", "png"),
    [
        ("photo.jpg", "photo.jpg", "photo.jpg.png"),
        ("a/IMG_1.JPG", "a/IMG_1.JPG", "a/IMG_1.JPG.png"),
        ("photo.png", "photo.png.jpg", "photo.png"),
        ("photo.jpeg", "photo.jpeg.jpg", "photo.jpeg.png"),
        ("photo.jpg.jpg", "photo.jpg.jpg", "photo.jpg.jpg.png"),
        ("x.parquet/00000012", "x.parquet/00000012.jpg", "x.parquet/00000012.png"),
        ("x.parquet/00000012/a.jpg", "x.parquet/00000012/a.jpg", "x.parquet/00000012/a.jpg.png"),
        ("s.tar/a.webp", "s.tar/a.webp.jpg", "s.tar/a.webp.png"),
    ],
)
def test_names_that_cannot_collide_are_those_of_the_images(image_id, jpg, png):
    assert names.picture_name(image_id, "jpg") == jpg
    assert names.picture_name(image_id, "png") == png


@pytest.mark.parametrize(
    ("image_id", "start"),
    [
        ("photo", "photo"),
        ("photo.png.jpg", "photo.png"),
        ("x.parquet/00000012.jpg", "x.parquet/00000012"),
        ("folder.jpg/inside.jpg", "folder.jpg_/inside"),
        ("folder.JPG/inside.jpg", "folder.JPG_/inside"),
        ("a-0123456789abcdef.jpg", "a-0123456789abcdef"),
        ("../a.jpg", "__/a"),
        (".jpg", "_"),
        ("", "_"),
    ],
)
def test_other_names_have_a_hash(image_id, start):
    assert re.fullmatch(re.escape(start) + r"-[0-9a-f]{16}\.jpg", names.picture_name(image_id, "jpg"))


def test_a_place_tells_pictures_of_the_same_id_apart():
    assert names.picture_name("photo.jpg", "jpg", "3-12") == "photo-3-12.jpg"
    assert names.picture_name("photo", "jpg", "3-12") == "photo-3-12.jpg"
    assert names.picture_name("a/photo.png", "jpg", "3-12") == "a/photo.png-3-12.jpg"
    assert re.fullmatch(r"__/a-[0-9a-f]{16}-3-12\.jpg", names.picture_name("../a.jpg", "jpg", "3-12"))


@pytest.mark.parametrize("image_id", ["q" * 700 + "/" + ".." + "z" * 398, "/".join(["x" * 100] * 20), "é" * 2000])
def test_names_that_are_too_long_stay_inside_the_folder(image_id):
    parts = names.picture_name(image_id, "jpg").split("/")
    assert ".." not in parts and all(0 < len(part.encode()) <= 255 for part in parts)


@pytest.mark.parametrize(
    ("image_id", "files"),
    [
        ("a/photo.jpg", ("a/photo", "a/photo.jpg")),
        ("photo", ("photo", "photo")),
        ("photo.png.jpg", ("photo.png", "photo.png.jpg")),
        ("f.jpg/b.jpg", ("f.jpg/b", "f.jpg/b.jpg")),
        ("../a.jpg", ("__/a", "__/a.jpg-07e56015ee377e14")),
        ("f.x/b.jpg", ("f.x_/b", "f.x_/b.jpg-c247fd342047b3f1")),
    ],
)
def test_the_names_of_exports_and_masks_are_unchanged(image_id, files):
    """As of commit d83a965: masks of users lie under these names."""
    assert names.file_names(image_id) == files


def test_the_choice_by_hash_is_even_and_stable():
    chosen = [names.hash_fraction(f"photo-{number}") < 0.25 for number in range(4000)]
    assert 0.22 < np.mean(chosen) < 0.28
    assert names.hash_fraction("a") == names.hash_fraction("a") != names.hash_fraction("b")
