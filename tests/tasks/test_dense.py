"""Depth, normals and features against a plain pipeline in float64, and foreground masks of every kind."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sapiens_ray as sr
from sapiens_ray.errors import CheckpointError
from sapiens_ray.export.filenames import Names
from sapiens_ray.imaging import maps
from sapiens_ray.imaging.images import encode_png
from sapiens_ray.models.stand_ins import build, write_model
from sapiens_ray.tasks.depth import Depth, DepthOptions, nearness, normals_of_depth
from sapiens_ray.tasks.foreground import Mask, fetch, foreground
from sapiens_ray.tasks.normal import Normal, NormalOptions
from sapiens_ray.tasks.sections import Visualize
from tests.conftest import photo

SIZES = [(1, 1), (5000, 3), (33, 47), (299, 401), (768, 1024), (3456, 2304)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for task in ("seg", "depth", "normal", "features"):
        write_model(folder / f"{task}.pt2", task)
    return folder


def network_output(task: str, image: np.ndarray) -> torch.Tensor:
    """The documented steps up to the model's output; shares no code with the package."""
    side = 1024 if task == "features" else 768
    resized = cv2.resize(image, (side, 1024), interpolation=cv2.INTER_LINEAR)
    mean, std = np.float32([123.5, 116.5, 103.5]), np.float32([58.5, 57.0, 57.5])
    rgb = (resized[:, :, ::-1].astype(np.float32) - mean) / std
    with torch.inference_mode():
        output = build(task)(torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))[None])
    return output[0] if task == "features" else output


def upsampled(output: torch.Tensor, image: np.ndarray) -> np.ndarray:
    """C x H x W float64."""
    size = image.shape[:2]
    return torch.nn.functional.interpolate(output.double(), size, mode="bilinear", align_corners=False)[0].numpy()


@pytest.mark.parametrize("size", SIZES)
def test_depth_and_normals_equal_the_plain_pipeline(models, size):
    image = photo(*size, 3)
    tasks = [{"task": task, "checkpoint": str(models / f"{task}.pt2"), "dtype": "float32"}
             for task in ("depth", "normal")]  # fmt: skip
    label = sr.Labeler(tasks=tasks)
    (row,) = label([image], size="original")
    depth = upsampled(network_output("depth", image), image)[0]
    assert row["depth"].shape == image.shape[:2] and row["depth"].dtype == np.float32
    assert np.abs(row["depth"] - depth).max() < 2e-5
    normal = upsampled(network_output("normal", image), image).transpose(1, 2, 0)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-5
    assert np.abs(row["normal"] - normal).max() < 2e-5
    assert np.abs(np.linalg.norm(row["normal"], axis=-1) - 1).max() < 1e-4
    assert row["depth_min"] == pytest.approx(row["depth"].min()) and row["depth_max"] == pytest.approx(
        row["depth"].max()
    )


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_maps_are_stored_as_the_network_gave_them(models, dtype):
    image = photo(299, 401, 1)
    for task, shape in (("depth", (1024, 768)), ("normal", (512, 384, 3))):
        label = sr.Labeler(task=task, checkpoint=models / f"{task}.pt2", dtype=dtype)
        (row,) = label([image])
        raw = network_output(task, image)[0].permute(1, 2, 0).numpy().squeeze()
        assert row[task].shape == shape and row[task].dtype == dtype
        assert np.array_equal(row[task], raw.astype(dtype))
        at_once = sr.Labeler(task=task, checkpoint=models / f"{task}.pt2", dtype="float32", resolution="original")
        assert np.allclose(at_once([image])[0][task], label([image], size="original")[0][task], atol=2e-3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features_equal_the_plain_pipeline(models, size, dtype):
    image = photo(*size, 5)
    (row,) = sr.Labeler(task="features", checkpoint=models / "features.pt2", save="both", dtype=dtype)([image])
    tokens = network_output("features", image)[0].numpy()
    assert row["features_map"].shape == (64, 64, 64) and row["features_map"].dtype == dtype
    assert np.array_equal(row["features_map"], tokens.astype(dtype))
    mean = tokens.astype(np.float64).mean((1, 2))
    assert np.abs(np.array(row["features"], np.float64) - mean).max() < (1e-3 if dtype == "float16" else 1e-6)


def test_the_checkpoint_of_another_task_is_refused(models):
    for task, other in (("features", "seg"), ("depth", "normal"), ("normal", "seg")):
        with pytest.raises(CheckpointError, match="Is this the checkpoint of another task"):
            sr.Labeler(task=task, checkpoint=models / f"{other}.pt2")([photo(20, 20)])


def test_features_saves_what_the_option_says(models):
    for save, columns in (("mean", {"features"}), ("map", {"features_map"}), ("both", {"features", "features_map"})):
        (row,) = sr.Labeler(task="features", checkpoint=models / "features.pt2", save=save)([photo(30, 40)])
        assert {name for name in row if name.startswith("features")} == columns
    (row,) = sr.Labeler(task="features", checkpoint=models / "features.pt2", save="map")(
        [photo(30, 40)], size="original"
    )
    assert row["features_map"].shape == (64, 40, 30)


def test_results_do_not_depend_on_neighbours_batches_or_units(models):
    images = [photo(60 + 7 * number, 90, number) for number in range(5)]
    tasks = [{"task": task, "checkpoint": str(models / f"{task}.pt2")} for task in ("depth", "normal", "features")]
    alone = sr.Labeler(tasks=tasks, unit_size=1)(images)
    for batch_size in (2, 8):
        many = [{**task, "batch_size": batch_size, "name": task["task"]} for task in tasks]
        for row, other in zip(alone, sr.Labeler(tasks=many, unit_size=3)(images), strict=True):
            for name in ("depth", "normal", "features"):
                assert np.allclose(np.array(row[name], float), np.array(other[name], float), atol=1e-3), name


def test_an_error_row_holds_no_labels_of_other_tasks(models, tmp_path):
    """If depth is not finite, the row has neither seg, which ran before it, nor normals, which run after it."""

    class Broken(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(1, keepdim=True) / (images.mean((1, 2, 3), keepdim=True) + 1.9).clamp(min=0)

    torch.jit.script(Broken()).save(str(tmp_path / "broken.pt2"))
    tasks = [{"task": task, "checkpoint": str(models / f"{task}.pt2")} for task in ("seg", "normal")]
    tasks.insert(1, {"task": "depth", "checkpoint": str(tmp_path / "broken.pt2")})
    black, white = np.zeros((20, 30, 3), np.uint8), np.full((20, 30, 3), 255, np.uint8)
    good, bad, again = sr.Labeler(tasks=tasks)([white, black, white])
    assert bad["error_kind"] == "not_finite" and "depth" in bad["error"]
    labels = [name for name in bad if name.startswith(("seg", "depth", "normal"))]
    assert len(labels) == 11 and all(bad[name] is None for name in labels)
    assert all(good[name] is not None and np.array_equal(good[name], again[name]) for name in labels)


# --- foreground ------------------------------------------------------------------------------------------------


def test_depth_takes_its_foreground_from_seg(models):
    image = photo(120, 160, 2)
    colour = (
        torch.randn(28, 3, generator=torch.Generator().manual_seed(0))[0] * 58 + 115
    )  # the demo's colour of class 0
    image[:80] = colour.clamp(0, 255).flip(0).to(torch.uint8).numpy()
    tasks = [{"task": task, "checkpoint": str(models / f"{task}.pt2"), "name": name}
             for task, name in (("depth", "d"), ("seg", "s"))]  # fmt: skip
    (row,) = sr.Labeler(tasks=tasks)([image], size="original")
    inside = row["d"][row["s"] > 0]
    assert 0 < inside.size < row["d"].size
    assert row["d_min"] == pytest.approx(inside.min(), abs=1e-3)
    assert row["d_max"] == pytest.approx(inside.max(), abs=1e-3)


def npy(array: np.ndarray) -> bytes:
    return maps.encode_npy(array)


def palette_png(mask: np.ndarray) -> bytes:
    """As `export --format masks` writes it: the colour of class 0 is not black."""
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette([50, 50, 50, 255, 218, 0])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


HUGE_HEADER = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 99999), }".ljust(
    128
)
MARK = np.zeros((40, 30), bool)
MARK[10:20, 5:9] = True


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (npy(MARK), MARK),
        (npy(MARK.astype(np.int64) * 7), MARK),
        (encode_png(MARK.astype(np.uint8) * 255), MARK),
        (encode_png(np.repeat(MARK[..., None].astype(np.uint8), 3, -1)), MARK),
        (npy(MARK[::2, ::2]), np.repeat(np.repeat(MARK[::2, ::2], 2, 0), 2, 1)),
        (None, None),
        (b"", None),
        (b"\x93NUMPY garbage", None),
        (b"garbage", None),
        (npy(np.zeros(5)), None),
        (npy(np.zeros((0, 3))), None),
        (npy(MARK)[:-20], None),
        (npy(np.float32(1)), None),
        (npy(np.zeros(3, [("a", int)])), None),
        (HUGE_HEADER, None),
        (palette_png(MARK), MARK),
    ],
)
def test_masks_of_every_kind(data, expected):
    mask = Mask.model_validate({"column": "m"})
    fetched = fetch(mask, "x", data, "", {})
    found = foreground(mask, {"width": 30, "height": 40, "_mask:column:m": fetched})
    assert found is None if expected is None else np.array_equal(found, expected)


def test_a_pickle_is_not_a_mask():
    pickled = npy(np.zeros((40, 30))).replace(b"'<f8'", b"'|O' ")
    assert fetch(Mask.model_validate({"column": "m"}), "x", pickled, "", {}) is None


@pytest.mark.parametrize("cell", ["", "a" * 5000, "a\0b", "foo://bar/x.npy", "not-there.npy", 7, {"path": None}])
def test_a_cell_that_is_not_a_mask_does_not_end_a_job(cell, tmp_path):
    assert fetch(Mask.model_validate({"column": "m"}), "x", cell, str(tmp_path), {}) is None


@pytest.mark.parametrize(
    "image_id", ["a/b.jpg", "s3://bucket/a.jpg", "/data/a.jpg", "a:1.jpg", "../x/a.jpg", "x.tar/k.png"]
)
def test_masks_are_found_under_the_names_that_exports_give(image_id, tmp_path):
    (name, _) = Names([image_id]).of(image_id)
    (tmp_path / f"{name}.npy").parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / f"{name}.npy").write_bytes(npy(MARK))
    mask = Mask.model_validate({"folder": str(tmp_path)})
    data = fetch(mask, image_id, None, "", {})
    assert np.array_equal(foreground(mask, {"width": 30, "height": 40, mask.carried: data}), MARK)


def test_missing_and_empty_masks_are_not_errors(models):
    image = photo(30, 40)
    empty, full = encode_png(np.zeros((40, 30), np.uint8)), encode_png(np.full((40, 30), 1, np.uint8))
    label = sr.Labeler(task="depth", checkpoint=models / "depth.pt2", mask={"column": "m"})
    rows = label([image] * 3, columns={"m": [None, empty, full]})
    assert [row["error_kind"] for row in rows] == [None] * 3
    assert [row["depth_min"] is None for row in rows] == [True, True, False]
    everything = sr.Labeler(task="depth", checkpoint=models / "depth.pt2")([image])[0]
    assert (rows[2]["depth_min"], rows[2]["depth_max"]) == (everything["depth_min"], everything["depth_max"])
    for cell in (None, empty, full):
        assert label.preview(image, Visualize(style="lite"), {"m": cell}).shape == (40, 90, 3)


# --- pictures --------------------------------------------------------------------------------------------------


def test_near_is_bright_and_flat_is_grey_without_nan():
    depth = np.linspace(2, 6, 12, dtype=np.float32).reshape(3, 4)
    inside = np.ones((3, 4), bool)
    inside[0, 0] = False
    near = nearness(depth, inside)
    assert near[0, 1] == 1 and near[2, 3] == 0 and near[0, 0] == 0
    assert np.array_equal(nearness(np.full((3, 4), 5, np.float32), inside), inside * np.float32(0.5))
    assert not nearness(depth, np.zeros((3, 4), bool)).any()


def test_normals_of_depth_equal_the_formula():
    random = np.random.default_rng(0)
    near = cv2.GaussianBlur(random.random((60, 50)).astype(np.float32), (0, 0), 5)
    inside = np.zeros((60, 50), bool)
    inside[8:50, 6:44] = True
    picture = normals_of_depth(near, inside)
    # Sobel 7 as the product of the binomial smoothing and the smoothed difference, in float64.
    smooth, slope = np.array([1, 6, 15, 20, 15, 6, 1.0]), np.array([-1, -4, -5, 0, 5, 4, 1.0])
    y, x = 30, 22
    window = near[y - 3 : y + 4, x - 3 : x + 4].astype(np.float64)
    gx, gy = smooth @ window @ slope, slope @ window @ smooth
    normal = np.array([-gx, -gy, -1]) / (np.sqrt(gx**2 + gy**2 + 1) + 1e-5)
    assert np.abs(picture[y, x, ::-1] - (normal + 1) / 2 * 255).max() <= 1
    core = np.zeros_like(inside)
    core[11:47, 9:41] = True
    assert not picture[~inside].any(), "outside is black"
    assert picture[core].any(-1).all()


def test_style_lite_shows_panels_side_by_side():
    image = photo(64, 48)
    row = {"width": 640, "height": 480, "seg": encode_png(np.tile(np.uint8([[0, 1]]), (480, 320)))}
    row["seg"] = encode_png(np.repeat(np.uint8([[0, 1]]), 320, 1).repeat(480, 0))
    depth = Depth(DepthOptions(task="depth", checkpoint="x", mask=Mask(source="seg", seg="seg")))
    row["depth"] = npy(np.tile(np.linspace(0, 1, 768, dtype=np.float16), (1024, 1)))
    picture = depth.draw(image, row, Visualize(style="lite"))
    assert picture.shape == (48, 192, 3) and np.array_equal(picture[:, :64], image)
    assert (picture[:, 64:96] == 100).all() and (picture[:, 128:160] == 0).all()
    assert int(picture[20, 97].sum()) > int(picture[20, 126].sum()), "near is bright"
    normal = Normal(NormalOptions(task="normal", checkpoint="x", mask=Mask(source="seg", seg="seg")))
    row["normal"] = npy(np.tile(np.float16([0.6, 0, 0.8]), (512, 384, 1)))
    picture = normal.draw(image, row, Visualize(style="lite"))
    assert picture.shape == (48, 128, 3) and (picture[:, 64:96] == 0).all()
    assert np.abs(picture[20, 100].astype(int) - [229, 127, 204]).max() <= 1  # BGR of (n + 1) / 2


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_resizing_equals_torch_in_float64(w, h, width, height, seed):
    array = np.random.default_rng(seed).normal(size=(h, w, 3)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(array).double().permute(2, 0, 1)[None], (height, width), mode="bilinear", align_corners=False
    )[0].permute(1, 2, 0)
    assert np.abs(maps.resize(array, width, height).reshape(height, width, 3) - expected.numpy()).max() < 1e-4
