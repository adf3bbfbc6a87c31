"""Several URIs that name the same images, and images that are named one by one."""

from __future__ import annotations

import pytest

from sapiens_ray.errors import InputError
from sapiens_ray.job.config import Input
from sapiens_ray.planning.discovery import LeftOut, find_input
from sapiens_ray.sources import Reading


@pytest.fixture
def photos(tmp_path):
    """Four images, one of them hidden, in three folders."""
    for name in ("a.jpg", "sub/b.jpg", "sub/deep/c.png", "sub/.hidden/d.jpg"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"not read here")
    return tmp_path / "photos"


def found_in(folder, *uris, include=()):
    """What URIs below a folder turn out to be: (ids, whether it is a folder) of each."""
    settings = Input(uri=[f"{folder}/{uri}" if uri else str(folder) for uri in uris], include=list(include))
    reading = Reading(include=tuple(include))
    return [
        ([entry.uri.removeprefix(f"{folder}/") for entry in one.entries], one.is_folder, one.last)
        for one in find_input(settings, reading, LeftOut())
    ]


EVERYTHING = ["a.jpg", "sub/b.jpg", "sub/deep/c.png"]


@pytest.mark.parametrize(
    "uris",
    [
        ("", "sub"),
        ("sub", ""),
        ("sub/deep", "", "sub", "sub/deep/c.png"),
        ("a.jpg", "", "*.jpg"),
        ("*.jpg", "sub", ""),
        ("sub/*", "a.jpg", "sub/deep"),
        ("a.jpg", "sub/b.jpg", "sub", "a.jpg"),
    ],
)
def test_images_that_several_uris_name_are_listed_once(photos, uris):
    listed = [uri for entries, _, _ in found_in(photos, *uris) for uri in entries]
    assert sorted(listed) == EVERYTHING


def test_what_one_uri_leaves_out_another_may_name(photos):
    listed = [uri for entries, _, _ in found_in(photos, "", "sub/.hidden") for uri in entries]
    assert sorted(listed) == sorted([*EVERYTHING, "sub/.hidden/d.jpg"])
    listed = [uri for entries, _, _ in found_in(photos, "", "sub/deep", include=["c*"]) for uri in entries]
    assert listed == ["sub/deep/c.png"], "relative to the first folder it is sub/deep/c.png, which does not match"


def test_pictures_of_another_output_may_be_named(photos):
    """The folder around them does not list them."""
    output = photos / "job"
    (output / "visualizations").mkdir(parents=True)
    (output / "visualizations" / "p.jpg").write_bytes(b"")
    for name in ("plan.parquet", "job.yaml"):
        (output / name).write_bytes(b"")
    for uris in (("", "job/visualizations/*.jpg"), ("job/visualizations", "")):
        listed = [uri for entries, _, _ in found_in(photos, *uris) for uri in entries]
        assert sorted(listed) == sorted([*EVERYTHING, "job/visualizations/p.jpg"]), uris


def test_images_that_follow_one_another_are_one_part(photos):
    (photos / "e.jpg").write_bytes(b"")
    assert found_in(photos, "*.jpg") == [(["a.jpg", "e.jpg"], False, True)]
    assert found_in(photos, "*.jpg", "sub/deep", "sub/b.jpg") == [
        (["a.jpg", "e.jpg"], False, False),
        (["sub/deep/c.png"], True, False),
        (["sub/b.jpg"], False, True),
    ]


def test_ids_of_images_that_a_glob_matches_are_those_of_before(photos):
    settings = Input(uri=[f"{photos}/a.jpg", f"{photos}/sub/b.jpg"])
    (found,) = find_input(settings, Reading(), LeftOut())
    assert [entry.image_id for entry in found.entries] == ["a.jpg", "sub/b.jpg"]
    assert found.uri == str(photos)


def test_a_dangling_link_that_a_glob_matches_is_an_image(photos):
    """It gets a row that says so, as in a folder."""
    (photos / "b.jpg").symlink_to("/gone/b.jpg")
    assert found_in(photos, "*.jpg") == [(["a.jpg", "b.jpg"], False, True)]


def test_values_beyond_the_columns_of_a_csv_are_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("path,who\na.jpg,Smith, Ann\n")
    with pytest.raises(InputError, match=r"line 2: 3 values, but the first line names 2 columns; put values"):
        found_in(tmp_path, "rows.csv")


def test_names_in_braces_are_names(tmp_path):
    (tmp_path / "list.txt").write_text("{0F3A-11}.jpg\n")
    assert found_in(tmp_path, "list.txt") == [(["{0F3A-11}.jpg"], False, True)]


def test_json_is_no_list(tmp_path):
    (tmp_path / "coco.json").write_text('{"images": []}')
    with pytest.raises(InputError, match=r"coco\.json is a JSON file; a list of images is one JSON object per line"):
        found_in(tmp_path, "coco.json")
    settings = Input(uri=[str(tmp_path / "coco.json")], format="list")
    with pytest.raises(InputError, match=r"line 1: holds JSON where a path should be"):
        [list(found.entries) for found in find_input(settings, Reading(), LeftOut())]
