"""`sapiens-ray init`: a job file for an input, which `check` accepts as it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from sapiens_ray.cli.init import _labels
from sapiens_ray.job import draft
from sapiens_ray.job.config import Job
from sapiens_ray.planning import survey
from tests.archives import tar_bytes
from tests.conftest import write_photos
from tests.s3_server import s3_server


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Ten photos below the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return write_photos(tmp_path / "photos", 10)


def test_a_folder_of_photos(command, photos, tmp_path):
    (tmp_path / "photos" / "clip.mp4").write_bytes(b"")
    done = command("init", "photos", "--tasks", "seg,pose308-0.3b")
    assert (done.code, done.err) == (0, "")
    assert re.sub(r"\d+\.\d kB", "N kB", done.out).splitlines() == [
        f"input  {tmp_path}/photos",
        "       10 images; median of 10: 96 x 128, N kB",
        "       left out: 1 video; `--format video` writes a job for frames of videos",
        "tasks  seg-1b, pose308-0.3b",
        "boxes  of a person detector",
        "job    job.yaml",
        "next   sapiens-ray check job.yaml",
        "       sapiens-ray preview job.yaml",
        "       sapiens-ray run job.yaml",
    ]
    text = Path("job.yaml").read_text()
    assert yaml.safe_load(text) == {
        "name": "photos",
        "input": {"uri": "photos"},
        "output": {"uri": "labels/photos"},
        "tasks": [
            {"task": "seg", "checkpoint": "seg-1b"},
            {"task": "pose", "keypoints": 308, "boxes": "detector", "checkpoint": "pose308-0.3b"},
        ],
    }
    assert "# 10 images; median of 10: 96 x 128" in text and "CC-BY-NC 4.0" in text
    assert max(map(len, text.splitlines())) <= 120


def test_check_accepts_the_job_without_its_checkpoint(command, photos):
    assert command("init", "photos").code == 0
    checked = json.loads(command("check", "job.yaml", "--json").out)
    assert (checked["images"], checked["models"][0]["checkpoint"], checked["pending"]) == (10, "seg-1b", True)


def test_an_existing_file_is_replaced_only_with_force(command, photos):
    Path("job.yaml").write_text("mine")
    refused = command("init", "photos")
    assert refused.code == 2 and Path("job.yaml").read_text() == "mine"
    assert (
        refused.err == "sapiens-ray: --output job.yaml: exists already; name another file, or replace it with --force\n"
    )
    assert command("init", "photos", "--force").code == 0 and "seg-1b" in Path("job.yaml").read_text()


def test_every_task_of_the_catalogue(command, photos):
    done = command("init", "photos", "--tasks", "seg,depth,normal,features,pose17,pose133,pose308,seg-0.3b", "-q")
    assert done.out == "job.yaml\n"
    columns = [task.column for task in Job.load("job.yaml").tasks]
    assert columns == ["seg", "depth", "normal", "features", "persons", "pose133_1b", "pose308_1b", "seg_0_3b"]


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ("segg", "--tasks segg: is no task, and no name of the catalogue; did you mean 'seg'?"),
        ("seg,pose308-3b", "--tasks pose308-3b: is no task, and no name of the catalogue; did you mean 'pose308-"),
        ("everything", "tasks are seg, depth, normal, features, pose, pose17, pose133, pose308"),
        (",", "--tasks: name at least one of seg"),
    ],
)
def test_an_unknown_task_is_refused(command, photos, tasks, said):
    done = command("init", "photos", "--tasks", tasks)
    assert done.code == 2 and said in done.err and not Path("job.yaml").exists()


def test_tars(command, photos, tmp_path):
    members = [("a.jpg", photos[0].read_bytes()), ("a.json", b'{"boxes": [[1, 2, 30, 40]]}')]
    (tmp_path / "tars").mkdir()
    for number in range(3):
        (tmp_path / "tars" / f"{number}.tar").write_bytes(tar_bytes(members))
    answer = json.loads(command("init", "tars", "--tasks", "pose", "--json").out)
    assert answer == {
        "job": "job.yaml", "input": f"{tmp_path}/tars", "format": "webdataset", "images": 3, "files": 3, "more": False,
        "sampled": 1, "unusable": 0, "box_column": "boxes", "checkpoints": ["pose308-1b"], "variables": [],
    }  # fmt: skip
    assert yaml.safe_load(Path("job.yaml").read_text())["tasks"][0]["boxes"] == {"column": "boxes"}


@pytest.mark.parametrize("column", ["person_boxes", "faces"])
def test_a_parquet_file(command, photos, tmp_path, column):
    images = [path.read_bytes() for path in photos]
    pq.write_table(pa.table({"image": images, column: [[[0.0, 0.0, 9.0, 9.0]]] * 10}), tmp_path / "a.parquet")
    answer = json.loads(command("init", "a.parquet", "--tasks", "pose", "--json").out)
    assert (answer["images"], answer["files"], answer["sampled"]) == (10, 1, 10)
    assert answer["box_column"] == (column if column == "person_boxes" else None), "only columns that are named so"


def test_a_list_with_photos_that_are_not_there(command, photos, tmp_path):
    (tmp_path / "list.txt").write_text("photos/000.jpg\ngone.jpg\n")
    shown = command("init", "list.txt").out
    assert "2 images; median of 1: 96 x 128" in shown
    assert "1 of the sample cannot be used, such as gone.jpg: no such file" in shown


def test_a_long_listing_ends_early(command, photos, monkeypatch):
    monkeypatch.setattr(survey, "LISTED", 4)
    assert "more than 4 images; median of 4: 96 x 128" in command("init", "photos").out


@pytest.mark.parametrize(
    ("name", "said"),
    [("gone", "gone does not exist"), ("empty", "no images with a suffix"), ("mixed", "say which to read")],
)
def test_an_input_that_cannot_be_used_leaves_no_file(command, photos, tmp_path, name, said):
    (tmp_path / "empty").mkdir()
    write_photos(tmp_path / "mixed", 1)
    (tmp_path / "mixed" / "a.tar").write_bytes(tar_bytes([("a.jpg", b"")]))
    done = command("init", name)
    assert done.code == 2 and said in done.err and not Path("job.yaml").exists()
    if name == "mixed":
        assert command("init", name, "--format", "images").code == 0 and Job.load("job.yaml").input.format == "images"


@pytest.mark.parametrize(
    "name",
    [
        "a b", "12", "no", "a: b", "ünï", "'q'", "# c", "- x", "{1}", "2026-01-31", "~x", "~root", "@a", "a\x85b",
        "a\u2028b", "a\x7fb", "\U0001f600 b",
    ],
)  # fmt: skip
def test_any_name_of_a_folder_comes_back(command, photos, tmp_path, name):
    write_photos(tmp_path / name, 1)
    assert command("init", tmp_path / name).code == 0
    job = Job.load("job.yaml")
    assert (job.name, job.input.uri) == (name, [str(tmp_path / name)])


@pytest.mark.parametrize("name", ["z${HOME}", "z${GONE_42}"])
def test_a_name_that_would_mean_a_variable_is_refused(command, photos, tmp_path, name):
    write_photos(tmp_path / name, 1)
    done = command("init", name)
    assert done.code == 2 and not Path("job.yaml").exists()
    assert f"to a job file, {name[1:]} is an environment variable; rename it" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "image"], "--format image: is no format; did you mean 'images'?"),
        (["--format", "x"], "--format x: is no format; the formats are auto, images, webdataset, parquet, list"),
        (["--output", "photos", "--force"], "--output photos: is a folder; name a file, such as photos/job.yaml"),
    ],
)
def test_wrong_options_are_one_line(command, photos, options, said):
    done = command("init", "photos", *options)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1, done.err


def test_a_model_may_be_chosen_more_than_once(command, photos):
    assert command("init", "photos", "--tasks", "seg,seg,seg").code == 0
    assert [task.column for task in Job.load("job.yaml").tasks] == ["seg", "seg_1b", "seg_1b_2"]


def test_a_folder_on_s3(command, photos, tmp_path, monkeypatch):
    with s3_server() as s3:
        s3.direct.mkdir("bucket")
        for path in photos:
            s3.direct.put_file(str(path), f"bucket/people/{path.name}")
        options = [word for key, value in s3.options.items() for word in ("--storage-option", f"{key}={value}")]
        done = command("init", "s3://bucket/people/", *options)
        assert (done.code, done.err) == (0, "") and "10 images; median of 10" in done.out
        text = Path("job.yaml").read_text()
        assert "testing" not in text, "secrets stay out of the file"
        assert done.out.count("in the environment of the job") == 2
        for key in ("KEY", "SECRET"):
            monkeypatch.setenv(f"STORAGE_{key}", "testing")
        job = Job.load("job.yaml")
        assert (job.input.uri, job.output.uri) == (["s3://bucket/people/"], "s3://bucket/people-labels")
        assert job.input.storage_options == job.output.storage_options == s3.options
        assert json.loads(command("check", "job.yaml", "--json").out)["images"] == 10


@pytest.mark.parametrize(
    ("uri", "labels"),
    [
        ("s3://bucket/a/photos/", "s3://bucket/a/photos-labels"),
        ("s3://bucket", "s3://bucket/labels"),
        ("s3://bucket/", "s3://bucket/labels"),
        ("https://host/a/list.csv", f"{Path.cwd()}/labels/list.csv"),
        ("zip://a::https://host/list", f"{Path.cwd()}/labels/list"),
    ],
)
def test_where_the_labels_of_a_url_go(uri, labels):
    assert _labels(uri, uri.rstrip("/").rpartition("/")[2]) == labels


def test_secrets_are_all_options_that_are_not_known_to_be_none():
    plain = {"endpoint_url": "http://x", "anon": "1"}
    assert draft.secret_variables({**plain, "token": "t"}) == {"token": "STORAGE_TOKEN"}
    given = {**plain, "endpoint_url": "https://me:PASS@host", "api-key": "k"}
    text = draft.job_text(draft.Draft("a", "s3://b", "s3://c", [], storage_options=given), "a.yaml")
    assert "PASS" not in text and '"api-key": "${STORAGE_API_KEY}"' in text and "${STORAGE_ENDPOINT_URL}" in text


def test_a_name_with_a_space_is_quoted_in_commands(command, photos):
    done = command("init", "photos", "--output", "my job.yaml")
    assert done.out.endswith("sapiens-ray run 'my job.yaml'\n"), done.text
    assert "`sapiens-ray run 'my job.yaml'` all" in Path("my job.yaml").read_text().splitlines()[0]


def test_a_folder_of_videos_names_the_option(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"x")
    done = command("init", "clips")
    assert done.code == 2 and "1 video: give --format video to label their frames" in done.err, done.text
