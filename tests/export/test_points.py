"""Pointmaps as PLY files and as 16-bit distances, and what other exports and readers make of pointmaps and mattes."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image

import sapiens_ray as sr
from sapiens_ray.export.depth16 import in_millimetres
from sapiens_ray.export.ply import ply
from tests.export.made import folder_output
from tests.reporting.made import TASKS, plane

MODEL = {"checkpoint": "/models/x.safetensors"}
POINTS = [TASKS[0], {"task": "pointmap", **MODEL}, {"task": "matting", **MODEL}]
KINDS = {"float": "<f4", "uchar": "u1"}


@pytest.fixture
def output(tmp_path):
    """Two photos and an error row; class 3 on the left half, 21 on the right: all is foreground."""
    return folder_output(tmp_path / "out", tmp_path / "photos", ["a.png", "b/c.png"], tasks=POINTS)


def export(command, output, form, to, *options):
    done = command("export", output.uri, "--format", form, "--to", to, *options)
    assert done.code == 0, done.text
    return done


def read_ply(data: bytes) -> np.ndarray:
    """The vertices of a binary PLY file, by its header."""
    head, _, body = data.partition(b"end_header\n")
    lines = head.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    (count,) = (int(line.split()[2]) for line in lines if line.startswith("element vertex "))
    fields = [(line.split()[2], KINDS[line.split()[1]]) for line in lines if line.startswith("property ")]
    vertices = np.frombuffer(body, fields)
    assert len(vertices) == count
    return vertices


def test_points_with_the_colours_of_their_photo(command, output, tmp_path):
    done = export(command, output, "ply", tmp_path / "to")
    assert done.err == "points are those where seg is no background\n"
    files = sorted(path.relative_to(tmp_path / "to").as_posix() for path in (tmp_path / "to").rglob("*.ply"))
    assert files == ["pointmap/a.ply", "pointmap/b/c.ply"]
    points = plane(120, 160, 48, 64).reshape(-1, 3)
    for name in ("a", "b/c"):
        found = read_ply((tmp_path / "to" / "pointmap" / f"{name}.ply").read_bytes())
        assert np.array_equal(np.stack([found[axis] for axis in "xyz"], 1), points)
        photo = cv2.imread(str(tmp_path / "photos" / f"{name}.png"))
        colours = cv2.resize(photo, (48, 64), interpolation=cv2.INTER_AREA).reshape(-1, 3)
        assert np.array_equal(np.stack([found[one] for one in ("blue", "green", "red")], 1), colours)


def test_axes_sizes_and_foreground_of_points(command, output, tmp_path):
    options = ("--axes", "opengl", "--colours", "none", "--foreground", "none", "--size", "photo")
    done = export(command, output, "ply", tmp_path / "to", *options)
    assert done.err == "points are those of the whole photo\n"
    data = (tmp_path / "to" / "pointmap" / "a.ply").read_bytes()
    found = read_ply(data)
    assert found.dtype.names == ("x", "y", "z") and len(found) == 120 * 160 and b"axes opengl" in data
    full = sr.read_labels(output.uri, decode=True, size="original").iloc[0]["pointmap"].reshape(-1, 3)
    assert np.array_equal(np.stack([found[axis] for axis in "xyz"], 1), full * np.float32([1, -1, -1]))


def test_a_photo_that_is_gone_has_points_without_colours(command, output, tmp_path):
    (tmp_path / "photos" / "a.png").unlink()
    done = export(command, output, "ply", tmp_path / "to")
    assert "without colours: images left out, their photos cannot be read again: 1, such as a.png" in done.err
    assert read_ply((tmp_path / "to" / "pointmap" / "a.ply").read_bytes()).dtype.names == ("x", "y", "z")
    assert "red" in read_ply((tmp_path / "to" / "pointmap" / "b" / "c.ply").read_bytes()).dtype.names


def test_no_points_are_a_file_too():
    assert len(read_ply(ply(np.zeros((0, 3)), None))) == 0


def test_distances_are_millimetres(command, output, tmp_path):
    done = export(command, output, "depth16", tmp_path / "to")
    assert "left out" not in done.err, done.text
    full = sr.read_labels(output.uri, decode=True, size="original", where="error_kind is null")
    lines = [json.loads(line) for line in (tmp_path / "to" / "pointmap.jsonl").read_text().splitlines()]
    for line, points in zip(lines, full["pointmap"], strict=True):
        picture = Image.open(tmp_path / "to" / line["file"])
        said = json.loads(picture.text["sapiens_ray"])
        assert said["formula"].startswith("depth in metres = value / 1000;") and said["near"] == line["near"]
        assert np.abs(np.array(picture) / 1000 - points[..., 2]).max() <= 0.0005 + 1e-6
        assert (line["near"], line["far"]) == (points[..., 2].min(), points[..., 2].max())


def test_distances_beyond_16_bits_are_cut():
    z = np.array([[-1, 0.0001, 1.2345, 65.535, 70, 9]])
    values, scale = in_millimetres(z, np.array([[True, True, True, True, True, False]]))
    assert values.dtype == np.uint16 and values[0, [0, 1, 3, 4, 5]].tolist() == [1, 1, 65535, 65535, 0]
    assert values[0, 2] in (1234, 1235) and scale == {"near": -1, "far": 70}
    assert in_millimetres(z, np.zeros((1, 6), bool))[1] == {"near": None, "far": None}


def test_labels_as_arrays_and_tensors(output):
    from sapiens_ray.torch import LabelDataset

    row = sr.read_labels(output.uri, decode=True).iloc[0]
    assert row["pointmap"].shape == (64, 48, 3) and row["matting"].dtype == np.float32
    assert row["matting"][0, [0, 47]].tolist() == [0, 1]
    full = sr.read_labels(output.uri, decode=True, size="original").iloc[0]
    assert full["pointmap"].shape == (160, 120, 3) and full["matting"].shape == (160, 120)
    item = LabelDataset(output.uri, ["pointmap", "matting"], size=(80, 60))[0]
    assert item["pointmap"].shape == (3, 80, 60) and item["matting"].shape == (80, 60)


def test_a_dataset_for_the_hub_shows_mattes(command, output, tmp_path):
    export(command, output, "huggingface", tmp_path / "hub", "--license", "other")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "row['matting']  # a PIL image: alpha, black is 0 and white is 1" in card
    assert "np.load(io.BytesIO(row['pointmap']))" in card and "np.load(io.BytesIO(row['matting']))" not in card
    assert "x (right), y (down), z (forward) from the camera, in metres" in card
    assert "median distance z of the foreground in metres" in card and "the mean of alpha" in card


def test_statistics_of_distances_and_shares(command, output, tmp_path):
    found = json.loads(command("report", output.uri, "--to", tmp_path / "r.html", "--json").out)["tasks"]
    assert found["pointmap"]["photos"] == 2 and found["pointmap"]["depth_m"]["median"] == 2.5
    assert found["pointmap"]["focal_px"]["mean"] == 150 and found["pointmap"]["share_without_foreground"] == 0
    assert found["matting"]["share"]["median"] == 0.5
