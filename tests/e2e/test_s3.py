"""Input, checkpoint and output on S3, against a real server process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.archives import write_tar
from tests.conftest import free_port, write_photos

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """A moto server in a process of its own."""
    port = free_port()
    log = (tmp_path_factory.mktemp("s3") / "moto.log").open("wb")
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=1)
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def test_a_job_on_object_storage(cluster, sapiens_ray, write_job, tmp_path, model, endpoint):
    import s3fs

    import sapiens_ray as sr

    options = {"endpoint_url": endpoint, "key": "testing", "secret": "testing"}
    s3 = s3fs.S3FileSystem(**options)
    s3.mkdir("bucket")
    files = write_photos(tmp_path / "photos", 7)
    files[3].write_bytes(b"broken")
    for file in files[:4]:
        s3.put_file(str(file), f"bucket/photos/sub/{file.name}")
    write_tar(tmp_path / "rest.tar", files[4:])
    s3.put_file(str(tmp_path / "rest.tar"), "bucket/tars/rest.tar")
    s3.put_file(str(model), "bucket/models/seg.pt2")

    secret = {"endpoint_url": endpoint, "key": "testing", "secret": "${S3_SECRET}"}
    path = write_job(
        ["s3://bucket/photos/", "s3://bucket/tars/*.tar"],
        unit_size=2,
        input={"storage_options": secret},
        output={"uri": "s3://bucket/labels", "storage_options": secret},
        tasks=[{"task": "seg", "checkpoint": "s3://bucket/models/seg.pt2"}],
    )
    env = {"S3_SECRET": "testing", "SAPIENS_RAY_CACHE": str(tmp_path / "cache")}
    done = sapiens_ray("run", path, env=env)
    assert done.code == 0, done.text

    frame = sr.read_labels("s3://bucket/labels", storage_options=options)
    names = [f"photos/sub/{file.name}" for file in files[:4]] + [f"tars/rest.tar/{file.name}" for file in files[4:]]
    assert frame["image_id"].tolist() == names
    assert frame["error_kind"].dropna().tolist() == ["not_an_image"]
    assert sorted(s3.ls("bucket/labels/data")) == [
        "bucket/labels/data/s000000-00000000-00000004-end.parquet",
        "bucket/labels/data/s000001-00000000-00000003-end.parquet",
    ]
    assert s3.exists("bucket/labels/visualizations/photos/sub/000.jpg.jpg")
    local = sr.Labeler(task="seg", checkpoint=model)([str(files[0])], decode=False)
    assert frame["seg"][0] == local[0]["seg"]

    again = sapiens_ray("run", path, env=env)
    assert again.code == 0 and "every image had its row already" in again.out
    aws = {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}
    status = sapiens_ray("status", "s3://bucket/labels", "--json", env=aws)
    assert json.loads(status.out)["images"] == 7, "credentials come from the environment as well"
    exported = sapiens_ray("export", "s3://bucket/labels", "--format", "lite", "--to", tmp_path / "lite", env=aws)
    assert "6 images exported" in exported.out
    assert os.path.exists(tmp_path / "lite" / "seg" / "tars" / "rest.tar" / "004_seg.npy")
