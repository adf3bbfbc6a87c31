"""What holds for several formats: hostile names, numbers that JSON lacks, credentials, and nothing to export."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import fsspec
import pytest

from tests.evaluation.labelled import png, write_labels
from tests.export.groups import POSE, SEG, Row, broken, class_map_of, row, write_group

SCORES = "seg_class_confidence"


def whole(image_id: str, places: list[int]) -> Row:
    """A row with a confidence of each class."""
    made = row(image_id, places)
    return {**made, SCORES: [0.5] * len(made["seg_classes"])}


def export(command, output: Path, to: Path, name: str, *options: object):
    done = command("export", output, "--format", name, "--to", to, *options)
    assert done.code == 0, done.text
    return done


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        (["masks"], ["a.jpg", "a.png/b.jpg"]),
        (["masks", "--per-class"], ["a.jpg", "a/Torso.png.jpg", "a/Torso.png_.jpg"]),
        (["coco-panoptic"], ["a.jpg", "a.png/b.jpg"]),
        (["yolo-seg", "--images", "none"], ["a.jpg", "a.txt/b.jpg"]),
    ],
    ids=["masks", "per-class", "panoptic", "yolo"],
)
def test_no_file_has_the_name_of_a_folder(command, tmp_path, name, ids):
    write_group(tmp_path / "out", [row(image_id, [10]) for image_id in ids])
    export(command, tmp_path / "out", tmp_path / "to", *name)
    files = [path for path in (tmp_path / "to").rglob("*") if path.suffix in (".png", ".txt") and path.is_file()]
    assert len(files) == len(ids) * (3 if "--per-class" in name else 1)


def test_numbers_that_json_lacks_are_null(command, tmp_path):
    made = {**whole("a.jpg", [10]), "uri": "https://host/a.jpg"}
    (person,) = made["persons"]
    person["scores"][0] = person["score"] = float("nan")
    person["box_score"] = float("inf")
    write_labels(tmp_path / "out", [SEG, POSE], [made])
    found = {}
    for name, file in (("coco", "persons.json"), ("label-studio", "tasks-000000.json")):
        export(command, tmp_path / "out", tmp_path / name, name)
        found[name] = json.loads((tmp_path / name / file).read_text(), parse_constant=pytest.fail)
    (annotation,) = found["coco"]["annotations"]
    assert annotation["keypoint_scores"][0] is annotation["score"] is None and annotation["keypoint_scores"][5] == 0.875
    (prediction,) = found["label-studio"][0]["predictions"]
    assert 0.5 < prediction["score"] < 0.9, "the mean of those that are numbers"


def test_credentials_of_the_output_stay_out_of_files_and_messages(command, tmp_path):
    write_group(tmp_path / "out", [row("a.jpg", [10])])
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "out"), "/me:SECRET@bucket/out", recursive=True)
    for name in ("coco", "coco-panoptic", "fiftyone"):
        done = export(command, "memory://me:SECRET@bucket/out", tmp_path / name, name, "--json")
        texts = [path.read_text() for path in (tmp_path / name).glob("*.json")]
        assert any("memory://bucket/out" in text for text in texts), name
        assert not any("SECRET" in text for text in [*texts, done.text]), name
    done = command("export", "memory://me:SECRET@bucket/out", "--format", "masks", "--to", "memory://me:SECRET@b/x",
                   "--where", "width = 1")  # fmt: skip
    assert done.code == 2 and "no row of memory://bucket/out meets" in done.err and "SECRET" not in done.text
    done = command("export", "memory://me:SECRET@bucket/none", "--format", "masks", "--to", tmp_path / "x")
    assert done.code == 2 and "SECRET" not in done.text
    done = export(command, "memory://me:SECRET@bucket/out", "memory://me:SECRET@b/x", "masks")
    assert "memory://b/x" in done.out and "SECRET" not in done.text


@pytest.mark.parametrize("name", ["yolo-pose", "yolo-seg"])
def test_a_folder_of_error_rows_alone_is_no_dataset(command, tmp_path, name):
    write_group(tmp_path / "out", [broken("a.jpg")])
    done = command("export", tmp_path / "out", "--format", name, "--images", "none", "--to", tmp_path / "to")
    assert done.code == 2 and f"no image of {tmp_path / 'out'} has labels: all rows are error rows" in done.err
    assert not (tmp_path / "to" / "data.yaml").exists()


def test_persons_of_two_tasks_are_groups_of_their_own_in_cvat(command, tmp_path):
    made = row("a.jpg", [10, 100])
    write_labels(tmp_path / "out", [SEG, POSE, {**POSE, "name": "more"}], [{**made, "more": made["persons"]}])
    export(command, tmp_path / "out", tmp_path / "to", "cvat")
    root = ElementTree.parse(tmp_path / "to" / "annotations.xml").getroot()
    for shape in ("skeleton", "box"):
        assert [one.attrib["group_id"] for one in root.iter(shape)] == ["1", "2", "3", "4"]


def test_no_two_elements_of_label_studio_share_a_name(command, tmp_path):
    made = {**whole("a.jpg", [10]), "uri": "https://host/a.jpg"}
    for column in ("photo", "persons_keypoints"):
        made |= {f"{column}{end}": made[f"seg{end}"] for end in ("", "_classes", "_class_confidence")}
    tasks = [{**SEG, "name": "photo"}, {**SEG, "name": "persons_keypoints"}, POSE]
    write_labels(tmp_path / "out", tasks, [made])
    export(command, tmp_path / "out", tmp_path / "to", "label-studio")
    view = ElementTree.parse(tmp_path / "to" / "config.xml").getroot()
    kinds = {one.attrib["name"]: one.tag.lower() for one in view}
    assert list(kinds) == ["photo_", "photo", "persons_keypoints", "persons", "persons_keypoints_"]
    (task,) = json.loads((tmp_path / "to" / "tasks-000000.json").read_text())
    for one in task["predictions"][0]["result"]:
        assert kinds[one["from_name"]] == one["type"] and kinds[one["to_name"]] == "image"


def test_urls_that_lost_their_signature_are_left_out(command, tmp_path):
    """`uri` is without what nobody may know, and so opens nothing."""
    signed = {**whole("a.jpg", [10]), "uri": "https://host/a.jpg?X-Amz-Signature=...&x=1"}
    write_labels(tmp_path / "out", [SEG, POSE], [signed, {**whole("b.jpg", [10]), "uri": "https://host/b.jpg"}])
    for name, file, rest in (
        ("label-studio", "tasks-000000.json", ""),
        ("fiftyone", "samples.json", ": give --photos"),
    ):
        done = export(command, tmp_path / "out", tmp_path / name, name)
        why = f"images left out, their URLs need a signature, which is not stored{rest}: 1, such as a.jpg\n"
        assert why in done.err
        text = (tmp_path / name / file).read_text()
        assert "a.jpg" not in text and "https://host/b.jpg" in text


def test_another_share_for_val_is_refused(command, tmp_path):
    """Images would be in train and in val."""
    output = tmp_path / "out"
    write_group(output, [row(f"{number}.jpg", [10]) for number in range(3)])
    common = ("yolo-pose", "--images", "none", "--val")
    for _ in range(2):
        export(command, output, tmp_path / "to", *common, "0.1")
    before = {path: path.read_bytes() for path in (tmp_path / "to").rglob("*") if path.is_file()}
    done = command("export", output, "--to", tmp_path / "to", "--format", *common, "0.4")
    assert done.code == 2 and "was written with --val 0.1, and images would be in both parts; give that" in done.err
    assert {path: path.read_bytes() for path in (tmp_path / "to").rglob("*") if path.is_file()} == before


def test_a_line_of_single_pixels_is_named_as_what_it_is(command, tmp_path):
    made = row("a.jpg", [10])
    classes = class_map_of(made) * 0
    classes[50, 10:190] = 1
    write_group(tmp_path / "out", [{**made, "seg": png(classes)}])
    done = export(command, tmp_path / "out", tmp_path / "to", "yolo-seg", "--images", "none")
    said = "of fewer than 32 pixels or without area: holes that were filled: 0; parts that were left out: 1"
    assert f"seg: {said}\n" in done.err
