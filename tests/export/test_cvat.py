"""CVAT's XML, read by an XML parser and by the rules of its importer."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

import sapiens_ray
from sapiens_ray.export import cvat
from sapiens_ray.labels import keypoint_links, keypoint_names
from sapiens_ray.planning.plan import Plan, Shard, save_plan
from sapiens_ray.tasks.stored import StoredClassMap, StoredPersons
from tests.export.test_runs import decoded_cvat
from tests.reporting.made import error_row, labelled_photo, random_row, write_rows

HOSTILE = ["a.png", "q&\"t'<é>\t\n😀.png", "\x1b[31m.png"]


@pytest.fixture
def output(tmp_path):
    made = [labelled_photo(tmp_path / "photos", "a.png", seed) for seed in range(len(HOSTILE))]
    rows = [{**row, "image_id": name} for row, name in zip(made, HOSTILE, strict=True)]
    (person,) = rows[0]["persons"]
    person["box"], person["scores"][4] = [-5.0, 10.0, 130.0, 150.0], 0.2
    return write_rows(tmp_path / "out", [*rows, error_row("bad.jpg")])


@pytest.fixture
def exported(command, output, tmp_path):
    done = command("export", output.uri, "--format", "cvat", "--to", tmp_path / "to")
    assert done.code == 0, done.text
    return done, ElementTree.parse(tmp_path / "to" / "annotations.xml").getroot()


def test_hostile_names_survive_or_are_left_out(exported):
    done, root = exported
    assert root.tag == "annotations" and root.findtext("version") == "1.1"
    assert [(one.attrib["id"], one.attrib["name"]) for one in root.iter("image")] == [
        ("0", HOSTILE[0]),
        ("1", HOSTILE[1]),
    ]
    assert done.out.startswith("2 images exported, 1 error row skipped")
    assert "images left out, XML cannot hold the characters of their names: 1, such as \\x1b[31m.png\n" in done.err
    assert "depth left out: CVAT has no depth\n" in done.err


def test_masks_are_the_class_map(exported, output):
    """Run lengths inside the box of the mask, row by row, zeros first."""
    _, root = exported
    names = sapiens_ray.class_names("seg")
    maps = sapiens_ray.read_labels(output.uri, decode=True)["seg"]
    for image, class_map in zip(root.iter("image"), maps, strict=False):
        painted = np.zeros((int(image.attrib["height"]), int(image.attrib["width"])), np.uint8)
        for mask in image.iter("mask"):
            left, top, width, height = (int(mask.attrib[name]) for name in ("left", "top", "width", "height"))
            lengths = list(map(int, mask.attrib["rle"].split(",")))
            inside = decoded_cvat(lengths, (height, width))
            assert inside.any(0).all() or inside.any(1).all()
            painted[top : top + height, left : left + width][inside] = names.index(mask.attrib["label"])
            assert (mask.attrib["occluded"], mask.attrib["z_order"], mask.attrib["source"]) == ("0", "0", "auto")
        assert np.array_equal(painted, class_map)


def test_persons_are_a_skeleton_and_a_box(exported, output):
    _, root = exported
    image = next(root.iter("image"))
    (person,) = sapiens_ray.read_labels(output.uri)["persons"][0]
    (skeleton,) = image.iter("skeleton")
    points = list(skeleton.iter("points"))
    assert [one.attrib["label"] for one in points] == keypoint_names(17)
    assert [one.attrib["outside"] for one in points] == ["0"] * 4 + ["1"] + ["0"] * 12
    placed = [list(map(float, one.attrib["points"].split(","))) for one in points]
    assert np.abs(np.array(placed) - np.stack(person["keypoints"])).max() <= 0.005 + 1e-5
    assert [float(one.findtext("attribute")) for one in points] == pytest.approx(person["scores"], abs=1e-4)
    (box,) = image.iter("box")
    assert [box.attrib[name] for name in ("xtl", "ytl", "xbr", "ybr")] == ["0.00", "10.00", "120.00", "150.00"]
    assert box.attrib["group_id"] == skeleton.attrib["group_id"] == "1"
    assert float(box.findtext("attribute")) == pytest.approx(person["score"], abs=1e-4)


def test_every_label_is_defined(exported, tmp_path):
    """In the XML, and in what the raw editor of labels takes."""
    _, root = exported
    defined = {one.findtext("name"): one for one in root.find("meta").iter("label") if one.find("parent") is None}
    kinds = {"mask": "mask", "skeleton": "skeleton", "box": "rectangle"}
    for image in root.iter("image"):
        for shape in image:
            label = defined[shape.attrib["label"]]
            assert label.findtext("type") == kinds[shape.tag]
            attributes = {one.findtext("name") for one in label.find("attributes")}
            assert {one.attrib["name"] for one in shape.findall("attribute")} <= attributes
    children = [one for one in root.find("meta").iter("label") if one.findtext("parent") == "person"]
    assert [one.findtext("name") for one in children] == keypoint_names(17)
    raw = {one["name"]: one for one in json.loads((tmp_path / "to" / "labels.json").read_text())}
    assert list(raw) == list(defined) and [one["name"] for one in raw["person"]["sublabels"]] == keypoint_names(17)
    assert raw["person"]["svg"] == defined["person"].findtext("svg")


def test_the_drawing_of_a_skeleton_has_its_links(exported):
    _, root = exported
    (svg,) = (one.findtext("svg") for one in root.find("meta").iter("label") if one.find("svg") is not None)
    drawing = ElementTree.fromstring(f"<svg>{svg}</svg>")
    circles = {one.attrib["data-node-id"]: one for one in drawing.iter("circle")}
    assert [one.attrib["data-label-name"] for one in circles.values()] == keypoint_names(17)
    lines = [(one.attrib["data-node-from"], one.attrib["data-node-to"]) for one in drawing.iter("line")]
    assert lines == [(str(start + 1), str(end + 1)) for start, end in keypoint_links(17)]
    for one in drawing.iter("line"):
        start = circles[one.attrib["data-node-from"]].attrib
        assert (one.attrib["x1"], one.attrib["y1"]) == (start["cx"], start["cy"])
    places = [float(one.attrib[axis]) for one in circles.values() for axis in ("cx", "cy")]
    assert min(places) > 0 and max(places) < 100


def test_a_skeleton_is_drawn_without_any_person(command, tmp_path):
    row = random_row("a.jpg", np.random.default_rng(0))
    labels = labelled_photo(tmp_path / "photos", "a.png", 0)
    output = write_rows(tmp_path / "out", [{**row, "seg": labels["seg"], "persons": []}])
    assert command("export", output.uri, "--format", "cvat", "--to", tmp_path / "to").code == 0
    (svg,) = (one["svg"] for one in json.loads((tmp_path / "to" / "labels.json").read_text()) if "svg" in one)
    assert (
        len(
            {(one.attrib["cx"], one.attrib["cy"]) for one in ElementTree.fromstring(f"<svg>{svg}</svg>").iter("circle")}
        )
        == 17
    )


def test_names_that_two_columns_share_get_the_name_of_their_column():
    classes = {"task": "seg", "class_names": ["back", "person", "hat"], "class_colours_rgb": [[0, 0, 0]] * 3}
    points = {"task": "pose", "keypoint_names": ["nose"], "keypoint_links": []}
    found = cvat._label_names(
        [StoredClassMap("seg", classes), StoredClassMap("two", classes), StoredPersons("p", points)]
    )
    assert found["seg", "hat"] == "seg hat" and found["two", "person"] == "two person"
    assert found["p", "person"] == "p person" and found["p", "person box"] == "person box"
    assert len(set(found.values())) == len(found)


def test_a_class_that_xml_cannot_name_is_refused():
    from sapiens_ray.errors import OutputError
    from sapiens_ray.export.names import names_of

    with pytest.raises(OutputError, match=r"column seg: XML cannot hold the characters of the name 'h\\x00t'"):
        names_of(StoredClassMap("seg", {"task": "seg", "class_names": ["back", "h\0t"]}))


def test_frames_of_videos_are_left_out(command, tmp_path):
    names = ["clip.mp4/00000000", "clip.mp4/00000001"]
    made = [labelled_photo(tmp_path / "photos", "a.png", seed) for seed in range(3)]
    output = write_rows(tmp_path / "out", [{**row, "image_id": name} for row, name in zip(made, names, strict=False)])
    save_plan(Plan([Shard(0, "video", "/v/clip.mp4", "clip.mp4", images=2)], 64, pa.schema([])), output)
    done = command("export", output.uri, "--format", "cvat", "--to", tmp_path / "to")
    assert done.code == 2 and "images left out, they are frames of videos" in done.err, done.text
    assert not (tmp_path / "to" / "annotations.xml").exists()


def test_names_that_are_not_utf8_are_counted(command, tmp_path):
    made = labelled_photo(tmp_path / "photos", "a.png", 0)
    output = write_rows(tmp_path / "out", [{**made, "image_id": "caf\\xe9.png"}, {**made, "image_id": "caf\\x41.png"}])
    for form in ("cvat", "coco"):
        done = command("export", output.uri, "--format", form, "--to", tmp_path / form)
        said = (
            "image names with \\xNN for bytes that are not UTF-8, by which tools may not find the photos: 1, such as "
        )
        assert done.code == 0 and f"{said}caf\\xe9.png\n" in done.err, done.text
