"""Persons: crops and their inverse, boxes of every kind, crowds, the flip test, pictures."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sapiens_ray as sr
from sapiens_ray.engine.runner import Runner
from sapiens_ray.errors import CheckpointError, ConfigError, ImageError
from sapiens_ray.labels import keypoints
from sapiens_ray.models.stand_ins import write_model
from sapiens_ray.tasks import crops, persons
from sapiens_ray.tasks.pose import Pose, PoseOptions
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.units import PHOTO
from tests.conftest import photo

COLUMN = {"column": "boxes"}


@pytest.fixture(scope="module")
def pose17(tmp_path_factory):
    path = tmp_path_factory.mktemp("pose") / "pose17.pt2"
    write_model(path, "pose17")
    return path


def labeler(path, **options):
    return sr.Labeler(task="pose", keypoints=17, checkpoint=path, **{"boxes": COLUMN, **options})


COORDINATE = st.floats(0, 4000, width=32)


@settings(max_examples=200, deadline=None)
@given(COORDINATE, COORDINATE, st.floats(0, 1000), st.floats(0, 1000), st.integers(2, 5000), st.integers(2, 5000))
def test_box_to_crop_and_back(x, y, w, h, width, height):
    box = np.array([x, y, x + w, y + h])
    for crop in (crops.trained_geometry(box), crops.lite_geometry(box, width, height)):
        matrix = crops.warp_matrix(crop, 768, 1024)
        corners = np.array([[box[0], box[1]], [box[2], box[3]]])
        inside = corners @ matrix[:, :2].T + matrix[:, 2]
        cells = inside * [(192 - 1) / (768 - 1), (256 - 1) / (1024 - 1)]
        exact = crop.x.dtype == np.float64
        limit = 1e-6 if exact else max(1e-3, 2e-7 * max(crop.width, crop.height))  # lite's float32
        assert np.abs(crops.to_photo(cells, crop, 192, 256) - corners).max() < limit
    trained = crops.trained_geometry(box)
    assert trained.width / trained.height == pytest.approx(3 / 4)
    assert trained.width >= 1.25 * w - 1e-9 and trained.height >= 1.25 * h - 1e-9
    assert trained.width == pytest.approx(1.25 * max(w, 1)) or trained.height == pytest.approx(1.25 * max(h, 1))


def test_the_trained_crop_equals_the_documented_warp():
    """Every pixel against bilinear sampling in float64; outside the photo is black."""
    image = photo(90, 70, 1)
    box = np.array([20.0, -10.0, 60.0, 50.0])
    crop = crops.trained_geometry(box)
    cropped = crops.trained_crop(image, crop)
    assert cropped.shape == (1024, 768, 3)
    rows, columns = np.mgrid[:1024:37, :768:31]
    x = columns * crop.width / 767 + crop.x - crop.width / 2
    y = rows * crop.height / 1023 + crop.y - crop.height / 2
    padded = np.pad(image.astype(np.float64), ((200, 200), (200, 200), (0, 0)))
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = (x - left)[..., None], (y - top)[..., None]
    corner = [[padded[top + 200 + b, left + 200 + a] for a in (0, 1)] for b in (0, 1)]
    expected = (corner[0][0] * (1 - fx) + corner[0][1] * fx) * (1 - fy) + (
        corner[1][0] * (1 - fx) + corner[1][1] * fx
    ) * fy
    difference = np.abs(cropped[::37, ::31] - expected)
    assert np.median(difference) < 1 and difference.max() < 12, "OpenCV samples at 1/32 of a pixel"
    assert not cropped[:50].any(), "above the photo"


@pytest.mark.parametrize("size", [(1, 1), (5000, 3), (3, 5000), (333, 47), (3456, 2304)])
@pytest.mark.parametrize("crop", ["trained", "lite"])
def test_photos_of_any_size(pose17, size, crop):
    rows = labeler(pose17, boxes="none", crop=crop)([photo(*size)])
    (person,) = rows[0]["persons"]
    assert person["box"].tolist() == [0, 0, *size] and person["box_score"] is None
    assert np.isfinite(person["keypoints"]).all() and len(person["keypoints"]) == len(person["scores"]) == 17


def test_keypoints_are_where_the_heatmap_says(pose17):
    """The demo model puts keypoint k at a known fraction of the crop, so its position in the photo is known."""
    image = np.full((400, 300, 3), [103, 116, 123], np.uint8)  # the mean colour: the model moves points very little
    box = [50.0, 60.0, 170.0, 300.0]
    (row,) = labeler(pose17)([image], columns={"boxes": [[[*box, 0.75]]]})
    (person,) = row["persons"]
    model = torch.jit.load(str(pose17))
    crop = crops.trained_geometry(np.array(box))
    with torch.inference_mode():
        cropped = crops.trained_crop(image, crop)
        rgb = torch.from_numpy(cropped[..., ::-1].astype(np.float32).transpose(2, 0, 1))[None]
        mean, std = torch.tensor([123.5, 116.5, 103.5]), torch.tensor([58.5, 57.0, 57.5])
        pulled = ((rgb - mean.view(3, 1, 1)) / std.view(3, 1, 1)).mean((2, 3))[0] @ model.pull.t()
    share = model.places.detach() + torch.stack([pulled, -pulled], 1)
    expected = share.numpy() * [crop.width, crop.height] + [crop.left, crop.top]
    assert np.abs(np.array(person["keypoints"]) - expected).max() < 0.05
    assert person["box"].tolist() == box and person["box_score"] == 0.75
    assert np.allclose(person["scores"], 0.9, atol=0.01)


def test_crowds_empty_lists_and_boxes_outside(pose17):
    random = np.random.default_rng(0)
    corners = random.uniform(-100, 500, (100, 2))
    crowd = np.concatenate([corners, corners + random.uniform(0, 200, (100, 2))], 1).tolist()
    odd = [[5.0, 5.0, 5.0, 5.0], [9000.0, 9000.0, 9100.0, 9200.0], [-1e5, -1e5, 1e5, 1e5], [10.2, 10.1, 10.4, 10.3]]
    cells = [crowd, [], None, odd, [3, 4, 50, 60]]
    images = [photo(300, 200, number) for number in range(5)]
    rows = labeler(pose17, batch_size=8)(images, columns={"boxes": cells})
    assert [row["error_kind"] for row in rows] == [None] * 5
    assert [len(row["persons"]) for row in rows] == [100, 0, 0, 4, 1]
    for row, wanted in zip(rows, [crowd, [], [], odd, [[3, 4, 50, 60]]], strict=True):
        assert np.array_equal([p["box"] for p in row["persons"]], np.array(wanted, np.float32).tolist())
        assert all(np.isfinite(p["keypoints"]).all() for p in row["persons"])
    # The same persons one at a time, in units of one image: results do not depend on neighbours and batches.
    alone = labeler(pose17, batch_size=1, unit_size=1)(images, columns={"boxes": cells})
    for row, other in zip(rows, alone, strict=True):
        for person, single in zip(row["persons"], other["persons"], strict=True):
            size = max(person["box"][2] - person["box"][0], person["box"][3] - person["box"][1], 1)
            moved = np.abs(np.subtract(person["keypoints"], single["keypoints"])).max()
            assert moved <= 1e-6 * size + 1e-4, "more than the rounding of matrix products"
            assert np.allclose(person["scores"], single["scores"], atol=1e-6)


def test_batches_are_full_for_any_number_of_persons(pose17):
    label = labeler(pose17, batch_size=4)
    sizes: list[int] = []
    runner = label._engine._models[0].runner
    model = runner.module
    runner.module = lambda batch: sizes.append(len(batch)) or model(batch)
    boxes = [[[0, 0, 10, 20]] * count for count in (1, 0, 5, 2, 0, 3)]
    label([photo(40, 50)] * 6, columns={"boxes": boxes})
    assert sizes == [4, 4, 3]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([[1, 2, 3]], "is not"),
        ([["a", 2, 3, 4]], "is not"),
        ("[[1, 2, 30, 40", "not JSON"),
        ([[1, 2, float("nan"), 4]], "not pixel positions"),
        ([[50, 50, 10, 90]], "give two corners"),
        ([[0.1, 0.2, 0.7, 0.9]], "not larger than a pixel; give pixels, not shares of the photo"),
        ([[0, 0, 1, 1]], "not larger than a pixel"),
        (7, "int instead of a list"),
        ([[0, 0, 1e9, 4]], "not pixel positions"),
        ([[0, 1, 10**400, 3]], "not pixel positions"),
        ([[0, 1, 10, 30, "0.9"]], "score is not a number"),
    ],
)
def test_wrong_boxes_are_an_error_row_that_names_the_problem(pose17, cell, message):
    bad, good = labeler(pose17)([photo(40, 50)] * 2, columns={"boxes": [cell, [[1, 2, 30, 40]]]})
    assert bad["error_kind"] == "bad_boxes" and message in bad["error"] and "'boxes'" in bad["error"]
    assert bad["persons"] is None and len(good["persons"]) == 1


def test_boxes_in_every_notation():
    expected = [[1.0, 2.0, 30.0, 40.0, 0.5]]
    nested = pa.table({"b": [expected]}).to_pandas()["b"][0]  # an array of arrays
    numbers = [[np.float32(1), np.int64(2), 30, 40, np.float16(0.5)]]
    for cell in (expected, expected[0], "[[1, 2, 30, 40, 0.5]]", np.array(expected), tuple(expected), nested, numbers):
        assert persons.parse(cell) == expected
    assert math.isnan(persons.parse([[1, 2, 3, 4]])[0][4]) and math.isnan(persons.parse([[1, 2, 3, 4, None]])[0][4])
    assert persons.parse(None) == persons.parse([]) == persons.parse("") == persons.parse("[]") == []
    with pytest.raises(ImageError):
        persons.parse([[1, 2, 3, 4, 5, 6]])


def test_a_labeler_names_the_missing_column(pose17):
    with pytest.raises(ConfigError, match="read column 'boxes'"):
        labeler(pose17)([photo(10, 10)])


def test_the_box_around_a_mask():
    mask = np.zeros((20, 30), bool)
    assert persons.around(mask).shape == (0, 5)
    mask[4:9, 7:8] = True
    assert persons.around(mask)[0, :4].tolist() == [7, 4, 8, 9]


def test_flip_test_equals_that_of_the_original_pipeline(pose17):
    """Mirrored back, left and right swapped, no shift, equal weights."""
    task = Pose(PoseOptions(task="pose", keypoints=17, checkpoint="x", flip_test=True))
    random = torch.Generator().manual_seed(0)
    there, back = torch.rand(2, 17, 6, 5, generator=random), torch.rand(2, 17, 6, 5, generator=random)
    averaged = task.average(there, (back,), 2)
    for number, partner in enumerate(keypoints(17).swap):
        for x in range(5):
            expected = (there[:, number, :, x] + back[:, partner, :, 4 - x]) / 2
            assert torch.equal(averaged[:, number, :, x], expected)
    runner = Runner(pose17, "cpu", 2, flip_average=lambda output, mirrored, batch: (output, mirrored))
    runner.module = lambda batch: batch
    batch = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 4, 6, 3), np.uint8))
    ((_, _, (output, mirrored)),) = runner(batch)
    assert torch.equal(mirrored, output.flip(-1)) and not torch.equal(mirrored, output)


def test_flip_test_changes_keypoints(pose17):
    image = photo(200, 260)
    plain, flipped = (labeler(pose17, boxes="none", flip_test=flip)([image])[0] for flip in (False, True))
    moved = np.array(plain["persons"][0]["keypoints"]) - np.array(flipped["persons"][0]["keypoints"])
    assert np.abs(moved).max() > 1, "the demo model is not symmetric"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_heatmaps_that_are_not_finite_are_an_error_row(tmp_path, batch_size):
    class Broken(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            heatmaps = torch.rand(images.shape[0], 17, 256, 192)
            return heatmaps / (images.mean((1, 2, 3)) > 0).float()[:, None, None, None]

    torch.jit.script(Broken()).save(str(tmp_path / "broken.pt2"))
    black, white = np.zeros((60, 40, 3), np.uint8), np.full((60, 40, 3), 255, np.uint8)
    boxes = [[[5, 5, 30, 50]] * 2, [[5, 5, 30, 50]] * 2, [], [[5, 5, 30, 50]]]
    label = labeler(tmp_path / "broken.pt2", batch_size=batch_size)
    rows = label([white, black, black, black], columns={"boxes": boxes})
    assert [row["error_kind"] for row in rows] == [None, "not_finite", None, "not_finite"]
    assert [row["persons"] and len(row["persons"]) for row in rows] == [2, None, [], None]


def test_the_checkpoint_of_other_keypoints_is_refused(pose17):
    with pytest.raises(CheckpointError, match="1 x 17 x 256 x 192 for 1 images; task pose needs 1 x 133"):
        sr.Labeler(task="pose", keypoints=133, checkpoint=pose17)([photo(40, 50)])


def test_style_lite_shows_points_and_links_in_their_colours():
    task = Pose(PoseOptions(task="pose", keypoints=17, checkpoint="x"))
    table = keypoints(17)
    canvas = np.zeros((400, 300, 3), np.uint8)
    points = [[150.0 + 8 * number, 20.0 + 20 * number] for number in range(17)]
    scores = [1.0] * 17
    scores[16] = 0.1
    points[15] = [1e7, -1e7]
    row = {"width": 600, "height": 800, "persons": [{"box": [0, 0, 600, 800], "keypoints": points, "scores": scores}]}
    picture = task.draw(canvas, row, Visualize(style="lite"))
    drawn = set(map(tuple, picture.reshape(-1, 3).tolist()))
    assert {colour[::-1] for colour in table.colours[:5]} <= drawn
    assert tuple(picture[round(points[0][1] / 2), round(points[0][0] / 2)]) in {
        colour[::-1] for colour in (*table.colours, *table.link_colours)
    }
    assert not picture[170:, :].any(), "points below the score or far outside are neither drawn nor linked"
    assert not canvas.any(), "the photo is not drawn on"
    none = task.draw(canvas, {**row, "persons": []}, Visualize(style="lite"))
    assert np.array_equal(none, canvas)


def test_lite_crops_are_two_resamplings():
    image = photo(200, 100, 2)
    box = np.array([20.0, 10.0, 90.0, 80.0])
    crop = crops.lite_geometry(box, 200, 100)
    assert crop.width / crop.height == pytest.approx(2)
    canvas = cv2.warpAffine(image, crops.warp_matrix(crop, 200, 100), (200, 100), flags=cv2.INTER_LINEAR)
    assert np.array_equal(crops.lite_crop(image, crop), cv2.resize(canvas, (768, 1024)))


@pytest.mark.parametrize("crop", ["trained", "lite"])
def test_whole_photos_are_cropped_when_they_are_decoded(crop):
    """The photo does not travel on. With boxes it does, and the same crop is made of the box around everything."""
    picture = photo(64, 40, 1)
    whole = Pose(PoseOptions(task="pose", checkpoint="-", keypoints=17, crop=crop))
    boxed = Pose(PoseOptions(task="pose", checkpoint="-", keypoints=17, crop=crop, boxes={"column": "boxes"}))
    assert (whole.input_kind, boxed.input_kind) == (f"whole-{crop}", PHOTO)
    assert (whole.options.input_bytes > 0) and boxed.options.input_bytes == 0
    assert boxed.prepare(picture) is picture
    height, width = picture.shape[:2]
    box = np.array([0, 0, width, height, math.nan])
    assert np.array_equal(whole.prepare(picture), boxed.crop(picture, box))
