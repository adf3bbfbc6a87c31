"""Several nodes, logical GPUs, models of different size, nodes that join and leave, one model download per node."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter

import pytest

import sapiens_ray as sr
from tests.conftest import PATIENCE_S, ROOT, read_output, write_photos
from tests.s3_server import s3_server
from tests.small_models import small, write


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_heterogeneous_actors_on_nodes_that_join_and_leave(tmp_path):
    from ray.cluster_utils import Cluster

    files = write_photos(tmp_path / "photos", 60)
    for task in ("seg", "pose17"):
        write(tmp_path / f"{task}.safetensors", small(task, layers=1), "safetensors")

    def node(name: str) -> dict[str, object]:
        # These nodes share the disk of one machine; with a cache per node they behave like separate machines.
        return {"num_cpus": 2, "num_gpus": 1, "env_vars": {"SAPIENS_RAY_CACHE": str(tmp_path / f"cache-{name}")}}

    head = {"num_cpus": 1, "include_dashboard": False, "env_vars": {"SAPIENS_RAY_CACHE": str(tmp_path / "cache-head")}}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    with s3_server() as s3:
        direct = s3.direct
        direct.mkdir("bucket")
        for task in ("seg", "pose17"):
            direct.put_file(str(tmp_path / f"{task}.safetensors"), f"bucket/{task}.safetensors")
        job = tmp_path / "job.yaml"
        job.write_text(f"""
input: {{uri: {tmp_path}/photos, shard_size: 10, storage_options: {{endpoint_url: "{s3.proxy}", key: t, secret: t}}}}
output: {{uri: {tmp_path}/out, visualize: {{fraction: 0}}}}
unit_size: 5
device: auto
tasks:
  - {{task: seg, checkpoint: "s3://bucket/seg.safetensors", num_gpus: 0.5, actors: 2, mode: bfloat16}}
  - {{task: pose, keypoints: 17, checkpoint: "s3://bucket/pose17.safetensors", num_gpus: 1, actors: 1, mode: bfloat16}}
""")
        try:
            first = cluster.add_node(**node("a"))
            cluster.add_node(**node("b"))
            executable = [
                sys.executable,
                "-m",
                "sapiens_ray",
                "run",
                str(job),
                "--address",
                cluster.address,
            ]
            env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
            env["SAPIENS_RAY_CACHE"] = str(tmp_path / "cache-driver")
            log = (tmp_path / "log.txt").open("w")
            driver = subprocess.Popen(executable, stdout=log, stderr=log, cwd=ROOT, env=env)
            deadline = time.monotonic() + PATIENCE_S
            while len(list((tmp_path / "out" / "data").glob("s*.parquet"))) < 2 and driver.poll() is None:
                assert time.monotonic() < deadline, (tmp_path / "log.txt").read_text()
                time.sleep(0.1)
            cluster.add_node(**node("c"))  # joins, and takes over the work of the lost one
            cluster.remove_node(first, allow_graceful=False)
            code = driver.wait(PATIENCE_S)
            if code != 0:  # Ray counted the lost node as that of the driver; the user starts the job again
                code = subprocess.run(
                    executable, stdout=log, stderr=log, cwd=ROOT, env=env, timeout=PATIENCE_S, check=False
                ).returncode
            assert code == 0, (tmp_path / "log.txt").read_text()[-3000:]
        finally:
            cluster.shutdown()
        gets = Counter(path.split("?")[0] for method, path in s3.seen if method == "GET" and "safetensors" in path)
    frame = sr.read_labels(str(tmp_path / "out"))
    assert frame["image_id"].tolist() == [file.name for file in files]
    assert frame["error_kind"].isna().all() and all(len(one) == 1 for one in frame["persons"])
    for name in ("seg", "pose17"):
        caches = list(tmp_path.glob(f"cache-*/checkpoints/*/{name}.safetensors"))
        assert 1 < gets[f"/bucket/{name}.safetensors"] <= len(caches), (name, gets, caches)


@pytest.mark.nightly
def test_a_head_without_cpus_holds_the_driver_only(sapiens_ray, write_job, tmp_path):
    """The shape of jobs/rayjob.yaml, with a logical GPU."""
    from ray.cluster_utils import Cluster

    files = write_photos(tmp_path / "photos", 6)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=2, num_gpus=1)
        path = write_job(tmp_path / "photos", unit_size=2, device="cuda", actors={"min": 1, "max": 1})
        done = sapiens_ray("run", path, "--address", cluster.address)
    finally:
        cluster.shutdown()
    assert done.code == 0, done.text
    assert read_output(tmp_path / "job-out")["image_id"].to_pylist() == [file.name for file in files]
