"""`Labeler` and `read_labels` as a Python user meets them: datasets, Pillow images, paths, and what comes back."""

from __future__ import annotations

import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

import sapiens_ray as sr
from sapiens_ray.errors import CheckpointError, ConfigError, ImageError, OutputError
from sapiens_ray.models.stand_ins import write_model
from sapiens_ray.tasks.sections import Visualize
from tests.conftest import ROOT, photo, write_photos

SAMPLES = ROOT / "sapiens_ray" / "samples"
PORTRAIT = SAMPLES / "crops" / "astronaut_portrait_exif.jpg"
BEGUN = ROOT / "tests" / "data" / "begun_by_3a36c3a"
BOXES = [[[4, 6, 60, 90]], [], [[0, 0, 30, 40], [20, 30, 90, 120]]]


@pytest.fixture(scope="module")
def pose(tmp_path_factory) -> sr.Labeler:
    path = tmp_path_factory.mktemp("pose") / "pose17.pt2"
    write_model(path, "pose17")
    return sr.Labeler(task="pose", keypoints=17, checkpoint=path, boxes={"column": "boxes"}, unit_size=2)


def test_a_picture_gives_the_same_labels_as_its_file(model):
    labeler = sr.Labeler(task="seg", checkpoint=model)
    files = [PORTRAIT, SAMPLES / "crops" / "hopper_uniform_grey.png"]
    as_files, as_pillow = labeler(files), labeler(Image.open(file) for file in files)
    for one, other in zip(as_files, as_pillow, strict=True):
        assert one["error_kind"] is other["error_kind"] is None
        assert one["seg"].shape == other["seg"].shape == (one["height"], one["width"])
        assert (one["seg"] != other["seg"]).mean() < 0.01  # JPEG decoders may round differently
    assert [row["image_id"] for row in as_files] == list(map(str, files))
    assert [row["image_id"] for row in as_pillow] == ["image-0", "image-1"]
    assert labeler.preview(Image.open(PORTRAIT)).shape == labeler.preview(PORTRAIT).shape


def test_a_dataset_of_hugging_face_is_labelled_with_its_boxes(pose, tmp_path):
    files = write_photos(tmp_path, 3)
    dataset = datasets.Dataset.from_dict({
        "photo": list(map(str, files)), "boxes": BOXES, "caption": ["a", "b", "c"],
    })  # fmt: skip
    wanted = pose(files, columns={"boxes": BOXES})
    assert [len(row["persons"]) for row in wanted] == [1, 0, 2]
    for images in (
        dataset.cast_column("photo", datasets.Image()),
        dataset.cast_column("photo", datasets.Image(decode=False)),
        dataset.cast_column("photo", datasets.Image()).to_iterable_dataset(),
    ):
        rows = pose(images)
        assert [row["error_kind"] for row in rows] == [None] * 3
        for row, same in zip(rows, wanted, strict=True):
            assert len(row["persons"]) == len(same["persons"])
            for person, other in zip(row["persons"], same["persons"], strict=True):
                assert np.array_equal(person["box"], other["box"])
                assert np.abs(person["keypoints"] - other["keypoints"]).max() < 1
    first = next(iter(images))
    (alone,) = pose(first)
    assert np.array_equal(alone["persons"][0]["box"], [4, 6, 60, 90])
    assert pose.preview(first, Visualize(style="lite")).shape == (128, 96, 3)
    with pytest.raises(ConfigError, match="image 0 has two values of 'boxes'"):
        pose(first, columns={"boxes": BOXES[:1]})
    with pytest.raises(ConfigError, match="column 'boxes' has 1 value for 3 images"):
        pose(files, columns={"boxes": BOXES[:1]})


def test_a_mask_in_a_row_may_be_a_picture(tmp_path):
    write_model(tmp_path / "depth.pt2", "depth")
    labeler = sr.Labeler(task="depth", checkpoint=tmp_path / "depth.pt2", mask={"column": "mask"})
    image, marked = photo(40, 50), np.zeros((50, 40), np.uint8)
    marked[10:30, 5:25] = 1
    palette = Image.fromarray(marked, "P")
    palette.putpalette([9, 9, 9, 200, 0, 0])  # the colour of index 0 is not black
    (wanted,) = labeler(image, columns={"mask": [marked]})
    assert wanted["depth_min"] is not None
    picture = Image.fromarray(image[:, :, ::-1])
    grey = Image.fromarray(marked)
    for mask in (grey, Image.fromarray(marked > 0), palette, grey.convert("LA")):
        (row,) = labeler({"image": picture, "mask": mask})
        assert (row["depth_min"], row["depth_max"]) == (wanted["depth_min"], wanted["depth_max"]), mask.mode


def test_persons_are_arrays_in_rows_and_in_frames(pose):
    (row,) = pose(photo(96, 128), columns={"boxes": [BOXES[2]]})
    frame = sr.read_labels(BEGUN / "output", decode=True)
    assert frame.loc[1, "persons"] is None, "an error row"
    for persons, count in ((row["persons"], 2), (frame.loc[0, "persons"], 1)):
        assert isinstance(persons, list) and len(persons) == count
        for person in persons:
            shapes = {name: (person[name].shape, person[name].dtype) for name in ("box", "keypoints", "scores")}
            assert shapes == {"box": ((4,), "f4"), "keypoints": ((17, 2), "f4"), "scores": ((17,), "f4")}
            assert person["keypoints"][sr.keypoint_names(17).index("nose")].shape == (2,)
            ends = person["keypoints"][np.array(sr.keypoint_links(17))]
            assert ends.shape == (19, 2, 2)
    assert isinstance(pose(photo(96, 128), decode=False, columns={"boxes": [BOXES[0]]})[0]["persons"][0]["box"], list)
    assert sr.read_labels(BEGUN / "output", columns=["persons"], decode=True).columns.tolist() == ["persons"]
    names = sr.class_names("seg")
    assert [names[number] for number in frame.loc[0, "seg_classes"]][:2] == ["Background", "Apparel"]


def test_read_labels_takes_any_spelling_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BEGUN / "output", tmp_path / "labels")
    wanted = sr.read_labels(str(tmp_path / "labels"))["image_id"].tolist()
    assert len(wanted) == 6
    spellings = [Path("labels"), "labels/", "~/labels", "~/labels//", Path("~/labels"), tmp_path / "labels"]
    spellings.append(f"file://{tmp_path}/labels")
    for output in spellings:
        assert sr.read_labels(output)["image_id"].tolist() == wanted, output
    with pytest.raises(OutputError, match=f"^{tmp_path}/none holds no labels"):
        sr.read_labels("~/none/")
    with pytest.raises(OutputError, match=r"^labels/data is the part of an output that holds its files; read labels$"):
        sr.read_labels("labels/data")
    (tmp_path / "data").mkdir()
    for folder in ("data", str(tmp_path / "data"), "none/data", f"file://{tmp_path}/data"):
        with pytest.raises(OutputError, match="holds no labels: no files in"):
            sr.read_labels(folder)


def test_settings_of_pictures_are_those_of_a_job_file(model, tmp_path):
    (photo,) = write_photos(tmp_path, 1)
    labeler = sr.Labeler(task="seg", checkpoint=model)
    lite = labeler.preview(photo, Visualize(style="lite"))
    assert np.array_equal(labeler.preview(photo, {"style": "lite"}), lite)
    assert not np.array_equal(labeler.preview(photo), lite)
    with pytest.raises(
        ConfigError, match=r"^Labeler\.preview: output\.visualize\.stile: unknown key; did you mean 'style"
    ):
        labeler.preview(photo, {"stile": "lite"})
    with pytest.raises(TypeError, match=r"^Labeler\.preview: visualize is a mapping, such as .*, not 'lite'$"):
        labeler.preview(photo, "lite")
    with pytest.raises(ValueError, match=r"^Labeler: size must be 'stored' or 'original', not 'big'$"):
        labeler(photo, size="big")


def test_messages_name_options_as_they_were_given(model, tmp_path):
    missing = str(tmp_path / "none.pt2")
    with pytest.raises(CheckpointError, match=f"^checkpoint: {missing} does not exist"):
        sr.Labeler(task="seg", checkpoint=missing)
    with pytest.raises(ConfigError, match=r"^Labeler: keypoints: is missing; one of 17, 133, 308$"):
        sr.Labeler(task="pose", checkpoint=model)
    with pytest.raises(ConfigError, match=r"^Labeler: checkpoint: is missing$"):
        sr.Labeler(task="seg")
    with pytest.raises(ImageError, match=r"^none\.jpg: no such file"):
        sr.Labeler(task="seg", checkpoint=model).preview("none.jpg")
    seg = {"task": "seg", "checkpoint": str(model)}
    pose = {"task": "pose", "checkpoint": str(model), "keypoints": 17}
    with pytest.raises(CheckpointError, match=rf"^tasks\[1\]\.checkpoint: {missing} does not exist"):
        sr.Labeler(tasks=[seg, {**pose, "checkpoint": missing}])
    detector = {"model": "torchscript", "checkpoint": missing}
    with pytest.raises(CheckpointError, match=rf"^tasks\[1\]\.boxes\.detector\.checkpoint: {missing} does not exist"):
        sr.Labeler(tasks=[seg, {**pose, "boxes": {"detector": detector}}])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: sr.class_names("sge"), r"class_names\('sge'\): the tasks with classes are 'seg'"),
        (lambda: sr.keypoint_names(300), r"keypoint_names\(300\): .* are 17, 133, 308"),
        (lambda: sr.keypoint_links("17"), r"keypoint_links\('17'\): .* are 17, 133, 308"),
    ],
)
def test_wrong_names_of_tables_are_told_the_right_ones(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_tables_are_lists_in_the_order_of_the_models():
    assert len(sr.class_names("seg")) == 28 and sr.class_names("seg")[21] == "Torso"
    for count in (17, 133, 308):
        names, links = sr.keypoint_names(count), sr.keypoint_links(count)
        assert len(set(names)) == count and names[:3] == ["nose", "left_eye", "right_eye"]
        assert {number for link in links for number in link} <= set(range(count))
    named = [{sr.keypoint_names(17)[end] for end in link} for link in sr.keypoint_links(17)]
    assert {"left_ankle", "left_knee"} in named and {"nose", "left_eye"} in named
    sr.class_names("seg").clear()
    assert len(sr.class_names("seg")) == 28, "a caller may change its list"
