"""Fixtures: one Ray cluster for the whole session, a small model, and ways to run the command line."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import psutil
import pyarrow as pa
import pytest
import yaml
from hypothesis import HealthCheck, settings

# No test fails for being slow: tests wait for events, and this limit is only reached if an event never comes.
PATIENCE_S = 600.0

# The same examples in every run, so that a failure is due to the change; `make nightly` draws new ones.
settings.register_profile("new", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("new"), derandomize=True)
settings.load_profile("same")

# What Ray needs on a machine that is busy with something else, also where a test runs without the rest of this:
# patience with its own processes (its defaults are 30 s and 60 s), workers at usual priority, which would starve, and
# no reports of usage.
RAY_PATIENCE = {
    "RAY_gcs_server_port_wait_time_s": "600",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_NUM_REDIS_GET_RETRIES": "300",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
for name, value in RAY_PATIENCE.items():
    os.environ.setdefault(name, value)
# Clusters of tests ask for a token, as those of users should, and for one that is not the machine's.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
for name in ("COLUMNS", "NO_COLOR"):  # of the shell that runs the tests: they change what commands print
    os.environ.pop(name, None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "300")
os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "300")
# `ray job stop`, and a run that receives a stop signal, must not kill work that is slow only because the machine is.
os.environ.setdefault("RAY_JOB_STOP_WAIT_TIME_S", "600")

os.environ.setdefault("SAPIENS_RAY_LOGICAL_GPUS", "1")  # tests have clusters with GPUs that do not exist

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class RayCluster:
    """A `ray start --head` with its job server."""

    address: str
    dashboard: str


def start_cluster(
    folder: str, cpus: int = 2, gpus: int = 0, *options: str, port: int | None = None, **variables: str
) -> tuple[subprocess.Popen[bytes], RayCluster]:
    """Start a head node. options: more of them for `ray start`. variables: of its environment."""
    port, dashboard, agent = port or free_port(), free_port(), free_port()
    ray = Path(sys.executable).parent / "ray"
    command = [
        str(ray), "start", "--head", "--block", f"--port={port}", f"--num-cpus={cpus}", f"--num-gpus={gpus}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        f"--temp-dir={folder}",
        "--disable-usage-stats", f"--object-store-memory={2 << 30}", *options,
    ]  # fmt: skip
    log = (Path(folder) / "head.log").open("wb")
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"  # submitted jobs run this environment's python
    env |= variables
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)
    cluster = RayCluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            # The job server refuses jobs that come before its agent is up, which takes ten seconds more.
            for url in (f"{cluster.dashboard}/api/version", f"http://127.0.0.1:{agent}/api/local_raylet_healthz"):
                sent = {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
                urllib.request.urlopen(urllib.request.Request(url, headers=sent), timeout=60).close()
            return process, cluster
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                process.kill()
                raise RuntimeError((Path(folder) / "head.log").read_text()) from None
            time.sleep(0.3)


def stop_cluster(process: subprocess.Popen[bytes]) -> None:
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


@contextlib.contextmanager
def models_held(pid: int | None = None) -> Iterator[None]:
    """Inside the block the models below a process (by default this one) are suspended, so their job cannot end."""
    actors = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::MapWorker"):
                child.suspend()
                actors.append(child)
    try:
        assert actors, "no model is running"
        yield
    finally:
        for actor in actors:
            with contextlib.suppress(psutil.NoSuchProcess):
                actor.resume()


@pytest.fixture(scope="session")
def cluster() -> Iterator[RayCluster]:
    """The cluster that jobs of this session run on, in this process and in commands."""
    with tempfile.TemporaryDirectory(prefix="sr-", ignore_cleanup_errors=True) as folder:
        process, cluster = start_cluster(folder)
        os.environ["RAY_ADDRESS"] = cluster.address
        try:
            yield cluster
        finally:
            import ray

            ray.shutdown()
            os.environ.pop("RAY_ADDRESS", None)
            stop_cluster(process)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmentation model with random weights and the inputs and outputs of Sapiens-Lite's models."""
    from sapiens_ray.models.stand_ins import write_model

    path = tmp_path_factory.mktemp("model") / "seg_random_torchscript.pt2"
    write_model(path)
    return path


@dataclass
class Finished:
    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


Command = Callable[..., Finished]


@pytest.fixture(scope="session")
def sapiens_ray() -> Command:
    """Runs `sapiens-ray ARGUMENTS` as a user would and returns exit code and output."""

    def run(*arguments: object, env: dict[str, str] | None = None, cwd: Path = ROOT) -> Finished:
        executable = Path(sys.executable).parent / "sapiens-ray"
        done = subprocess.run(
            [str(executable), *map(str, arguments)],
            capture_output=True, text=True, timeout=PATIENCE_S, cwd=cwd, env={**os.environ, **(env or {})}, check=False,
        )  # fmt: skip
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def command() -> Command:
    """`sapiens-ray ARGUMENTS` in this process, to test its output: a new process takes seconds to import torch."""
    from sapiens_ray.cli import main

    def call(*arguments: object) -> Finished:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(list(map(str, arguments)))
        return Finished(code, out.getvalue(), err.getvalue())

    return call


WriteJob = Callable[..., Path]


@pytest.fixture
def write_job(tmp_path: Path, model: Path) -> WriteJob:
    """Writes a job file for segmentation; keyword arguments replace its sections."""

    def write(uri: object, name: str = "job", **sections: object) -> Path:
        job = {
            "input": {"uri": uri if isinstance(uri, list) else str(uri)},
            "output": {"uri": str(tmp_path / f"{name}-out")},
            "tasks": [{"task": "seg", "checkpoint": str(model)}],
        }
        for key, value in sections.items():
            job[key] = {**job[key], **value} if isinstance(job.get(key), dict) else value  # type: ignore[dict-item]
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(job))
        return path

    return write


def photo(width: int, height: int, seed: int = 0) -> np.ndarray:
    """An image with regions and detail, H x W x 3 uint8 BGR; differs by seed."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (5, 4, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    noisy: np.ndarray = np.clip(smooth + random.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)
    return noisy


def write_photos(folder: Path, count: int, width: int = 96, height: int = 128) -> list[Path]:
    """Small JPEGs 000.jpg, 001.jpg, ..., all different."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(cv2.imencode(".jpg", photo(width, height, number))[1].tobytes())
    return paths


def read_output(output: Path | str) -> pa.Table:
    """All rows with plain pyarrow, as users of other tools would see them, in file order."""
    import pyarrow.parquet as pq

    files = sorted((Path(output) / "data").glob("*.parquet"))
    assert files, f"no files in {output}/data"
    return pa.concat_tables([pq.read_table(file) for file in files])
