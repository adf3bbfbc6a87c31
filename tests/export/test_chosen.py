"""Exports of some of the rows, and of an output that a run still writes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from sapiens_ray.export import coco
from sapiens_ray.export.base import labelled
from sapiens_ray.export.coco import export_coco
from sapiens_ray.export.filenames import RowNames
from sapiens_ray.export.masks import export_masks
from sapiens_ray.output.reading import chosen_rows, iterate_rows
from sapiens_ray.storage import Folder
from tests.evaluation.labelled import person, png, write_labels

POINTS = np.arange(34.0).reshape(17, 2)


def painted(row: int, image_id: str) -> dict[str, object]:
    """A row whose class map has the number of the row everywhere."""
    return {"image_id": image_id, "seg": png(np.full((6, 8), row, np.uint8)), "seg_confidence": row / 10}


def test_masks_of_different_rows_do_not_overwrite_each_other(command, tmp_path):
    """Two stems that are equal, and two ids that are."""
    ids = ["a.jpg", "a.png", "b.jpg", "same.jpg", "same.jpg"]
    folder = write_labels(tmp_path / "out", [{"task": "seg"}], [painted(row, one) for row, one in enumerate(ids, 1)])
    export_masks(folder, Folder(str(tmp_path / "whole")))
    for where in ("seg_confidence > 0.45", "seg_confidence < 0.15", "seg_confidence between 0.15 and 0.45"):
        done = command("export", folder.uri, "--format", "masks", "--to", tmp_path / "parts", "--where", where)
        assert done.code == 0, done.text

    def maps(place: str) -> dict[str, int]:
        return {path.name: int(cv2.imread(str(path), 0).max()) for path in (tmp_path / place / "seg").iterdir()}

    assert set(maps("whole")) == {"a.jpg.png", "a.png.png", "b.png", "same.jpg.png", "same.jpg-2.png"}
    assert {path.name: path.read_bytes() for path in (tmp_path / "parts" / "seg").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole" / "seg").iterdir()
    }


def test_a_row_that_a_run_adds_meanwhile_gets_a_name_of_its_own(tmp_path):
    folder = write_labels(tmp_path / "out", [{"task": "seg"}], [painted(1, "b.jpg"), painted(2, "c.jpg")])
    names = RowNames(chosen_rows(folder, "true"))
    rows = [{"shard": 0, "index": 0, "image_id": "b.jpg"}, {"shard": 0, "index": 0, "image_id": "b.png"}]
    later = {"shard": 0, "index": 9, "image_id": "c.png"}
    assert names.of(rows[0]) == ("b", False)
    assert names.of(later) == ("c.png", True), "c.jpg has the stem"


@pytest.mark.parametrize(
    ("tasks", "arguments", "message"),
    [
        ([{"task": "seg"}], ["--format", "masks", "--where", "width > 99"], "no row of {out} meets --where 'width >"),
        ([{"task": "pose", "keypoints": 17}], ["--format", "masks", "--where", "true"],
         "format masks cannot hold any of the labels in {out}"),
        ([{"task": "pose", "keypoints": 17}], ["--format", "coco", "--where", "width > 99"], "no row of {out} meets"),
    ],
)  # fmt: skip
def test_an_export_of_nothing_says_why_and_replaces_nothing(command, tmp_path, tasks, arguments, message):
    row = {"image_id": "a.jpg", "persons": [{**person(POINTS), "score": 0.5}], "seg": png(np.ones((6, 8), np.uint8))}
    write_labels(tmp_path / "out", tasks, [{**row, "seg_confidence": 0.5}])
    for earlier in ("persons.json", "seg/a.png"):
        (tmp_path / "to" / earlier).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "to" / earlier).write_text("earlier")
    done = command("export", tmp_path / "out", "--to", tmp_path / "to", *arguments)
    assert done.code == 2 and message.format(out=tmp_path / "out") in done.err, done.text
    assert {path.read_text() for path in (tmp_path / "to").rglob("*") if path.is_file()} == {"earlier"}


def test_ids_of_coco_stay_with_their_images_while_a_run_goes_on(tmp_path, monkeypatch):
    """The first shard gets a row after the ids were given."""
    tasks = [{"task": "pose", "keypoints": 17}]
    rows = [
        {"image_id": f"{number}.jpg", "persons": [{**person(POINTS + number), "score": 0.5}]} for number in range(6)
    ]
    whole = write_labels(tmp_path / "whole", tasks, rows, unit_size=2)
    first, *later = sorted((tmp_path / "whole" / "data").iterdir())
    held = first.read_bytes()
    first.unlink()
    passes = 0

    def rows_of(*arguments: object) -> object:
        nonlocal passes
        passes += 1
        if passes == 2:
            first.write_bytes(held)
        return labelled(*arguments)

    monkeypatch.setattr(coco, "labelled", rows_of)
    done = export_coco(whole, Folder(str(tmp_path / "to")))
    assert passes == 3 and len(list(iterate_rows(whole, ["image_id"]))) == 6 and len(later) == 2
    found = json.loads((Path(tmp_path) / "to" / "persons.json").read_text())
    names = {image["id"]: image["file_name"] for image in found["images"]}
    assert names == {1: "2.jpg", 2: "3.jpg", 3: "4.jpg", 4: "5.jpg"} and done.images == 4
    assert [(names[one["image_id"]], one["keypoints"][0]) for one in found["annotations"]] == [
        (f"{number}.jpg", number) for number in range(2, 6)
    ]
