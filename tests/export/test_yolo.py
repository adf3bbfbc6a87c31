"""Folders for Ultralytics, checked by its published rules: Ultralytics itself is AGPL, and not used."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
import yaml

from sapiens_ray.imaging.names import hash_fraction
from sapiens_ray.labels import body_parts, keypoints
from tests.conftest import photo
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
from tests.export.made import folder_output, parquet_output, tar_output

GROUPS = {"a.jpg": [10, 46], "images/b.png": [], "images_/b.png": [100], "x/images/images/d.jpg": [5, 80, 120]}
IN_FOLDERS = {"a.jpg": "a", "images/b.png": "images_/b", "images_/b.png": "images__/b",
              "x/images/images/d.jpg": "x/images_/images_/d"}  # fmt: skip


def rows(folder: Path) -> list[dict[str, object]]:
    made = [{**row(name, places), "uri": str(folder / "photos" / name)} for name, places in GROUPS.items()]
    return [made[0], broken("broken.jpg"), *made[1:]]


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """Labels of photos in a folder; one photo is gone."""
    for seed, name in enumerate(list(GROUPS)[:-1]):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, photo(WIDTH, HEIGHT, seed))[1].tobytes())
    write_group(tmp_path / "out", rows(tmp_path))
    return tmp_path / "out"


def export(command, output: Path, *options: object):
    target = output.parent / "yolo"
    done = command("export", output, "--to", target, "--format", *options)
    assert done.code == 0, done.text
    return target, done


def check(target: Path) -> tuple[dict[str, object], dict[str, list[list[float]]]]:
    """The rules. Returns data.yaml, and the lines by the name of the label file."""
    about = yaml.safe_load((target / "data.yaml").read_text())
    assert {"train", "val", "names"} <= set(about) and about["path"] == str(target)
    assert list(about["names"]) == list(range(len(about["names"])))
    shape = about.get("kpt_shape")
    if shape:
        assert len(about["flip_idx"]) == len(about["kpt_names"][0]) == shape[0] and shape[1] == 3
        assert sorted(about["flip_idx"]) == list(range(shape[0]))
    found = {}
    for file in sorted((target / "labels").rglob("*")):
        if file.is_dir():
            continue
        assert file.suffix == ".txt"
        lines = [[float(value) for value in line.split(" ")] for line in file.read_text().splitlines()]
        for line in lines:
            assert int(line[0]) == line[0] and int(line[0]) in about["names"]
            assert all(0 <= value <= 1 for value in line[1:] if value != 2 or not shape)
            if shape:
                assert len(line) == 5 + 3 * shape[0] and set(line[7::3]) <= {0, 2}
            else:
                assert len(line) >= 7 and len(line) % 2 == 1
        found[str(file.relative_to(target / "labels").with_suffix(""))] = lines
    images = {}
    for file in (target / "images").rglob("*.*"):
        head, _, tail = str(file).rpartition("/images/")
        images[f"{head}/labels/{tail}".rpartition(".")[0] + ".txt"] = file
    assert all(Path(label).is_file() for label in images)
    return about, found


def test_pose(group, command):
    target, done = export(command, group, "yolo-pose", "--val", "0")
    assert "4 images exported, 1 error row skipped" in done.out
    assert done.err == (
        "seg left out: a YOLO folder holds the persons of one task\n"
        "photos left out, no files of this machine (use --images copy): 1, such as x/images/images/d.jpg\n"
        "data.yaml: no image is in val, so it names those of train\n"
        "persons: YOLO has no scores; keypoints below 0.3 are written as absent\n"
    )
    about, labels = check(target)
    table = keypoints(17)
    assert about == {
        "path": str(target), "train": "images/train", "val": "images/train", "kpt_shape": [17, 3],
        "flip_idx": list(table.swap), "names": {0: "person"}, "kpt_names": {0: list(table.names)},
        "val_share": 0.0,
    }  # fmt: skip
    assert set(labels) == {f"train/{name}" for name in IN_FOLDERS.values()}
    for image_id, name in IN_FOLDERS.items():
        lines = labels[f"train/{name}"]
        persons = row(image_id, GROUPS[image_id])["persons"]
        assert len(lines) == len(persons)
        for line, person in zip(lines, persons, strict=True):
            centre, size = np.array(line[1:3]), np.array(line[3:5])
            corners = np.concatenate([centre - size / 2, centre + size / 2]) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
            assert line[0] == 0 and np.abs(corners - person["box"]).max() < 1e-3
            triples = np.array(line[5:]).reshape(17, 3)
            there = np.array(person["scores"]) > 0.3
            assert np.abs(triples[there, :2] * [WIDTH, HEIGHT] - np.array(person["keypoints"])[there]).max() < 1e-3
            assert (triples[there, 2] == 2).all() and not triples[~there].any()
    linked = {str(path.relative_to(target)) for path in (target / "images").rglob("*.*")}
    assert linked == {"images/train/a.jpg", "images/train/images_/b.png", "images/train/images__/b.png"}
    assert all((target / one).is_symlink() for one in linked)
    assert (target / "images/train/a.jpg").read_bytes() == (group.parent / "photos/a.jpg").read_bytes()


def test_boxes_are_cut_and_what_lies_outside_is_absent(command, tmp_path):
    made = row("a.jpg", [10, 46, 100])
    inside, half, beside = made["persons"]
    half.update(box=[150.0, -20.0, 260.0, 80.0], scores=[0.9] * 17)
    half["keypoints"] = [[160.0, 20.0], [200.5, 20.0], [199.5, -0.5], [-1.0, 5.0], [0.0, 0.0], [200.0, 160.0],
                         *[[500.0, 20.0]] * 11]  # fmt: skip
    beside["box"] = [300.0, 10.0, 340.0, 50.0]
    inside["scores"] = [0.3] * 16 + [0.25]
    write_labels(tmp_path / "out", [SEG, POSE], [made])
    target, done = export(command, tmp_path / "out", "yolo-pose", "--images", "none", "--val", "0")
    assert "persons: persons left out, whose box lies outside of the photo: 1\n" in done.err
    _, labels = check(target)
    first, second = labels["train/a"]
    assert second[1:5] == [0.875, 0.25, 0.25, 0.5]
    assert second[5:23] == [0.8, 0.125, 2, *[0, 0, 0] * 3, 0, 0, 2, 1, 1, 2] and not any(second[23:])
    outside = np.array(inside["keypoints"])[:, 0] < 0
    assert [visible == 2 for visible in first[7::3]] == [not out for out in outside[:16]] + [False]
    target, _ = export(command, tmp_path / "out", "yolo-pose", "--images", "none", "--val", "0", "--min-score", "0.95")
    assert not any(check(target)[1]["train/a"][1][5:])


@pytest.mark.parametrize("options", [[], ["--persons"]], ids=["classes", "persons"])
def test_seg(group, command, options):
    target, done = export(command, group, "yolo-seg", "--val", "0", "--images", "none", *options)
    about, labels = check(target)
    assert list(about["names"].values()) == (["person"] if options else list(body_parts().names[1:]))
    assert not (target / "images").exists()
    made = {one["image_id"]: one for one in rows(group.parent)}
    holes = 0
    for image_id, name in IN_FOLDERS.items():
        lines = labels[f"train/{name}"]
        classes, instances = class_map_of(made[image_id]), instance_map(made[image_id])
        masks = [instances == number for number in range(1, len(GROUPS[image_id]) + 1)]
        if not options:
            masks = [classes == FACE, classes == TORSO] if classes.any() else []
        expected = {0} if options else {FACE - 1, TORSO - 1}
        assert {line[0] for line in lines} == (expected if masks else set())
        for number, mask in enumerate(masks):
            found = np.zeros((HEIGHT, WIDTH), np.uint8)
            own = [lines[number]] if options else [line for line in lines if line[0] == (FACE, TORSO)[number] - 1]
            for line in own:
                points = np.array(line[1:]).reshape(-1, 2) * [WIDTH, HEIGHT]
                cv2.fillPoly(found, [points.astype(np.int32)], 1)
            filled, parts = mask.copy(), cv2.connectedComponentsWithStats((~mask).view(np.uint8), connectivity=4)
            for part in range(1, parts[0]):
                x, y, across, down, _ = parts[2][part]
                if x > 0 and y > 0 and x + across < WIDTH and y + down < HEIGHT:
                    filled |= parts[1] == part
                    holes += 1
            assert np.array_equal(found > 0, filled)
    assert holes == 6
    assert (
        f"seg: of fewer than 32 pixels or without area: holes that were filled: {holes}; parts that were left out: 0\n"
        in done.err
    )


def test_one_line_per_person_though_something_divides_it(command, tmp_path):
    made = row("a.jpg", [100])
    classes = class_map_of(made)
    classes[80:84] = 0
    classes[5, 110] = 1  # a single pixel
    write_group(tmp_path / "out", [{**made, "seg": cv2.imencode(".png", classes)[1].tobytes()}])
    target, done = export(command, tmp_path / "out", "yolo-seg", "--persons", "--images", "none")
    (line,) = next(iter(check(target)[1].values()))
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(found, [(np.array(line[1:]).reshape(-1, 2) * [WIDTH, HEIGHT]).astype(np.int32)], 1)
    outside = (found > 0) & (classes == 0)
    assert found[classes > 0].sum() == (classes > 0).sum() - 1 and outside[80:84].sum() <= 8, "one line joins them"
    assert "parts that were left out: 1\n" in done.err
    target, _ = export(command, tmp_path / "out", "yolo-seg", "--images", "none", "--min-pixels", "1500")
    lines = next(iter(check(target)[1].values()))
    assert [line[0] for line in lines] == [TORSO - 1], "the face has 649 pixels, the upper part 1184"


def test_val_is_a_share_of_the_images_and_the_same_for_any_rows(command, tmp_path):
    made = [row(f"{number}.jpg", [10]) for number in range(40)]
    output = tmp_path / "out"
    write_group(output, made)
    target, done = export(command, output, "yolo-pose", "--images", "none", "--val", "0.25")
    about, labels = check(target)
    assert (about["train"], about["val"]) == ("images/train", "images/val") and "no image is in" not in done.err
    assert set(labels) == {
        f"{'val' if hash_fraction(f'{number}.jpg') < 0.25 else 'train'}/{number}" for number in range(40)
    }
    assert sum(name.startswith("val/") for name in labels) in range(4, 17)
    (tmp_path / "yolo").rename(tmp_path / "whole")
    for where in ("image_id < '2'", "image_id >= '2'"):
        export(command, output, "yolo-pose", "--images", "none", "--val", "0.25", "--where", where)
    assert set(check(tmp_path / "yolo")[1]) == set(labels)


def test_photos_are_copied_out_of_tars(command, tmp_path):
    tar_output(tmp_path / "out", tmp_path / "in", {"t": ["a.png", "bad.png", "x/c.png"], "u": ["d.png"]})
    target, done = export(command, tmp_path / "out", "yolo-pose", "--images", "copy", "--val", "0")
    assert "photos left out" not in done.err
    copied = {str(path.relative_to(target / "images" / "train")): path for path in (target / "images").rglob("*.*")
              if path.is_file()}  # fmt: skip
    assert set(copied) == {"t.tar/a.png", "t.tar/x/c.png", "u.tar/d.png"}
    for name, path in copied.items():
        assert path.read_bytes() == (tmp_path / "in/loose" / name[6:]).read_bytes() and not path.is_symlink()


def test_photos_are_copied_out_of_parquet_files(command, tmp_path):
    parquet_output(tmp_path / "out", tmp_path / "b.parquet", ["a.png", "b.png", "c.png"])
    chosen = ("--where", "key != 'b.png'")
    target, _ = export(command, tmp_path / "out", "yolo-pose", "--images", "copy", "--val", "0", *chosen)
    for number, name in ((0, "a.png"), (2, "c.png")):
        copied = target / f"images/train/b.parquet/{number:08d}.png"
        assert copied.read_bytes() == (tmp_path / "loose" / name).read_bytes()
    assert len(list((target / "images").rglob("*.png"))) == 2


def test_a_photo_that_was_changed_is_not_copied(command, tmp_path):
    folder_output(tmp_path / "out", tmp_path / "photos", ["a.png", "b.png"])
    (tmp_path / "photos" / "b.png").write_bytes(cv2.imencode(".png", photo(9, 9, 0))[1].tobytes())
    target, done = export(command, tmp_path / "out", "yolo-pose", "--images", "copy", "--val", "0")
    assert "photos left out, gone or changed: 1, such as b.png\n" in done.err
    assert [path.name for path in (target / "images").rglob("*.png")] == ["a.png"]


def test_a_remote_folder_gets_copies(command, tmp_path):
    """fsspec's memory is a storage like S3: no links, no folders."""
    folder_output(tmp_path / "out", tmp_path / "photos", ["a.png", "images/b.png", "d.png"])
    (tmp_path / "photos" / "d.png").unlink()
    options = ("--format", "yolo-pose", "--images", "copy", "--val", "0")
    done = command("export", tmp_path / "out", "--to", "memory://set/yolo", *options)
    assert done.code == 0 and "photos left out, gone or changed: 1, such as d.png\n" in done.err, done.text
    memory = fsspec.filesystem("memory")
    about = yaml.safe_load(memory.cat("/set/yolo/data.yaml"))
    assert "path" not in about, "Ultralytics then takes the folder of data.yaml"
    files = {name.removeprefix("/set/yolo/") for name in memory.find("/set/yolo")}
    labels = {f"labels/train/{name}.txt" for name in ("a", "images_/b", "d")}
    assert files == {"data.yaml", *labels, "images/train/a.png", "images/train/images_/b.png"}
    assert memory.cat("/set/yolo/images/train/a.png") == (tmp_path / "photos" / "a.png").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["yolo-pose", "--images", "move"], "--images move: should be one of link, copy, none"),
        (["yolo-seg", "--val", "1"], "--val 1: should be at least 0 and less than 1"),
        (["yolo-seg", "--min-pixels", "0"], "--min-pixels 0: should be at least 1"),
        (["yolo-pose", "--pose", "seg"], "--pose seg: no such task; it could be one of: persons"),
    ],
)
def test_wrong_options_are_one_message(group, command, options, message):
    done = command("export", group, "--to", group.parent / "yolo", "--format", *options)
    assert done.code == 2 and message in done.err and not (group.parent / "yolo").exists(), done.text


def test_what_a_folder_cannot_hold_is_named(command, tmp_path):
    write_labels(tmp_path / "out", [SEG], [row("a.jpg", [10])])
    for name, said in (
        (["yolo-pose"], "seg left out: a YOLO folder holds the persons of one task"),
        (["yolo-seg", "--persons"], "seg left out: persons take a pose and a seg task"),
    ):
        done = command("export", tmp_path / "out", "--to", tmp_path / "yolo", "--format", *name)
        assert done.code == 2 and said in done.err and "cannot hold any of the labels" in done.err
    done = command("export", tmp_path / "out", "--to", "memory://x/yolo", "--format", "yolo-seg")
    assert done.code == 2 and "--to memory://x/yolo: links can only be made on this machine" in done.err
    done = command(
        "export", tmp_path / "out", "--to", tmp_path / "y", "--format", "yolo-seg", "--images", "none", "--json"
    )
    assert json.loads(done.out)["images"] == 1
