"""The tasks for checkpoints of Sapiens2: their inputs, classes and boxes, and what is made of their outputs."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sapiens_ray as sr
from sapiens_ray.engine.models import resolve_models, with_recipes
from sapiens_ray.errors import CheckpointError
from sapiens_ray.imaging.maps import decode_npy
from sapiens_ray.job.config import Job
from sapiens_ray.labels import body_parts
from sapiens_ray.output.schema import labels_in, output_schema
from sapiens_ray.tasks import TASKS, AnyTask, make_task
from sapiens_ray.tasks.network import SAPIENS2, Recipe, pad, place_of, stretch
from tests.conftest import SHARED
from tests.small_models import small, small2, write

KIT, PHOTOS = SHARED / "parity2", SHARED / "parity" / "images"
RECIPE = Recipe(SAPIENS2, (1024, 768))
sides = st.integers(1, 5000)


def task_of(kind: str, recipe: Recipe = RECIPE, **options: object) -> AnyTask:
    made = TASKS[kind].options.model_validate({"task": kind, "checkpoint": "x", **options})
    return make_task(made.with_recipe(recipe))


def photo(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@given(sides, sides)
def test_photos_are_put_into_the_middle_and_keep_their_aspect(width, height):
    place = place_of(width, height)
    right, below = 768 - place.left - place.width, 1024 - place.top - place.height
    assert 0 <= right - place.left <= 1 and 0 <= below - place.top <= 1, "the smaller half is at the left and the top"
    scale = min(768 / width, 1024 / height)
    for side, fitted in ((width, place.width), (height, place.height)):
        assert fitted == max(1, int(side * scale)) and (fitted == 1 or 0 <= side * scale - fitted < 1)
    assert place.width >= 767 or place.height >= 1023


def test_margins_are_black_and_nothing_of_the_photo_is_cut():
    white = np.full((300, 500, 3), 255, np.uint8)
    padded = pad(white)
    place = place_of(500, 300)
    assert place == (0, 282, 768, 460) and padded.shape == (1024, 768, 3)
    assert (padded[282:742] == 255).all() and not padded[:282].any() and not padded[742:].any()


@pytest.mark.parametrize(("width", "height", "averages"), [(769, 10, True), (768, 4000, False), (100, 2000, False)])
def test_the_width_alone_decides_how_a_photo_is_stretched(width, height, averages):
    image = photo(width, height)
    ways = {how: cv2.resize(image, (768, 1024), interpolation=how) for how in (cv2.INTER_AREA, cv2.INTER_CUBIC)}
    found = stretch(image, (1024, 768))
    assert np.array_equal(found, ways[cv2.INTER_AREA]) == averages
    assert np.array_equal(found, ways[cv2.INTER_CUBIC]) != averages


@settings(max_examples=8)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 99))
def test_normals_get_unit_length_at_network_size_then_the_size_of_the_photo(width, height, seed):
    """Against torch in float64."""
    task = task_of("normal", dtype="float32", mask="none", resolution="original")
    raw = torch.randn(1, 3, 1024, 768, generator=torch.Generator().manual_seed(seed))
    cells = task.finish(task.reduce(raw, [(width, height)]), {"width": width, "height": height})
    place = place_of(width, height)
    cut = raw[:, :, place.top : place.top + place.height, place.left : place.left + place.width].double()
    unit = cut / cut.norm(dim=1, keepdim=True).clamp(min=1e-8)
    wanted = torch.nn.functional.interpolate(unit, (height, width), mode="bilinear", align_corners=False)
    found = decode_npy(cells["normal"])
    assert found.dtype == np.float32 and np.abs(found - wanted[0].permute(1, 2, 0).numpy()).max() < 1e-3
    assert cells["normal_length"] == pytest.approx(float(cut.norm(dim=1).mean()), abs=1e-4)


def test_stored_normals_are_read_as_they_are_written():
    """At network size they are of unit length and without margins; readers resize them as the task does."""
    kept, full = (task_of("normal", dtype="float32", mask="none", resolution=how) for how in ("network", "original"))
    raw, row = torch.randn(1, 3, 1024, 768), {"width": 50, "height": 30}
    cell = kept.finish(kept.reduce(raw, [(50, 30)]), row)["normal"]
    stored = decode_npy(cell)
    assert stored.shape == (460, 768, 3) and np.abs(np.linalg.norm(stored, axis=-1) - 1).max() < 1e-6
    schema = output_schema([kept], pa.schema([]), {})
    (labels,) = labels_in(schema)
    assert labels.recipe == SAPIENS2
    wanted = decode_npy(full.finish(full.reduce(raw, [(50, 30)]), row)["normal"])
    assert np.array_equal(labels.maps["normal"].original(cell, 50, 30), wanted)
    ((_, file),) = labels.sapiens2_files({"normal": cell, **row})
    assert np.array_equal(decode_npy(file), wanted)


def test_classes_are_those_of_the_checkpoint():
    task = task_of("seg")
    assert task.options.channels == 29 and task.metadata["class_names"][2] == "Eyeglass"
    assert task_of("seg", Recipe()).options.channels == 28
    own = task_of("seg", classes=["nothing", "hair", "skin"])
    assert own.options.channels == 3 and own.metadata["class_names"] == ["nothing", "hair", "skin"]
    v1, v2 = body_parts(), body_parts(29)
    assert v2.names[:2] == v1.names[:2] and v2.names[3:] == v1.names[2:] and v2.colours[3:] == v1.colours[2:]
    assert v2.swap_pairs == tuple((left + 1, right + 1) for left, right in v1.swap_pairs)
    assert sr.class_names("seg", 29)[28] == "Tongue"
    with pytest.raises(ValueError, match=r"class_names\('seg', 30\): the numbers of classes of the models are 28 and"):
        sr.class_names("seg", 30)


def test_inputs_of_different_recipes_are_not_mixed():
    kinds = [("seg", {}), ("normal", {}), ("features", {}), ("pose", {"keypoints": 308})]
    own = [task_of(kind, RECIPE, **options).input_kind for kind, options in kinds]
    others = [task_of(kind, Recipe(), **options).input_kind for kind, options in kinds]
    assert not {*own} & {*others} and own[0] == own[2] and len({*own}) == 3, "seg and features share their input"
    assert task_of("pointmap").input_kind == own[1] and task_of("matting").input_kind not in own
    large = task_of("features", Recipe(SAPIENS2, (4096, 3072)))
    assert large.input_kind != own[2] and large.prepare(photo(31, 47)).shape == (4096, 3072, 3)
    assert large.options.input_bytes == 4096 * 3072 * 3


def test_the_box_of_a_whole_photo_ends_at_the_centre_of_its_last_pixel():
    assert task_of("pose", keypoints=308).boxes({"width": 30, "height": 40})[0, :4].tolist() == [0, 0, 29, 39]
    assert task_of("pose", Recipe(), keypoints=308).boxes({"width": 30, "height": 40})[0, :4].tolist() == [0, 0, 30, 40]


def test_crops_are_bicubic_where_they_are_enlarged():
    task = task_of("pose", keypoints=308, boxes={"column": "boxes"})
    image, large = photo(1200, 1600), photo(2400, 3200)
    for given_photo, box, how in ((image, [300, 400, 500, 700], cv2.INTER_CUBIC), (large, [0, 0, 2399, 3199], 1)):
        x1, y1, x2, y2 = box
        width, height = 1.25 * (x2 - x1), 1.25 * (y2 - y1)
        width, height = max(width, height * 0.75), max(height, width / 0.75)
        left, top = (x1 + x2 - width) / 2, (y1 + y2 - height) / 2
        across, down = 767 / width, 1023 / height
        matrix = np.array([[across, 0, -left * across], [0, down, -top * down]])
        wanted = cv2.warpAffine(given_photo, matrix, (768, 1024), flags=how)
        found = task.crop(given_photo, np.array([*box, np.nan]))
        assert (np.abs(found.astype(int) - wanted) <= 1).mean() > 0.999


def test_keypoints_of_the_demo_come_back_from_its_crop():
    task = task_of("pose", keypoints=308, boxes={"column": "boxes"})
    heatmaps = torch.zeros(1, 308, 256, 192)
    rows, columns = torch.arange(256.0)[:, None], torch.arange(192.0)
    heatmaps[:] = torch.exp(-((columns - 95.5) ** 2 + (rows - 63.75) ** 2) / 72)
    row = {"width": 400, "height": 300, "_boxes:column:boxes": [[100, 60, 220, 220, 0.5]]}
    (person,) = task.finish(task.reduce(heatmaps, [(400, 300)]), row)["persons"]
    # The box is 120 x 160, so 3:4 as it is; its crop is 150 x 200, around (160, 140).
    assert np.allclose(person["keypoints"], [160, 140 - 50], atol=0.02)
    ((ending, data),) = labels_in(output_schema([task], pa.schema([]), {}))[0].sapiens2_files(
        {"image_id": "a.jpg", "width": 400, "height": 300, "persons": json.loads(json.dumps([person], default=list_of))}
    )
    frame = json.loads(data)
    assert ending == ".json" and frame["image_size"] == [400, 300] and frame["image_name"] == "a.jpg"
    assert frame["instances"][0]["bbox"] == [100, 60, 220, 220] and len(frame["instances"][0]["keypoints"]) == 308


def list_of(array: np.ndarray) -> object:
    return array.tolist()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write(folder / "seg.pth", small("seg"), "pth")
    for task in ("seg", "pose", "features"):
        write(folder / f"{task}2.safetensors", small2(task), "safetensors")
    return folder


def resolved(files, *tasks: dict[str, object]) -> Job:
    for task in tasks:
        task["checkpoint"] = str(files / str(task["checkpoint"]))
    job = Job.parse({"input": {"uri": "-"}, "output": {"uri": "-"}, "tasks": list(tasks)}, source="test")
    return with_recipes(job, resolve_models(job))


def test_checkpoints_choose_the_recipe(files):
    job = resolved(
        files,
        {"task": "seg", "checkpoint": "seg.pth"},
        {"task": "seg", "name": "seg2", "checkpoint": "seg2.safetensors", "rope": "float32"},
        {"task": "features", "checkpoint": "features2.safetensors"},
    )
    assert [task.recipe.name for task in job.tasks] == ["lite", "sapiens2", "sapiens2"]
    assert [task.network_size for task in job.tasks] == [(1024, 768)] * 3
    assert [task.channels for task in job.tasks] == [28, 29, None]
    assert [task.result_settings().get("rope") for task in job.tasks] == [None, "float32", None]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"task": "seg", "checkpoint": "seg.pth", "rope": "float32"}, "seg.pth has no rotary positions: `rope` is for"),
        (
            {"task": "normal", "checkpoint": "seg2.safetensors"},
            "is a Sapiens2 seg model (32 wide, 2 layers, 29 classes)",
        ),
        ({"task": "depth", "checkpoint": "seg2.safetensors"}, "but the job asks for task depth"),
        ({"task": "pointmap", "checkpoint": "seg.pth"}, "but the job asks for task pointmap"),
        ({"task": "matting", "checkpoint": "seg2.safetensors"}, "but the job asks for task matting"),
        ({"task": "pose", "keypoints": 17, "checkpoint": "pose2.safetensors"}, "but the job asks for 17 keypoints"),
        (
            {"task": "pose", "keypoints": 308, "crop": "lite", "checkpoint": "pose2.safetensors"},
            "it is a model of Sapiens2, for which `crop: lite` does not exist",
        ),
        ({"task": "seg", "checkpoint": "seg2.safetensors", "classes": ["a", "b"]}, "the job asks for 2 classes"),
    ],
)
def test_what_does_not_fit_the_checkpoint_is_refused(files, task, message):
    with pytest.raises(CheckpointError) as refused:
        resolved(files, task)
    assert message in str(refused.value) and str(refused.value).startswith("tasks[0].checkpoint: ")


@pytest.mark.skipif(not (KIT.is_dir() and PHOTOS.is_dir()), reason="needs the parity kit of Sapiens2")
def test_inputs_equal_those_of_the_original(tmp_path):
    """Every pixel of every photo, within one grey level."""
    seg, normal, matting = task_of("seg"), task_of("normal"), task_of("matting")
    full, boxed = (task_of("pose", keypoints=308, boxes=boxes) for boxes in ("none", {"column": "boxes"}))
    golden = {name: json.loads((KIT / "golden" / f"{name}.json").read_text()) for name in ("images", "boxes")}
    (tmp_path / "inputs").mkdir()
    for stem, about in golden["images"].items():
        image = cv2.imread(str(PHOTOS / about["file"]))
        made = {"seg": seg.prepare(image), "pad": normal.prepare(image), "pose_full": full.prepare(image),
                "matting": matting.prepare(image)}  # fmt: skip
        arrays = {name: one[:, :, ::-1].transpose(2, 0, 1) for name, one in made.items()}
        crops = [boxed.crop(image, np.array([*box, np.nan])) for box in golden["boxes"][stem]]
        arrays["pose_boxes"] = np.stack(crops)[..., ::-1].transpose(0, 3, 1, 2)
        np.savez(tmp_path / "inputs" / f"{stem}.npz", **arrays)
    command = [sys.executable, KIT / "compare.py", tmp_path, "--tasks", "inputs", "--verbose"]
    command += ["--boxes-opencv", "4"] if cv2.__version__.startswith("4.") else []
    compared = subprocess.run(command, capture_output=True, text=True, check=False)
    print(compared.stdout)
    assert compared.returncode == 0 and "compared=6/6" in compared.stdout
