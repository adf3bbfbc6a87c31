"""`sapiens-ray report`: the command, its page and its statistics."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from sapiens_ray.errors import OutputError
from sapiens_ray.output.done import list_units
from sapiens_ray.output.reading import chosen_rows
from sapiens_ray.output.schema import JOB_KEY
from sapiens_ray.reporting import ReportOptions, make_report, photos
from sapiens_ray.reporting.about import About, throughput
from tests.reporting.made import error_row, labelled_photo, random_row, write_rows

NASTY = ["<script>alert(1)</script>.jpg", "\"'&.jpg", "</title>.jpg"]


@pytest.fixture
def output(tmp_path):
    random = np.random.default_rng(0)
    rows = [labelled_photo(tmp_path / "photos", f"{seed}.png", seed) for seed in range(6)]
    rows += [random_row(name, random) for name in NASTY]
    rows += [error_row("bad.jpg", "corrupt", "</script><b>cut</b>"), error_row("none.jpg", "empty")]
    return write_rows(tmp_path / "out", rows, files=2)


def test_the_command_writes_a_page_and_says_where(command, output, tmp_path):
    page = tmp_path / "deep" / "report.html"
    done = command("report", output.uri, "--to", page)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"11 images, 2 errors: {page} (")
    html = page.read_text(encoding="utf-8")
    assert html.count("<script") == 2 and html.count("</script>") == 2, "the data and the code, nothing of names"
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;.jpg") >= 1
    assert "http://" not in html and "https://" not in html
    assert html.count("data:image/webp;base64,") >= 6 * 5


def test_json_has_the_statistics_and_what_labelled(command, output, tmp_path):
    done = command("report", output.uri, "--to", tmp_path / "r.html", "--json", "--thumbnails", 0)
    found = json.loads(done.out)
    assert (done.code, found["page"]) == (0, str(tmp_path / "r.html"))
    assert (found["images"], found["ok"], found["errors"]) == (11, 9, {"corrupt": 1, "empty": 1})
    assert found["name"] == "made" and found["input"] == ["/photos"] and found["versions"] == {"torch": "2.9"}
    pose = found["models"][3]
    assert (pose["column"], pose["checkpoint"], pose["sha256"]) == ("persons", "/models/pose.pt2", "3" * 64)
    assert pose["settings"] == {"keypoints": 17, "boxes": "column (boxes)", "crop": "trained"}
    assert list(found["tasks"]) == ["seg", "depth", "normal", "persons"]
    assert found["last_run"] is None and "data:image" not in (tmp_path / "r.html").read_text()


def test_quiet_prints_the_path(command, output, tmp_path):
    done = command("report", output.uri, "--to", tmp_path / "r.html", "--quiet", "--thumbnails", 0)
    assert (done.out, done.err) == (f"{tmp_path}/r.html\n", "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--to", "{tmp}"], "--to {tmp}: is a folder; name a file, such as {tmp}/report.html"),
        (["--to", "{tmp}/out/data/r.html"], "is a part of the output"),
        (["--thumbnails", "-1"], "should be a whole number from 0 on"),
    ],
)
def test_wrong_usage(command, output, tmp_path, given, message):
    done = command("report", output.uri, *(text.format(tmp=tmp_path) for text in given))
    assert done.code == 2 and message.format(tmp=tmp_path) in done.err


def test_a_folder_without_labels_is_refused(command, tmp_path):
    done = command("report", tmp_path, "--to", tmp_path / "r.html")
    assert done.code == 2 and "holds no labels" in done.err and not (tmp_path / "r.html").exists()


def test_a_filter_of_rows_counts_only_what_it_keeps(output):
    report = make_report(chosen_rows(output, "error_kind IS NOT NULL"), ReportOptions(thumbnails=0))
    assert (report.statistics["images"], report.statistics["ok"]) == (2, 0)
    assert "Only images with error_kind IS NOT NULL." in report.html


def test_a_condition_is_named_in_the_json_and_has_no_images_over_time(command, tmp_path):
    random = np.random.default_rng(0)
    rows = [{**random_row(f"{number}.jpg", random), "width": 100 + number} for number in range(40)]
    output = write_rows(tmp_path / "out", rows, files=4)
    for number, file in enumerate(sorted((tmp_path / "out" / "data").iterdir())):
        os.utime(file, (1_700_000_000 + 60 * number,) * 2)
    page = tmp_path / "r.html"
    asked = ["report", output.uri, "--to", page, "--json", "--thumbnails", 0]
    whole = json.loads(command(*asked).out)
    assert (whole["where"], sum(whole["throughput"]["images"])) == (None, 40)
    assert "Images over time" in page.read_text()
    some = json.loads(command(*asked, "--where", "width >= 137").out)
    assert (some["where"], some["images"], some["complete"], some["expected"]) == ("width >= 137", 3, True, 40)
    assert some["throughput"]["images"] == [] and some["throughput"]["start"] is None
    assert some["throughput"]["note"].startswith("Cannot be told of chosen images")
    assert "Images over time" not in page.read_text()


def test_the_gallery_says_how_many_photos_could_not_be_read(tmp_path, monkeypatch):
    rows = [labelled_photo(tmp_path / "photos", f"{seed}.png", seed) for seed in range(6)]
    rows.append({**error_row("bad.jpg", "corrupt"), "width": 10, "height": 10})
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for row in rows[:4]:
            archive.add(row["uri"], row["image_id"])
            row["uri"] = f"{tmp_path}/shard.tar#{row['image_id']}"
    output = write_rows(tmp_path / "out", rows)
    assert "could not be read again" not in make_report(output).html
    Path(rows[5]["uri"]).unlink()
    assert "1 photo could not be read again" in make_report(output).html
    monkeypatch.setattr(photos, "LARGEST_SHARD", 1000)
    html = make_report(output).html
    assert "5 photos could not be read again: gone, changed, or in a shard over 4 GiB." in html


def test_an_output_of_errors_alone(tmp_path):
    report = make_report(write_rows(tmp_path / "out", [error_row(f"{number}.jpg") for number in range(5)]))
    assert (report.statistics["images"], report.statistics["errors"]) == (5, {"corrupt": 5})
    assert report.statistics["tasks"]["seg"]["photos"] == 0
    assert "<figcaption>Errors</figcaption>" in report.html and "Random images" not in report.html


def test_a_task_with_a_name_of_its_own(tmp_path):
    rows = [labelled_photo(tmp_path / "photos", f"{seed}.png", seed) for seed in range(3)]
    output = write_rows(tmp_path / "out", rows)
    (file,) = (tmp_path / "out" / "data").iterdir()
    table = pq.read_table(file)
    job = json.loads(table.schema.metadata[JOB_KEY])
    job["tasks"] = {"body_parts" if name == "seg" else name: one for name, one in job["tasks"].items()}
    columns = [
        f"body_parts{name.removeprefix('seg')}" if name.startswith("seg") else name for name in table.column_names
    ]
    named = table.rename_columns(columns)
    pq.write_table(named.replace_schema_metadata({**table.schema.metadata, JOB_KEY: json.dumps(job)}), file)
    record = yaml.safe_load((tmp_path / "out" / "job.yaml").read_text())
    record["job"]["tasks"][0]["name"] = "body_parts"
    (tmp_path / "out" / "job.yaml").write_text(yaml.safe_dump(record))
    report = make_report(output)
    assert list(report.statistics["tasks"]) == ["body_parts", "depth", "normal", "persons"]
    assert report.statistics["models"][0]["column"] == "body_parts"
    assert report.statistics["tasks"]["body_parts"]["classes"][21]["photos"] == 3
    assert '<section id="task-body-parts"' in report.html and ">Classes: body_parts</h2>" in report.html
    assert "Least confident: body_parts" in report.html
    data = json.loads(report.html.split('id="gallery-data">')[1].partition("</script>")[0])
    layer = data["layers"][0]
    assert (layer["name"], layer["masks"]) == ("body_parts", [2**3 + 2**21] * 3)
    assert len(layer["pictures"]) == 3 and all(one.startswith("data:image/webp") for one in layer["pictures"])


def test_the_same_output_gives_the_same_page_and_another_seed_another_one(output):
    one, same, other = (make_report(output, ReportOptions(6, seed=seed)).html for seed in (0, 0, 3))
    assert one == same != other


def test_an_empty_filter_and_rows_without_job_or_summary(output, tmp_path):
    (tmp_path / "out" / "job.yaml").unlink()
    with pytest.raises(OutputError, match="meets the condition false"):
        make_report(chosen_rows(output, "false"))
    report = make_report(output)
    assert report.statistics["models"] == [] and "There is no job.yaml" in report.html


def test_summary_shows_speed_and_device(output, tmp_path):
    models = {"seg": {"inputs": 9, "batch_fill": 0.5, "inputs_per_s": 7.25}}
    summary = {
        "state": "done", "images": 11, "already_done": 1, "elapsed_s": 20.0, "images_per_s": 0.5,
        "device": {"busy": 0.82, "waiting_for_input": 0.05, "models": models}, "stages": {"read": 0.01, "seg": 0.2},
        "written_at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    (tmp_path / "out" / "summary.json").write_text(json.dumps(summary))
    report = make_report(output, ReportOptions(thumbnails=0))
    for text in (
        "10 images in 20 s",
        "82 % busy, 5.0 % waiting for input, 13 % waiting",
        "200.0 ms",
        "fill of batches",
        "50 %",
        "7.25",
    ):
        assert text in report.html
    assert report.statistics["last_run"]["stages"] == {"read": 0.01, "seg": 0.2}


def test_throughput_is_that_of_modification_times_or_says_that_it_cannot_be_told(tmp_path):
    random = np.random.default_rng(0)
    output = write_rows(tmp_path / "out", [random_row(f"{number}.jpg", random) for number in range(40)], files=4)
    units = list_units(output)
    files = sorted((tmp_path / "out" / "data").iterdir())
    for file in files:
        os.utime(file, (1_700_000_000, 1_700_000_000))
    assert throughput(output, units).note.startswith("Cannot be told: all files were written within a second")
    for file, second in zip(files, (0, 60, 65, 240), strict=True):
        os.utime(file, (1_700_000_000 + second, 1_700_000_000 + second))
    found = throughput(output, units)
    assert found.start.timestamp() == 1_700_000_000 and (found.end - found.start).total_seconds() == 240
    assert {step: images for step, images in enumerate(found.images) if images} == {0: 10, 6: 20, 23: 10}
    assert throughput(output, units[:3]).note.startswith("Cannot be told from 3 files")


def test_files_of_something_else_are_left_out(output, tmp_path):
    (tmp_path / "out" / "job.yaml").write_text("hello")
    (tmp_path / "out" / "summary.json").write_text("[1]")
    about = About.of(output)
    assert (about.record, about.summary, about.models, about.name) == ({}, {}, [], "")
