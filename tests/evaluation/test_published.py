"""The published number stands beside a metric only where model, data and protocol agree."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from sapiens_ray.evaluation.coco_truth import CocoTruth, Person
from sapiens_ray.evaluation.published import PUBLISHED, VAL2017_BOXES, catalogue_name, published_pose
from sapiens_ray.evaluation.result import Images, Metric
from sapiens_ray.models.catalogue import CATALOGUE
from sapiens_ray.output.reading import labels_of
from tests.evaluation.labelled import write_labels

SEEN = Person(1, np.full((17, 3), 2.0), [0, 0, 9, 9], 50, crowd=False)
NOT_COUNTED = [Person(1, np.zeros((17, 3)), [0, 0, 9, 9], 50, False), Person(1, SEEN.keypoints, [0, 0, 9, 9], 50, True)]
VAL2017 = CocoTruth("val.json", {f"{number}.jpg": number for number in range(5000)}, [SEEN] * 6352 + NOT_COUNTED)
METRICS = [Metric("AP", 0.79, part="body"), Metric("AP50", 0.9, part="body"), Metric("AR", 0.8, part="body")]
SETTINGS = {"task": "pose", "keypoints": 17, "flip_test": True}


@pytest.fixture
def compared(tmp_path):
    """`published_pose` for an output whose task has these settings in `job.yaml`."""

    def compare(
        checkpoint: str = "pose17-0.3b",
        suppressed: bool = True,
        truth: CocoTruth = VAL2017,
        errors: int = 0,
        **changes: object,
    ):
        output = write_labels(tmp_path / "out", [SETTINGS], [{"image_id": "a.jpg", "persons": []}], checkpoint)
        record = yaml.safe_load((tmp_path / "out" / "job.yaml").read_text())
        record["job"]["tasks"][0] |= {"boxes": {"source": "coco", "coco": f"/data/{VAL2017_BOXES}"}, **changes}
        (tmp_path / "out" / "job.yaml").write_text(yaml.safe_dump(record))
        (labels,) = labels_of(output)
        images = Images(evaluated=5000, error_rows=errors + 1, error_rows_with_truth=errors)
        metrics, notes = published_pose(output, labels, truth, images, suppressed, METRICS)
        return [one.published for one in metrics], notes

    return compare


def test_model_data_and_protocol_agree(compared):
    assert compared() == ([0.796, None, 0.836], [])
    file = "/models/sapiens_1b_coco_best_coco_AP_821_torchscript.pt2"
    assert compared(file) == ([0.821, None, 0.859], [])
    for coco in ({"file": f"s3://data/{VAL2017_BOXES}", "min_score": 0.0}, {"detections": VAL2017_BOXES, "file": None}):
        assert compared(boxes={"source": "coco", "coco": coco}) == ([0.796, None, 0.836], [])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"flip_test": False}, "flip_test is off"),
        ({"crop": "lite"}, "crop is not trained"),
        ({"mode": "bfloat16"}, "mode is bfloat16"),
        ({"checkpoint": "/models/sapiens_0.3b_coco_best_coco_AP_796_bfloat16.pt2"},
         "the weights in the checkpoint are bfloat16"),
        ({"errors": 2}, "2 error rows, where nobody is found"),
        ({"boxes": {"source": "none"}}, f"the boxes are not all those of {VAL2017_BOXES}"),
        ({"boxes": {"source": "coco", "coco": {"file": VAL2017_BOXES, "min_score": 0.3}}},
         f"the boxes are not all those of {VAL2017_BOXES}"),
        ({"suppressed": False}, "OKS-NMS is off"),
        ({"truth": CocoTruth("mine.json", {"a.jpg": 1}, [SEEN])},
         "the ground truth has 1 images and 1 persons, val2017 5000 and 6352"),
    ],
)  # fmt: skip
def test_what_differs_is_said(compared, changes, reason):
    numbers, notes = compared(**changes)
    assert numbers == [None] * 3
    assert notes == [f"published for pose17-0.3b: body AP 0.796, body AR 0.836; not comparable: {reason}"]


def test_torchscript_is_the_published_mode_too(compared):
    assert compared(mode="torchscript") == ([0.796, None, 0.836], [])


def test_of_wholebody_files_the_persons_of_coco_are_counted():
    """COCO-WholeBody also labels hands and faces of persons without a labelled keypoint of the body."""
    only_face, body = np.zeros((133, 3)), np.zeros((133, 3))
    only_face[17:, 2], body[16, 2] = 2, 1
    persons = [Person(1, keypoints, [0, 0, 9, 9], 50, crowd=False) for keypoints in (only_face, body)]
    assert CocoTruth("wholebody.json", {"a.jpg": 1}, persons).labelled_persons == 1


def test_an_unknown_model_has_no_published_number(compared):
    numbers, notes = compared("mine.pt2")
    assert numbers == [None] * 3 and "does not name a checkpoint of the catalogue" in notes[0]


def test_the_table_agrees_with_the_catalogue():
    assert set(PUBLISHED) == {one for one in CATALOGUE if one.startswith(("pose17", "pose133"))}
    for name, numbers in PUBLISHED.items():
        value = numbers.get(("whole", "AP"), numbers[("body", "AP")])
        assert CATALOGUE[name].accuracy.endswith(f" {100 * value:.1f}")
        assert all(0.5 < value < 1 for value in numbers.values())
    assert catalogue_name({"checkpoint": "pose17-2b"}) == "pose17-2b" and catalogue_name({}) == ""
