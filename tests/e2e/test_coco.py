"""Jobs whose persons come from a COCO file, and what becomes of them in an evaluation by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sapiens_ray.models.stand_ins import write_model
from tests.archives import write_parquet, write_tar
from tests.conftest import read_output, write_photos

COUNT, WIDTH, HEIGHT = 6, 96, 128
NUMBERS = [139, 285, 632, 724, 776, 785]
FILES = [f"{number:012d}.jpg" for number in NUMBERS]


def coco_boxes() -> dict[int, list[list[float]]]:
    """x, y, width, height of the persons of each image but the last; the second image has none."""
    random = np.random.default_rng(0)
    counts = [2, 0, 1, 3, 1]
    return {
        number: [[*random.uniform(0, 40, 2), *random.uniform(20, 60, 2)] for _ in range(count)]
        for number, count in zip(NUMBERS, counts, strict=False)
    }


BOXES = coco_boxes()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Photos that are called as those of COCO, a pose model, ground truth and detections."""
    folder = tmp_path_factory.mktemp("coco")
    for file, name in zip(write_photos(folder / "photos", COUNT, WIDTH, HEIGHT), FILES, strict=True):
        file.rename(folder / "photos" / name)
    write_model(folder / "pose.pt2", "pose17")
    (folder / "gt.json").write_text(json.dumps(ground_truth()))
    found = [
        {"image_id": number, "category_id": 1, "bbox": box, "score": 0.9 - 0.3 * place}
        for number, boxes in BOXES.items()
        for place, box in enumerate(boxes)
    ]
    (folder / "detections.json").write_text(json.dumps(found))
    return folder


def ground_truth() -> dict[str, list[object]]:
    images = [
        {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
        for number, name in zip(NUMBERS[:-1], FILES, strict=False)
    ]
    annotations = [
        {"image_id": number, "category_id": 1, "bbox": box, "iscrowd": 0, "area": box[2] * box[3]}
        for number, boxes in BOXES.items()
        for box in boxes
    ]
    annotations = [{"id": place, **one} for place, one in enumerate(annotations, 1)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}


def write_job(folder: Path, name: str, uri: object, boxes: object) -> Path:
    task = {"task": "pose", "keypoints": 17, "checkpoint": "pose.pt2", "boxes": boxes}
    output = {"uri": f"{name}-out", "visualize": {"fraction": 0}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"input": {"uri": uri}, "output": output, "tasks": [task]}))
    return folder / f"{name}.yaml"


@pytest.fixture(scope="module")
def labelled(place, cluster, sapiens_ray):
    job = write_job(place, "truth", "photos", {"coco": "gt.json"})
    done = sapiens_ray("run", job)
    assert done.code == 0, done.text
    assert f"does not list 1 of the 6 images, such as {FILES[-1]}" in done.text
    return place, read_output(place / "truth-out").to_pylist()


def test_boxes_equal_those_of_a_column(labelled, sapiens_ray):
    folder, rows = labelled
    lines = [
        {"image": f"photos/{name}", "boxes": [[x, y, x + width, y + height] for x, y, width, height in boxes]}
        for name, boxes in zip(FILES, BOXES.values(), strict=False)
    ]
    (folder / "photos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = sapiens_ray("run", write_job(folder, "column", "photos.jsonl", {"column": "boxes"}))
    assert done.code == 0, done.text
    others = read_output(folder / "column-out").to_pylist()
    assert [row["persons"] for row in rows[:-1]] == [row["persons"] for row in others]
    assert [len(row["persons"]) for row in others] == [2, 0, 1, 3, 1]
    assert (rows[-1]["error_kind"], rows[-1]["error"]) == ("bad_boxes", "boxes.coco: not listed in gt.json")
    assert rows[-1]["persons"] is None


def test_detections_are_boxes_of_tars_and_parquet_files(place, cluster, sapiens_ray):
    files = sorted((place / "photos").iterdir())
    write_tar(place / "a.tar", files[:3])
    write_parquet(place / "b.parquet", files[3:])
    boxes = {"coco": {"file": "detections.json", "min_score": 0.5}}
    done = sapiens_ray("run", write_job(place, "found", ["a.tar", "b.parquet"], boxes))
    assert done.code == 0, done.text
    rows = read_output(place / "found-out").to_pylist()
    assert [row["image_id"].rpartition("/")[2] for row in rows] == FILES
    found = [[(person["box"], person["box_score"]) for person in row["persons"]] for row in rows]
    expected = []
    for number in NUMBERS:
        kept = zip(BOXES.get(number, []), (0.9, 0.9 - 0.3), strict=False)  # the third one has a score of 0.3
        expected.append([
            (np.array([x, y, x + width, y + height], np.float32).tolist(), float(np.float32(score)))
            for (x, y, width, height), score in kept
        ])  # fmt: skip
    assert found == expected and [len(one) for one in found] == [2, 0, 1, 2, 1, 0]


def test_a_file_with_another_content_is_refused_on_resume(labelled, command):
    folder, _ = labelled
    moved = folder / "moved.json"
    moved.write_bytes((folder / "gt.json").read_bytes())
    same = command("check", folder / "truth.yaml", "--set", f"tasks.0.boxes.coco={moved}")
    assert same.code == 0 and "6 images, 1 whole shard" in same.text, "the same content elsewhere"
    content = ground_truth()
    content["annotations"].pop()
    moved.write_text(json.dumps(content))
    for options, said in [
        (f"tasks.0.boxes.coco={moved}", f"tasks[0].boxes.coco: was {folder}/gt.json, now {moved}."),
        ("tasks.0.boxes=none", "tasks[0].boxes: was {coco: {min_score: 0.0}}, now none."),
    ]:
        done = command("run", folder / "truth.yaml", "--set", options)
        assert done.code == 2 and f"holds labels that were made with other settings: {said}" in done.err, done.text
    before = (folder / "gt.json").read_bytes()
    try:
        (folder / "gt.json").write_text(json.dumps(content))
        done = command("run", folder / "truth.yaml")
        said = f"tasks[0].boxes.coco: {folder}/gt.json is another file than it was (its SHA-256 differs)."
        assert done.code == 2 and said in done.err, done.text
    finally:
        (folder / "gt.json").write_bytes(before)


def test_labels_as_ground_truth_have_an_ap_of_one(labelled, command, tmp_path):
    folder, rows = labelled
    content = ground_truth()
    persons = [person for row in rows for person in row["persons"] or []]
    for annotation, person in zip(content["annotations"], persons, strict=True):
        annotation["keypoints"] = [value for point in person["keypoints"] for value in (*point, 2)]
        annotation["num_keypoints"] = 17
    (tmp_path / "gt.json").write_text(json.dumps(content))
    done = command(
        "export", folder / "truth-out", "--format", "coco-results", "--ground-truth", tmp_path / "gt.json",
        "--to", tmp_path / "results",
    )  # fmt: skip
    assert done.code == 0 and "5 images exported, 1 error row skipped" in done.out, done.text
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "gt.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "results" / "persons.json")), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)
