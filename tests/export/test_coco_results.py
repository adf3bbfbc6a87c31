"""Results in COCO's format, scored by pycocotools itself."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sapiens_ray.labels import body_parts
from sapiens_ray.output.schema import READ_FIELDS, output_schema
from sapiens_ray.output.writing import write_unit
from sapiens_ray.planning.plan import Plan, Shard, save_plan
from sapiens_ray.storage import Folder
from sapiens_ray.tasks import TASKS, make_task
from sapiens_ray.units import Unit

WIDTH, HEIGHT = 200, 160
NAMES = ["val/000000000139.jpg", "val/000000000285.jpg", "val/broken.jpg", "val/000000000632.jpg"]
HAIR = body_parts().names.index("Hair")


def person(left: float, top: float, box_score: float | None = None, low: int = 0) -> dict[str, object]:
    """17 keypoints on a grid of their own; the first `low` of them have a score of 0.1, the others 0.5, 0.6, 0.7."""
    points = [[left + 5 * (number % 4), top + 7.5 * (number // 4)] for number in range(17)]
    scores = [0.1] * low + [(0.5, 0.6, 0.7)[number % 3] for number in range(17 - low)]
    return {
        "box": [left - 4, top - 4, left + 60, top + 90], "box_score": box_score, "keypoints": points, "scores": scores,
    }  # fmt: skip


PERSONS = [[person(20, 30, 0.9), person(110, 40, 0.5, low=5)], [], None, [person(60.5, 20.25)]]


def class_map(seed: int) -> np.ndarray:
    painted = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.rectangle(painted, (20 + seed, 30), (90, 120), HAIR, -1)
    cv2.circle(painted, (140, 60), 20 + seed, 2, -1)
    return painted


MAPS = [class_map(0), np.zeros((HEIGHT, WIDTH), np.uint8), None, class_map(7)]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Labels of four images, one of them an error row, as this version and earlier ones write them."""
    return write(tmp_path / "out", {})


def write(folder: Path, more: dict[str, pa.Array], persons: object = PERSONS, names: Sequence[str] = NAMES) -> Path:
    tasks = [
        make_task(TASKS["pose"].options(task="pose", keypoints=17, checkpoint="p.pt2")),
        make_task(TASKS["seg"].options(task="seg", checkpoint="s.pt2")),
        make_task(TASKS["depth"].options(task="depth", checkpoint="d.pt2", mask="none")),
    ]
    broken = [None, None, "corrupt", None]
    columns: dict[str, object] = {
        "index": list(range(4)), "image_id": names, "uri": [f"/photos/{name}" for name in names],
        "error_kind": broken, "error": broken,
    }  # fmt: skip
    rows = pa.table({field.name: pa.array(columns[field.name], field.type) for field in READ_FIELDS})
    size = [(WIDTH, HEIGHT) if one is None else (None, None) for one in broken]
    rows = rows.append_column("width", pa.array([width for width, _ in size], pa.int32()))
    rows = rows.append_column("height", pa.array([height for _, height in size], pa.int32()))
    schema = output_schema(tasks, pa.schema([]), {})
    found = [None if one is None else np.unique(one).tolist() for one in MAPS]
    cells = {
        "persons": persons,
        "seg": [None if one is None else cv2.imencode(".png", one)[1].tobytes() for one in MAPS],
        "seg_classes": found,
    }
    for name, values in cells.items():
        given = values if isinstance(values, pa.Array) else pa.array(values, schema.field(name).type)
        rows = rows.append_column(name, given)
        schema = schema.set(schema.get_field_index(name), pa.field(name, given.type))
    for name, values in more.items():
        rows, schema = rows.append_column(name, values), schema.append(pa.field(name, values.type))
    for field in schema:
        if field.name not in rows.column_names and field.name != "shard":
            rows = rows.append_column(field, pa.nulls(4, field.type))
    target = Folder(str(folder))
    save_plan(Plan([Shard(0, "images", "/photos", "/photos#0", images=4)], 64, pa.schema([])), target)
    write_unit(Unit(0, 0, True, rows), [], schema, target)
    return folder


def ground_truth(path: Path, **changes: object) -> Path:
    """What the labels say, as ground truth; ids of images and of categories are not those of the output."""
    images = [
        {"id": 139 + number, "file_name": name.rpartition("/")[2], "width": WIDTH, "height": HEIGHT}
        for number, name in enumerate(NAMES)
    ]
    annotations = []
    for image, persons in zip(images, PERSONS, strict=True):
        for one in persons or []:
            x1, y1, x2, y2 = one["box"]
            annotations.append({
                "id": len(annotations) + 1, "image_id": image["id"], "category_id": 7, "iscrowd": 0,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "num_keypoints": 17,
                "keypoints": [value for place in one["keypoints"] for value in (*place, 2)],
            })  # fmt: skip
    keypoints = [f"point {number}" for number in range(17)]
    content = {
        "images": images, "annotations": annotations,
        "categories": [{"id": 3, "name": "dog"}, {"id": 7, "name": "person", "keypoints": keypoints}], **changes,
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return path


def masks(path: Path) -> Path:
    """The class maps as ground truth, with the category ids of another data set."""
    from pycocotools import mask as coco_mask

    annotations = []
    for number, painted in enumerate(MAPS):
        for found, category in ((HAIR, 50), (2, 60)):
            if painted is not None and (painted == found).any():
                encoded = coco_mask.encode(np.asfortranarray(painted == found).view(np.uint8))
                annotations.append({
                    "id": len(annotations) + 1, "image_id": 139 + number, "category_id": category, "iscrowd": 0,
                    "area": int(coco_mask.area(encoded)), "bbox": coco_mask.toBbox(encoded).tolist(),
                    "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
                })  # fmt: skip
    categories = [{"id": 50, "name": "Hair"}, {"id": 60, "name": body_parts().names[2]}, {"id": 1, "name": "dog"}]
    return ground_truth(path, annotations=annotations, categories=categories)


def export(command, output: Path, truth: Path, to: str = "to"):
    target = output.parent / to
    return command("export", output, "--format", "coco-results", "--ground-truth", truth, "--to", target), target


def scored(truth: Path, results: Path, kind: str) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def test_labels_that_equal_the_ground_truth_have_an_ap_of_one(output, command, tmp_path):
    truth = ground_truth(tmp_path / "gt.json")
    done, target = export(command, output, truth)
    assert done.code == 0, done.text
    assert "3 images exported, 1 error row skipped" in done.out
    assert done.err == (
        f"seg left out: {truth} has no category with the name of one of its classes\n"
        "depth left out: COCO has no depth\n"
    )
    assert [path.name for path in target.iterdir()] == ["persons.json"]
    assert scored(truth, target / "persons.json", "keypoints")[0] == pytest.approx(1.0)


def test_persons_are_left_out_where_the_ground_truth_has_none(output, command, tmp_path):
    truth = json.loads(ground_truth(tmp_path / "gt.json").read_text())
    truth["categories"] = [{"id": 1, "name": "Apparel"}]
    (tmp_path / "classes.json").write_text(json.dumps(truth))
    done, target = export(command, output, tmp_path / "classes.json")
    assert "persons left out: " in done.err and "has no category of persons" in done.err, done.text
    assert not (target / "persons.json").exists()


def test_results_are_the_persons_of_the_rows(output, command, tmp_path):
    _, target = export(command, output, ground_truth(tmp_path / "gt.json"))
    results = json.loads((target / "persons.json").read_text())
    assert [(one["image_id"], one["category_id"]) for one in results] == [(139, 7), (139, 7), (142, 7)]
    persons = [one for group in PERSONS for one in group or []]
    for result, one in zip(results, persons, strict=True):
        assert set(result) == {"image_id", "category_id", "keypoints", "score"}
        triples = np.array(result["keypoints"]).reshape(17, 3)
        assert triples[:, :2].tolist() == one["keypoints"], "halves and quarters are exact in float32"
        assert np.array_equal(triples[:, 2].astype(np.float32), np.array(one["scores"], np.float32))
    means = [np.mean([0.5, 0.6, 0.7] * 5 + [0.5, 0.6]), np.mean([0.5, 0.6, 0.7] * 4)]
    assert [one["score"] for one in results] == pytest.approx([means[0] * 0.9, means[1] * 0.5, means[0]], abs=1e-6)


def test_the_stored_score_of_a_person_is_taken(command, tmp_path):
    fields = {"box": pa.list_(pa.float32(), 4), "box_score": pa.float32(), "score": pa.float32(),
              "keypoints": pa.list_(pa.list_(pa.float32(), 2)), "scores": pa.list_(pa.float32())}  # fmt: skip
    given = [None if group is None else [{**one, "score": 0.375} for one in group] for group in PERSONS]
    folder = write(tmp_path / "out", {}, pa.array(given, pa.list_(pa.struct(fields))))
    _, target = export(command, folder, ground_truth(tmp_path / "gt.json"))
    assert [one["score"] for one in json.loads((target / "persons.json").read_text())] == [0.375] * 3


def test_masks_of_classes_with_a_category(output, command, tmp_path):
    truth = masks(tmp_path / "gt.json")
    done, target = export(command, output, truth)
    assert done.code == 0, done.text
    results = json.loads((target / "seg.json").read_text())
    assert sorted((one["image_id"], one["category_id"], one["score"]) for one in results) == [
        (139, 50, 1.0), (139, 60, 1.0), (142, 50, 1.0), (142, 60, 1.0),
    ]  # fmt: skip
    assert scored(truth, target / "seg.json", "segm")[0] == pytest.approx(1.0)
    assert not (target / "persons.json").exists(), "no category is named person"


def test_masks_are_ranked_by_the_confidence_of_their_class(command, tmp_path):
    confidence = [None if one is None else [0.9, 0.5, None][: len(np.unique(one))] for one in MAPS]
    folder = write(tmp_path / "out", {"seg_class_confidence": pa.array(confidence, pa.list_(pa.float32()))})
    _, target = export(command, folder, masks(tmp_path / "gt.json"))
    order = np.unique(MAPS[0]).tolist()
    expected = {50: [0.5, 0.0][order.index(HAIR) - 1], 60: [0.5, 0.0][order.index(2) - 1]}
    results = json.loads((target / "seg.json").read_text())
    assert [one["score"] for one in results] == [expected[one["category_id"]] for one in results]


def test_images_that_the_ground_truth_lacks_are_counted_and_named(output, command, tmp_path):
    names = ["val/000000000139.jpg", "other/000000000285.jpg", "another/000000000285.jpg", "000000000632.jpg"]
    images = [{"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT} for number, name in enumerate(names)]
    images[3]["height"] = HEIGHT + 1
    truth = ground_truth(tmp_path / "gt.json", images=images)
    done, target = export(command, output, truth)
    assert done.code == 0 and "1 image exported, 1 error row skipped" in done.out
    assert f"images left out, not listed in {truth}: 1, such as val/000000000285.jpg\n" in done.err, "not unique"
    assert f"images left out, of another size than in {truth}: 1, such as val/000000000632.jpg\n" in done.err
    assert {one["image_id"] for one in json.loads((target / "persons.json").read_text())} == {0}
    done = command(
        "export", output, "--format", "coco-results", "--ground-truth", truth, "--to", tmp_path / "to", "--json"
    )
    found = json.loads(done.out)
    assert (found["images"], found["unmatched"], found["skipped"]) == (1, 2, 1)


def test_of_two_images_with_one_name_the_first_counts(command, tmp_path):
    folder = write(tmp_path / "out", {}, names=[NAMES[0], NAMES[1], NAMES[2], f"again/{NAMES[0]}"])
    truth = ground_truth(tmp_path / "gt.json")
    done, target = export(command, folder, truth)
    assert done.code == 0 and "2 images exported" in done.out
    said = f"images left out, more than one has the same name in {truth}: 1, such as again/{NAMES[0]}\n"
    assert said in done.err
    results = json.loads((target / "persons.json").read_text())
    assert [one["keypoints"][:2] for one in results] == [[20, 30], [110, 40]], "those of the first"


def test_what_cannot_be_scored_is_one_clear_message(output, command, tmp_path):
    done = command("export", output, "--format", "coco-results", "--to", tmp_path / "to")
    assert done.code == 2 and "needs --ground-truth FILE" in done.err
    done, _ = export(command, output, tmp_path / "none.json")
    assert done.code == 2 and f"--ground-truth: {tmp_path}/none.json does not exist" in done.err
    (tmp_path / "cut.json").write_text('{"images": [')
    done, _ = export(command, output, tmp_path / "cut.json")
    assert done.code == 2 and f"--ground-truth: {tmp_path}/cut.json is not JSON" in done.err
    other = ground_truth(tmp_path / "other.json", images=[{"id": 1, "file_name": "x.jpg"}])
    done, target = export(command, output, other, "nowhere")
    assert done.code == 2 and f"has no labels of the images of {other}; images left out, not listed" in done.err
    assert not target.exists()
    keypoints = [{"id": 1, "name": "person", "keypoints": ["nose"]}]
    done, _ = export(command, output, ground_truth(tmp_path / "nose.json", categories=keypoints))
    assert f"persons left out: it has 17 keypoints, persons of {tmp_path}/nose.json have 1" in done.err


def test_files_without_results_and_ids_with_control_characters_are_told(command, tmp_path):
    names = [NAMES[0], NAMES[1], NAMES[2], "\x1b[31mx\n.jpg"]
    folder = write(tmp_path / "out", {}, persons=[[], [], None, []], names=names)
    truth = ground_truth(tmp_path / "gt.json")
    done, target = export(command, folder, truth)
    assert done.code == 0 and json.loads((target / "persons.json").read_text()) == []
    with pytest.raises(IndexError):
        COCO(str(truth)).loadRes(str(target / "persons.json"))
    assert "persons.json has no results: COCO.loadRes raises IndexError for such a file\n" in done.err
    assert "\x1b" not in done.err and f"not listed in {truth}: 1, such as \\x1b[31mx .jpg\n" in done.err
