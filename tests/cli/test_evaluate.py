"""`sapiens-ray evaluate` from outside: the command, its JSON, its table, and wrong ground truth."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from PIL import Image

from sapiens_ray.imaging.maps import encode_npy
from sapiens_ray.labels import class_names
from tests.evaluation.labelled import person, png, write_labels

WIDTH, HEIGHT = 8, 6
TASKS = [{"task": "seg"}, {"task": "depth", "mask": "none"}, {"task": "normal", "mask": "none"}]


def class_map(number: int) -> np.ndarray:
    """The upper half is class 1, the lower half class 2, the first `number` pixels are class 3."""
    ids = np.full((HEIGHT, WIDTH), 1, np.uint8)
    ids[3:] = 2
    ids.reshape(-1)[:number] = 3
    return ids


def depth_map(number: int) -> np.ndarray:
    return np.random.default_rng(number).uniform(1, 2, (HEIGHT, WIDTH)).astype(np.float32)


def normal_map(degrees: float) -> np.ndarray:
    """Vectors that are turned from (0, 0, 1) by an angle."""
    vectors = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    vectors[..., 0], vectors[..., 2] = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return vectors


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Three images with labels, one of them in a folder, and an error row."""
    rows = [
        {"image_id": name, "width": WIDTH, "height": HEIGHT, "seg": png(class_map(number)),
         "depth": encode_npy(depth_map(number)), "normal": encode_npy(normal_map(10.0 * number))}
        for number, name in enumerate(("a.jpg", "b.jpg", "sub/c.jpg"))
    ]  # fmt: skip
    rows.append({"image_id": "broken.jpg", "error_kind": "corrupt", "error": "cut"})
    write_labels(tmp_path / "out", TASKS, rows, unit_size=3)
    return tmp_path / "out"


@pytest.fixture
def truth(tmp_path: Path):
    """Writes files of ground truth; returns their folder."""

    def write(**files: bytes) -> Path:
        for name, content in files.items():
            path = tmp_path / "truth" / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / "truth"

    return write


def values(answer: dict) -> dict[str, float | None]:
    return {one["name"]: one["value"] for one in answer["metrics"]}


def test_seg_by_hand(command, output, truth, tmp_path):
    ignored = class_map(0)
    ignored[0] = 255
    folder = truth(
        a_DOT_png=png(class_map(0)), b_DOT_png=png(ignored), sub__c_DOT_png=png(class_map(0)), more_DOT_png=b""
    )
    done = command("evaluate", output, "--ground-truth", folder, "--task", "seg", "--json", "--to", tmp_path / "o.json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert json.loads((tmp_path / "o.json").read_text()) == answer
    # b's wrong pixel is ignored; c has two pixels of class 3 where class 1 is true.
    assert values(answer) == pytest.approx({
        "mIoU": (62 / 64 + 1 + 0) / 3, "mAcc": (62 / 64 + 1) / 2, "aAcc": 134 / 136,
    })  # fmt: skip
    assert answer["classes"][1] == {
        "id": 1, "name": class_names("seg")[1], "iou": 62 / 64, "accuracy": 62 / 64, "truth_pixels": 64,
        "predicted_pixels": 62,
    }  # fmt: skip
    assert answer["classes"][3]["iou"] == 0 and answer["classes"][3]["accuracy"] is None
    assert answer["classes"][0]["iou"] is None and len(answer["classes"]) == 28
    assert answer["images"] == {
        "rows": 4, "evaluated": 3, "error_rows": 1, "error_rows_with_truth": 0, "without_truth": 0,
        "without_truth_examples": [], "truth_without_row": 1, "truth_without_row_examples": ["more.png"], "failed": [],
    }  # fmt: skip
    low, high = answer["metrics"][2]["low"], answer["metrics"][2]["high"]
    assert 46 / 48 <= low <= 134 / 136 <= high <= 1
    assert (answer["task"], answer["kind"]) == ("seg", "seg")
    assert answer["notes"] == ["no published number can be reproduced with public data for this task"]


def test_palette_pngs_are_read_as_indices(command, output, truth):
    image = Image.fromarray(class_map(0))
    image.putpalette([value for number in range(256) for value in (255 - number, 0, 7)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    folder = truth(a_DOT_png=buffer.getvalue())
    done = command("evaluate", output, "--ground-truth", folder, "--task", "seg", "--json")
    assert done.code == 0 and values(json.loads(done.out)) == {"mIoU": 1, "mAcc": 1, "aAcc": 1}


def test_depth_by_hand(command, output, truth, tmp_path):
    first = 5 * depth_map(0) + 3
    first[0, :4] = [np.nan, np.inf, 0, -1]
    second = np.round(1000 * depth_map(1) + 500).astype(np.uint16)
    half = np.zeros((HEIGHT, WIDTH), np.uint8)
    half[:3] = 255
    masks = tmp_path / "masks"
    (masks / "sub").mkdir(parents=True)
    for name in ("a", "b", "sub/c"):
        (masks / f"{name}.png").write_bytes(png(half))
    third = 2 * depth_map(2) + 1
    third[3:] = 77  # outside the mask
    packed = io.BytesIO()
    np.savez(packed, depth=third, other=np.zeros(3))
    folder = truth(a_DOT_npy=encode_npy(first), b_DOT_png=png(second), sub__c_DOT_npz=packed.getvalue())
    where = ("evaluate", output, "--ground-truth", folder, "--task", "depth", "--json")
    done = command(*where, "--mask", masks)
    answer = json.loads(done.out)
    assert done.code == 0 and answer["protocol"]["mask"] is True
    assert {one["name"]: one["unit"] for one in answer["metrics"]}["RMSE"] == "as ground truth"
    found = values(answer)
    assert found["RMSE"] < 0.2 and found["AbsRel"] < 1e-3 and found["delta1"] == found["delta3"] == 1
    found = values(json.loads(command(*where).out))
    assert found["RMSE"] > 5, "without the mask, the third image has 24 wrong pixels"


def test_normals_by_hand(command, output, truth, tmp_path):
    second = normal_map(4)  # the label is turned by 10 degrees
    second[0] = np.nan
    folder = truth(a_DOT_npy=encode_npy(3 * normal_map(0)), b_DOT_npy=encode_npy(second))
    done = command("evaluate", output, "--ground-truth", folder, "--task", "normal", "--json", "--bootstrap", 50)
    answer = json.loads(done.out)
    assert done.code == 0 and answer["images"]["without_truth_examples"] == ["sub/c.jpg"]
    found = values(answer)
    assert found["mean"] == pytest.approx((48 * 0 + 40 * 6) / 88, abs=1e-4)
    assert found["median"] == pytest.approx(0, abs=0.1)
    assert found["below_5"] == 48 / 88 and found["below_11.25"] == found["below_30"] == 1
    larger = cv2.resize(normal_map(14), (WIDTH * 3, HEIGHT * 3))
    (folder / "a.npy").unlink()
    (folder / "b.npy").write_bytes(encode_npy(larger))
    done = command("evaluate", output, "--ground-truth", folder, "--task", "normal", "--json")
    assert values(json.loads(done.out))["mean"] == pytest.approx(4, abs=1e-3)
    assert json.loads(done.out)["metrics"][0]["low"] is None, "one image has no interval"


def test_normals_of_length_0_are_not_right(command, tmp_path, truth):
    label = normal_map(0)
    label[0] = 0
    rows = [{"image_id": "a.jpg", "normal": encode_npy(label)}]
    write_labels(tmp_path / "some", TASKS[2:], rows)
    folder = truth(a_DOT_npy=encode_npy(normal_map(0)))
    done = command("evaluate", tmp_path / "some", "--ground-truth", folder, "--task", "normal", "--json")
    found = values(json.loads(done.out))
    assert found["mean"] == pytest.approx(8 * 90 / 48) and found["below_30"] == 40 / 48


def test_masks_and_signs(command, output, truth, tmp_path):
    """Only pixels inside the mask count for normals; depth that is turned round is said."""
    half = np.zeros((HEIGHT * 2, WIDTH * 2), np.uint8)
    half[:, :WIDTH] = 1
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.npy").write_bytes(encode_npy(half))
    normals = normal_map(0)
    normals[:, WIDTH // 2 :] = normal_map(90)[:, WIDTH // 2 :]
    folder = truth(a_DOT_npy=encode_npy(normals))
    where = ("evaluate", output, "--ground-truth", folder, "--json", "--task")
    assert values(json.loads(command(*where, "normal").out))["mean"] == pytest.approx(45)
    done = command(*where, "normal", "--mask", tmp_path / "masks")
    assert values(json.loads(done.out))["mean"] == pytest.approx(0, abs=1e-4)
    (folder / "a.npy").write_bytes(encode_npy(5 - depth_map(0)))
    answer = json.loads(command(*where, "depth").out)
    assert values(answer)["RMSE"] == pytest.approx(0, abs=1e-6)
    assert answer["notes"][0] == "1 of 1 images have a negative scale: their depth grows where the true one falls"
    (tmp_path / "masks" / "a.npy").rename(tmp_path / "masks" / "b.npy")
    done = command(*where, "depth", "--mask", tmp_path / "masks")
    assert done.code == 2 and f"a.jpg: it has no mask in {tmp_path}/masks" in done.err


@pytest.mark.parametrize("task", ["depth", "normal"])
def test_a_mask_of_another_aspect_is_named(command, output, truth, tmp_path, task):
    true = depth_map(0) if task == "depth" else normal_map(0)
    folder = truth(a_DOT_npy=encode_npy(true), b_DOT_npy=encode_npy(true))
    turned, larger = np.ones((WIDTH, HEIGHT), np.uint8), np.ones((HEIGHT * 5, WIDTH * 5), np.uint8)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.png").write_bytes(png(turned))
    (tmp_path / "masks" / "b.npy").write_bytes(encode_npy(larger))
    done = command("evaluate", output, "--ground-truth", folder, "--task", task, "--mask", tmp_path / "masks", "--json")
    answer = json.loads(done.out)
    assert done.code == 1 and answer["images"]["evaluated"] == 1
    assert answer["images"]["failed"] == [
        {"image_id": "a.jpg", "error": "mask a.png has 6x8 pixels, another aspect than the photo's 8x6"}
    ]


def test_what_people_see(command, output, truth):
    folder = truth(a_DOT_png=png(class_map(0)), sub__c_DOT_png=png(class_map(0)))
    where = ("evaluate", output, "--ground-truth", folder, "--task", "seg")
    done = command(*where)
    assert done.code == 0 and not done.err
    lines = done.out.splitlines()
    assert f"output        {output}" in lines and "images        2 compared, of 4 rows" in lines
    assert "              1 error row, left out" in lines
    assert "              1 row without ground truth: b.jpg" in lines
    assert "bootstrap     1000" in lines and "seed          0" in lines
    heading = lines.index("metric   value     95 % interval")
    assert lines[heading + 3].split() == ["aAcc", "0.9792", "0.9583", "to", "1.0000"]
    assert any(line.split()[:2] == ["3", class_names("seg")[3]] for line in lines[heading:])
    done = command(*where, "--quiet")
    assert (done.out, done.err) == ("mIoU 0.6528, mAcc 0.9792, aAcc 0.9792\n", "")


def test_files_that_cannot_be_used_are_named_and_the_others_count(command, output, truth):
    good = png(class_map(0))
    folder = truth(a_DOT_png=good, b_DOT_png=good[:-30], sub__c_DOT_png=png(np.zeros((4, 4), np.uint8)))
    done = command("evaluate", output, "--ground-truth", folder, "--task", "seg", "--json")
    assert done.code == 1
    answer = json.loads(done.out)
    assert answer["images"]["evaluated"] == 1 and values(answer)["mIoU"] == 1
    failed = {one["image_id"]: one["error"] for one in answer["images"]["failed"]}
    assert failed["b.jpg"].startswith("b.png is not a sound PNG: ")
    assert failed["sub/c.jpg"] == "sub/c.png has 4x4 pixels, the photo 8x6"
    assert done.err.splitlines() == [f"sapiens-ray: {name}: {error}" for name, error in failed.items()]


@pytest.mark.parametrize("task", ["depth", "normal"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_labels_that_are_not_finite_are_named_and_the_others_count(command, tmp_path, truth, task, value):
    label = (depth_map(0) if task == "depth" else normal_map(0)).astype(np.float16)
    damaged = label.copy()
    damaged[0, 0] = value
    rows = [{"image_id": f"{name}.jpg", task: encode_npy(one)} for name, one in (("a", label), ("b", damaged))]
    write_labels(tmp_path / "some", [{"task": task, "mask": "none"}], rows)
    folder = truth(a_DOT_npy=encode_npy(label), b_DOT_npy=encode_npy(label))
    where = ("evaluate", tmp_path / "some", "--ground-truth", folder, "--task", task)
    done = command(*where, "--json")
    answer = json.loads(done.out)
    assert done.code == 1 and done.err == "sapiens-ray: b.jpg: its labels are not finite\n"
    assert answer["images"]["failed"] == [{"image_id": "b.jpg", "error": "its labels are not finite"}]
    first = answer["metrics"][0]
    assert answer["images"]["evaluated"] == 1 and first["value"] == pytest.approx(0, abs=1e-3)
    assert "1 left out, as the ground truth or the labels cannot be used" in command(*where).out
    unknown = label.copy()
    unknown[0, 0] = 0  # no ground truth where the label is not finite
    (folder / "b.npy").write_bytes(encode_npy(unknown))
    assert command(*where).code == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(np.full((HEIGHT, WIDTH), 40, np.uint8)), "has class 40; the labels have the classes 0 to 27"),
        (png(np.zeros((HEIGHT, WIDTH, 3), np.uint8)), "holds colours (RGB)"),
        (b"", "is no PNG"),
    ],
)
def test_ground_truth_of_which_nothing_can_be_used(command, output, truth, content, message):
    done = command("evaluate", output, "--ground-truth", truth(a_DOT_png=content), "--task", "seg", "--json")
    assert done.code == 2 and done.err.count("\n") == 1
    answer = json.loads(done.out)
    assert answer["kind"] == "ConfigError" and message in answer["error"] and "a.png" in answer["error"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a_DOT_npy", b"\x93NUMPY", "a.npy is not a sound array"),
        ("a_DOT_npy", encode_npy(np.zeros((6, 8, 3))), "a.npy holds 6 x 8 x 3 float64; H x W numbers are needed"),
        ("a_DOT_npy", encode_npy(np.ones((8, 6))), "a.npy has 6x8 pixels, another aspect than the photo's 8x6"),
        ("a_DOT_npy", encode_npy(np.zeros((6, 8))), "a.npy has no depth inside the mask"),
        ("a_DOT_png", png(np.ones((6, 8), np.uint8)), "a.png holds 2 dimensions of uint8; a grey PNG of 16 bits"),
        ("z_DOT_npy", encode_npy(np.ones((6, 8))),
         "no file belongs to an image of the output: the images are called like a.jpg, the files like z.npy"),
    ],
)  # fmt: skip
def test_depth_maps_that_cannot_be_used(command, output, truth, name, content, message):
    done = command("evaluate", output, "--ground-truth", truth(**{name: content}), "--task", "depth")
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1


def test_npz_with_several_arrays_needs_one_of_the_right_name(command, output, truth):
    packed = io.BytesIO()
    np.savez(packed, one=np.zeros(3), two=np.zeros(3))
    done = command("evaluate", output, "--ground-truth", truth(a_DOT_npz=packed.getvalue()), "--task", "normal")
    assert done.code == 2 and "a.npz holds the arrays one, two; 'normal' or a single one is needed" in done.err


def test_wrong_usage(command, output, truth, tmp_path):
    folder = truth(a_DOT_png=png(class_map(0)))
    for arguments, message in (
        (("--task", "pose", "--ground-truth", folder), "has no such task; its tasks are seg, depth, normal"),
        (("--task", "seg", "--ground-truth", tmp_path / "none"), "cannot be listed as a folder"),
        (("--task", "seg", "--ground-truth", output), "holds no .png files"),
        (("--task", "seg", "--ground-truth", folder, "--mask", folder), "--mask: is for depth and normals"),
        (("--task", "seg", "--ground-truth", folder, "--oks-nms", "on"), "--oks-nms: is for keypoints"),
        (("--task", "seg", "--ground-truth", folder, "--to", "x.txt"), "should be the name of a .json file"),
        (("--task", "seg", "--ground-truth", folder, "--bootstrap", "-3"), "should be a whole number from 0 on"),
        (
            (
                "--task",
                "seg",
            ),
            "the following arguments are required: --ground-truth",
        ),
    ):
        done = command("evaluate", output, *arguments)
        assert done.code == 2 and message in done.err, done.err
    done = command("evaluate", tmp_path / "empty", "--task", "seg", "--ground-truth", folder)
    assert done.code == 2 and "holds no labels" in done.err
    (folder / "a.png").rename(folder / "b.png")
    (folder / "a.npy").write_bytes(encode_npy(depth_map(0)))
    (folder / "a.npz").write_bytes(b"")
    done = command("evaluate", output, "--task", "depth", "--ground-truth", folder)
    assert done.code == 2 and "a.npy and a.npz belong to the same image; keep one" in done.err


def test_two_images_of_one_stem_need_files_of_their_full_names(command, tmp_path, truth):
    rows = [{"image_id": name, "seg": png(class_map(0))} for name in ("a.jpg", "a.png")]
    write_labels(tmp_path / "two", [{"task": "seg"}], rows)
    folder = truth(a_DOT_png=png(class_map(0)))
    where = ("evaluate", tmp_path / "two", "--ground-truth", folder, "--task", "seg")
    done = command(*where)
    assert done.code == 1 and "a.png: a.png belongs to a.jpg as well; call the files by the full names" in done.err
    (folder / "a.png").rename(folder / "a.png.png")
    (folder / "a.jpg.png").write_bytes(png(class_map(1)))
    done = command(*where, "--json")
    assert done.code == 0 and json.loads(done.out)["images"]["evaluated"] == 2


def test_keypoints_from_outside(command, tmp_path):
    points = np.random.default_rng(0).uniform(50, 150, (17, 2)).round()
    write_labels(
        tmp_path / "pose", [{"task": "pose", "keypoints": 17}],
        [{"image_id": f"val/{name}.jpg", "persons": [person(points)]} for name in "ab"],
    )  # fmt: skip
    keypoints = np.hstack([points, np.full((17, 1), 2)]).reshape(-1).tolist()
    truth = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [
            {"id": 1, "image_id": image, "category_id": 1, "keypoints": keypoints, "num_keypoints": 17, "iscrowd": 0,
             "bbox": [50, 50, 100, 100], "area": 5000}
            for image in (1, 1)
        ],
    }  # fmt: skip
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    where = ("evaluate", tmp_path / "pose", "--ground-truth", tmp_path / "gt.json", "--task", "persons")
    done = command(*where, "--json")
    answer = json.loads(done.out)
    assert done.code == 0 and answer["images"]["evaluated"] == 2
    # One of two persons is found, and one person is wrong with the same score: precision is 1 up to recall 0.5.
    assert values(answer) == pytest.approx({
        "AP": 51 / 101, "AP50": 51 / 101, "AP75": 51 / 101, "APm": 51 / 101, "APl": None,
        "AR": 0.5, "AR50": 0.5, "AR75": 0.5, "ARm": 0.5, "ARl": None,
    })  # fmt: skip
    done = command(*where)
    assert done.code == 0 and "\nAP      0.5050  " in done.out and "detections per image  20" in done.out
    assert "classes" not in answer
    done = command(*where[:3], tmp_path / "none.json", *where[4:])
    assert done.code == 2 and f"--ground-truth {tmp_path}/none.json: there is no such file" in done.err
    done = command(*where[:3], tmp_path, *where[4:])
    assert done.code == 2 and "keypoints need a COCO JSON file" in done.err


def test_only_error_rows_with_ground_truth_count_as_images_without_a_person(command, tmp_path):
    rows = [{"image_id": f"{name}.jpg", "error_kind": "corrupt"} for name in "ab"]
    write_labels(tmp_path / "pose", [{"task": "pose", "keypoints": 17}], rows)
    (tmp_path / "gt.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}))
    where = ("evaluate", tmp_path / "pose", "--ground-truth", tmp_path / "gt.json", "--task", "persons")
    lines = command(*where).out.splitlines()
    assert any(line.endswith(" 1 error row, counted as images without a person") for line in lines)
    assert any(line.endswith("1 row without ground truth: b.jpg") for line in lines)
    images = json.loads(command(*where, "--json").out)["images"]
    assert (images["error_rows"], images["error_rows_with_truth"], images["without_truth"]) == (2, 1, 1)


def test_a_file_that_cannot_be_written_loses_no_answer(command, output, truth, tmp_path):
    folder = truth(a_DOT_png=png(class_map(0)), sub__c_DOT_png=png(class_map(0)))
    where = ("evaluate", output, "--ground-truth", folder, "--task", "seg")
    (tmp_path / "file").write_text("")
    for form in ([], ["--json"], ["--quiet"]):
        done = command(*where, *form, "--to", tmp_path / "file" / "o.json")
        assert done.code == 1
        assert done.out == command(*where, *form).out
        assert done.err.startswith(f"sapiens-ray: --to {tmp_path}/file/o.json: cannot be written: ")
        assert done.err.count("\n") == 1


def test_progress_goes_to_stderr(command, output, truth, monkeypatch):
    monkeypatch.setattr("sapiens_ray.cli.steps.QUIET_S", 0)
    monkeypatch.setattr("sapiens_ray.cli.steps.EVERY_S", {True: 0, False: 0})
    folder = truth(a_DOT_png=png(class_map(0)), b_DOT_png=png(class_map(0)))
    where = ("evaluate", output, "--ground-truth", folder, "--task", "seg", "--bootstrap", 2)
    done = command(*where)
    assert done.err.splitlines() == [
        *(f"{number} of 4 rows compared" for number in range(4)), "0 of 2 resamples drawn", "1 of 2 resamples drawn",
    ]  # fmt: skip
    assert not command(*where, "--quiet").err


def test_ground_truth_and_result_may_be_urls(command, output):
    files = fsspec.filesystem("memory")
    for name in ("a.png", "sub/c.png"):
        files.pipe_file(f"/evaluate-truth/{name}", png(class_map(0)))
    url = "memory://evaluate-truth"
    done = command(
        "evaluate", output, "--ground-truth", url, "--task", "seg", "--to", "memory://evaluate-to/o.json", "-q"
    )
    assert (done.code, done.out) == (0, "mIoU 0.6528, mAcc 0.9792, aAcc 0.9792\n"), done.err
    answer = json.loads(files.cat_file("/evaluate-to/o.json"))
    assert answer["ground_truth"] == url and answer["images"]["without_truth_examples"] == ["b.jpg"]
