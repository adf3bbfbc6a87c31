"""Clusters that change while a job runs: nodes with logical GPUs join, and are lost for good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.conftest import PATIENCE_S, ROOT, free_port, read_output, start_cluster, stop_cluster, write_photos

COUNT = 300
GPUS = "GPU"
# Of object store per node. SMALL: the units of lost actors fill it and stop the reading, and Ray Data would wait for
# their nodes for ever.
LARGE, SMALL = 150 << 20, 90 << 20


@pytest.fixture
def job(write_job, tmp_path: Path, model: Path) -> Path:
    """A job whose actors take a GPU each."""
    write_photos(tmp_path / "photos", COUNT)
    task = {"task": "seg", "checkpoint": str(model)}
    return Path(write_job(tmp_path / "photos", tasks=[task], unit_size=4, output={"visualize": {"fraction": 0}}))


def gate(job: Path) -> Path:
    """The file that the models wait for: a cluster that changes slowly would else find the job done."""
    return job.with_suffix(".gate")


def started(job: Path, address: str) -> subprocess.Popen[str]:
    """The driver, with models that wait for the gate, and take their time then."""
    command = [sys.executable, "-m", "tests.e2e.slow_job", str(job), address, "0.5", str(gate(job))]
    env = {**os.environ, "SAPIENS_RAY_LOGICAL_GPUS": "1"}
    env.pop("RAY_ADDRESS", None)
    log = job.with_suffix(".log").open("w")
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, text=True)


def gpus_in_use() -> int:
    total, free = ray.cluster_resources().get(GPUS, 0), ray.available_resources().get(GPUS, 0)
    return round(total - free)


def wait_for_gpus(count: int, driver: subprocess.Popen[str], job: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while gpus_in_use() != count:
        log = job.with_suffix(".log").read_text()
        assert driver.poll() is None and time.monotonic() < deadline, f"{gpus_in_use()} GPUs in use\n{log}"
        time.sleep(0.5)


def finished(driver: subprocess.Popen[str], job: Path, output: Path) -> None:
    code = driver.wait(PATIENCE_S)
    assert code == 0, job.with_suffix(".log").read_text()[-3000:]
    table = read_output(output)
    assert table.num_rows == COUNT and table["error_kind"].null_count == COUNT and table["seg"].null_count == 0


@pytest.fixture(params=[LARGE])
def nodes(request: pytest.FixtureRequest) -> Iterator[Any]:
    head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": request.param}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_one_to_four_nodes_and_back(nodes, job, tmp_path):
    gpu = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": LARGE}
    added = [nodes.add_node(**gpu)]
    driver = started(job, nodes.address)
    wait_for_gpus(1, driver, job)
    added += [nodes.add_node(**gpu) for _ in range(3)]
    wait_for_gpus(4, driver, job)
    gate(job).touch()
    for node in added[:3]:  # lost for good, with the units that their actors have
        nodes.remove_node(node, allow_graceful=False)
    finished(driver, job, tmp_path / "job-out")


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_pool_of_fixed_size_ends_without_the_node_that_was_lost(nodes, job, tmp_path):
    job.write_text(job.read_text() + "\nactors: 2\n")
    first, _ = (nodes.add_node(num_cpus=1, num_gpus=1, object_store_memory=LARGE) for _ in range(2))
    driver = started(job, nodes.address)
    wait_for_gpus(2, driver, job)
    gate(job).touch()
    nodes.remove_node(first, allow_graceful=False)
    finished(driver, job, tmp_path / "job-out")


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("nodes", [SMALL], indirect=True)
def test_units_of_lost_actors_do_not_stop_a_job_for_ever(nodes, job, tmp_path):
    job.write_text(job.read_text().replace("unit_size: 4", "unit_size: 8"))
    added = [nodes.add_node(num_cpus=1, num_gpus=1, object_store_memory=SMALL) for _ in range(4)]
    driver = started(job, nodes.address)
    wait_for_gpus(4, driver, job)
    gate(job).touch()
    while not list((tmp_path / "job-out" / "data").glob("*.parquet")):
        assert driver.poll() is None, job.with_suffix(".log").read_text()
        time.sleep(0.5)
    for node in added[:3]:
        nodes.remove_node(node, allow_graceful=False)
    finished(driver, job, tmp_path / "job-out")


# As Ray's `AutoscalingCluster` has it. That one reads a file that is not in the wheel, and stops all Ray of a machine.
AUTOSCALER = {
    "cluster_name": "fake",
    "max_workers": 3,
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
        "gpu": {
            "resources": {"CPU": 2, GPUS: 1, "memory": 1 << 40},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 3,
        },
    },
    "head_node_type": "ray.head.default",
    "idle_timeout_minutes": 0.1,
    "upscaling_speed": 1.0,
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "initialization_commands": [],
    **{f"{whose}setup_commands": [] for whose in ("", "head_", "worker_")},
    **{f"{whose}_start_ray_commands": [] for whose in ("head", "worker")},
}


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_an_autoscaler_adds_nodes_and_takes_them_back(job, tmp_path):
    """The head has no GPU; nodes come when the job asks for them, and go when it is over."""
    job.write_text(job.read_text() + "\ndevice: cuda\nactors: {max: 3}\n")
    config = tmp_path / "autoscaler.json"
    port = free_port()
    provider = {
        "type": "external",
        "module": "tests.e2e.fake_nodes.FakeNodes",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "gcs_address": f"{ray.util.get_node_ip_address()}:{port}",
    }
    config.write_text(json.dumps({**AUTOSCALER, "provider": provider}))
    fake = {"RAY_FAKE_CLUSTER": "1", "PYTHONPATH": str(ROOT), "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with tempfile.TemporaryDirectory(prefix="sr-", ignore_cleanup_errors=True) as folder:
        process, cluster = start_cluster(folder, 2, 0, f"--autoscaling-config={config}", port=port, **fake)
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            driver = started(job, cluster.address)
            wait_for_gpus(3, driver, job)
            gate(job).touch()
            finished(driver, job, tmp_path / "job-out")
            deadline = time.monotonic() + PATIENCE_S
            while ray.cluster_resources().get(GPUS, 0):
                assert time.monotonic() < deadline
                time.sleep(1)
        finally:
            ray.shutdown()
            stop_cluster(process)
