"""`preview`: a few images of a job, looked at without Ray and without touching its output."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

import sapiens_ray as sr
from sapiens_ray.execution.preview import preview
from tests.conftest import photo, write_photos

NO_RAY = {**os.environ, "RAY_ADDRESS": "ray://127.0.0.1:1"}  # a command that used Ray would fail


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pictures_in(folder: Path) -> list[Path]:
    return [path for path in (folder / "pictures").rglob("*") if path.is_file()]


def test_a_sample_is_labelled_and_the_output_is_not_touched(sapiens_ray, write_job, tmp_path):
    photos = tmp_path / "photos"
    write_photos(photos, 6)
    (photos / "bad<b>.jpg").write_bytes(b"no image")
    job = write_job(photos)
    done = sapiens_ray("preview", job, "-n", "20", "--to", tmp_path / "look", "--json", env=NO_RAY)
    assert done.code == 0, done.text
    answer = json.loads(done.out)
    assert (answer["images"], answer["errors"]) == (7, {"not_an_image": 1})
    assert answer["page"] == str(tmp_path / "look" / "preview.html")
    assert answer["first_picture_s"] > 0
    assert not (tmp_path / "job-out").exists()

    sheet = cv2.imread(answer["contact_sheet"])
    assert sheet.shape[1] == 1600 and sheet.shape[0] > 500
    page = Path(answer["page"]).read_text()
    assert "bad&lt;b&gt;.jpg" in page and "bad<b>" not in page
    assert page.count("<img ") == 6, "a picture of every image with labels"
    assert "http" not in page.replace("http-equiv", ""), "nothing is loaded"
    names = {path.name for path in photos.iterdir()} - {"bad<b>.jpg"}
    assert len(names) == 6
    assert {str(path.relative_to(tmp_path / "look" / "pictures")) for path in pictures_in(tmp_path / "look")} == {
        f"seg/{name}" for name in names
    }


def test_what_is_drawn_is_what_a_job_draws(write_job, tmp_path, model):
    """With lossless pictures: the preview's are those of `Labeler.preview`."""
    photos = tmp_path / "photos"
    photos.mkdir()
    cv2.imwrite(str(photos / "a.png"), photo(200, 300))
    job = sr.Job.load(write_job(photos), ["output.visualize.format=png"])
    found = preview(job, to=tmp_path / "look")
    (drawn,) = pictures_in(tmp_path / "look")
    expected = sr.Labeler(task="seg", checkpoint=model).preview(photos / "a.png", {"max_side": 900})
    assert np.abs(cv2.imread(str(drawn)).astype(int) - expected).mean() < 3, "but for JPEG"
    assert (found.images, found.errors) == (1, {})


def test_another_seed_draws_other_images(write_job, tmp_path):
    write_photos(tmp_path / "photos", 12)
    job = sr.Job.load(write_job(tmp_path / "photos"))

    def drawn(seed: int) -> set[str]:
        to = tmp_path / f"look-{len(list(tmp_path.iterdir()))}"
        preview(job, 3, seed, to=to)
        return {path.name for path in pictures_in(to)}

    first = drawn(0)
    assert len(first) == 3 and drawn(0) == first and drawn(1) != first


def test_images_are_named_by_path_or_as_in_the_input(write_job, tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    write_photos(photos, 3)
    names = sorted(path.name for path in photos.iterdir())
    elsewhere = tmp_path / "elsewhere.jpg"
    cv2.imwrite(str(elsewhere), photo(80, 60))
    monkeypatch.chdir(tmp_path)
    job = sr.Job.load(write_job(photos))
    found = preview(job, images=[names[2], f"photos/{names[0]}", "elsewhere.jpg"], to=tmp_path / "look")
    page = found.page.read_text()
    places = [page.index(f"<figcaption>{name}</figcaption>") for name in (names[2], names[0], "elsewhere.jpg")]
    assert places == sorted(places) and found.images == 3
    with pytest.raises(sr.errors.InputError, match=r"--images: nothing\.jpg is no file, neither here nor below"):
        preview(job, images=["nothing.jpg"])


def test_a_second_preview_replaces_the_pictures_of_the_first(sapiens_ray, write_job, tmp_path):
    first, *_ = write_photos(tmp_path / "photos", 3)
    (tmp_path / "photos" / "empty.jpg").touch()
    job = sr.Job.load(write_job(tmp_path / "photos"))
    preview(job, 4, to=tmp_path / "look")
    found = preview(job, images=["empty.jpg", first.name], to=tmp_path / "look")
    assert len([path for path in (tmp_path / "look" / "pictures").rglob("*") if path.is_file()]) == 1
    assert found.failed == {"empty.jpg": "empty: the file has no bytes"}
    page = found.page.read_text()
    assert re.search(r'class="detail">confidence 0\.\d\d, its 5 % quantile 0\.\d\d<', page), "how sure the model is"
    (tmp_path / "file").touch()
    with pytest.raises(sr.errors.ConfigError, match=r"--to .*file: cannot be made: .*; name a folder, not a file"):
        preview(job, 1, to=tmp_path / "file")


def test_a_job_that_needs_columns_says_so(sapiens_ray, write_job, tmp_path, model):
    listed = tmp_path / "list.jsonl"
    write_photos(tmp_path / "photos", 1)
    name = next((tmp_path / "photos").iterdir()).name
    listed.write_text(json.dumps({"path": f"photos/{name}", "where": str(tmp_path / "mask.png")}))
    cv2.imwrite(str(tmp_path / "mask.png"), np.ones((128, 96), np.uint8))
    tasks = [{"task": "seg", "checkpoint": str(model)}]
    job = write_job(listed, input={"columns": []}, tasks=tasks)
    assert sapiens_ray("preview", job, "--images", tmp_path / "photos" / name, "--to", tmp_path / "a").code == 0
    pose = {"task": "pose", "keypoints": 17, "checkpoint": str(model), "boxes": {"column": "where"}}
    job = write_job(listed, tasks=[pose])
    done = sapiens_ray("preview", job, "--images", tmp_path / "photos" / name)
    assert done.code == 2
    assert "--images: the job takes 'where' of each image from a column of its input" in done.err


def test_an_output_with_other_settings_is_left_alone(sapiens_ray, cluster, write_job, tmp_path):
    write_photos(tmp_path / "photos", 2)
    job = write_job(tmp_path / "photos")
    assert sapiens_ray("run", job).code == 0
    before = contents(tmp_path / "job-out")
    assert sapiens_ray("run", job, "--set", "max_pixels=5000").code == 2, "a run refuses it"
    done = sapiens_ray("preview", job, "--set", "max_pixels=5000", "--to", tmp_path / "look", "--json")
    assert done.code == 0, done.text
    assert json.loads(done.out)["errors"] == {"too_large": 2}
    assert json.loads(done.out)["contact_sheet"] is None
    assert contents(tmp_path / "job-out") == before


def test_a_notebook_shows_the_picture_of_a_labeler(model):
    picture = sr.Labeler(task="seg", checkpoint=model).preview(photo(60, 80))
    shown = cv2.imdecode(np.frombuffer(picture._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(shown, picture)
    assert picture[..., 0]._repr_png_() is None and (picture / 2)._repr_png_() is None


def test_every_image_has_a_file_of_its_own(write_job, tmp_path):
    photos = tmp_path / "photos"
    deep = "/".join([letter * 90 for letter in "xyz"]) + "/c.jpg"
    for number, name in enumerate(("a/b.jpg", "a-b.jpg", deep)):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(photos / name), photo(80, 60, number))
    found = preview(sr.Job.load(write_job(photos)), to=tmp_path / "look")
    assert found.images == 3 and not found.errors
    files = {
        str(path.relative_to(tmp_path / "look" / "pictures")): path.read_bytes()
        for path in pictures_in(tmp_path / "look")
    }
    assert set(files) == {"seg/a/b.jpg", "seg/a-b.jpg", f"seg/{deep}"}
    assert len(set(files.values())) == 3


def test_images_with_the_same_id(write_job, tmp_path):
    write_photos(tmp_path / "photos", 2)
    names = sorted(path.name for path in (tmp_path / "photos").iterdir())
    listed = tmp_path / "list.jsonl"
    listed.write_text("".join(json.dumps({"path": f"photos/{name}", "key": "same.jpg"}) + "\n" for name in names))
    preview(sr.Job.load(write_job(listed, input={"id_column": "key"})), to=tmp_path / "look")
    assert len(pictures_in(tmp_path / "look")) == 2


def test_folders_that_are_refused(sapiens_ray, write_job, tmp_path):
    write_photos(tmp_path / "photos", 1)
    job = write_job(tmp_path / "photos")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    before = contents(tmp_path)
    for to, why in (
        ("s3://bucket/look", "is written to this machine; name a local folder"),
        (tmp_path / "job-out", "lies in the output of the job"),
        (tmp_path / "job-out" / "data", "lies in the output of the job"),
        (f"file://{tmp_path}/job-out/look", "lies in the output of the job"),
        (tmp_path / "photos", "lies in the input of the job"),
        (tmp_path / "link" / "look", "lies in the input of the job"),
    ):
        done = sapiens_ray("preview", job, "--to", to, cwd=tmp_path)
        assert done.code == 2 and f"--to {to}: " in done.err and why in done.err, done.text
    assert contents(tmp_path) == before and not (tmp_path / "s3:").exists()


def test_of_many_images_some_are_shown(write_job, tmp_path, monkeypatch):
    monkeypatch.setattr("sapiens_ray.execution.preview.SHEET_MOST", 2)
    monkeypatch.setattr("sapiens_ray.execution.preview.PAGE_MOST", 3)
    write_photos(tmp_path / "photos", 5)
    found = preview(sr.Job.load(write_job(tmp_path / "photos")), to=tmp_path / "look")
    assert found.notes == ["the contact sheet shows the first 2 of 5 images", "the page shows the first 3 of 5 images"]
    page = found.page.read_text()
    assert page.count("<img ") == 3 and found.notes[0] in page
    assert len(pictures_in(tmp_path / "look")) == 5, "all have files"
    narrow = cv2.imread(str(found.sheet))
    monkeypatch.setattr("sapiens_ray.execution.preview.SHEET_MOST", 5)
    whole = cv2.imread(str(preview(sr.Job.load(write_job(tmp_path / "photos")), to=tmp_path / "all").sheet))
    assert narrow.shape[0] < whole.shape[0]
