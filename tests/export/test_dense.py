"""Depth and normals as PNGs, read by Pillow and OpenCV."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

import sapiens_ray
from sapiens_ray.export.depth16 import STEPS, quantized
from sapiens_ray.export.normals import coloured
from sapiens_ray.imaging.images import encode_png
from sapiens_ray.imaging.maps import encode_npy
from tests.reporting.made import error_row, labelled_photo, write_rows

NAMES = ["a.png", "a.jpg", "b/nobody.png"]


@pytest.fixture
def output(tmp_path):
    """Three photos with persons on the right half, but none in the last; normals of a sphere, z to the viewer."""
    rows = [labelled_photo(tmp_path / "photos", name, seed) for seed, name in enumerate(NAMES)]
    classes = np.zeros((160, 120), np.uint8)
    classes[:, 60:] = 21
    for row in rows:
        row["seg"] = encode_png(classes if row is not rows[-1] else np.zeros_like(classes))
        row["normal"] = encode_npy((sphere(64, 48) * 3).astype(np.float16))
    return write_rows(tmp_path / "out", [*rows, error_row("bad.jpg")])


def sphere(height: int, width: int) -> np.ndarray:
    """Unit normals of a bulge that faces the viewer: x right, y up, z to the viewer. float64."""
    x = np.linspace(-0.6, 0.6, width)[None].repeat(height, 0)
    y = np.linspace(0.6, -0.6, height)[:, None].repeat(width, 1)
    return np.dstack([x, y, np.sqrt(1 - x**2 - y**2)])


def export(command, output, form, to, *options):
    done = command("export", output.uri, "--format", form, "--to", to, *options)
    assert done.code == 0, done.text
    return done


def test_depth_is_read_back_from_the_png_alone(command, output, tmp_path):
    done = export(command, output, "depth16", tmp_path / "to")
    assert done.err == ("0 in the pictures is background, where seg has the background\n")
    files = sorted(str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*.*"))
    assert files == ["depth.jsonl", "depth/a.jpg.png", "depth/a.png.png", "depth/b/nobody.png"]
    rows = sapiens_ray.read_labels(output.uri, decode=True, size="original", where="error_kind is null").to_dict(
        "records"
    )
    lines = list(map(json.loads, (tmp_path / "to" / "depth.jsonl").read_text().splitlines()))
    assert [line["image_id"] for line in lines] == NAMES
    for row, line in zip(rows[:2], lines, strict=False):
        picture = Image.open(tmp_path / "to" / line["file"])
        assert picture.mode == "I;16" and picture.size == (120, 160)
        values, said = np.array(picture), json.loads(picture.text["sapiens_ray"])
        inside = row["seg"] > 0
        assert ((values == 0) == ~inside).all() and values[inside].min() == 1 and values.max() == 65535
        assert (
            (said["near"], said["far"])
            == (line["near"], line["far"])
            == (row["depth"][inside].min(), row["depth"].max())
        )
        depth = said["near"] + (values[inside] - 1.0) / STEPS * (said["far"] - said["near"])
        assert np.abs(depth - row["depth"][inside]).max() <= (said["far"] - said["near"]) / STEPS
        assert np.argmax(values[80]) == 119, "larger is farther"
    assert lines[2]["near"] is lines[2]["far"] is None
    assert not np.array(Image.open(tmp_path / "to" / lines[2]["file"])).any()


def test_depth_at_the_size_of_the_network(command, output, tmp_path):
    options = ("--size", "network", "--foreground", "none")
    done = export(command, output, "depth16", tmp_path / "to", *options)
    assert done.err == "0 in the pictures is background, nowhere: all of the photo counts\n"
    values = cv2.imread(str(tmp_path / "to" / "depth" / "a.png.png"), cv2.IMREAD_UNCHANGED)
    assert values.shape == (64, 48) and values.dtype == np.uint16 and values.min() == 1


@given(
    arrays.arrays(np.float32, (5, 7), elements=st.floats(-1e6, 1e6, width=32)),
    arrays.arrays(bool, (5, 7)),
)
def test_depth_is_off_by_half_a_step_at_most(depth, inside):
    values, scale = quantized(depth, inside)
    assert ((values == 0) == ~inside).all()
    if not inside.any():
        assert scale == {"near": None, "far": None}
        return
    near, far = scale["near"], scale["far"]
    exact = depth[inside].astype(np.float64)
    assert (near, far) == (exact.min(), exact.max())
    read = near + (values[inside] - 1.0) / STEPS * (far - near)
    assert np.abs(read - exact).max() <= (far - near) / STEPS / 2 * 1.001  # float64 rounds, too


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("axes", "signs"), [("published", 1), ("opengl", 1), ("directx", -1)])
def test_normals_of_a_sphere(command, output, tmp_path, axes, signs, bits):
    done = export(command, output, "normals", tmp_path / "to", "--axes", axes, "--bits", bits, "--size", "network")
    assert "the mean z is negative" not in done.err
    picture = cv2.imread(str(tmp_path / "to" / "normal" / "a.png.png"), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert picture.dtype == (np.uint8 if bits == 8 else np.uint16) and picture.shape == (64, 48, 3)
    assert not picture[:, :24].any() and picture[:, 24:].any(2).all(), "black is background"
    largest = 2**bits - 1
    wanted = (sphere(64, 48) * [1, signs, 1] + 1) / 2 * largest
    assert np.abs(picture[:, 24:] - wanted[:, 24:]).max() < 0.5 + 1e-3 * largest, "float16 rounds to 1e-3"
    top, bottom = picture[0, 47].astype(int), picture[63, 47].astype(int)
    assert top[0] > largest / 2 and top[2] > largest / 2, "red: to the right; blue: to the viewer"
    assert (top[1] > bottom[1]) == (signs > 0), "green: up in OpenGL, down in DirectX"


def test_normals_that_face_away_are_told(command, tmp_path):
    row = labelled_photo(tmp_path / "photos", "a.png", 0)
    row["normal"] = encode_npy(-sphere(64, 48).astype(np.float16))
    output = write_rows(tmp_path / "out", [row])
    done = export(command, output, "normals", tmp_path / "to", "--axes", "opengl")
    assert "in 1 of 1 images the mean z is negative: visible surfaces would face away" in done.err
    assert "negative" not in export(command, output, "normals", tmp_path / "two").err, "nothing is taken for granted"


def test_known_vectors():
    vectors = np.array([[[1, 0, 0], [0, 2, 0], [0, 0, -0.5], [0, 0, 1]]], np.float32)
    inside = np.array([[True, True, True, False]])
    found = coloured(vectors, inside, (1, -1, 1), 8)
    assert found.tolist() == [[[255, 128, 128], [128, 0, 128], [128, 128, 0], [0, 0, 0]]]


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        ("depth16", ["--foreground", "depth"], "--foreground depth: no column with a class map; the output has seg"),
        ("depth16", ["--size", "large"], "--size large: should be one of photo, network"),
        ("normals", ["--axes", "unity"], "--axes unity: should be one of published, opengl, directx"),
    ],
)
def test_wrong_options_are_refused(command, output, tmp_path, form, options, message):
    done = command("export", output.uri, "--format", form, "--to", tmp_path / "to", *options)
    assert (done.code, done.err) == (2, f"sapiens-ray: {message}\n") and not Path(tmp_path / "to").exists()
