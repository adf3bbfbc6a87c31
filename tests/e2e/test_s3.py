"""Input, checkpoint and output on S3: a real server process, behind a proxy that causes failures."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import sapiens_ray as sr
from sapiens_ray.errors import InputError, JobError
from sapiens_ray.execution import pipeline
from sapiens_ray.planning import discovery
from sapiens_ray.storage import retries
from tests.archives import write_tar
from tests.conftest import PATIENCE_S, write_photos
from tests.s3_server import CREDENTIALS, S3, s3_server


@pytest.fixture(scope="module")
def server():
    with s3_server() as s3:
        yield s3


@pytest.fixture
def s3(server: S3, tmp_path):
    """A server without faults, with 12 photos below s3://<bucket>/photos, in a new bucket for each test."""
    server.clean()
    server.bucket = f"b{time.time_ns()}"
    server.files = write_photos(tmp_path / "photos", 12)
    direct = server.direct
    direct.mkdir(server.bucket)
    for file in server.files:
        direct.put_file(str(file), f"{server.bucket}/photos/sub/{file.name}")
    yield server
    server.clean()


@pytest.fixture
def job(s3, write_job, model):
    """Writes a job from s3://<bucket>/photos to s3://<bucket>/labels; its credentials are in the file."""

    def write(**sections):
        s3.direct.put_file(str(model), f"{s3.bucket}/models/seg.pt2")
        sections = {
            "unit_size": 3,
            "tasks": [{"task": "seg", "checkpoint": f"s3://{s3.bucket}/models/seg.pt2"}],
            **sections,
            "input": {"storage_options": s3.options, **sections.get("input", {})},
            "output": {"uri": f"s3://{s3.bucket}/labels", "storage_options": s3.options, **sections.get("output", {})},
        }
        uri = sections["input"].pop("uri", f"s3://{s3.bucket}/photos/")
        return write_job(uri, **sections)

    return write


@pytest.fixture
def cache(tmp_path):
    return {"SAPIENS_RAY_CACHE": str(tmp_path / "cache")}


@pytest.fixture
def own_cache(cache, monkeypatch):
    """For jobs in this process."""
    for name, folder in cache.items():
        monkeypatch.setenv(name, folder)


def labels(s3: S3):
    return sr.read_labels(f"s3://{s3.bucket}/labels", storage_options={**s3.options, "use_listings_cache": False})


def test_a_job_on_object_storage(cluster, sapiens_ray, s3, job, tmp_path, model, cache):
    direct, files = s3.direct, s3.files[:7]
    for file in s3.files[4:]:
        direct.rm_file(f"{s3.bucket}/photos/sub/{file.name}")
    direct.pipe_file(f"{s3.bucket}/photos/sub/{files[3].name}", b"broken")
    write_tar(tmp_path / "rest.tar", files[4:])
    direct.put_file(str(tmp_path / "rest.tar"), f"{s3.bucket}/tars/rest.tar")
    secret = {**s3.options, "secret": "${S3_SECRET}"}
    path = job(
        input={"uri": [f"s3://{s3.bucket}/photos/", f"s3://{s3.bucket}/tars/*.tar"], "storage_options": secret},
        output={"storage_options": secret},
        unit_size=2,
    )
    env = {"S3_SECRET": "testing", **cache}
    done = sapiens_ray("run", path, env=env)
    assert done.code == 0, done.text

    frame = labels(s3)
    names = [f"photos/sub/{file.name}" for file in files[:4]] + [f"tars/rest.tar/{file.name}" for file in files[4:]]
    assert frame["image_id"].tolist() == names
    assert frame["error_kind"].dropna().tolist() == ["not_an_image"]
    assert sorted(direct.ls(f"{s3.bucket}/labels/data")) == [
        f"{s3.bucket}/labels/data/s000000-00000000-00000004-end.parquet",
        f"{s3.bucket}/labels/data/s000001-00000000-00000003-end.parquet",
    ]
    assert direct.exists(f"{s3.bucket}/labels/visualizations/photos/sub/000.jpg")
    assert not direct.exists(f"{s3.bucket}/labels/lock.json")
    local = sr.Labeler(task="seg", checkpoint=model)([str(files[0])], decode=False)
    assert frame["seg"][0] == local[0]["seg"]

    again = sapiens_ray("run", path, env=env)
    assert again.code == 0 and "every image already had its row" in again.out
    aws = {**CREDENTIALS, "AWS_ENDPOINT_URL": s3.proxy}
    status = sapiens_ray("status", f"s3://{s3.bucket}/labels", "--json", env=aws)
    assert json.loads(status.out)["images"] == 7, "credentials come from the environment as well"
    exported = sapiens_ray("export", f"s3://{s3.bucket}/labels", "--format", "lite", "--to", tmp_path / "lite", env=aws)
    assert "6 images exported" in exported.out
    assert os.path.exists(tmp_path / "lite" / "seg" / "tars" / "rest.tar" / "004_seg.npy")


def test_masks_boxes_and_compiled_code_on_object_storage(cluster, sapiens_ray, s3, job, tmp_path, cache):
    """Everything that a job names may be a URL; the literal secret in the YAML is not in anything that is written."""
    import numpy as np

    from sapiens_ray.imaging.maps import encode_npy
    from tests.small_models import small, write

    direct = s3.direct
    for task in ("depth", "pose17"):
        file = write(tmp_path / f"{task}.safetensors", small(task), "safetensors")
        direct.put_file(str(file), f"{s3.bucket}/models/{task}.safetensors")
    for file in s3.files[:2]:
        direct.pipe_file(f"{s3.bucket}/masks/photos/sub/{file.stem}.npy", encode_npy(np.ones((128, 96), np.uint8)))
    lines = [{"path": f"photos/sub/{file.name}", "people": [[5, 5, 90, 120]]} for file in s3.files[:2]]
    direct.pipe_file(f"{s3.bucket}/list.jsonl", "\n".join(map(json.dumps, lines)).encode())
    secret = "hunter2-in-the-yaml"
    options = {**s3.options, "secret": secret}
    path = job(
        input={"uri": f"s3://{s3.bucket}/list.jsonl", "storage_options": options},
        output={"storage_options": options},
        cache=f"s3://{s3.bucket}/compiled",
        tasks=[
            {"task": "pose", "keypoints": 17, "checkpoint": f"s3://{s3.bucket}/models/pose17.safetensors",
             "boxes": {"column": "people"}},
            {"task": "depth", "checkpoint": f"s3://{s3.bucket}/models/depth.safetensors",
             "mask": {"folder": f"s3://{s3.bucket}/masks"}, "mode": "bfloat16", "compile": "default"},
        ],
    )  # fmt: skip
    done = sapiens_ray("run", path, env=cache)
    assert done.code == 0, done.text
    frame = labels(s3)
    assert [len(persons) for persons in frame["persons"]] == [1, 1]
    assert frame["depth_min"].notna().all()
    (note,) = json.loads(direct.cat_file(f"{s3.bucket}/labels/summary.json"))["notes"]
    if shutil.which("g++"):  # even if this node compiled it for an earlier job, other nodes find it
        assert note.startswith("depth: compiled "), note
        assert len(direct.ls(f"{s3.bucket}/compiled", detail=False)) == 1
    everything = b"".join(direct.cat_file(name) for name in direct.find(f"{s3.bucket}/labels"))
    assert secret.encode() not in everything and secret not in done.text


@pytest.mark.slow
def test_transient_faults_change_nothing(cluster, s3, job, own_cache):
    """One in seven requests fails: 500, 503, lost connections, truncated bodies."""
    path = job()
    sr.run(sr.Job.load(path, [f"output.uri=s3://{s3.bucket}/plain"]))
    s3.sometimes(0.15, seed=11)
    sr.run(sr.Job.load(path))
    failed = list(s3.failed)
    s3.clean()
    assert len(failed) >= 10 and set(failed) == {"500", "503", "reset", "truncate"}, failed
    plain = sr.read_labels(f"s3://{s3.bucket}/plain", storage_options=s3.options)
    assert labels(s3).drop(columns="uri").equals(plain.drop(columns="uri"))
    assert labels(s3)["error_kind"].isna().all()
    pictures = s3.direct.find(f"{s3.bucket}/labels/visualizations")
    assert len(pictures) == 12


def test_a_failure_of_one_object_is_an_error_row(cluster, s3, job, own_cache):
    """Empty, deleted after it was listed, or failing permanently while other requests succeed."""
    path = job(storage_retry_s=3)

    def fault(method: str, uri: str, number: int) -> str | None:
        if method == "GET" and uri.endswith("/photos/sub/005.jpg"):
            s3.direct.rm_file(f"{s3.bucket}/photos/sub/005.jpg")
        return "500" if uri.endswith("/photos/sub/007.jpg") else None

    s3.fault = fault
    s3.direct.rm_file(f"{s3.bucket}/photos/sub/003.jpg")
    s3.direct.pipe_file(f"{s3.bucket}/photos/sub/003.jpg", b"")
    sr.run(sr.Job.load(path))
    frame = labels(s3)
    assert frame["image_id"].tolist() == [f"sub/{file.name}" for file in s3.files]
    kinds = {row.image_id: row.error_kind for row in frame.itertuples() if isinstance(row.error_kind, str)}
    assert kinds == {"sub/003.jpg": "empty", "sub/005.jpg": "missing", "sub/007.jpg": "unreadable"}
    s3.clean()
    sr.run(sr.Job.load(path), retry_errors=True)
    assert labels(s3)["error_kind"].dropna().index.tolist() == [3, 5]


def test_a_storage_that_fails_ends_the_job_without_error_rows(cluster, sapiens_ray, s3, job, model):
    path = job(storage_retry_s=2, tasks=[{"task": "seg", "checkpoint": str(model)}])

    def fault(method: str, uri: str, number: int) -> str | None:
        s3.down = s3.down or (method == "GET" and "/photos/sub/" in uri)
        return None

    s3.fault = fault
    done = sapiens_ray("run", path)
    assert done.code == 1
    assert "sapiens-ray: cannot read s3://" in done.err or "sapiens-ray: cannot write s000" in done.err, done.err
    assert "Traceback" not in done.err
    s3.clean()
    sr.run(sr.Job.load(path))
    assert labels(s3)["error_kind"].isna().tolist() == [True] * 12


def test_a_storage_that_fails_for_workers_is_told_by_the_driver(cluster, s3, job, own_cache, monkeypatch):
    """Reads of photos, which only workers do, fail until the driver has said so. In truth it waits longer to say it."""
    monkeypatch.setattr(retries, "SILENT_S", 0.0)
    monkeypatch.setattr(retries, "TELL_EVERY_S", 0.0)
    told: list[str] = []
    heard = threading.Event()

    def tell(line: str) -> None:
        told.append(line)
        heard.set()

    def fault(method: str, uri: str, number: int) -> str | None:
        return "503" if method == "GET" and "/photos/sub/" in uri and not heard.is_set() else None

    s3.fault = fault
    summary = sr.run(sr.Job.load(job(storage_retry_s=PATIENCE_S)), on_wait=tell)
    assert (summary.images, summary.failed) == (12, 0)
    assert told[0].startswith(f"The storage s3://{s3.bucket} does not answer on {socket.gethostname()} (")
    assert re.search(r"\); trying again since \d\d:\d\d:\d\d, until \d\d:\d\d:\d\d\.$", told[0])


def test_a_tar_overwritten_after_it_was_planned_is_not_mixed(cluster, s3, job, tmp_path, own_cache):
    direct = s3.direct
    write_tar(tmp_path / "a.tar", s3.files[:4])
    write_tar(tmp_path / "b.tar", s3.files[4:9])
    tar = f"{s3.bucket}/tars/a.tar"
    direct.put_file(str(tmp_path / "a.tar"), tar)
    path = job(input={"uri": f"s3://{tar}"})
    opened = []

    def fault(method: str, uri: str, number: int) -> str | None:
        if method == "GET" and uri.endswith("/tars/a.tar") and not opened:
            opened.append(uri)
            direct.put_file(str(tmp_path / "b.tar"), tar)
        return None

    s3.fault = fault
    with pytest.raises((JobError, InputError), match=r"a\.tar (has changed since|was overwritten)"):
        sr.run(sr.Job.load(path))
    s3.clean()
    assert sr.run(sr.Job.load(path), redo_changed=True).images == 5
    assert labels(s3)["image_id"].tolist() == [f"a.tar/{file.name}" for file in s3.files[4:9]]


def test_labelling_does_not_wait_for_the_end_of_the_listing(cluster, s3, job, own_cache, monkeypatch):
    """The second page of the listing is held back until the first image has its label."""
    s3.page = 3
    labelled = threading.Event()

    def fault(method: str, uri: str, number: int) -> str | None:
        if "prefix=photos" in uri and "continuation-token" in uri and not labelled.wait(PATIENCE_S):
            labelled.set()  # labelling waits for the listing: let the job end, and the assertions below fail
        return None

    s3.fault = fault
    monkeypatch.setattr(pipeline, "LISTING_S", 0.0)
    monkeypatch.setattr(discovery, "LOOK", 1)
    expected = []

    def on_progress(now: sr.Summary) -> None:
        expected.append((now.labelled, now.expected))
        if now.labelled:
            labelled.set()

    # The client must not time out on the page that is held back.
    options = {**s3.options, "config_kwargs": {"read_timeout": 2 * PATIENCE_S}}
    path = job(input={"shard_size": 3, "storage_options": options})
    summary = sr.run(sr.Job.load(path), on_progress=on_progress)
    assert summary.images == summary.expected == 12
    assert any(labelled and total is None for labelled, total in expected), "the total is unknown for a while"
    order = [
        "list" if "list-type=2" in path and "photos" in path else "label"
        for method, path in s3.seen
        if ("list-type=2" in path and "photos" in path) or (method == "PUT" and "/labels/data/" in path)
    ]
    assert order.index("label") < len(order) - 1 - order[::-1].index("list"), order
    assert labels(s3)["image_id"].tolist() == [f"sub/{file.name}" for file in s3.files]


def test_secrets_in_urls_do_not_get_into_rows(cluster, sapiens_ray, s3, job, model, tmp_path):
    """A list of signed URLs, one of which returns 404."""
    base = f"{s3.proxy}/{s3.bucket}/photos/sub"
    lines = [f"{base}/{name}?X-Amz-Signature=topsecret&v=1" for name in ("000.jpg", "none.jpg")]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    path = job(input={"uri": str(tmp_path / "list.txt"), "storage_options": {}})
    config = yaml.safe_load(path.read_text())
    config["output"] = {"uri": str(tmp_path / "local")}
    config["tasks"][0]["checkpoint"] = str(model)
    path.write_text(yaml.safe_dump(config))
    aws = {**CREDENTIALS, "AWS_ENDPOINT_URL": s3.proxy, "SAPIENS_RAY_CACHE": str(tmp_path / "cache")}
    done = sapiens_ray("run", path, env=aws)
    assert done.code == 0, done.text
    frame = sr.read_labels(str(tmp_path / "local"))
    assert frame["error_kind"].fillna("").tolist() == ["", "missing"] and frame["uri"][0].endswith(
        "X-Amz-Signature=...&v=1"
    )
    assert "topsecret" not in done.text and "topsecret" not in frame.to_csv()
    table = io.BytesIO()
    pq.write_table(pa.table({"one": [1], "other": [2]}), table)
    s3.direct.pipe_file(f"{s3.bucket}/in.parquet", table.getvalue())
    signed = f"{s3.proxy}/{s3.bucket}/in.parquet?X-Amz-Signature=topsecret"
    refused = sapiens_ray("check", path, "--set", f"input.uri={signed}", env=aws)
    assert refused.code == 2 and "in.parquet?X-Amz-Signature=..." in refused.err and "topsecret" not in refused.text
