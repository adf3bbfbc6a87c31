"""Thumbnails: labels drawn again over photos that are read again, and what is left where photos are gone."""

from __future__ import annotations

import base64
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from sapiens_ray.output.record import read_record
from sapiens_ray.reporting import drawing
from sapiens_ray.reporting.drawing import GREY, Drawer
from sapiens_ray.reporting.photos import Photos
from sapiens_ray.units import UnitName
from tests.conftest import photo
from tests.reporting.made import error_row, labelled_photo, write_file, write_rows

HEAD = ("uri", "width", "height", "error_kind", "visualization")


def decoded(uri: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)


def thumbnails(tmp_path: Path, rows: list[dict]):
    output = write_rows(tmp_path / "out", rows)
    drawer = Drawer(output, read_record(output))
    asked = [{**{name: row.get(name) for name in HEAD}, "shard": 0, "index": index} for index, row in enumerate(rows)]
    return dict(drawer.draw(asked))


def test_photo_and_labels_of_every_task(tmp_path):
    rows = [labelled_photo(tmp_path / "photos", f"{seed}.png", seed) for seed in range(20)]  # two row groups
    found = thumbnails(tmp_path, rows)
    assert sorted(found) == list(range(20))
    for seed in (0, 19):
        one = found[seed]
        assert np.abs(decoded(one.photo).astype(int) - photo(120, 160, seed)).mean() < 12
        assert list(one.labels) == ["seg", "depth", "normal", "persons"]
        assert {decoded(picture).shape for picture in one.labels.values()} == {(160, 120, 3)}, "panels are cut apart"
        seg = decoded(one.labels["seg"]).astype(int) * 2 - photo(120, 160, seed)
        left, right = seg[:, 5:55].mean((0, 1)), seg[:, 65:115].mean((0, 1))
        assert np.abs(left - right).max() > 50, "two classes have two colours"
        assert decoded(one.labels["normal"])[..., 0].mean() > 240, "z is blue"


def test_a_photo_that_is_gone_or_another_one_leaves_the_labels(tmp_path):
    rows = [labelled_photo(tmp_path / "photos", f"{seed}.png", seed) for seed in range(3)]
    Path(rows[0]["uri"]).unlink()
    Path(rows[1]["uri"]).write_bytes(cv2.imencode(".png", photo(50, 60, 1))[1].tobytes())
    found = thumbnails(tmp_path, rows)
    for gone in (0, 1):
        assert found[gone].photo == ""
        assert list(found[gone].labels) == ["seg", "depth", "normal", "persons"]
    pose = decoded(found[0].labels["persons"])
    assert np.abs(pose.reshape(-1, 3).astype(int) - GREY).max(1).min() <= 2, "persons on grey paper"
    assert found[2].photo


def test_members_of_tars(tmp_path):
    rows = [labelled_photo(tmp_path / "photos", f"{seed}.png", seed) for seed in range(3)]
    tar = tmp_path / "shard.tar"
    with tarfile.open(tar, "w") as archive:
        for seed in range(3):
            archive.add(tmp_path / "photos" / f"{seed}.png", f"{seed}.png")
    for row in rows:
        Path(row["uri"]).unlink()
        row["uri"] = f"{tar}#{Path(row['uri']).name}"
    found = thumbnails(tmp_path, rows)
    assert np.abs(decoded(found[2].photo).astype(int) - photo(120, 160, 2)).mean() < 12


def test_members_stay_in_memory_as_thumbnails(tmp_path):
    rows = [labelled_photo(tmp_path / "photos", f"{seed}.png", seed) for seed in range(3)]
    large = np.random.default_rng(0).integers(0, 255, (1600, 1200, 3), np.uint8)
    tar = tmp_path / "shard.tar"
    with tarfile.open(tar, "w") as archive:
        for at, row in enumerate(rows):
            cv2.imwrite(row["uri"], large)
            archive.add(row["uri"], row["image_id"])
            row |= {"uri": f"{tar}#{row['image_id']}", "index": at, "width": 1200, "height": 1600}
    photos = Photos(None, {}, 320)
    photos.fetch_members(rows)
    found = [photos.read(row) for row in rows]
    assert [one.shape for one in found] == [(320, 240, 3)] * 3
    assert [one.base is None for one in found] == [True] * 3, "none holds on to a larger array"
    assert photos.read({**rows[0], "uri": f"{tar}#other.png"}) is None


def test_photos_of_crashed_images_are_not_decoded_again(tmp_path):
    row = labelled_photo(tmp_path / "photos", "0.png", 0)
    bad = {**error_row("0.png", "crashed"), "uri": row["uri"], "width": 120, "height": 160}
    other = {**error_row("1.png", "failed"), "uri": row["uri"], "width": 120, "height": 160}
    found = thumbnails(tmp_path, [bad, other, error_row("2.png")])
    assert (found[0].photo, found[2].photo) == ("", "") and found[1].photo
    assert found[1].labels == {}


def test_what_would_be_too_much_to_read_is_left_out(tmp_path, monkeypatch):
    rows = [labelled_photo(tmp_path / "photos", f"{seed}.png", seed) for seed in range(2)]
    picture = tmp_path / "out" / "visualizations" / "0.jpg"
    monkeypatch.setattr(drawing, "READ_LOCAL", 10)
    rows[0]["visualization"] = "visualizations/0.jpg"
    write = drawing.Drawer._picture

    def picture_of(self, name):
        picture.parent.mkdir(exist_ok=True)
        picture.write_bytes(cv2.imencode(".jpg", np.full((90, 400, 3), 77, np.uint8))[1].tobytes())
        return write(self, name)

    monkeypatch.setattr(drawing.Drawer, "_picture", picture_of)
    found = thumbnails(tmp_path, rows)
    assert found[0].photo and decoded(found[0].labels["seg"]).shape == (90, 400, 3), "the picture of the job instead"
    assert found[1].photo and found[1].labels == {}


def test_a_merge_between_two_row_groups_costs_no_picture(tmp_path, monkeypatch):
    rows = [labelled_photo(tmp_path / "photos", f"{seed}.png", seed) for seed in range(40)]
    output = write_rows(tmp_path / "out", rows[:1])
    data, placed = tmp_path / "out" / "data", [{**row, "shard": 0, "index": at} for at, row in enumerate(rows)]
    (file,) = data.iterdir()
    file.unlink()
    parts = [UnitName(0, 0, 20, False), UnitName(0, 20, 40, False)]
    for part in parts:
        write_file(tmp_path / "out", part, placed[part.start : part.stop])
    read, calls = drawing.read_groups, []

    def read_groups(*given):
        calls.append(given[1])
        if len(calls) == 2:  # the second row group of the first file
            write_file(tmp_path / "out", UnitName(0, 0, 40, True), placed)
            for part in parts:
                (data / part.file).unlink()
            raise FileNotFoundError(given[1])
        return read(*given)

    monkeypatch.setattr(drawing, "read_groups", read_groups)
    asked = [{"visualization": None, "error_kind": None, **row} for row in placed]
    found = list(Drawer(output, read_record(output)).draw(asked))
    assert sorted(place for place, _ in found) == list(range(40)), "each row once"
    assert {tuple(one.labels) for _, one in found} == {("seg", "depth", "normal", "persons")}
    assert all(one.photo for _, one in found)


def test_a_file_that_is_gone_for_good_leaves_the_photos(tmp_path, monkeypatch):
    rows = [labelled_photo(tmp_path / "photos", f"{seed}.png", seed) for seed in range(20)]
    read = drawing.read_groups

    def read_groups(folder, name, file, groups, leaves):
        if groups == [1]:
            raise FileNotFoundError(name)
        return read(folder, name, file, groups, leaves)

    monkeypatch.setattr(drawing, "read_groups", read_groups)
    found = thumbnails(tmp_path, rows)
    assert sorted(found) == list(range(20)) and all(one.photo for one in found.values())
    assert [place for place, one in sorted(found.items()) if one.labels] == list(range(16))


@pytest.mark.parametrize("record", [None, {"job": {"tasks": [{"task": "unknown"}, {"task": "seg", "new": 1}]}}])
def test_a_job_that_cannot_be_rebuilt_gives_photos_alone(tmp_path, record):
    rows = [labelled_photo(tmp_path / "photos", "0.png", 0)]
    output = write_rows(tmp_path / "out", rows)
    ((_, found),) = Drawer(output, record).draw(
        [{**{name: rows[0].get(name) for name in HEAD}, "shard": 0, "index": 0}]
    )
    assert found.photo and found.labels == {}
