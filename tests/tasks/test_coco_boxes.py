"""Boxes of persons out of COCO files: which image has which, to the last bit, and what is refused."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import sapiens_ray as sr
from sapiens_ray.engine.assemble import Contents, make_unit, resolve_box_files
from sapiens_ray.errors import ConfigError, ImageError, InputError, StorageError
from sapiens_ray.execution.preflight import prepare_job
from sapiens_ray.job.config import Job
from sapiens_ray.models.stand_ins import write_model
from sapiens_ray.planning.subset import Subset
from sapiens_ray.sources import Encoded
from sapiens_ray.tasks import coco_boxes
from sapiens_ray.tasks.coco import CocoOptions
from sapiens_ray.tasks.coco_boxes import BoxFile, _corners
from sapiens_ray.tasks.coco_file import number_in
from tests.archives import write_parquet, write_tar
from tests.conftest import write_photos

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 4, "name": "person"}]


def annotation(image: int, box: object, category: int = 4, **more: object) -> dict[str, object]:
    return {"id": 1, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0, **more}


def detection(image: int, box: object, score: float = 0.5, category: int = 1) -> dict[str, object]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def file_of(path: Path, content: object) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def truth(path: Path, names: list[str], annotations: list[object], **more: object) -> str:
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    return file_of(path, {"images": images, "annotations": annotations, "categories": CATEGORIES, **more})


def resolved(**options: object) -> BoxFile:
    return BoxFile.resolve(CocoOptions(**options), "tasks[0].boxes.coco", {})


def boxes(file: BoxFile, image_id: str, uri: str = "") -> list[list[float]]:
    return file.boxes.of(image_id, uri)


def error_of(file: BoxFile, image_id: str, uri: str = "") -> str:
    with pytest.raises(ImageError) as caught:
        boxes(file, image_id, uri)
    assert caught.value.kind == "bad_boxes"
    return caught.value.message


def test_persons_of_ground_truth(tmp_path):
    found = resolved(
        file=truth(
            tmp_path / "gt.json",
            ["a.jpg", "deep/b.jpg", "c.jpg"],
            [
                annotation(0, [10.1, 20.2, 30.3, 40.4]),
                annotation(0, [1, 2, 3, 4], category=18),
                annotation(0, [5, 6, 7, 8], iscrowd=1),
                annotation(1, [0, 0, 9, 9]),
                annotation(0, [-3, 4, 50, 60], score=0.9),
                annotation(0, [7, 7, 0, 5]),
                annotation(0, [7, 7, 5, 0.0]),
            ],
        )
    )
    first, second = boxes(found, "a.jpg")
    assert first[:4] == [10.1, 20.2, 10.1 + 30.3, 20.2 + 40.4] and math.isnan(first[4])
    assert second[:4] == [-3, 4, 47, 64] and math.isnan(second[4]), "ground truth has no score"
    assert len(boxes(found, "deep/b.jpg")) == 1 and boxes(found, "c.jpg") == []
    assert found.boxes.left_out == 2
    assert error_of(found, "d.jpg") == "not listed in gt.json"


def test_without_a_category_of_persons_it_is_the_first(tmp_path):
    entries = [annotation(0, [0, 0, 5, 5], category=1), annotation(0, [0, 0, 6, 6], category=4)]
    for categories in ([], [{"id": 1, "name": "pedestrian"}]):
        found = resolved(file=truth(tmp_path / "gt.json", ["a.jpg"], entries, categories=categories))
        assert [box[2] for box in boxes(found, "a.jpg")] == [5]


def test_images_are_found_by_their_whole_name_or_by_the_base_name_that_only_one_has(tmp_path):
    names = ["a.jpg", "x/b.jpg", "x/twice.jpg", "y/twice.jpg"]
    found = resolved(
        file=truth(tmp_path / "gt.json", names, [annotation(n, [0, 0, n + 2, 9]) for n in range(len(names))])
    )
    for image_id, uri, width in [
        ("a.jpg", "", 2),
        ("/photos/a.jpg", "", 2),
        ("shard-0.tar/a.jpg", "", 2),
        ("/photos/x/b.jpg", "", 3),
        ("b.jpg", "", 3),
        ("y/twice.jpg", "", 5),
        ("id-7", "/photos/x/b.jpg", 3),
        ("https://h/a.jpg?size=5", "", 2),
        ("elsewhere/a.jpg", "x/b.jpg", 3),  # a whole name before a base name
    ]:
        assert [box[2] for box in boxes(found, image_id, uri)] == [width], image_id
    others = ("twice.jpg", "z/twice.jpg", "a.png", "A.jpg", "", "y/b.jpg", "xx/b.jpg", "shard-0.tar/b.jpg")
    for image_id in others:  # x/b.jpg is another image than y/b.jpg
        assert error_of(found, image_id) == "not listed in gt.json"


@pytest.mark.parametrize(
    ("names", "number"),
    [
        (["000000000139.jpg"], 139),
        (["val2017/000000000139.jpg", "/photos/7.jpg"], 139),
        (["COCO_val2014_000000000139.jpg"], 139),
        (["139"], 139),  # an id out of `id_column`
        (["a name", "s3://bucket/000000000139.png"], 139),
        (["000000000139.jpg#2", "/photos/000000000139.jpg"], 139),
        (["x.parquet/00000012"], None),  # the row of a Parquet file
        (["image-3"], None),
        (["photo2.jpg"], None),
        (["frame 12.jpg"], None),
        (["12.5.jpg"], None),
        (["99999999999999999999.jpg"], None),
        ([""], None),
    ],
)
def test_the_number_in_a_name(names, number):
    assert number_in(names) == number


def test_detections(tmp_path):
    entries = [
        detection(139, [412.5, 157.25, 53.1, 138.2], 0.99),
        detection(139, [1, 2, 3, 4], 0.2),
        detection(139, [1, 2, 3, 4], 0.9, category=3),
        detection(285, [0, 0, 0, 9], 0.3),
    ]
    path = file_of(tmp_path / "d.json", entries)
    found = resolved(file=path)
    assert boxes(found, "000000000139.jpg") == [
        [412.5, 157.25, 412.5 + 53.1, 157.25 + 138.2, 0.99],
        [1, 2, 4, 6, 0.2],
    ]
    assert boxes(found, "000000000285.jpg") == [[0, 0, 0, 9, 0.3]], "counts as one pixel, as in columns"
    assert boxes(found, "000000000001.jpg") == [], "nobody was found in it"
    assert error_of(found, "street.jpg").startswith("its file name has no number that d.json could mean")
    assert [box[4] for box in boxes(resolved(file=path, min_score=0.3), "000000000139.jpg")] == [0.99]
    assert boxes(resolved(detections=path, min_score=0.2), "139.png") == boxes(found, "139.jpg"), "not below it"


def test_detections_whose_images_another_file_lists(tmp_path):
    images = file_of(
        tmp_path / "images.json",
        {"images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}], "categories": CATEGORIES},
    )
    entries = [detection(7, [1, 2, 3, 4], category=4), detection(7, [1, 2, 9, 9], category=1)]
    found = resolved(detections=file_of(tmp_path / "d.json", entries), images=images)
    assert boxes(found, "a.jpg") == [[1, 2, 4, 6, 0.5]] and boxes(found, "b.jpg") == []
    assert error_of(found, "7.jpg") == "not listed in images.json"
    assert found.name == f"{tmp_path}/d.json with the images of {images}"
    Path(images).write_text(Path(images).read_text() + " ")
    assert resolved(detections=str(tmp_path / "d.json"), images=images).sha256 != found.sha256


NUMBERS = st.floats(-2e6, 2e6) | st.integers(-2_000_000, 2_000_000)


@given(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS))
def test_corners_are_sums_in_float64(box):
    x, y, width, height = np.array(box, np.float64)
    expected = np.array([x, y, x + width, y + height])
    found = _corners(list(box), None, "here")
    if np.abs(expected).max() > 1e6 or width < 0 or height < 0:
        assert isinstance(found, str) and found.startswith("here: bbox [")
    else:
        assert np.array(found[:4], np.float64).tobytes() == expected.tobytes()


WRONG = [
    ([1, 2, -3, 4], "has a negative width or height"),
    ([1, 2, 3, float("nan")], "holds numbers that are not pixel positions"),
    ([float("inf"), 2, 3, 4], "holds numbers that are not pixel positions"),
    ([10**400, 2, 3, 4], "holds numbers that are not pixel positions"),
    ([1, 2, 3], "is not [x, y, width, height]"),
    (["1", 2, 3, 4], "is not [x, y, width, height]"),
    ([True, 2, 3, 4], "is not [x, y, width, height]"),
    (None, "is not [x, y, width, height]"),
    ({"x": 1}, "is not [x, y, width, height]"),
]


@pytest.mark.parametrize(("box", "why"), WRONG)
def test_a_wrong_box_is_the_error_of_its_image_alone(tmp_path, box, why):
    entries = [annotation(0, [0, 0, 5, 5]), annotation(1, [0, 0, 5, 5]), annotation(1, box)]
    found = resolved(file=truth(tmp_path / "gt.json", ["a.jpg", "b.jpg"], entries))
    assert len(boxes(found, "a.jpg")) == 1
    said = error_of(found, "b.jpg")
    assert said.startswith("annotations[2]: bbox ") and said.endswith(why)
    listed = resolved(file=file_of(tmp_path / "d.json", [detection(1, [0, 0, 5, 5]), detection(2, box)]))
    assert len(boxes(listed, "1.jpg")) == 1 and error_of(listed, "2.jpg").endswith(why)


REFUSED = [
    ('{"images": [', "is not JSON: "),
    ("\xff", "is not JSON: "),
    ("[" * 100_000, "is not JSON: "),
    ("7", "has no list of objects 'images'"),
    ("{}", "has no list of objects 'images'"),
    ({"images": [7], "annotations": []}, "has no list of objects 'images'"),
    ({"images": [{"id": "7", "file_name": "a.jpg"}], "annotations": []}, "images[0] needs a number `id` and a text"),
    ({"images": []}, "has no list of objects 'annotations'"),
    ({"images": [], "annotations": []}, "has no boxes of persons (`bbox`)"),
    ({"images": [], "annotations": [annotation(1, [0, 0, 9, 9], 18)], "categories": CATEGORIES}, "has no boxes of"),
    ({"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}, "wrong: annotations[0]: bbox None is not [x, y"),
    ({"images": [], "annotations": [{"bbox": [0, 0, 9, 9]}]}, "annotations[0] has no number `image_id`"),
    ({"images": [], "annotations": [{"image_id": 1, "bbox": [0.1, 0.2, 0.3, 0.4]}]}, "give pixels, not shares"),
    ([], "has no boxes of persons"),
    ([detection(1, [0, 0, 9, 9], category=2)], "has no boxes of persons"),
    ([7], "[0] is no detection"),
    ([{"image_id": 1, "bbox": [0, 0, 9, 9]}], "[0] is no detection"),
    ([detection(1, [0, 0, 9, 9]), detection(10**30, [0, 0, 9, 9])], "[1] is no detection"),
]


@pytest.mark.parametrize(("content", "why"), REFUSED)
def test_a_file_that_is_of_no_use_is_refused_with_one_message(tmp_path, content, why):
    path = file_of(tmp_path / "x.json", content)
    with pytest.raises(InputError) as caught:
        resolved(file=path)
    said = str(caught.value)
    assert said.startswith(f"tasks[0].boxes.coco: {path}") and why in said and "\n" not in said and len(said) < 400


def test_other_refusals(tmp_path):
    path = truth(tmp_path / "gt.json", ["a.jpg"], [annotation(0, [0, 0, 5, 5])])
    listed = file_of(tmp_path / "d.json", [detection(1, [0, 0, 9, 9])])
    for options, why in [
        ({"file": str(tmp_path / "none.json")}, rf"tasks\[0\]\.boxes\.coco: {tmp_path}/none\.json does not exist"),
        ({"file": str(tmp_path)}, "cannot read .*: IsADirectoryError"),
        ({"file": path, "min_score": 0.5}, r"coco\.min_score: the boxes of a ground-truth file have no scores"),
        ({"detections": path}, r"coco\.detections: .* is no list of detections"),
        ({"detections": listed, "images": listed}, r"coco\.images: .* has no list of objects 'images'"),
        ({"detections": listed, "images": f"{tmp_path}/none.json"}, r"coco\.images: .*none\.json does not exist"),
        ({"file": listed, "min_score": 0.6}, "has no boxes of persons"),
    ]:
        with pytest.raises(InputError, match=why):
            resolved(**options)


def test_a_file_may_be_a_url(tmp_path):
    content = Path(truth(tmp_path / "gt.json", ["a.jpg"], [annotation(0, [0, 0, 5, 5])])).read_bytes()
    fsspec.filesystem("memory").pipe_file("/coco/gt.json", content)
    found = resolved(file="memory://coco/gt.json")
    assert len(boxes(found, "a.jpg")) == 1 and error_of(found, "b.jpg") == "not listed in gt.json"
    with pytest.raises(InputError, match=r"coco: memory://coco/none\.json does not exist"):
        resolved(file="memory://coco/none.json")


def test_a_process_reads_a_file_once_and_only_the_one_of_the_job(tmp_path):
    path = tmp_path / "gt.json"
    found = resolved(file=truth(path, ["a.jpg"], [annotation(0, [0, 0, 5, 5])]))
    elsewhere = pickle.loads(pickle.dumps(found))
    assert elsewhere.boxes is found.boxes and len(pickle.dumps(found)) < 2000
    truth(path, ["a.jpg"], [annotation(0, [0, 0, 6, 6])])
    assert [box[2] for box in boxes(elsewhere, "a.jpg")] == [5], "held since before it changed"
    other = BoxFile(found.options, found.where, "0" * 64)
    with pytest.raises(InputError, match="is not the file this job was started with"):
        _ = other.boxes
    path.unlink()
    with pytest.raises(StorageError, match="does not exist; all nodes must be able to read it"):
        _ = other.boxes


def test_all_files_of_a_job_are_held(tmp_path, monkeypatch):
    tasks = []
    for number in range(6):
        path = truth(tmp_path / f"{number}.json", ["a.jpg"], [annotation(0, [0, 0, 5, 5 + number])])
        tasks.append({
            "task": "pose", "name": f"p{number}", "keypoints": 17, "checkpoint": "p", "boxes": {"coco": path},
        })  # fmt: skip
    files = resolve_box_files(Job.parse({"input": {"uri": "x"}, "output": {"uri": "y"}, "tasks": tasks}))
    monkeypatch.setattr(coco_boxes, "_read", lambda file: pytest.fail(f"{file.name} is read again"))
    for _ in range(3):
        assert [boxes(file, "a.jpg")[0][3] for file in files] == [5, 6, 7, 8, 9, 10]


# The job file.


def pose_job(folder: Path, coco: object, uri: str = "photos", **sections: object) -> Job:
    """A job file in `folder`, read."""
    path = folder / "job.yaml"
    task = {"task": "pose", "keypoints": 17, "checkpoint": "pose.pt2", "boxes": {"coco": coco}}
    path.write_text(yaml.safe_dump({"input": {"uri": uri}, "output": {"uri": "out"}, "tasks": [task], **sections}))
    return Job.load(path)


def test_paths_are_relative_to_the_job_file(tmp_path):
    (file,) = pose_job(tmp_path, "sub/gt.json").box_files.items()
    assert file == ("tasks[0].boxes.coco", CocoOptions(file=f"{tmp_path}/sub/gt.json"))
    job = pose_job(tmp_path, {"detections": "d.json", "images": "s3://b/i.json", "min_score": 0.5})
    (options,) = job.box_files.values()
    assert options == CocoOptions(detections=f"{tmp_path}/d.json", images="s3://b/i.json", min_score=0.5)
    assert job.tasks[0].boxes.source == "coco"


@pytest.mark.parametrize(
    ("coco", "said"),
    [
        ({}, "tasks[0].boxes.coco: give either `file` or `detections`"),
        ({"file": "a", "detections": "b"}, "tasks[0].boxes.coco: give either `file` or `detections`"),
        ({"file": "a", "images": "b"}, "tasks[0].boxes.coco: `images` goes with `detections`, not with `file`"),
        ({"file": "a", "min_scor": 1}, "tasks[0].boxes.coco.min_scor: unknown key; did you mean 'min_score'?"),
        ({"file": "a", "min_score": -1}, "tasks[0].boxes.coco.min_score: should be greater than or equal to 0"),
        ("", "tasks[0].boxes.coco.file: is empty"),
    ],
)
def test_wrong_options(tmp_path, coco, said):
    with pytest.raises(ConfigError) as caught:
        pose_job(tmp_path, coco)
    assert said in str(caught.value)


def test_the_boxes_of_two_sources_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="give only one of column, coco"):
        Job.parse({
            "input": {"uri": "x"}, "output": {"uri": "y"},
            "tasks": [{"task": "pose", "keypoints": 17, "checkpoint": "p", "boxes": {"column": "a", "coco": "b"}}],
        })  # fmt: skip


# Early notes and refusals. Nothing is labelled.


@pytest.fixture
def folder(tmp_path):
    write_photos(tmp_path / "photos", 4)
    write_model(tmp_path / "pose.pt2", "pose17")
    return tmp_path


def test_names_that_nothing_matches_are_refused_before_any_work(folder):
    truth(folder / "gt.json", ["x.jpg"], [annotation(0, [0, 0, 5, 5])])
    with pytest.raises(InputError) as caught:
        prepare_job(pose_job(folder, "gt.json"))
    assert str(caught.value) == (
        f"tasks[0].boxes.coco: none of the 4 images, such as 000.jpg, is listed in {folder}/gt.json; its names are "
        "matched with the file names, docs/outputs.md says how"
    )
    (note,) = prepare_job(pose_job(folder, "gt.json"), subset=Subset(2)).notes
    assert note == f"tasks[0].boxes.coco: none of the first 2 images, such as 000.jpg, is listed in {folder}/gt.json"
    file_of(folder / "d.json", [detection(9, [0, 0, 5, 5])])
    with pytest.raises(InputError, match=r"none of the 4 images, such as 000\.jpg, has a detection in"):
        prepare_job(pose_job(folder, "d.json"))


def test_images_that_are_not_listed_are_told_before_any_work(folder):
    entries = [annotation(0, [0, 0, 5, 5]), annotation(0, [0, 0, 0, 5])]
    path = truth(folder / "gt.json", ["000.jpg", "002.jpg"], entries)
    assert prepare_job(pose_job(folder, "gt.json")).notes == [
        f"tasks[0].boxes.coco: boxes of {path} without width or height are left out: 1",
        f"tasks[0].boxes.coco: {path} does not list 2 of the 4 images, such as 001.jpg; they become error rows",
    ]
    file_of(folder / "d.json", [detection(2, [0, 0, 5, 5])])
    assert prepare_job(pose_job(folder, "d.json")).notes == [], "nobody was found in the others"


@pytest.mark.parametrize("kind", ["photos", "photos.tar", "photos.parquet", "photos.txt"])
def test_a_damaged_file_is_refused_by_check_whatever_the_input_is(folder, kind, command):
    files = sorted((folder / "photos").iterdir())
    if kind == "photos.tar":
        write_tar(folder / kind, files)
    elif kind == "photos.parquet":
        write_parquet(folder / kind, files)
    elif kind == "photos.txt":
        (folder / kind).write_text("\n".join(map(str, files)))
    file_of(folder / "gt.json", '{"images": [')
    pose_job(folder, "gt.json", kind)
    done = command("check", folder / "job.yaml")
    assert done.code == 2 and done.out == "" and done.err.count("\n") == 1
    assert f"tasks[0].boxes.coco: {folder}/gt.json is not JSON: " in done.err
    truth(folder / "gt.json", ["000.jpg"], [annotation(0, [0, 0, 5, 5])])
    assert command("check", folder / "job.yaml").code == 0
    assert not (folder / "out").exists()


# Units and the Labeler.


def test_the_carried_boxes_equal_those_of_a_column_to_the_last_bit(folder):
    random = np.random.default_rng(0)
    found = (random.random((50, 4)) * 300).tolist()
    path = truth(folder / "gt.json", ["a.jpg"], [annotation(0, box) for box in found])
    job = Job.parse({
        "input": {"uri": "x"}, "output": {"uri": "y"},
        "tasks": [
            {"task": "pose", "name": "a", "keypoints": 17, "checkpoint": "p", "boxes": {"coco": path}},
            {"task": "pose", "name": "b", "keypoints": 17, "checkpoint": "p", "boxes": {"column": "boxes"}},
        ],
    })  # fmt: skip
    cell = [[x, y, x + width, y + height] for x, y, width, height in found]
    images = [Encoded(0, "a.jpg", "/a.jpg", b"x", extra={"boxes": cell})]
    rows = make_unit(images, pa.schema([]), Contents.of(job, resolve_box_files(job))).rows
    one, other = (np.array(rows[str(task.boxes.carried)][0].as_py()) for task in job.tasks)
    assert one.tobytes() == other.tobytes() and one.shape == (50, 5)


def test_the_labeler_takes_them_too(folder):
    entries = [annotation(0, [4.1, 6.2, 50.3, 80.4]), annotation(0, [0, 0, 30, 40])]
    path = truth(folder / "gt.json", ["000.jpg", "001.jpg"], entries)
    options = {"task": "pose", "keypoints": 17, "checkpoint": folder / "pose.pt2"}
    photos = [folder / "photos" / f"{number:03d}.jpg" for number in range(3)]
    rows = sr.Labeler(**options, boxes={"coco": path})(photos, decode=False)
    column = [[[4.1, 6.2, 4.1 + 50.3, 6.2 + 80.4], [0, 0, 30, 40]], []]
    wanted = sr.Labeler(**options, boxes={"column": "b"})(photos[:2], decode=False, columns={"b": column})
    assert [row["persons"] for row in rows[:2]] == [row["persons"] for row in wanted]
    assert [len(row["persons"]) for row in rows[:2]] == [2, 0]
    assert (rows[2]["error_kind"], rows[2]["error"]) == ("bad_boxes", "boxes.coco: not listed in gt.json")
    with pytest.raises(InputError, match=rf"^boxes\.coco: {folder}/none\.json does not exist"):
        sr.Labeler(**options, boxes={"coco": str(folder / "none.json")})


def test_images_that_one_name_of_the_file_stands_for_are_told(folder):
    for name in ("x", "y"):
        (folder / "photos" / name).mkdir()
        (folder / "photos" / "000.jpg").rename(folder / "photos" / name / "000.jpg")
        shutil.copy(folder / "photos" / "001.jpg", folder / "photos" / "000.jpg")
    (folder / "photos" / "000.jpg").unlink()
    names = ["000.jpg", "001.jpg", "002.jpg", "003.jpg"]
    path = truth(folder / "gt.json", names, [annotation(0, [0, 0, 5, 5])])
    assert prepare_job(pose_job(folder, "gt.json")).notes == [
        f"tasks[0].boxes.coco: 1 images take the boxes of another image, since {path} has one name for both, such as "
        "x/000.jpg and y/000.jpg"
    ]


def test_boxes_of_a_photo_of_another_size_are_refused(folder):
    """The photos have 128 x 96 pixels or so; the fourth is turned by its EXIF orientation."""
    photos = [folder / "photos" / f"{number:03d}.jpg" for number in range(4)]
    sizes = [cv2.imread(str(photo)).shape[1::-1] for photo in photos]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.open(photos[3]).save(photos[3], exif=exif)
    listed = [sizes[0], (sizes[1][0] + 1, sizes[1][1]), None, sizes[3]]
    images = [
        {"id": number, "file_name": photo.name, **({"width": size[0], "height": size[1]} if size else {})}
        for number, (photo, size) in enumerate(zip(photos, listed, strict=True))
    ]
    entries = [annotation(number, [4, 6, 20, 30]) for number in range(4)]
    path = file_of(folder / "gt.json", {"images": images, "annotations": entries, "categories": CATEGORIES})
    options = {"task": "pose", "keypoints": 17, "checkpoint": folder / "pose.pt2"}
    rows = sr.Labeler(**options, boxes={"coco": path})(photos, decode=False)
    assert [row["error_kind"] for row in rows] == [None, "bad_boxes", None, "bad_boxes"]
    (width, height), (wide, high) = sizes[1], sizes[3]
    assert rows[1]["error"] == (
        f"boxes.coco: the file lists {width + 1} x {height} pixels, the photo has {width} x {height}"
    )
    assert rows[3]["error"] == (
        f"boxes.coco: the file lists {wide} x {high} pixels, the photo has {high} x {wide}; was it turned by its EXIF "
        "orientation?"
    )
