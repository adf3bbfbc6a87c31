"""`sapiens-ray compare` from outside: the command, its JSON, its lines and its page."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import numpy as np
import pytest
import yaml

from sapiens_ray.imaging.maps import encode_npy
from tests.evaluation.labelled import person, png, write_labels

WIDTH, HEIGHT = 8, 6
TASKS = [
    {"task": "seg"}, {"task": "depth"}, {"task": "normal"},
    {"task": "pose", "keypoints": 17, "boxes": {"column": "boxes"}}, {"task": "features"},
]  # fmt: skip
NAMES = [f"{number}.jpg" for number in range(5)] + ["<script>alert(1)</script>.jpg"]
POINTS = np.stack([np.linspace(1, 4, 17), np.linspace(1, 5, 17)], 1)  # a box of 3 x 4


def row(number: int, image_id: str, changed: int = 0) -> dict:
    """Labels of an image. changed: so many pixels have another class, and the other tasks differ as well."""
    random = np.random.default_rng(number)
    ids = np.ones((HEIGHT, WIDTH), np.uint8)
    ids.reshape(-1)[:changed] = 3
    depth = random.uniform(1, 2, (HEIGHT, WIDTH))
    depth[0, 0] += changed
    normal = np.zeros((HEIGHT, WIDTH, 3))
    normal[..., 0], normal[..., 2] = np.sin(np.radians(changed)), np.cos(np.radians(changed))
    points = POINTS + np.array([0.3, 0.4]) * changed
    return {
        "image_id": image_id, "width": WIDTH, "height": HEIGHT, "uri": f"/gone/{number}.jpg",
        "seg": png(ids), "seg_classes": np.unique(ids).tolist(), "depth": encode_npy(depth),
        "normal": encode_npy(normal), "persons": [{**person(points), "box": [1.0, 1.0, 4.0, 5.0]}],
        "features": [1.0, float(changed)],
    }  # fmt: skip


@pytest.fixture
def a(tmp_path: Path) -> Path:
    """Six images, and two error rows."""
    rows = [row(number, name) for number, name in enumerate(NAMES)]
    rows += [{"image_id": name, "error_kind": "corrupt"} for name in ("both.jpg", "mine.jpg")]
    write_labels(tmp_path / "a", TASKS, rows, unit_size=3)
    return tmp_path / "a"


@pytest.fixture
def b(tmp_path: Path) -> Path:
    """Five of these images and another one, in another order and in files of another size; two of them differ."""
    rows = [row(number, NAMES[number], {5: 12, 3: 4}.get(number, 0)) for number in (5, 3, 1, 2, 4)]
    rows[1:1] = [{"image_id": "both.jpg", "error_kind": "empty"}, row(9, "mine.jpg"), row(9, "extra.jpg")]
    write_labels(tmp_path / "b", TASKS, rows, checkpoint="other.pt2", unit_size=2)
    return tmp_path / "b"


def compared(command, *arguments: object) -> dict:
    done = command("compare", *arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_the_numbers(command, a, b, tmp_path):
    found = compared(command, a, b, "--to", tmp_path / "page.html")
    assert found["images"] == {
        "rows_in_a": 8, "rows_in_b": 8, "in_both": 7, "only_in_a": 1, "only_in_b": 1, "error_in_a": 1, "error_in_b": 0,
        "error_in_both": 1, "repeated_in_a": 0, "repeated_in_b": 0, "compared": 5,
        "only_in_a_examples": ["0.jpg"], "only_in_b_examples": ["extra.jpg"],
    }  # fmt: skip
    assert found["errors"] == [
        {"image_id": "both.jpg", "a": "corrupt", "b": "empty"}, {"image_id": "mine.jpg", "a": "corrupt", "b": None},
    ]  # fmt: skip
    tasks = found["tasks"]
    assert list(tasks) == ["seg", "depth", "normal", "persons", "features"]
    assert {name: (one["images"], one["identical"]) for name, one in tasks.items()} == dict.fromkeys(tasks, (5, 3))
    pixels = WIDTH * HEIGHT
    assert tasks["seg"]["pixels"] == 5 * pixels and tasks["seg"]["pixel_agreement"] == pytest.approx(
        1 - 16 / 5 / pixels
    )
    iou = {one["name"]: one["iou"] for one in tasks["seg"]["classes"] if one["iou"] is not None}
    assert list(iou.values()) == [pytest.approx(1 - 16 / 5 / pixels), 0]
    assert tasks["seg"]["mean_iou"] == pytest.approx(np.mean(list(iou.values())))
    assert [(one["image_id"], one["difference"]) for one in tasks["seg"]["most_different"]] == [
        (NAMES[5], pytest.approx(12 / pixels)), (NAMES[3], pytest.approx(4 / pixels)),
    ]  # fmt: skip
    assert tasks["normal"]["mean_degrees"] == pytest.approx(16 / 5, rel=1e-6)
    assert tasks["normal"]["share_above_5_degrees"] == pytest.approx(1 / 5)
    assert tasks["persons"]["distance_pixels"]["mean"] == pytest.approx(0.5 * 16 / 5, rel=1e-6)
    assert tasks["persons"]["distance_share"]["max"] == pytest.approx(0.5 * 12 / 5, rel=1e-6)
    assert tasks["depth"]["largest_raw_difference"]["max"] == pytest.approx(12)
    assert tasks["features"]["cosine"]["min"] == pytest.approx(1 / np.hypot(1, 12), rel=1e-5)
    assert {(one["task"], one["setting"], one["a"], one["b"]) for one in found["settings"]} == {
        (name, "checkpoint", "model.pt2", "other.pt2") for name in tasks
    }
    assert found["page"] == str(tmp_path / "page.html")


def test_an_output_equals_itself(command, a, tmp_path):
    found = compared(command, a, a, "--to", tmp_path / "page.html")
    assert all(one["identical"] == one["images"] == 6 for one in found["tasks"].values())
    assert all(one["difference"]["max"] == 0 and not one["most_different"] for one in found["tasks"].values())
    seg, normal, persons = (found["tasks"][name] for name in ("seg", "normal", "persons"))
    assert (seg["mean_iou"], seg["pixel_agreement"], normal["p95_degrees"], persons["oks"]["min"]) == (1, 1, 0, 1)
    assert found["settings"] == [] and found["images"]["compared"] == 6
    done = command("compare", a, a, "--to", tmp_path / "page.html")
    assert "seg       6 of 6 byte for byte equal" in done.out.splitlines()
    page = (tmp_path / "page.html").read_text()
    assert "5 of 5" in page and page.count("identical bytes") == 5
    assert "Both were made with the same checkpoints, settings and versions." in page


def test_what_is_printed(command, a, b, tmp_path):
    page = tmp_path / "page.html"
    done = command("compare", a, b, "--to", page, "--task", "seg")
    assert done.out.splitlines()[:4] == [
        "images  5 compared, 7 in both, 1 only in A, 1 only in B, 2 with an error",
        "seg     3 of 5 byte for byte equal",
        "        mIoU 0.4667, 93.33% of the pixels agree",
        f"        differ most: {NAMES[5]}, {NAMES[3]}",
    ]
    assert done.out.splitlines()[-1].startswith(f"page    {page} (")
    assert "not compared" not in done.out and done.err == ""
    assert command("compare", a, b, "--to", page, "--quiet").out == f"{page}\n"
    text = page.read_text()
    assert "<script>alert(1)" not in text and "&lt;script&gt;alert(1)" in text
    assert "Settings that differ" in text and "other.pt2" in text


def test_chosen_rows_and_samples(command, a, b, tmp_path):
    where = ("--to", tmp_path / "page.html", "--thumbnails", 0)
    some = compared(command, a, b, *where, "--where", "image_id in ('3.jpg', '4.jpg')")
    assert (some["images"]["rows_in_a"], some["images"]["compared"]) == (2, 2)
    assert some["tasks"]["seg"]["identical"] == 1
    few = compared(command, a, b, *where, "--images", 2)
    assert few["images"]["compared"] == few["tasks"]["seg"]["images"] == 2
    assert few["tasks"]["seg"] == compared(command, a, b, *where, "--images", 2)["tasks"]["seg"]
    assert few["tasks"]["seg"] != compared(command, a, b, *where, "--images", 2, "--seed", 1)["tasks"]["seg"]
    done = command("compare", a, b, *where, "--where", "width > 9000")
    assert done.code == 2 and f"{a}: no row meets the condition" in done.err


def test_columns_of_two_names(command, a, tmp_path):
    write_labels(
        tmp_path / "b", [{"task": "seg", "name": "parts"}], [{"image_id": "3.jpg", "parts": row(3, "")["seg"]}]
    )
    done = command("compare", a, tmp_path / "b")
    assert done.code == 2 and "--task A_COLUMN:B_COLUMN compares columns of different names" in done.err
    found = compared(command, a, tmp_path / "b", "--task", "seg:parts", "--to", tmp_path / "page.html")
    assert found["tasks"]["seg:parts"]["identical"] == 1
    assert found["tasks_only_in_a"] == [], "not those that were not chosen"
    write_labels(tmp_path / "c", TASKS[:1], [row(3, "3.jpg")])
    found = compared(command, a, tmp_path / "c", "--to", tmp_path / "page.html")
    assert (found["tasks_only_in_a"], found["tasks_only_in_b"]) == (["depth", "normal", "persons", "features"], [])


def test_wrong_use(command, a, tmp_path):
    write_labels(tmp_path / "b", TASKS, [row(0, "unknown.jpg")])
    done = command("compare", a, tmp_path / "b", "--json")
    assert done.code == 2 and json.loads(done.out)["kind"] == "OutputError"
    assert "have no image in common: there they are called like 0.jpg, here like unknown.jpg" in done.err
    (tmp_path / "empty").mkdir()
    assert "empty holds no labels" in command("compare", a, tmp_path / "empty").err
    done = command("compare", a, a, "--to", a / "data" / "page.html")
    assert done.code == 2 and "is a part of the output" in done.err
    done = command("compare", a, a, "--to", tmp_path)
    assert done.code == 2 and f"is a folder; name a file, such as {tmp_path}/compare.html" in done.err


def test_outputs_and_the_page_may_be_urls(command, a, b):
    files = fsspec.filesystem("memory")
    for file in b.rglob("*"):
        if file.is_file():
            files.pipe_file(f"/compare-b/{file.relative_to(b)}", file.read_bytes())
    done = command("compare", a, "memory://compare-b", "--to", "memory://compare-page/page.html", "-q")
    assert (done.code, done.out) == (0, "memory://compare-page/page.html\n"), done.err
    assert files.cat_file("/compare-page/page.html").startswith(b"<!doctype html>")


def test_outputs_without_a_job_file(command, a, b, tmp_path):
    (b / "job.yaml").unlink()
    found = compared(command, a, b, "--to", tmp_path / "page.html")
    assert found["settings"] == [] and found["tasks"]["seg"]["identical"] == 3
    assert "There is no job.yaml in B" in (tmp_path / "page.html").read_text()


def test_settings_that_differ(command, a, b, tmp_path):
    record = yaml.safe_load((b / "job.yaml").read_text())
    record["job"]["input"] = {"uri": ["x"], "max_pixels": 99}
    record["job"]["tasks"][0]["mode"] = "bfloat16"
    record["versions"] = {"torch": "9"}
    record["models"] = [{"sha256": "0" * 64}]
    (b / "job.yaml").write_text(yaml.safe_dump(record))
    found = compared(command, a, b, "--to", tmp_path / "page.html")
    told = {(one["task"], one["setting"]): (one["a"], one["b"]) for one in found["settings"]}
    assert told[("seg", "sha256")] == (None, "0" * 64) and told[("seg", "mode")][1] == "bfloat16"
    assert told[("versions", "torch")] == (None, "9") and told[("", "input.max_pixels")] == (None, "99")


def test_thumbnails_show_both_outputs(command, a, b, tmp_path):
    page = tmp_path / "page.html"
    assert command("compare", a, b, "--to", page, "--task", "seg").code == 0
    assert page.read_text().count('class="pair"') == 2
    assert command("compare", a, b, "--to", page, "--thumbnails", 0).code == 0
    assert "data:image/webp" not in page.read_text()
