"""Fine-tuned checkpoints from `run` to every reader: the files and commands are those of docs/own-labels.md."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import sapiens_ray as sr
from sapiens_ray.cli import main
from sapiens_ray.output.reading import labels_of
from sapiens_ray.reporting.drawing import tasks_of
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.stored import StoredClassMap, StoredPersons
from tests.conftest import ROOT, Finished, read_output, write_photos
from tests.small_models import small, write

PAGE = (ROOT / "docs" / "own-labels.md").read_text()
NAMES = ["skin", "hair", "background", "left_shoe", "right_shoe"]
COLOURS = [[224, 160, 128], [64, 32, 16], [48, 48, 48], [32, 160, 255], [255, 128, 32]]
SKY = 2  # the background


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def call(folder: Path, *arguments: object) -> Finished:
    """`sapiens-ray ARGUMENTS` in a folder, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(map(str, arguments)))
    return Finished(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page needs: its files, photos and two fine-tuned checkpoints."""
    folder = tmp_path_factory.mktemp("own")
    for text in blocks("yaml"):
        name = re.match(r"# (\S+)\n", text)
        assert name is not None, text
        (folder / name[1]).write_text(text)
    write_photos(folder / "photos", 3, 300, 400)
    write(folder / "seg5.pth", small("seg", channels=5), "pth")
    write(folder / "pose9.pth", small("pose17", channels=9), "pth")
    return folder


@pytest.fixture(scope="module")
def labelled(place: Path, cluster: object) -> Iterator[Path]:
    """The output of the commands of the page."""
    for line in blocks("bash")[0].splitlines():
        done = call(place, *shlex.split(line)[1:])
        assert done.code == 0, f"{line}\n{done.text}"
        if line.startswith("sapiens-ray check"):
            assert "5 classes of its own, background background" in done.out
            assert "9 keypoints of its own, persons: seg (seg)" in done.out
    yield place / "runs" / "seg"


def stored(output: Path) -> tuple[StoredClassMap, StoredPersons]:
    classes, persons = labels_of(Folder(str(output)))
    assert isinstance(classes, StoredClassMap) and isinstance(persons, StoredPersons)
    return classes, persons


def test_the_output_says_what_its_labels_are(labelled):
    table = read_output(labelled)
    about = json.loads(table.schema.metadata[b"sapiens_ray.job"])["tasks"]
    assert about["seg"] == {
        "task": "seg", "class_names": NAMES, "class_colours_rgb": COLOURS, "class_swap_pairs": [[3, 4]],
        "background": SKY,
    }  # fmt: skip
    points = about["persons"]
    assert points["keypoint_names"][:3] == ["nose", "left_ear", "right_ear"] and len(points["keypoint_names"]) == 9
    assert points["keypoint_links"][:2] == [[0, 1], [0, 2]] and points["keypoint_swap"] == [0, 2, 1, 3, 4, 6, 5, 8, 7]
    assert points["keypoint_groups"] == ["face"] * 3 + ["body"] * 6 and points["keypoint_sigmas"] == [0.08] * 9
    assert len({tuple(colour) for colour in points["keypoint_colours_rgb"]}) == 9
    record = yaml.safe_load((labelled / "job.yaml").read_text())
    assert record["job"]["tasks"][0]["classes"]["names"] == NAMES
    assert "classes.yaml" not in str(record) and "keypoints.yaml" not in str(record)
    classes, persons = stored(labelled)
    assert classes.background == SKY and persons.keypoint_sigmas == [0.08] * 9

    for row in table.to_pylist():
        class_map = classes.class_map(row)
        present = np.unique(class_map).tolist()
        assert row["seg_classes"] == present and len(present) > 1 and max(present) < 5
        rows, columns = np.nonzero(class_map != SKY)
        (one,) = row["persons"]
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert one["box"] == box and len(one["scores"]) == len(one["keypoints"]) == 9


def test_the_snippet_of_the_page_shows_the_names(labelled, place):
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True)
    assert done.stdout == f"{NAMES} {SKY}\nnose [0, 1]\n"


def test_exports_and_the_report_speak_of_them(labelled, place):
    table = read_output(labelled).to_pylist()
    coco = json.loads((place / "runs" / "coco" / "seg.json").read_text())
    named = {0: "skin", 1: "hair", 3: "left_shoe", 4: "right_shoe"}
    assert {one["id"]: one["name"] for one in coco["categories"]} == named
    found = [(one["image_id"], one["category_id"]) for one in coco["annotations"]]
    assert found == [(n, c) for n, row in enumerate(table, 1) for c in row["seg_classes"] if c != SKY]
    persons = json.loads((place / "runs" / "coco" / "persons.json").read_text())
    (category,) = persons["categories"]
    assert category["keypoints"][-1] == "right_hind_paw" and category["skeleton"][0] == [1, 2]
    assert len(persons["annotations"][0]["keypoints"]) == 27

    with Image.open(place / "runs" / "masks" / "seg" / "000.png") as mask:
        assert mask.getpalette()[:15] == [value for colour in COLOURS for value in colour]
        assert np.array_equal(np.array(mask), stored(labelled)[0].class_map(table[0]))

    page = (place / "report.html").read_text()
    assert "right_shoe" in page and "left_hind_paw" in page
    assert "Mean score of every keypoint: orange" not in page, "no figure of a person for paws"
    assert "5: skin, hair, background, left_shoe, right_shoe (" in page

    lite = call(place, "export", labelled, "--to", "lite", "--format", "lite")
    assert lite.code == 0, lite.text
    assert np.array_equal(np.load(place / "lite" / "seg" / "000.npy"), stored(labelled)[0].foreground(table[0]))

    truth = {"images": coco["images"], "categories": [{"id": 7, "name": "hair"}, {"id": 8, "name": "background"}],
             "annotations": []}  # fmt: skip
    (place / "truth.json").write_text(json.dumps(truth))
    results = call(place, "export", labelled, "--to", "results", "--format", "coco-results", "--ground-truth",
                   "truth.json")  # fmt: skip
    assert results.code == 0, results.text
    scored = json.loads((place / "results" / "seg.json").read_text())
    assert {one["category_id"] for one in scored} == {7}, "the background has no results, whatever its id"


def test_thumbnails_are_drawn_from_the_recorded_job(labelled):
    seg, pose = tasks_of(yaml.safe_load((labelled / "job.yaml").read_text()))
    assert seg.options.table.names == tuple(NAMES) and pose.options.table.links[0] == (0, 1)
    assert pose.options.boxes._background == SKY


def test_pictures_have_the_colours_of_the_file(labelled, place):
    labeler = sr.Labeler(task="seg", checkpoint=place / "seg5.pth", classes=place / "classes.yaml")
    drawn = labeler.preview(place / "photos" / "000.jpg")
    key = drawn[:, -drawn.shape[1] // 5 :, ::-1].reshape(-1, 3)
    (row,) = labeler(place / "photos" / "000.jpg")
    present = [number for number in np.unique(row["seg"]) if number != SKY]
    shown = [number for number in range(5) if (key == COLOURS[number]).all(1).sum() > 50]
    assert shown == present
    for task, column in (("seg", "seg"), ("pose", "persons")):
        assert cv2.imread(str(labelled / "visualizations" / column / "000.jpg")) is not None, task


def test_evaluation_asks_the_output(labelled, place):
    done = call(place, "evaluate", labelled, "--task", "seg", "--ground-truth", "runs/masks/seg", "--json")
    answer = json.loads(done.out)
    assert {one["name"]: one["value"] for one in answer["metrics"]}["mIoU"] == 1.0, done.text
    assert [one["name"] for one in answer["classes"]] == NAMES

    write_truth(labelled, place / "paws.json", stored(labelled)[1].keypoint_names[::-1])
    (line,) = blocks("bash")[1].splitlines()
    evaluated = shlex.split(line)[1:]
    for arguments, of in ((evaluated, "of --sigmas"), (evaluated[:-2], "of the job")):
        done = call(place, *arguments, "--json", "--bootstrap", "0")
        answer = json.loads(done.out)
        assert done.code == 0 and answer["protocol"]["sigmas"] == of, done.text
        scores = {(one["part"], one["name"]): one["value"] for one in answer["metrics"]}
        assert scores["whole", "AP"] == pytest.approx(1) and scores["face", "AP"] == pytest.approx(1)
        assert {part for part, _ in scores} == {"face", "body", "whole"}
        assert answer["notes"] == ["no number is published for keypoints of your own"]

    write_truth(labelled, place / "other.json", [f"p{number}" for number in range(9)])
    for options, message in (
        (["--ground-truth", "other.json"], "has other keypoints than the labels: it lacks nose, left_ear, right_ear"),
        (["--ground-truth", "paws.json", "--sigmas", "0.1,0.2"], "--sigmas: has 2 numbers; give one for all"),
        (["--ground-truth", "paws.json", "--sigmas", "x"], "give numbers above 0 and at most 1"),
    ):
        done = call(place, "evaluate", labelled, "--task", "persons", *options)
        assert done.code == 2 and message in done.err, done.text
    done = call(place, "evaluate", labelled, "--task", "seg", "--ground-truth", "runs/masks/seg", "--sigmas", "0.1")
    assert done.code == 2 and "--sigmas: is for keypoints; seg is seg" in done.err


def write_truth(output: Path, file: Path, names: list[str]) -> None:
    """The labels as ground truth, in the order of the names, beside a category of something else."""
    persons = stored(output)[1]
    places = [names.index(name) for name in persons.keypoint_names] if "nose" in names else list(range(9))
    annotations = []
    for number, row in enumerate(read_output(output).to_pylist(), 1):
        for one in persons.persons(row):
            points = np.full((9, 3), 2.0)
            points[places, :2] = one["keypoints"]
            x1, y1, x2, y2 = one["box"]
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": 5, "iscrowd": 0,
                "keypoints": points.reshape(-1).tolist(), "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
            })  # fmt: skip
    named = [{"id": number, "file_name": f"{number - 1:03d}.jpg"} for number in range(1, 4)]
    categories = [{"id": 1, "name": "dog", "keypoints": ["a"]}, {"id": 5, "name": "cat", "keypoints": names}]
    if "nose" not in names:
        categories = categories[1:]
    file.write_text(json.dumps({"images": named, "categories": categories, "annotations": annotations}))


def test_compare_matches_by_name(labelled, place):
    done = call(place, "compare", labelled, labelled, "--json")
    assert done.code == 0, done.text
    tasks = json.loads(done.out)["tasks"]
    assert [one["name"] for one in tasks["seg"]["classes"]] == NAMES
    assert tasks["persons"]["oks"]["count"] > 0 and tasks["persons"]["oks"]["mean"] == 1.0
    assert tasks["persons"]["keypoints"][4]["name"] == "tail"


def test_a_moved_file_changes_nothing_and_another_content_is_refused(labelled, place, tmp_path):
    for name in ("seg5.pth", "pose9.pth"):
        shutil.copy(place / name, tmp_path / name)
    shutil.copytree(labelled, tmp_path / "runs" / "seg")
    job = yaml.safe_load((place / "seg.yaml").read_text())
    job["input"]["uri"] = str(place / "photos")
    (tmp_path / "elsewhere").mkdir()
    for field, task in (("classes", 0), ("keypoints", 1)):
        shutil.copy(place / f"{field}.yaml", tmp_path / "elsewhere" / f"{field}.yaml")
        job["tasks"][task][field] = f"elsewhere/{field}.yaml"
    (tmp_path / "seg.yaml").write_text(yaml.safe_dump(job))
    done = call(tmp_path, "check", "seg.yaml", "--json")
    assert done.code == 0 and json.loads(done.out)["already_done"] == 3, done.text
    file = tmp_path / "elsewhere" / "classes.yaml"
    file.write_text(file.read_text().replace("hair", "hat"))
    done = call(tmp_path, "check", "seg.yaml")
    assert done.code == 2 and "holds labels that were made with other settings" in done.err, done.text
    assert "tasks[0].classes.names: was [skin, hair," in done.err and "now [skin, hat," in done.err
    shutil.rmtree(tmp_path / "elsewhere")
    assert stored(tmp_path / "runs" / "seg")[0].class_names == NAMES


def test_a_description_of_another_model_is_refused_by_check(place, tmp_path):
    job = yaml.safe_load((place / "seg.yaml").read_text())
    job["tasks"] = [job["tasks"][0]]
    for classes, needs in ((NAMES[:4], "4 classes"), (None, "28 classes")):
        job["tasks"][0]["classes"] = classes
        (place / "wrong.yaml").write_text(yaml.safe_dump(job))
        done = call(place, "check", "wrong.yaml")
        assert done.code == 2, done.text
        assert f"seg5.pth is a Sapiens seg model (32 wide, 2 layers, 5 classes), but the job asks for {needs}; " \
               "`classes:` describes those of a fine-tuned checkpoint" in done.err  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_few_channels_from_a_file_of_weights(tmp_path, channels):
    """One and two channels are a foreground; three look like normals, but the job says what they are."""
    model = write(tmp_path / "few.pth", small("seg", channels=channels), "pth")
    names = ["ground", "cat", "dog"][: max(2, channels)]
    (photo,) = write_photos(tmp_path / "photos", 1)
    (row,) = sr.Labeler(task="seg", checkpoint=model, classes=names)(photo)
    assert row["error_kind"] is None and row["seg"].max() <= len(names) - 1
    module = small("seg", channels=channels)
    resized = cv2.resize(cv2.imread(str(photo)), (768, 1024), interpolation=cv2.INTER_LINEAR)
    rgb = (resized[:, :, ::-1].astype(np.float32) - [123.5, 116.5, 103.5]) / [58.5, 57.0, 57.5]
    import torch

    with torch.inference_mode():
        logits = module(torch.from_numpy(rgb.transpose(2, 0, 1)[None].astype(np.float32)))
    full = torch.nn.functional.interpolate(logits, row["seg"].shape, mode="bilinear", align_corners=False)[0]
    expected = (full[0].sigmoid() > 0.5).long() if channels == 1 else full.argmax(0)
    assert (row["seg"] != expected.numpy()).mean() < 1e-3


def test_depth_is_measured_over_the_foreground_of_the_job(place):
    """With a background that is not class 0: depth_min and depth_max are those of the other pixels."""
    write(place / "depth.pth", small("depth"), "pth")
    tasks = [
        {"task": "seg", "checkpoint": str(place / "seg5.pth"), "classes": str(place / "classes.yaml")},
        {"task": "depth", "checkpoint": str(place / "depth.pth"), "dtype": "float32", "resolution": "original"},
    ]
    (row,) = sr.Labeler(tasks=tasks)(place / "photos" / "001.jpg")
    inside = row["depth"][row["seg"] != SKY]
    assert 0 < inside.size < row["depth"].size
    assert row["depth_min"] == pytest.approx(inside.min()) and row["depth_max"] == pytest.approx(inside.max())


def test_the_schema_of_job_files_knows_them(place):
    import jsonschema

    schema = json.loads(call(ROOT, "schema").out)
    for text in blocks("yaml"):
        job = yaml.safe_load(text)
        if "tasks" in job:
            job["input"]["uri"] = ["photos"]
            jsonschema.validate(job, schema)
            job["tasks"][0]["classes"] = yaml.safe_load((place / "classes.yaml").read_text())
            job["tasks"][1]["keypoints"] = yaml.safe_load((place / "keypoints.yaml").read_text())
            jsonschema.validate(job, schema)
            for wrong in ({"nmaes": ["a"]}, 5):
                job["tasks"][0]["classes"] = wrong
                with pytest.raises(jsonschema.ValidationError):
                    jsonschema.validate(job, schema)


def test_parquet_readers_see_small_ids(labelled):
    (file, *_) = sorted((labelled / "data").glob("*.parquet"))
    assert str(pq.read_schema(file).field("seg_classes").type.value_type) == "int8"
