"""Label Studio's import format: geometry in percent, brushes, and a configuration that has every name that is used."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest

from sapiens_ray.export import label_studio
from sapiens_ray.labels import body_parts
from tests.export.made import folder_output, tar_output
from tests.export.test_runs import decoded_brush
from tests.reporting.made import labelled_photo, write_rows

NAMES = ["a.png", "b/c d&é.png"]


@pytest.fixture
def output(tmp_path):
    return folder_output(tmp_path / "out", tmp_path / "photos", NAMES)


def export(command, output, to, *options):
    done = command("export", output.uri, "--format", "label-studio", "--to", to, *options)
    assert done.code == 0, done.text
    return done, [task for path in sorted(Path(to).glob("tasks-*")) for task in json.loads(path.read_text())]


def test_regions_are_those_of_the_row(command, tmp_path):
    row = labelled_photo(tmp_path / "photos", "a.png", 0)
    (person,) = row["persons"]
    person["keypoints"][:3] = [[12.0, 16.0], [-3.0, 5.0], [60.0, 40.0]]
    person["scores"][:3] = [0.9, 0.9, 0.1]
    output = write_rows(tmp_path / "out", [row])
    done, (task,) = export(command, output, tmp_path / "to", "--root", tmp_path)
    assert done.err == "depth left out: Label Studio has no depth\nnormal left out: Label Studio has no normal\n"
    assert task["data"] == {"image": "/data/local-files/?d=photos/a.png", "image_id": "a.png"}
    (prediction,) = task["predictions"]
    results = prediction["result"]
    assert len({one["id"] for one in results}) == len(results)
    shared = ("to_name", "image_rotation", "original_width", "original_height")
    assert {tuple(one[name] for name in shared) for one in results} == {("photo", 0, 120, 160)}
    by_type = {kind: [one for one in results if one["type"] == kind] for kind in ("rectanglelabels", "keypointlabels")}
    (box,) = by_type["rectanglelabels"]
    place = {"x": 10 / 1.2, "y": 10 / 1.6, "width": 100 / 1.2, "height": 140 / 1.6, "rotation": 0}
    assert box["value"].pop("rectanglelabels") == ["person"] and box["value"] == pytest.approx(place)
    points = by_type["keypointlabels"]
    assert len(points) == 15, "one is outside of the photo, one below the score"
    assert points[0]["value"] == {"x": 10.0, "y": 10.0, "width": 0.5, "keypointlabels": ["nose"]}
    assert {point["parentID"] for point in points} == {box["id"]}
    assert prediction["score"] == pytest.approx(np.mean([one["score"] for one in results]))
    assert prediction["model_version"] == "sapiens_ray"


def test_brushes_are_the_class_map(command, output, tmp_path):
    _, tasks = export(command, output, tmp_path / "to", "--root", tmp_path / "photos")
    for task in tasks:
        brushes = [one for one in task["predictions"][0]["result"] if one["type"] == "brushlabels"]
        assert [(one["value"]["brushlabels"], one["score"]) for one in brushes] == [(["Hair"], 0.5), (["Torso"], 0.75)]
        for one, columns in zip(brushes, (slice(0, 60), slice(60, 120)), strict=True):
            wanted = np.zeros((160, 120, 4), int)
            wanted[:, columns] = 255
            assert np.array_equal(np.array(decoded_brush(one["value"]["rle"])).reshape(160, 120, 4), wanted)
    paths = [parse_qs(urlsplit(task["data"]["image"]).query)["d"] for task in tasks]
    assert paths == [[name] for name in NAMES], "percent-encoded"


def test_the_configuration_has_every_name(command, output, tmp_path):
    _, tasks = export(command, output, tmp_path / "to")
    view = ElementTree.parse(tmp_path / "to" / "config.xml").getroot()
    assert view.tag == "View" and view.find("Image").attrib["value"] == "$image"
    controls = {one.attrib["name"]: one for one in view if one.tag != "Image"}
    assert {one.attrib["toName"] for one in controls.values()} == {view.find("Image").attrib["name"]}
    for result in (one for task in tasks for one in task["predictions"][0]["result"]):
        control = controls[result["from_name"]]
        assert control.tag.lower() == result["type"]
        (label,) = result["value"][result["type"]]
        assert label in {one.attrib["value"] for one in control}
    colours = {one.attrib["value"]: one.attrib["background"] for one in controls["seg"]}
    assert list(colours) == list(body_parts().names[1:])
    assert colours["Hair"] == "#{:02x}{:02x}{:02x}".format(*body_parts().colours[3])


def test_classes_can_be_chosen(command, output, tmp_path):
    _, tasks = export(command, output, tmp_path / "to", "--classes", "Torso, Background", "--min-score", "2")
    kinds = [(one["type"], *one["value"].get("brushlabels", ())) for one in tasks[0]["predictions"][0]["result"]]
    assert sorted(kinds) == [("brushlabels", "Torso"), ("rectanglelabels",)], "the background is nowhere in these maps"
    done = command("export", output.uri, "--format", "label-studio", "--to", tmp_path / "no", "--classes", "Torso,Hat")
    assert done.code == 2 and "--classes: no class 'Hat' in the output; it has Background, Apparel" in done.err
    assert not (tmp_path / "no").exists()


def test_photos_that_label_studio_cannot_open_are_told(command, output, tmp_path):
    done, tasks = export(command, output, tmp_path / "to", "--root", tmp_path / "photos" / "b")
    assert "images left out, their photos are not below --root: 1, such as a.png\n" in done.err and len(tasks) == 1
    done, tasks = export(command, output, tmp_path / "plain")
    assert "2 images are files, which Label Studio opens only below its document root: give --root\n" in done.err
    assert [task["data"]["image"] for task in tasks] == [str(tmp_path / "photos" / name) for name in NAMES]
    packed = tar_output(tmp_path / "packed", tmp_path / "in", {"t": ["a.png"]})
    done = command("export", packed.uri, "--format", "label-studio", "--to", tmp_path / "three")
    assert (
        "images left out, their photos lie in tars, Parquet files or videos, which this format cannot name: 1"
        in done.err
    )
    assert done.code == 2 and not (tmp_path / "three").exists()


def test_many_tasks_are_several_files(command, output, tmp_path, monkeypatch):
    monkeypatch.setattr(label_studio, "LARGEST_FILE", 1)
    _, tasks = export(command, output, tmp_path / "to")
    assert [task["data"]["image_id"] for task in tasks] == NAMES
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == [
        "config.xml", "tasks-000000.json", "tasks-000001.json"
    ]  # fmt: skip
