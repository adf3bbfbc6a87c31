"""Persons with masks in COCO JSON, and COCO's panoptic format read back by its rules."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from sapiens_ray.labels import body_parts
from tests.evaluation.labelled import write_labels
from tests.export.groups import (
    FACE,
    HEIGHT,
    POSE,
    SEG,
    TORSO,
    WIDTH,
    broken,
    class_map_of,
    instance_map,
    row,
    write_group,
)

GROUPS = {"a.jpg": [10, 46], "sub/b.jpg": [], "c.jpg": [100], "d.jpg": [5, 80, 120]}


def rows(stored: bool = False) -> list[dict[str, object]]:
    made = [row(name, places, stored) for name, places in GROUPS.items()]
    return [made[0], broken("broken.jpg"), *made[1:]]


@pytest.fixture(params=[False, True], ids=["made while exporting", "stored"])
def group(request, tmp_path):
    write_group(tmp_path / "out", rows(request.param), request.param)
    return tmp_path / "out"


def export(command, output: Path, name: str, *options: str) -> tuple[Path, object]:
    done = command("export", output, "--format", name, "--to", output.parent / "to", *options)
    assert done.code == 0, done.text
    return output.parent / "to", done


def test_persons_of_coco_have_the_mask_of_their_skeleton(group, command):
    target, done = export(command, group, "coco")
    assert done.err == ""
    coco = COCO(str(target / "persons.json"))
    names = {image["id"]: image["file_name"] for image in coco.dataset["images"]}
    made = {one["image_id"]: one for one in rows()}
    seen = 0
    for image, name in names.items():
        instances = instance_map(made[name])
        found = coco.loadAnns(coco.getAnnIds(image))
        assert len(found) == len(GROUPS[name])
        for number, annotation in enumerate(found, 1):
            mask = coco.annToMask(annotation)
            assert np.array_equal(mask, instances == number) and annotation["area"] == mask.sum() > 3000
            assert annotation["segmentation"]["size"] == [HEIGHT, WIDTH] and annotation["category_id"] == 1
            x, y, width, height = annotation["bbox"]
            assert [x, y, x + width, y + height] == made[name]["persons"][number - 1]["box"]
            seen += 1
        assert sum(annotation["area"] for annotation in found) == (class_map_of(made[name]) > 0).sum()
    assert seen == 6


def test_a_person_without_foreground_keeps_its_box(command, tmp_path):
    made = row("a.jpg", [10])
    made["persons"].append({**made["persons"][0], "box": [150.0, 10.0, 190.0, 60.0]})
    write_group(tmp_path / "out", [made])
    target, done = export(command, tmp_path / "out", "coco")
    assert done.err == (
        "persons: 1 of 2 persons have no pixel of the foreground of seg; their area is that of the box\n"
    )
    first, second = json.loads((target / "persons.json").read_text())["annotations"]
    assert "segmentation" in first and "segmentation" not in second and second["area"] == 2000


def test_the_class_map_can_be_chosen(command, tmp_path):
    """Of two seg tasks the first counts, unless one is named."""
    made = row("a.jpg", [10])
    other = np.zeros((HEIGHT, WIDTH), np.uint8)
    other[60:80, 20:40] = 5
    tasks = [SEG, {"task": "seg", "name": "other"}, POSE]
    write_labels(tmp_path / "out", tasks, [{**made, "other": cv2.imencode(".png", other)[1].tobytes()}])

    def area(*options: str) -> int:
        target, _ = export(command, tmp_path / "out", "coco", *options)
        return json.loads((target / "persons.json").read_text())["annotations"][0]["area"]

    assert area() == (class_map_of(made) > 0).sum() and area("--seg", "other") == 400
    done = command("export", tmp_path / "out", "--format", "coco", "--to", tmp_path / "to", "--seg", "depth")
    assert done.code == 2
    assert "--seg depth: no such task; it could be one of: seg, other" in done.err


def check_panoptic(target: Path, column: str) -> dict[str, tuple[np.ndarray, list[dict[str, object]]]]:
    """The rules of the format. Returns ids and segments of each image."""
    content = json.loads((target / f"panoptic_{column}.json").read_text())
    categories = {one["id"]: one for one in content["categories"]}
    assert all(set(one) >= {"id", "name", "isthing"} for one in content["categories"])
    images = {one["id"]: one for one in content["images"]}
    found = {}
    assert [one["image_id"] for one in content["annotations"]] == list(images)
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        colours = cv2.imread(str(target / f"panoptic_{column}" / annotation["file_name"]))[..., ::-1].astype(np.int64)
        ids = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
        assert ids.shape == (image["height"], image["width"])
        segments = annotation["segments_info"]
        assert len({one["id"] for one in segments}) == len(segments)
        assert set(np.unique(ids)) - {0} == {one["id"] for one in segments}
        for one in segments:
            y, x = np.nonzero(ids == one["id"])
            box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
            assert one["area"] == len(x) and one["bbox"] == box
            assert one["category_id"] in categories and one["iscrowd"] in (0, 1)
        found[image["file_name"]] = ids, segments
    return found


def test_a_segment_is_a_class_of_a_person(group, command):
    target, done = export(command, group, "coco-panoptic")
    assert "4 images exported, 1 error row skipped" in done.out and done.err == ""
    found = check_panoptic(target, "seg")
    assert (target / "panoptic_seg" / "sub" / "b.png").exists() and found["sub/b.jpg"][1] == []
    made = {one["image_id"]: one for one in rows()}
    for name, (ids, segments) in found.items():
        classes, instances = class_map_of(made[name]), instance_map(made[name])
        assert len(segments) == 2 * len(GROUPS[name])
        for one in segments:
            assert np.array_equal(ids == one["id"], (classes == one["category_id"]) & (instances == one["person"] + 1))
    categories = json.loads((target / "panoptic_seg.json").read_text())["categories"]
    assert [(one["id"], one["name"]) for one in categories] == list(enumerate(body_parts().names))[1:]
    assert {one["isthing"] for one in categories} == {1}


def test_a_segment_is_a_whole_person_and_the_foreground_of_nobody_a_crowd(command, tmp_path):
    made = row("a.jpg", [10, 46])
    classes = class_map_of(made)
    classes[:, 190:] = TORSO
    write_group(tmp_path / "out", [{**made, "seg": cv2.imencode(".png", classes)[1].tobytes()}])
    target, _ = export(command, tmp_path / "out", "coco-panoptic", "--persons")
    ids, segments = check_panoptic(target, "seg")["a.jpg"]
    assert [(one["category_id"], one["iscrowd"], one.get("person")) for one in segments] == [
        (1, 1, None), (1, 0, 0), (1, 0, 1),
    ]  # fmt: skip
    assert segments[0]["area"] == 10 * HEIGHT and segments[0]["bbox"] == [190, 0, 10, HEIGHT]
    instances = instance_map(made)
    assert all(np.array_equal(ids == one["id"], instances == one["person"] + 1) for one in segments[1:])


def test_without_persons_classes_are_stuff(command, tmp_path):
    made = row("a.jpg", [10, 46])
    write_labels(tmp_path / "out", [SEG, {"task": "depth", "mask": "none"}], [made])
    target, done = export(command, tmp_path / "out", "coco-panoptic")
    assert done.err == "depth left out: COCO has no depth\n"
    _, segments = check_panoptic(target, "seg")["a.jpg"]
    assert [(one["category_id"], one["iscrowd"]) for one in segments] == [(FACE, 0), (TORSO, 0)]
    assert {one["isthing"] for one in json.loads((target / "panoptic_seg.json").read_text())["categories"]} == {0}
    refused = command("export", tmp_path / "out", "--format", "coco-panoptic", "--persons", "--to", tmp_path / "x")
    assert refused.code == 2 and "seg left out: there are no persons" in refused.err


def test_ids_of_segments_reach_beyond_a_byte(tmp_path):
    """The class 255, and person 300: COCO's colours have 24 bits."""
    from sapiens_ray.export.coco_panoptic import encode_ids, segment_ids

    classes, persons = np.array([[0, 255, 1]], np.uint8), np.array([[0, 300, 299]], np.uint16)
    ids = segment_ids(classes, persons, 0, False)
    assert ids.tolist() == [[0, 1 + 255 + 256 * 300, 1 + 1 + 256 * 299]]
    colours = cv2.imdecode(np.frombuffer(encode_ids(ids), np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    assert (colours @ [1, 256, 65536]).tolist() == ids.tolist()
    assert segment_ids(np.array([[0, 2]], np.uint8), np.zeros((1, 2), np.uint8), 2, False).tolist() == [[1, 0]]
