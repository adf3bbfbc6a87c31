"""Many tasks in one job: rows, pictures, exports, and boxes and masks from every kind of input."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

import sapiens_ray as sr
from sapiens_ray.imaging import maps
from sapiens_ray.imaging.images import encode_png, picture_size
from sapiens_ray.labels import body_parts, keypoints
from sapiens_ray.models.stand_ins import TASKS, write_model
from sapiens_ray.tasks.instances import split
from tests.conftest import photo, read_output
from tests.models.test_detectors import Bright, scripted

SIZES = [(96, 128), (333, 47), (1, 1), (640, 480), (5, 300), (120, 90), (64, 64)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for task in TASKS:
        write_model(folder / f"{task}.pt2", task)
    write_model(folder / "seg2.pt2", "seg", seed=1)
    return folder


def write_job(folder: Path, models: Path, name: str, uri: str, tasks: list[dict[str, object]], **rest: object) -> Path:
    tasks = [{**task, "checkpoint": str(models / str(task["checkpoint"]))} for task in tasks]
    job = {"input": {"uri": uri}, "output": {"uri": f"{name}-out"}, "tasks": tasks, **rest}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(job))
    return folder / f"{name}.yaml"


EVERYTHING: list[dict[str, object]] = [
    {"task": "seg", "checkpoint": "seg.pt2"},
    {"task": "seg", "checkpoint": "seg2.pt2", "name": "parts"},
    {"task": "depth", "checkpoint": "depth.pt2"},
    {"task": "normal", "checkpoint": "normal.pt2", "mask": {"seg": "parts"}},
    {
        "task": "pose",
        "checkpoint": "pose308.pt2",
        "keypoints": 308,
        "boxes": {"column": "people"},
        "instances": {"seg": "parts"},
    },
    {"task": "pose", "checkpoint": "pose17.pt2", "keypoints": 17, "boxes": "seg", "name": "body"},
    {"task": "features", "checkpoint": "features.pt2", "save": "both"},
]


@pytest.fixture(scope="module")
def everything(cluster, sapiens_ray, models, tmp_path_factory):
    """A finished job of seven models over photos of every size, a broken one, and one with wrong boxes."""
    folder = tmp_path_factory.mktemp("everything")
    lines, images = [], {}
    for number, (width, height) in enumerate(SIZES):
        name = f"{'ab'[number % 2]}/{number}.png"
        images[name] = photo(width, height, number)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(encode_png(images[name]))
        boxes = [[0, 0, width, height, 0.5], [-10, 5, width / 2, height + 20]][: number % 3]
        lines.append({"image": name, "people": boxes, "caption": f"photo {number}"})
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    (folder / "wrong.png").write_bytes(encode_png(photo(20, 20)))
    lines.insert(2, {"image": "broken.jpg", "people": [[0, 0, 1, 1]], "caption": "broken"})
    lines.append({"image": "wrong.png", "people": [[10, 10, 5, 5]], "caption": "wrong"})
    (folder / "photos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    job = write_job(folder, models, "job", "photos.jsonl", EVERYTHING, unit_size=4)
    done = sapiens_ray("run", job, "--set", "input.columns=[caption]")
    assert done.code == 0, done.text
    return folder, images, lines


def test_every_row_is_what_the_labeler_gives(everything, models):
    folder, images, lines = everything
    rows = read_output(folder / "job-out").to_pylist()
    assert [row["image_id"] for row in rows] == [line["image"] for line in lines]
    assert [row["caption"] for row in rows] == [line["caption"] for line in lines]
    assert {row["image_id"]: row["error_kind"] for row in rows if row["error_kind"]} == {
        "broken.jpg": "corrupt",
        "wrong.png": "bad_boxes",
    }
    tasks = [{**task, "checkpoint": str(models / str(task["checkpoint"]))} for task in EVERYTHING]
    label = sr.Labeler(tasks=tasks, batch_size=None, unit_size=3)
    people = [line["people"] for line in lines if line["image"] in images]
    expected = label(images.values(), decode=False, columns={"people": people})
    good = [row for row in rows if row["error_kind"] is None]
    columns = [field.name for task in label.tasks for field in task.fields]
    for row, wanted in zip(good, expected, strict=True):
        for column in columns:
            assert row[column] == wanted[column], (row["image_id"], column)
        assert len(row["persons"]) == len(dict.fromkeys(map(str, row["persons"])))
    assert [len(row["persons"]) for row in good] == [number % 3 for number in range(len(SIZES))]
    for row in rows:
        if row["error_kind"]:
            assert all(row[column] is None for column in columns)


def test_there_is_one_picture_per_task(everything):
    folder, images, _ = everything
    for name, image in images.items():
        height, width = image.shape[:2]
        width, height = picture_size(width, height, 1280, 480)
        for column, panels in {"seg": 2, "parts": 2, "depth": 3, "normal": 2, "persons": 1, "body": 1}.items():
            picture = cv2.imread(str(folder / "job-out" / "visualizations" / column / f"{name}.jpg"))
            across, down = (1, panels) if width > 3 * height else (panels, 1)
            assert picture.shape[0] > down * height and picture.shape[1] > across * width, (name, column)
    rows = read_output(folder / "job-out").to_pylist()
    assert all((folder / "job-out" / row["visualization"]).is_file() for row in rows if row["error_kind"] is None)
    assert len(list((folder / "job-out" / "visualizations").rglob("*.jpg"))) == 6 * len(images)


@pytest.mark.nightly  # test_dense.py, test_pose.py and test_seg.py test the same in one process
def test_results_do_not_depend_on_batches_units_or_actors(everything, sapiens_ray, models):
    folder, *_ = everything
    chosen = [task for task in EVERYTHING if task["task"] in ("seg", "depth", "pose") and task.get("name") != "parts"]
    varied = [{**task, "batch_size": 1 + number % 4} for number, task in enumerate(chosen)]
    varied[1]["actors"] = 2
    job = write_job(folder, models, "varied", "photos.jsonl", varied[::-1], unit_size=3)
    done = sapiens_ray("run", job, "--set", "output.visualize.fraction=0")
    assert done.code == 0, done.text
    first, second = read_output(folder / "job-out"), read_output(folder / "varied-out")
    for name in ("seg", "seg_classes", "seg_area"):
        assert first[name].to_pylist() == second[name].to_pylist(), name
    for one, other in zip(first["depth"].to_pylist(), second["depth"].to_pylist(), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            near = np.abs(maps.decode_npy(one).astype(float) - maps.decode_npy(other)).max()
            assert near <= 4e-3, "at most one step of float16"
    for column in ("persons", "body"):
        for one, other in zip(first[column].to_pylist(), second[column].to_pylist(), strict=True):
            for person, same in zip(one or [], other or [], strict=True):
                assert person["box"] == same["box"]
                assert np.allclose(person["keypoints"], same["keypoints"], atol=1e-2)
                assert np.allclose(person["scores"], same["scores"], atol=1e-6)


def test_labels_are_read_at_original_size(everything):
    folder, images, _ = everything
    stored = sr.read_labels(str(folder / "job-out"), decode=True)
    full = sr.read_labels(str(folder / "job-out"), size="original", columns=["image_id", "depth", "normal", "seg"])
    assert list(full.columns) == ["image_id", "depth", "normal", "seg"]
    by_ray = sr.read_labels(str(folder / "job-out"), size="original", engine="ray", columns=["image_id", "depth"])
    from_ray = {row["image_id"]: row["depth"] for row in by_ray.take_all()}
    assert sum(len(batch["image_id"]) for batch in by_ray.iter_batches(batch_size=4)) == len(stored)
    whole = sr.read_labels(
        str(folder / "job-out"), decode=True, engine="ray", columns=["seg", "normal", "features_map"]
    )
    shapes = [array.shape for batch in whole.iter_batches(batch_size=3) for array in batch["normal"]]
    assert sorted(set(shapes)) == [(0, 0, 0), (512, 384, 3)], "Ray's tensor columns cannot hold None"
    for before, after in zip(stored.to_dict("records"), full.to_dict("records"), strict=True):
        name = after["image_id"]
        if name not in images:
            assert after["depth"] is None and from_ray[name].size == 0 and before["features_map"] is None
            continue
        size = images[name].shape[:2]
        assert before["depth"].shape == (1024, 768) and before["normal"].shape == (512, 384, 3)
        assert before["features_map"].shape == (64, 64, 64) and len(before["features"]) == 64
        assert after["depth"].shape == after["seg"].shape == size and after["normal"].shape == (*size, 3)
        assert np.array_equal(after["depth"], maps.resize(before["depth"], *size[::-1]).reshape(size))
        assert np.array_equal(after["depth"], from_ray[name])
        inside = after["depth"][after["seg"] > 0]
        if inside.size:
            assert before["depth_min"] == pytest.approx(inside.min(), abs=1e-3)


def test_coco_export_equals_the_parquet_rows(everything, sapiens_ray):
    from pycocotools.coco import COCO

    folder, images, _ = everything
    done = sapiens_ray("export", folder / "job-out", "--format", "coco", "--to", folder / "coco", "--min-score", "0.5")
    assert done.code == 0, done.text
    assert "depth left out" in done.err and "7 images exported" in done.out
    rows = [row for row in read_output(folder / "job-out").to_pylist() if row["error_kind"] is None]
    coco = COCO(str(folder / "coco" / "persons.json"))
    (category,) = coco.dataset["categories"]
    table = keypoints(308)
    assert category["keypoints"] == list(table.names)
    assert category["skeleton"] == [[start + 1, end + 1] for start, end in table.links]
    assert [image["file_name"] for image in coco.dataset["images"]] == list(images)
    for image, row in zip(coco.dataset["images"], rows, strict=True):
        assert (image["width"], image["height"]) == (row["width"], row["height"])
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert len(annotations) == len(row["persons"])
        for annotation, person in zip(annotations, row["persons"], strict=True):
            triples = np.array(annotation["keypoints"]).reshape(-1, 3)
            assert triples[:, :2].tolist() == person["keypoints"]
            assert triples[:, 2].tolist() == [2 if score >= 0.5 else 0 for score in person["scores"]]
            assert annotation["num_keypoints"] == int((triples[:, 2] > 0).sum())
            assert annotation["keypoint_scores"] == person["scores"]
            x1, y1, x2, y2 = person["box"]
            assert annotation["bbox"] == [x1, y1, x2 - x1, y2 - y1]
            assert annotation.get("score") == person["box_score"]
            assert not person["seg_area"] or annotation["area"] == person["seg_area"]
    masks = COCO(str(folder / "coco" / "parts.json"))
    assert [entry["name"] for entry in masks.dataset["categories"]] == list(body_parts().names[1:])
    for image, row in zip(masks.dataset["images"], rows, strict=True):
        class_map = cv2.imdecode(np.frombuffer(row["parts"], np.uint8), cv2.IMREAD_UNCHANGED)
        rebuilt = np.zeros_like(class_map)
        for annotation in masks.loadAnns(masks.getAnnIds(image["id"])):
            mask = masks.annToMask(annotation)
            assert annotation["area"] == mask.sum()
            rebuilt[mask > 0] = annotation["category_id"]
        assert np.array_equal(rebuilt, class_map)


def test_every_person_has_its_pixels_of_the_foreground(everything, sapiens_ray):
    """Boxes of one person lie inside of those of another, and reach beyond the photo."""
    folder, images, _ = everything
    labels = sr.read_labels(folder / "job-out", decode=True)
    rows = labels[labels["error_kind"].isna()].to_dict("records")
    shared = 0
    for row in rows:
        owners = row["persons_instances"]
        assert owners.shape == row["parts"].shape == images[row["image_id"]].shape[:2]
        expected = split(row["parts"] > 0, row["persons"], keypoints(308).links)
        assert np.array_equal(owners, expected) and not (owners[row["parts"] == 0]).any()
        counts = [int((owners == number).sum()) for number in range(1, len(row["persons"]) + 1)]
        assert [person["seg_area"] for person in row["persons"]] == counts
        shared += sum(counts)
    assert shared > 10_000 and "seg_area" not in rows[1]["body"][0], "the other task has no instances"
    done = sapiens_ray("query", folder / "job-out", "len(list_filter(persons, lambda p: p.seg_area > 1000)) > 1", "-q")
    large = [row for row in rows if sum(person["seg_area"] > 1000 for person in row["persons"]) > 1]
    assert done.out == f"{len(large)}\n" and large, done.text
    done = sapiens_ray(
        "run", folder / "job.yaml", "--set", "input.columns=[caption]", "--set", "tasks.4.instances=none"
    )
    assert done.code == 2 and "tasks[4].instances: was " in done.err, done.text


def test_mask_export_writes_index_pngs_with_palette(everything, sapiens_ray):
    folder, images, _ = everything
    done = sapiens_ray("export", folder / "job-out", "--format", "masks", "--to", folder / "masks")
    assert done.code == 0 and "left out" not in done.err, "nobody looks for persons among class maps"
    labels = sr.read_labels(str(folder / "job-out"), decode=True).set_index("image_id")
    for name in images:
        for column in ("seg", "parts"):
            mask = Image.open(folder / "masks" / column / f"{name.removesuffix('.png')}.png")
            assert mask.mode == "P" and np.array_equal(np.array(mask), labels.loc[name, column])
            palette = np.array(mask.getpalette()).reshape(-1, 3)
            assert palette[:28].tolist() == [list(colour) for colour in body_parts().colours]


def test_lite_export_has_the_files_of_every_task(everything, sapiens_ray):
    folder, images, _ = everything
    done = sapiens_ray("export", folder / "job-out", "--format", "lite", "--to", folder / "lite")
    assert done.code == 0 and "7 images exported" in done.out
    full = sr.read_labels(str(folder / "job-out"), size="original").set_index("image_id")
    for name, image in images.items():
        stem, size = name.removesuffix(".png"), image.shape[:2]
        depth, normal = np.load(folder / "lite" / "depth" / f"{stem}.npy"), np.load(folder / f"lite/normal/{stem}.npy")
        assert depth.shape == size and normal.shape == (*size, 3) and depth.dtype == normal.dtype == np.float32
        assert np.array_equal(depth, full.loc[name, "depth"]) and np.array_equal(normal, full.loc[name, "normal"])
        assert np.load(folder / f"lite/seg/{stem}.npy").dtype == bool
        assert np.load(folder / f"lite/parts/{stem}_seg.npy").dtype == np.int64
        features = np.load(folder / "lite" / "features" / f"{stem}.npy")
        assert features.shape == (64, 64, 64) and features.dtype == np.float32
        text = (folder / "lite" / "persons" / f"{stem}.json").read_text()
        persons = json.loads(text)["instance_info"]
        assert text.startswith('{\n\t"instance_info": [')
        assert len(persons) == len(full.loc[name, "persons"])
        for one, person in zip(persons, full.loc[name, "persons"], strict=True):
            assert one["keypoints"] == [list(map(float, point)) for point in person["keypoints"]]
            assert one["keypoint_scores"] == list(map(float, person["scores"]))


def test_exported_masks_work_as_input_of_another_job(everything, sapiens_ray, models):
    """Depth without seg, with the folder of exported masks, gives the same values as the job with seg."""
    folder, *_ = everything
    sapiens_ray("export", folder / "job-out", "--format", "lite", "--to", folder / "for-masks")
    (folder / "for-masks" / "seg" / "a" / "6.npy").unlink()
    tasks: list[dict[str, object]] = [{"task": "depth", "checkpoint": "depth.pt2", "mask": {"folder": "for-masks/seg"}}]
    job = write_job(folder, models, "depth", "photos.jsonl", tasks)
    assert sr.run(sr.Job.load(job)).images == len(SIZES) + 2
    first = read_output(folder / "job-out").to_pandas().set_index("image_id")
    second = read_output(folder / "depth-out").to_pandas().set_index("image_id")
    assert pd.isna(second.loc["a/6.png", ["depth_min", "error_kind"]]).all()
    for name in everything[1]:
        if name != "a/6.png":
            assert first.loc[name, "depth"] == second.loc[name, "depth"]
            assert first.loc[name, "depth_max"] == second.loc[name, "depth_max"]
    tasks[0]["mask"] = {"folder": "not-there"}
    refused = sapiens_ray("check", write_job(folder, models, "refused", "photos.jsonl", tasks))
    assert refused.code == 2 and "tasks[0].mask.folder: " in refused.err


def test_boxes_and_masks_from_parquet_and_a_detector(cluster, command, models, tmp_path):
    images = [photo(80, 60, number) for number in range(5)]
    images[1][:] = 0
    images[2][:, :40], images[2][:, 40:] = 255, 204
    mask = np.zeros((60, 80), np.uint8)
    mask[10:20, 10:20] = 255
    boxes = [
        [[1.0, 2.0, 30.0, 50.0]],
        [],
        None,
        [[0.0, 0.0, 80.0, 60.0], [5.0, 5.0, 10.0, 10.0]],
        [[1.0, 1.0, 2.0, 2.0]],
    ]
    table = pa.table(
        {
            "image": [encode_png(image) for image in images],
            "boxes": pa.array(boxes, pa.list_(pa.list_(pa.float32()))),
            "mask": [encode_png(mask), None, encode_png(mask * 0), encode_png(mask), b"junk"],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=2)
    detector = {"model": "torchscript", "checkpoint": str(scripted(Bright(), tmp_path / "d.pt2")), "score": 0.7}
    tasks: list[dict[str, object]] = [
        {"task": "pose", "checkpoint": "pose17.pt2", "keypoints": 17, "boxes": {"column": "boxes"}},
        {
            "task": "pose",
            "checkpoint": "pose133.pt2",
            "keypoints": 133,
            "boxes": {"detector": detector},
            "name": "found",
        },
        {"task": "depth", "checkpoint": "depth.pt2", "mask": {"column": "mask"}},
    ]
    job = write_job(tmp_path, models, "job", "in.parquet", tasks, unit_size=2)
    checked = command("check", job, "--load")
    assert checked.code == 0, checked.text
    assert "133 keypoints, persons: detector (torchscript), crop trained" in checked.out
    assert "finds 0 persons in a black photo" in checked.out
    assert sr.run(sr.Job.load(job)).images == 5
    rows = read_output(tmp_path / "job-out").to_pylist()
    assert [[person["box"] for person in row["persons"]] for row in rows] == [cell or [] for cell in boxes]
    assert [[person["box"] for person in row["found"]] for row in rows][1:3] == [
        [],
        [[0.0, 0.0, 40.0, 60.0], [40.0, 0.0, 80.0, 60.0]],
    ]
    assert rows[2]["found"][1]["box_score"] == pytest.approx(0.8)
    assert [row["depth_min"] is None for row in rows] == [False, True, True, False, True]
    assert "boxes" not in rows[0] and "mask" not in rows[0]

    # Another detector file means other results.
    scripted(torch.nn.Sequential(Bright()), tmp_path / "d.pt2")
    with pytest.raises(sr.errors.OutputError, match=r"boxes.detector: .*d.pt2 is another file than it was"):
        sr.run(sr.Job.load(job))


def test_inputs_without_the_column_of_boxes_are_refused(cluster, models, command, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(encode_png(photo(20, 20)))
    (tmp_path / "list.csv").write_text('image,boxes\nphotos/a.png,"[[1, 2, 10, 12]]"\n')
    task: dict[str, object] = {
        "task": "pose",
        "checkpoint": "pose17.pt2",
        "keypoints": 17,
        "boxes": {"column": "boxes"},
    }
    for uri, message in (("photos", "tasks[0].boxes.column: 'boxes' must be read from the input"), ("list.csv", None)):
        checked = command("check", write_job(tmp_path, models, "job", uri, [task]))
        assert (checked.code, (message or "") in checked.err) == (2 if message else 0, True), checked.text
    task["boxes"] = {"column": "person"}
    checked = command("check", write_job(tmp_path, models, "job", "list.csv", [task]))
    assert checked.code == 2 and "tasks[0].boxes.column: " in checked.err
    assert "no column 'person'; it has image, boxes" in checked.err


def test_an_image_is_decoded_once_for_all_tasks(models, monkeypatch):
    from sapiens_ray.imaging import images

    decoded: list[int] = []
    plain = images.decode
    monkeypatch.setattr(images, "decode", lambda data, limit: decoded.append(len(data)) or plain(data, limit))
    tasks = [{**task, "checkpoint": str(models / str(task["checkpoint"]))} for task in EVERYTHING]
    sr.Labeler(tasks=tasks)([photo(40, 50)] * 3, columns={"people": [[[0, 0, 9, 9]]] * 3})
    assert len(decoded) == 3


def test_an_output_without_rows_takes_new_settings(sapiens_ray, models, tmp_path):
    """After a run with a wrong checkpoint, the fixed job can run into the same output."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(encode_png(photo(20, 20)))
    task: dict[str, object] = {"task": "pose", "checkpoint": "pose17.pt2", "keypoints": 133}
    job = write_job(tmp_path, models, "job", "photos", [task])
    failed = sapiens_ray("run", job)
    assert (
        failed.code == 2 and "Is this the checkpoint of another task" in failed.err and "read a row" not in failed.out
    )
    fixed = ["tasks.0.keypoints=17", "unit_size=3"]
    assert sr.run(sr.Job.load(job, fixed)).labelled == 1
    assert len(read_output(tmp_path / "job-out")["persons"][0].as_py()[0]["keypoints"]) == 17
    with pytest.raises(sr.errors.OutputError, match="was trained, now lite"):
        sr.run(sr.Job.load(job, ["tasks.0.keypoints=17", "tasks.0.crop=lite"]))
