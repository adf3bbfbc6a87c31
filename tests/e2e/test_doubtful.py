"""Label, choose the doubtful ones, label them again: what `query --to` writes is an input; and all of it on S3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sapiens_ray as sr
from sapiens_ray.imaging.images import decode_map
from tests.conftest import read_output, write_photos
from tests.s3_server import s3_server


@pytest.fixture
def labelled(cluster, write_job, tmp_path):
    """An output of five photos and a file that is none; its job file."""
    photos = tmp_path / "photos"
    write_photos(photos, 5)
    (photos / "no photo.jpg").write_bytes(b"x")
    job = write_job(photos)
    sr.run(sr.Job.load(job))
    return job, tmp_path / "job-out"


def median(output: Path) -> float:
    return float(sr.read_labels(output, columns=["seg_confidence"])["seg_confidence"].median())


@pytest.mark.parametrize(
    "ending", ["csv", "parquet", *(pytest.param(one, marks=pytest.mark.nightly) for one in ("txt", "jsonl"))]
)
def test_the_doubtful_ones_are_labelled_again(sapiens_ray, labelled, write_job, tmp_path, ending):
    _, output = labelled
    where = f"seg_confidence <= {median(output)}"
    doubtful = sr.read_labels(output, where=where)
    assert 1 <= len(doubtful) < 5
    done = sapiens_ray("query", output, where, "--to", tmp_path / f"doubtful.{ending}")
    assert done.code == 0, done.text
    assert done.out == f"{len(doubtful)} images\n{tmp_path}/doubtful.{ending}\n"
    ids = {} if ending == "txt" else {"id_column": "image_id"}
    sr.run(sr.Job.load(write_job(tmp_path / f"doubtful.{ending}", "again", input=ids)))
    again = read_output(tmp_path / "again-out")
    assert again["error_kind"].null_count == len(doubtful)
    expected = doubtful["uri"] if ending == "txt" else doubtful["image_id"]
    assert again["image_id"].to_pylist() == expected.tolist()
    assert [decode_map(cell).tolist() for cell in again["seg"].to_pylist()] == [
        decode_map(cell).tolist() for cell in doubtful["seg"]
    ]


def test_images_in_archives_are_told(sapiens_ray, cluster, write_job, tmp_path):
    import tarfile

    write_photos(tmp_path / "photos", 2)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in sorted((tmp_path / "photos").iterdir()):
            tar.add(path, path.name)
    sr.run(sr.Job.load(write_job(tmp_path / "a.tar")))
    done = sapiens_ray("query", tmp_path / "job-out", "true", "--to", tmp_path / "list.csv")
    assert done.code == 0 and done.out.startswith("2 images\n")
    assert f"2 of them lie in tars, Parquet files or videos, such as {tmp_path}/a.tar#" in done.err


def test_on_s3(sapiens_ray, labelled, tmp_path):
    _, output = labelled
    where = f"seg_confidence <= {median(output)}"
    with s3_server() as s3:
        s3.direct.mkdir("labels")
        s3.direct.put(str(output), "labels/run", recursive=True)
        options = [f"--storage-option={key}={value}" for key, value in s3.options.items() if isinstance(value, str)]
        done = sapiens_ray("query", "s3://labels/run", where, "--json", *options)
        assert done.code == 0, done.text
        rows = json.loads(done.out)["rows"]
        expected = sr.read_labels(output, where=where)["image_id"].tolist()
        assert [row["image_id"] for row in rows] == expected
        done = sapiens_ray("query", "s3://labels/run", where, "--to", "s3://labels/list.txt", *options)
        assert done.code == 0, done.text
        assert len(s3.direct.cat_file("labels/list.txt").decode().splitlines()) == len(expected)
        frame = sr.read_labels("s3://labels/run", where=where, storage_options=s3.options)
        assert frame["image_id"].tolist() == expected
