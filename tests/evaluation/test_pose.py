"""Keypoints: every number against pycocotools used directly on the same detections, and the protocol around it."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sapiens_ray.errors import ConfigError
from sapiens_ray.evaluation.average_precision import Matches
from sapiens_ray.evaluation.coco_truth import read_coco
from sapiens_ray.evaluation.evaluate import evaluate
from sapiens_ray.evaluation.request import Request
from sapiens_ray.labels import keypoints
from sapiens_ray.tasks.confidence import of_person
from tests.evaluation.labelled import person, write_labels

ONE = pytest.approx(1)
NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
FIELDS = {"keypoints": 17, "foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
PARTS = {"body": slice(0, 17), "feet": slice(17, 23), "face": slice(23, 91), "left_hand": slice(91, 112),
         "right_hand": slice(112, 133), "whole": slice(0, 133)}  # fmt: skip


def annotations(count: int, images: int, seed: int) -> list[dict[str, Any]]:
    """Persons with `count` keypoints, K x 3 under `all`: small and large ones, crowds, some without keypoints."""
    random = np.random.default_rng(seed)
    found = []
    for image in range(1, images + 1):
        for _ in range(random.integers(0, 4)):
            size = random.uniform(30, 300)
            points = np.ones((count, 3)) * 2
            points[:, :2] = random.uniform(0, 400, 2) + random.uniform(0, size, (count, 2))
            points[random.random(count) < 0.3] = 0
            if random.random() < 0.1:
                points[:] = 0
            low = points[:, :2].min(0)
            found.append({
                "id": len(found) + 1, "image_id": image, "category_id": 1, "iscrowd": int(random.random() < 0.1),
                "bbox": [*low, size, size], "area": size * size * 0.6, "all": points,
            })  # fmt: skip
    return found


def coco_file(path: Path, persons: list[dict[str, Any]], images: int, wholebody: bool = False) -> Path:
    written = []
    for one in persons:
        points = one["all"]
        entry = {key: value for key, value in one.items() if key != "all"}
        start = 0
        for name, count in FIELDS.items() if wholebody else [("keypoints", len(points))]:
            entry[name] = points[start : start + count].reshape(-1).tolist()
            if name.endswith("_kpts"):
                entry[name.replace("_kpts", "_valid")] = True
            start += count
        entry["num_keypoints"] = int((np.array(entry["keypoints"])[2::3] > 0).sum())
        written.append(entry)
    path.write_text(json.dumps({
        "images": [{"id": number, "file_name": f"{number:06d}.jpg"} for number in range(1, images + 1)],
        "categories": [{"id": 1, "name": "person"}], "annotations": written,
    }))  # fmt: skip
    return path


def rows_near(persons: list[dict[str, Any]], images: int, seed: int, boxed: bool = False) -> list[dict[str, Any]]:
    """Rows whose persons are near the annotated ones, with wrong ones among them. float32, as Parquet holds them."""
    random = np.random.default_rng(seed)
    rows = []
    for image in range(1, images + 1):
        found = []
        for one in persons:
            if one["image_id"] == image:
                points = one["all"][:, :2] + random.normal(0, random.choice([1, 4, 20]), one["all"][:, :2].shape)
                found.append(points)
        count = len(persons[0]["all"])
        found += [random.uniform(0, 500, (count, 2)) for _ in range(random.integers(0, 2))]
        people = [
            person(np.float32(one), np.float32(random.uniform(0.1, 1, count)),
                   float(np.float32(random.random())) if boxed else None)
            for one in found
        ]  # fmt: skip
        rows.append({"image_id": f"val/{image:06d}.jpg", "persons": people})
    return rows


def by_pycocotools(truth: dict, rows: list[dict[str, Any]], part: slice, sigmas: np.ndarray | None) -> Any:
    """COCOeval on these rows, by its own reader of results. Their area is that of the body: it takes it from `bbox`."""
    results = [
        {
            "image_id": int(row["image_id"][-10:-4]), "category_id": 1,
            "keypoints": np.hstack([np.array(one["keypoints"])[part], np.ones((len(one["keypoints"][part]), 1))])
            .reshape(-1).tolist(),
            "score": of_person(np.float32(one["scores"]), one["box_score"])["score"],
            "bbox": [0, 0, *np.ptp(np.array(one["keypoints"])[:17], axis=0)],
        }
        for row in rows for one in row["persons"]
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = truth
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(results), "keypoints")
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = sigmas
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def intervals_by_pycocotools(evaluation: Any, images: int, times: int, seed: int) -> np.ndarray:
    """The percentiles 2.5 and 97.5 of each of NAMES: `accumulate` and `summarize` for each list of images drawn."""
    results = np.array(evaluation.evalImgs, object).reshape(3, images)
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(times):
        again = np.sort(random.integers(images, size=images))
        evaluation.evalImgs = list(results[:, again].reshape(-1))
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
            evaluation.summarize()
        drawn.append(evaluation.stats.copy())
    return np.percentile(drawn, [2.5, 97.5], axis=0)


def scores(found: Any, part: str) -> dict[str, float | None]:
    return {one.name: one.value for one in found.metrics if one.part == part}


def test_17_keypoints_are_scored_as_pycocotools_does(tmp_path):
    persons = annotations(17, 40, 1)
    truth = coco_file(tmp_path / "gt.json", persons, 40)
    rows = rows_near(persons, 40, 2)
    output = write_labels(tmp_path / "out", [{"task": "pose", "keypoints": 17}], rows)
    found = evaluate(output, Request("persons", str(truth), bootstrap=20, seed=3))
    direct = by_pycocotools(json.loads(truth.read_text()), rows, slice(None), None)
    assert [(one.part, one.name) for one in found.metrics] == [("body", name) for name in NAMES]
    assert [one.value for one in found.metrics] == pytest.approx(list(direct.stats), abs=1e-12)
    assert 0.2 < found.metrics[0].value < 0.9
    low, high = intervals_by_pycocotools(direct, 40, 20, seed=3)
    assert [one.low for one in found.metrics] == pytest.approx(list(low), abs=1e-12)
    assert [one.high for one in found.metrics] == pytest.approx(list(high), abs=1e-12)
    assert (low + 0.05 < high).all()
    assert found.protocol["oks_nms"] is None, "there are no boxes with scores"
    assert found.images.evaluated == 40 and not found.images.truth_without_row


def test_133_keypoints_are_scored_by_part(tmp_path):
    persons = annotations(133, 25, 3)
    truth = coco_file(tmp_path / "gt.json", persons, 25, wholebody=True)
    rows = rows_near(persons, 25, 4)
    output = write_labels(tmp_path / "out", [{"task": "pose", "keypoints": 133}], rows)
    found = evaluate(output, Request("persons", str(truth), bootstrap=3))
    sigmas = np.array(keypoints(133).sigmas)
    for name, part in PARTS.items():
        content = json.loads(truth.read_text())
        for entry, one in zip(content["annotations"], persons, strict=True):
            entry["keypoints"] = one["all"][part].reshape(-1).tolist()
            entry["num_keypoints"] = int((one["all"][part, 2] > 0).sum())
        direct = dict(zip(NAMES, by_pycocotools(content, rows, part, sigmas[part]).stats, strict=True))
        for metric in NAMES:
            assert scores(found, name)[metric] == pytest.approx(direct[metric], abs=1e-12), (name, metric)
    assert 0.05 < scores(found, "whole")["AP"] < 0.95
    hands = [scores(found, part)["AP"] for part in ("left_hand", "right_hand")]
    assert scores(found, "hands")["AP"] == pytest.approx(sum(hands) / 2)
    assert list(dict.fromkeys(one.part for one in found.metrics))[-2:] == ["hands", "whole"]


def test_what_is_not_valid_in_a_wholebody_file_is_ignored(tmp_path):
    persons = annotations(133, 4, 3)
    file = coco_file(tmp_path / "gt.json", persons, 4, wholebody=True)
    content = json.loads(file.read_text())
    content["annotations"][0]["face_valid"] = False
    file.write_text(json.dumps(content))
    first = read_coco(str(file), 133).persons[0].keypoints
    assert not first[23:91, 2].any() and np.array_equal(first[:23], persons[0]["all"][:23])


def test_308_keypoints_are_scored_by_part(tmp_path):
    persons = annotations(308, 6, 5)
    truth = coco_file(tmp_path / "gt.json", persons, 6)
    output = write_labels(tmp_path / "out", [{"task": "pose", "keypoints": 308}], rows_near(persons, 6, 6))
    found = evaluate(output, Request("persons", str(truth), bootstrap=0))
    parts = set(dict.fromkeys(one.part for one in found.metrics))
    assert parts == {"body", "feet", "face", "left_hand", "right_hand", "hands", "extra", "whole"}
    assert scores(found, "body")["AR"] > 0.2 and found.metrics[0].low is None
    assert "not public" in found.notes[0]


def test_resampled_scores_are_those_of_pycocotools_with_images_that_occur_again():
    """Against `COCOeval.accumulate` on the list of images that was drawn."""
    persons = annotations(17, 30, 7)
    content = {
        "images": [{"id": number} for number in range(1, 31)],
        "categories": [{"id": 1}],
        "annotations": [
            {**one, "keypoints": one["all"].reshape(-1).tolist(), "num_keypoints": int((one["all"][:, 2] > 0).sum())}
            for one in persons
        ],
    }
    evaluation = by_pycocotools(content, rows_near(persons, 30, 8), slice(None), None)
    results = np.array(evaluation.evalImgs, object).reshape(3, 30)
    matches = [Matches.of(list(area)) for area in results]
    for seed in range(5):
        drawn = np.sort(np.random.default_rng(seed).integers(30, size=30))
        evaluation.evalImgs = list(results[:, drawn].reshape(-1))
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        for area, one in enumerate(matches):
            precision, recall = one.precision_and_recall(np.bincount(drawn, minlength=30))
            wanted = evaluation.eval["precision"][:, :, 0, area, 0].mean(1)
            assert precision == pytest.approx(wanted, abs=1e-12)
            assert recall == pytest.approx(evaluation.eval["recall"][:, 0, area, 0], abs=1e-12)


def test_nobody_to_be_found_has_no_score():
    nobody = Matches.of([None, {"gtIgnore": np.ones(1), "dtScores": [0.5], "dtMatches": np.zeros((10, 1)),
                                "dtIgnore": np.zeros((10, 1))}])  # fmt: skip
    assert all(np.isnan(values).all() for values in nobody.precision_and_recall(np.array([1, 1])))
    found = Matches.of([{"gtIgnore": np.zeros(2), "dtScores": [], "dtMatches": np.zeros((10, 0)),
                         "dtIgnore": np.zeros((10, 0))}])  # fmt: skip
    assert [values.tolist() for values in found.precision_and_recall(np.array([1]))] == [[0.0] * 10] * 2


def twice(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every person a second time, moved by a tenth of a pixel, with a lower score."""
    doubled = []
    for row in rows:
        again = [
            {**one, "keypoints": (np.array(one["keypoints"]) + 0.1).tolist(), "box_score": one["box_score"] * 0.9}
            for one in row["persons"]
        ]
        doubled.append({**row, "persons": row["persons"] + again})
    return doubled


def test_oks_nms_is_on_for_boxes_with_scores_and_drops_doubles(tmp_path):
    persons = annotations(17, 30, 1)
    truth = coco_file(tmp_path / "gt.json", persons, 30)
    rows = rows_near(persons, 30, 2, boxed=True)
    tasks = [{"task": "pose", "keypoints": 17}]
    once = write_labels(tmp_path / "once", tasks, rows)
    doubled = write_labels(tmp_path / "twice", tasks, twice(rows))

    def ap(output: Any, **options: Any) -> Any:
        found = evaluate(output, Request("persons", str(truth), bootstrap=0, **options))
        return found.metrics[0].value, found.protocol["oks_nms"]

    alone = by_pycocotools(json.loads(truth.read_text()), rows, slice(None), None).stats[0]
    assert ap(once, oks_nms="off") == (pytest.approx(alone), None)
    assert ap(doubled) == (pytest.approx(alone), 0.9)
    assert ap(doubled, oks_nms="off")[0] < alone - 0.01


def test_images_without_row_or_truth_and_error_rows_are_counted(tmp_path):
    persons = [one for one in annotations(17, 12, 9) if not one["iscrowd"] and one["all"][:, 2].any()]
    truth = coco_file(tmp_path / "gt.json", persons, 12)
    exact = [{**row, "persons": [person(one["all"][:, :2]) for one in persons
                                 if one["image_id"] == int(row["image_id"][-10:-4])]}
             for row in rows_near(persons, 10, 0)]  # fmt: skip
    exact[0] = {"image_id": exact[0]["image_id"], "persons": None, "error_kind": "corrupt", "error": "cut"}
    rows = [*exact, {"image_id": "other.jpg", "persons": []}]
    output = write_labels(tmp_path / "out", [{"task": "pose", "keypoints": 17}], rows, unit_size=4)
    found = evaluate(output, Request("persons", str(truth), bootstrap=0))
    images = found.images
    assert (images.rows, images.evaluated, images.error_rows, images.without_truth) == (11, 10, 1, 1)
    assert images.error_rows_with_truth == 1
    assert images.without_truth_examples == ["other.jpg"]
    assert (images.truth_without_row, images.truth_without_row_examples) == (2, ["000011.jpg", "000012.jpg"])
    counted = [one["image_id"] for one in persons if one["image_id"] <= 10]
    share = sum(image != 1 for image in counted) / len(counted)
    assert 0 < share < 1 and scores(found, "body")["AR"] == pytest.approx(share), "the error row finds nobody"


def test_the_same_image_twice_is_refused(tmp_path):
    truth = coco_file(tmp_path / "gt.json", annotations(17, 2, 1), 2)
    for first, second in (("a/000001.jpg", "b/000001.jpg"), ("000001.jpg", "000001.jpg")):
        rows = [{"image_id": first, "persons": []}, {"image_id": second, "persons": []}]
        output = write_labels(tmp_path / "out", [{"task": "pose", "keypoints": 17}], rows)
        with pytest.raises(ConfigError, match=f"{first} and {second} are both 000001.jpg"):
            evaluate(output, Request("persons", str(truth)))


def test_names_are_matched_whole_or_by_a_part_that_is_unique(tmp_path):
    names = ("a/1.jpg", "b/1.jpg", "2.jpg")
    images = [{"id": number, "file_name": name} for number, name in enumerate(names, 7)]
    (tmp_path / "gt.json").write_text(json.dumps({"images": images, "annotations": []}))
    truth = read_coco(str(tmp_path / "gt.json"), 17)
    asked = ("b/1.jpg", "x/1.jpg", "1.jpg", "val/2.jpg", "3.jpg")
    assert [truth.image_of(name) for name in asked] == [8, None, None, 9, None]
    assert truth.unused == ["a/1.jpg"]


NOBODY = {"id": 4, "image_id": 1, "keypoints": [0] * 51}
GOOD = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", "has no images and no annotations"),
        (json.dumps({**GOOD, "images": [{"id": 1}]}), "not COCO's format (KeyError: 'file_name')"),
        (json.dumps({**GOOD, "annotations": [{**NOBODY, "bbox": [1, 2, 3], "area": 1}]}),
         "annotation 4 cannot be read: its bbox [1.0, 2.0, 3.0] is not x, y, width, height"),
        (json.dumps({**GOOD, "annotations": [{**NOBODY, "bbox": [1, 2, 3, 4]}]}),
         "annotation 4 has no 'area'"),
        (json.dumps({**GOOD, "images": GOOD["images"] * 2}), "two of its images have the same file_name or id"),
        (json.dumps({**GOOD, "annotations": [{"id": 4, "image_id": 7}]}), "annotation 4 is of image 7"),
        (json.dumps({**GOOD, "annotations": [{"id": 4, "image_id": 1}]}), "annotation 4 has no 'keypoints'"),
        (json.dumps({**GOOD, "annotations": [{"id": 4, "image_id": 1, "keypoints": [1, 2, 2]}]}),
         "annotation 4 has 1 keypoints, the labels have 17"),
        (json.dumps({**GOOD, "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}),
         "not exactly one of the name 'person'"),
        (json.dumps(GOOD), "none of its images is in the output: there they are called like b.jpg, in the file like a"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path, content, message):
    output = write_labels(tmp_path / "out", [{"task": "pose", "keypoints": 17}], [{"image_id": "b.jpg", "persons": []}])
    file = tmp_path / "gt.json"
    file.write_text(content)
    with pytest.raises(ConfigError) as error:
        evaluate(output, Request("persons", str(file)))
    assert str(error.value).startswith(f"--ground-truth {file}: ") and message in str(error.value)


def test_own_keypoints_with_published_names(tmp_path):
    """A model that was fine-tuned for COCO's keypoints: its sigmas are those of the job, else of --sigmas, else
    COCO's, and nothing is published for it."""
    names = list(keypoints(17).names)
    points = np.random.default_rng(0).uniform(10, 90, (17, 2))
    one = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 100, 100], "area": 5000,
           "all": np.c_[points, np.full(17, 2)]}  # fmt: skip
    truth = coco_file(tmp_path / "gt.json", [one], 1)
    rows = [{"image_id": "000001.jpg", "persons": [person(points + 12)]}]

    def measured(own: object, sigmas: tuple[float, ...] | None = None) -> tuple[Any, Any, Any]:
        output = write_labels(tmp_path / "out", [{"task": "pose", "keypoints": own}], rows)
        found = evaluate(output, Request("persons", str(truth), bootstrap=0, sigmas=sigmas))
        return scores(found, "body")["AP"], found.protocol.get("sigmas"), found.notes

    note = ["no number is published for keypoints of your own"]
    assert measured({"names": names, "sigmas": 0.9}) == (ONE, "of the job", note), "12 px are nothing to these sigmas"
    assert measured(names, (0.9,)) == (ONE, "of --sigmas", note)
    ap = measured(17)[0]
    assert ap < 0.5 and measured(names) == (ap, "of the 17 published keypoints, which have the same names", note)
    with pytest.raises(ConfigError, match="are known; leave the option out"):
        measured(17, (0.9,))


def test_several_categories_may_have_the_same_keypoints(tmp_path):
    """Each in its own order; those with others, and persons, are not evaluated."""
    own, file = ["a", "b", "c"], tmp_path / "gt.json"
    lists = {1: ["a", "b", "c"], 2: ["c", "a", "b"], 3: ["x"]}
    animal = {"keypoints": [1, 1, 2, 2, 2, 2, 3, 3, 2], "bbox": [0, 0, 5, 5], "area": 25, "image_id": 1}
    content = {
        "images": GOOD["images"],
        "categories": [{"id": n, "name": f"{'person' if n == 3 else n}", "keypoints": k} for n, k in lists.items()],
        "annotations": [{**animal, "id": n, "category_id": n} for n in (1, 2, 3)],
    }
    file.write_text(json.dumps(content))
    dog, cat = read_coco(str(file), 3, None, own).persons
    assert dog.keypoints[:, 0].tolist() == [1, 2, 3] and cat.keypoints[:, 0].tolist() == [2, 3, 1]
    content["annotations"][1]["category_id"] = 9
    content["categories"] = content["categories"][1:2]
    file.write_text(json.dumps(content))
    found = read_coco(str(file), 3, None, own).persons
    assert [one.keypoints[0, 0] for one in found] == [2, 2, 2], "of a single category, ids do not matter"
