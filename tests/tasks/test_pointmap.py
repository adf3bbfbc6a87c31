"""The tasks pointmap and matting: columns of rows, what readers make of them, and pictures."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapiens_ray.errors import CheckpointError
from sapiens_ray.imaging.images import decode_map, encode_png
from sapiens_ray.imaging.maps import decode_npy
from sapiens_ray.output.schema import labels_in, output_schema
from sapiens_ray.tasks.network import place_of
from sapiens_ray.tasks.points import at_photo_size
from sapiens_ray.tasks.sections import Visualize
from tests.reporting.made import plane
from tests.tasks.test_sapiens2 import photo, task_of

WIDTH, HEIGHT = 300, 200
PLACE = place_of(WIDTH, HEIGHT)
FOCAL, SCALE = 240.0, 0.5


def network_output(points: np.ndarray | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network gives for a photo that shows a plane; wrong points in the margins."""
    maps = torch.full((1, 3, 1024, 768), -9.0)
    shown = plane(WIDTH, HEIGHT, PLACE.width, PLACE.height, FOCAL) if points is None else points
    maps[0, :, *PLACE.inside] = torch.from_numpy(shown * np.float32(SCALE)).permute(2, 0, 1)
    return maps, torch.tensor([[SCALE]])


def finished(task, output, **columns):
    results = task.reduce(task.check_output(output, 1), [(WIDTH, HEIGHT)])
    return task.finish(results, {"width": WIDTH, "height": HEIGHT, **columns})


def test_points_are_metres_of_the_part_that_shows_the_photo():
    task = task_of("pointmap", mask="none")
    row = finished(task, network_output())
    assert list(row) == [field.name for field in task.fields]
    wanted = plane(WIDTH, HEIGHT, PLACE.width, PLACE.height, FOCAL)
    assert decode_npy(row["pointmap"]).dtype == np.float32 and np.array_equal(decode_npy(row["pointmap"]), wanted)
    assert row["pointmap_scale"] == SCALE and row["pointmap_focal_px"] == pytest.approx(FOCAL, rel=1e-4)
    assert row["pointmap_min_m"] == wanted[..., 2].min() and row["pointmap_max_m"] == wanted[..., 2].max()
    assert row["pointmap_depth_m"] == np.median(wanted[..., 2])
    (labels,) = labels_in(output_schema([task], pa.schema([]), {}))
    assert labels.about["unit"] == "metre" and labels.maps["pointmap"].stored_dtype == "float32"
    full = labels.maps["pointmap"].original(row["pointmap"], WIDTH, HEIGHT)
    assert np.array_equal(full, at_photo_size(wanted, WIDTH, HEIGHT))
    (first, points), (second, z) = labels.sapiens2_files({**row, "width": WIDTH, "height": HEIGHT})
    assert (first, second) == (".npy", "_depth.npy") and np.array_equal(decode_npy(points), full)
    assert decode_npy(z).dtype == np.float16 and np.abs(decode_npy(z) - full[..., 2]).max() < 1e-3
    assert labels.left_out_of_lite == "Sapiens-Lite has no pointmap"


def test_numbers_are_those_of_the_foreground():
    task = task_of("pointmap", mask={"column": "mask"}, dtype="float16")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, 150:240] = 1
    row = finished(task, network_output(), **{"_mask:column:mask": encode_png(mask)})
    seen = [150 <= int(column * WIDTH / PLACE.width) < 240 for column in range(PLACE.width)]  # nearest neighbour
    inside = plane(WIDTH, HEIGHT, PLACE.width, PLACE.height, FOCAL)[0, seen, 2]
    assert row["pointmap_min_m"] == inside.min() and row["pointmap_max_m"] == inside.max()
    assert row["pointmap_depth_m"] == pytest.approx(np.median(inside))
    assert row["pointmap_focal_px"] == pytest.approx(FOCAL, rel=1e-4)
    assert decode_npy(row["pointmap"]).dtype == np.float16
    for nothing in (encode_png(0 * mask), None):
        row = finished(task, network_output(), **{"_mask:column:mask": nothing})
        numbers = [row[f"pointmap_{name}"] for name in ("min_m", "depth_m", "max_m", "focal_px", "scale")]
        assert numbers == [None, None, None, None, SCALE]


def test_points_at_the_size_of_the_photo():
    task = task_of("pointmap", mask="none", resolution="original")
    small = decode_npy(finished(task, network_output())["pointmap"])
    wanted = at_photo_size(plane(WIDTH, HEIGHT, PLACE.width, PLACE.height, FOCAL), WIDTH, HEIGHT)
    assert small.shape == (HEIGHT, WIDTH, 3) and np.array_equal(small, wanted)
    (labels,) = labels_in(output_schema([task], pa.schema([]), {}))
    cell = finished(task, network_output())["pointmap"]
    assert np.array_equal(labels.maps["pointmap"].original(cell, WIDTH, HEIGHT), wanted), "not blurred again"
    assert task.options.stored_bytes(1000) == 12_000
    assert task_of("pointmap").options.stored_bytes(1000) == 1024 * 768 * 12


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(1, 3, 1024, 768), "pointmap: the model returns no scales, 1 x 1, beside its points"),
        ((torch.zeros(1, 3, 1024, 768), torch.zeros(1, 2)), "returns no scales"),
        ((torch.zeros(1, 1, 1024, 768), torch.zeros(1, 1)), "returns 1 x 1 x 1024 x 768 for 1 images"),
        ((torch.zeros(1, 3, 512, 384), torch.zeros(1, 1)), "needs 1 x 3 x 1024 x 768 points"),
    ],
)
def test_what_is_no_pointmap_is_refused(output, message):
    with pytest.raises(CheckpointError, match=message):
        task_of("pointmap").check_output(output, 1)


def test_a_scale_of_zero_is_an_error_of_the_image():
    from sapiens_ray.engine.loaded import are_finite

    points, scale = network_output()
    found = task_of("pointmap").check_output((torch.cat([points, points]), torch.cat([scale, 0 * scale])), 2)
    assert are_finite(found) == [True, False]


def panels(picture: np.ndarray, count: int) -> list[np.ndarray]:
    width = picture.shape[1] // count
    return [picture[:, number * width : (number + 1) * width] for number in range(count)]


def test_the_picture_of_points():
    task = task_of("pointmap", mask={"column": "mask"})
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, 150:] = 1
    shown = photo(WIDTH, HEIGHT)
    row = finished(task, network_output(), **{"_mask:column:mask": encode_png(mask)})
    row |= {"_mask:column:mask": encode_png(mask), "width": WIDTH, "height": HEIGHT}
    first, colours, view = panels(task.draw(shown, row, Visualize(style="lite")), 3)
    assert np.array_equal(first, shown)
    assert (colours[:, :150] == 100).all()
    turbo = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0]
    place = [int(np.flatnonzero((turbo == pixel).all(1))[0]) for pixel in colours[100, 150:]]
    assert place[0] == 255 and place[-1] == 0 and all(here >= right for here, right in pairwise(place))
    seen = (view != 100).any(2)
    assert 0.1 < seen.mean() < 0.9
    known = {tuple(pixel) for pixel in shown[:, 150:].reshape(-1, 3)}
    assert {tuple(pixel) for pixel in view[seen]} <= known, "the colours of the photo"
    explained = task.draw(shown, row, Visualize())
    assert explained.shape[0] > HEIGHT and explained.shape[1] > 3 * WIDTH
    empty = {**row, "_mask:column:mask": encode_png(0 * mask), "pointmap_focal_px": None}
    _, colours, view = panels(task.draw(shown, empty, Visualize(style="lite")), 3)
    assert (colours == 100).all() and (view == 100).all()
    assert task.draw(shown, empty, Visualize()).shape[1] > 3 * WIDTH


@settings(max_examples=10)
@given(st.integers(1, 50), st.integers(1, 50), st.sampled_from([8, 16]), st.booleans(), st.integers(0, 99))
def test_mattes_are_rounded_to_their_bits(width, height, bits, whole, seed):
    size = "original" if whole else "network"
    task = task_of("matting", bits=bits, foreground=True, resolution=size)
    output = torch.rand(1, 4, 64, 48, generator=torch.Generator().manual_seed(seed))
    row = task.finish(task.reduce(task.check_output(output, 1), [(width, height)]), {"width": width, "height": height})
    assert list(row) == [field.name for field in task.fields] == ["matting", "matting_share", "matting_foreground"]
    assert row["matting_share"] == pytest.approx(float(output[0, 3].mean()), abs=1e-6)
    assert decode_map(row["matting"]).dtype == (np.uint8 if bits == 8 else np.uint16)
    (labels,) = labels_in(output_schema([task], pa.schema([]), {}))
    exact = output if not whole else torch.nn.functional.interpolate(output.double(), (height, width), mode="bilinear")
    alpha = labels.maps["matting"].stored(row["matting"], width, height)
    colours = labels.maps["matting_foreground"].stored(row["matting_foreground"], width, height)
    step = 0.5 / (2**bits - 1) + 1e-4 * whole + 1e-7
    assert np.abs(alpha - exact[0, 3].numpy()).max() <= step and alpha.dtype == np.float32
    assert np.abs(colours - exact[0, :3].permute(1, 2, 0).numpy()).max() <= step, "red, green, blue"
    full = torch.nn.functional.interpolate(output.double(), (height, width), mode="bilinear")
    files = dict(labels.sapiens2_files({**row, "width": width, "height": height}))
    assert np.abs(decode_npy(files["_alpha.npy"]) - full[0, 3].numpy()).max() <= step + 1e-4
    assert np.abs(decode_npy(files["_fgr.npy"]) - full[0, :3].permute(1, 2, 0).numpy()).max() <= step + 1e-4


def test_alpha_alone():
    task = task_of("matting")
    output = torch.rand(2, 4, 64, 48)
    rows = [
        task.finish([one], {"width": 30, "height": 40})
        for one in task.reduce(task.check_output(output, 2), [(30, 40)] * 2)
    ]
    (labels,) = labels_in(output_schema([task], pa.schema([]), {}))
    assert list(rows[1]) == ["matting", "matting_share"] == [field.name for field in task.fields]
    assert labels.columns == ["matting"] == list(labels.maps) == labels.pictures == labels.compressed
    assert [ending for ending, _ in labels.sapiens2_files({**rows[1], "width": 30, "height": 40})] == ["_alpha.npy"]
    found = labels.maps["matting"].stored(rows[1]["matting"], 30, 40)
    assert np.abs(found - output[1, 3].numpy()).max() <= 0.5 / 255 + 1e-7
    assert labels.maps["matting"].original(rows[1]["matting"], 30, 40).shape == (40, 30)
    with pytest.raises(CheckpointError, match=r"needs 2 x 4 x h x w colours and alpha"):
        task.check_output(output[:, :3], 2)


@pytest.mark.parametrize("foreground", [False, True])
def test_the_picture_of_a_matte(foreground):
    task = task_of("matting", foreground=foreground)
    output = torch.zeros(1, 4, 64, 48)
    output[0, 3, :, 24:] = 1
    output[0, 0, :, 24:] = 1  # red persons
    shown = photo(WIDTH, HEIGHT)
    row = task.finish(task.reduce(output, [(WIDTH, HEIGHT)]), {"width": WIDTH, "height": HEIGHT})
    first, cut_out, grey = panels(task.draw(shown, row, Visualize(style="lite")), 3)
    assert np.array_equal(first, shown)
    assert (grey[:, :144] == 0).all() and (grey[:, 156:] == 255).all()
    assert {tuple(pixel) for pixel in cut_out[:, :144].reshape(-1, 3)} == {(170, 170, 170), (230, 230, 230)}
    persons = cut_out[:, 156:]
    assert (persons == ([0, 0, 255] if foreground else shown[:, 156:])).all()
    assert task.draw(shown, row, Visualize()).shape[1] > 3 * WIDTH


@pytest.mark.parametrize("width", [900, 768, 100])
def test_photos_for_mattes_are_enlarged_bilinearly(width):
    image = photo(width, 40)
    how = cv2.INTER_AREA if width > 768 else cv2.INTER_LINEAR
    assert np.array_equal(task_of("matting").prepare(image), cv2.resize(image, (768, 1024), interpolation=how))
