"""jobs/slurm.sh with real Ray processes: `srun` and `scontrol` are replaced by scripts that do here what Slurm does on
its nodes. So its two nodes are two raylets on this machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import PATIENCE_S, ROOT, models_held, read_output, write_photos

SCRIPT = ROOT / "jobs" / "slurm.sh"
SRUN = """#!/bin/bash
echo "$*" >> "$FAKE_SLURM/srun"
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
case "$1 $2" in
  "show hostnames") printf '%s\\n' node-1 node-2 ;;
  requeue*) echo "$2" > "$FAKE_SLURM/requeued" ;;
  *) exit 1 ;;
esac
"""
# In place of what takes long: two nodes that never join, and whose Ray writes files.
RAY = """#!/bin/bash
mkdir -p "/tmp/ray-$SLURM_JOB_ID"
echo "$*" >> "$FAKE_SLURM/ray"
exec sleep 3600
"""
PYTHON = """#!/bin/bash
touch "$FAKE_SLURM/joining"
exec sleep 3600
"""
HOSTNAME = """#!/bin/bash
case $1 in --ip-address) echo 127.0.1.1 ::1 ;; *) echo "$FAKE_ADDRESSES" ;; esac
"""


class Slurm:
    """Starts the script as Slurm would. folder: of what its commands were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = secrets.token_hex(8)  # in the environment of all processes of the allocation
        tools = folder / "bin"
        tools.mkdir()
        self.put(srun=SRUN, scontrol=SCONTROL)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_A")}
        self.env = {
            **kept,
            "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "FAKE_SLURM": str(folder),
            "FAKE_SLURM_MARK": self.mark,
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "node-[1-2]",
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_MEM_PER_NODE": "1000",
        }

    def put(self, **tools: str) -> None:
        """Replace commands by scripts."""
        for name, text in tools.items():
            (self.folder / "bin" / name).write_text(text)
            (self.folder / "bin" / name).chmod(stat.S_IRWXU)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        command = ["bash", str(SCRIPT), *map(str, arguments)]
        return subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *arguments: object) -> tuple[int, str]:
        process = self.start(*arguments)
        text, _ = process.communicate(timeout=PATIENCE_S)
        return process.returncode, text

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("FAKE_SLURM_MARK") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def left(self) -> list[str]:
        """The processes that are still there, after those that are about to end had time for it."""
        _, alive = psutil.wait_procs(self.processes(), timeout=60)
        return [" ".join(process.cmdline()) for process in alive]


@pytest.fixture
def slurm(tmp_path):
    slurm = Slurm(tmp_path)
    try:
        yield slurm
    finally:
        for process in slurm.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def test_without_a_job_file_it_says_how_to_call_it(slurm):
    assert slurm.run() == (2, "usage: sbatch jobs/slurm.sh JOB.yaml [OPTIONS of sapiens-ray run]\n")


def test_a_notice_while_nodes_join_is_taken(slurm, tmp_path):
    """The job is put back at once, and nothing stays on the nodes. Ray gets an address that other nodes reach, and its
    share of the memory of the job."""
    slurm.put(ray=RAY, python=PYTHON, hostname=HOSTNAME)
    del slurm.env["SLURM_MEM_PER_NODE"]
    slurm.env |= {"FAKE_ADDRESSES": "192.0.2.7 fd00::2", "SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_PER_TASK": "2"}
    process = slurm.start("job.yaml")
    end = time.monotonic() + PATIENCE_S
    rays = tmp_path / "ray"
    while not ((tmp_path / "joining").exists() and rays.exists() and rays.read_text().count("\n") == 2):
        assert time.monotonic() < end and process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    place = Path(f"/tmp/ray-{slurm.env['SLURM_JOB_ID']}")
    assert place.is_dir()
    process.send_signal(signal.SIGUSR1)
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143 and "requeued to continue" in text, text
    assert (tmp_path / "requeued").exists() and slurm.left() == [] and not place.exists()
    port = 20000 + int(slurm.env["SLURM_JOB_ID"]) % 4000 * 10
    head, worker = sorted(rays.read_text().splitlines(), key=lambda line: "--head" not in line)
    assert "--node-ip-address=192.0.2.7 " in head and f"--address=192.0.2.7:{port} " in worker
    assert all(f"--object-store-memory={1000 * 1024 * 1024 * 3 // 10} " in line for line in (head, worker))


def test_a_node_without_an_address_is_said_to_have_none(slurm):
    slurm.put(hostname=HOSTNAME)
    slurm.env["FAKE_ADDRESSES"] = "127.0.0.1 fd00::2"
    code, text = slurm.run("job.yaml")
    assert code == 1 and text.startswith("node-1 has no IPv4 address that other nodes reach")


@pytest.mark.nightly
def test_a_job_runs_on_the_nodes_of_the_allocation(slurm, write_job, tmp_path):
    write_photos(tmp_path / "photos", 12)
    code, text = slurm.run(write_job(tmp_path / "photos", unit_size=2, input={"shard_size": 4}), "--quiet")
    assert code == 0, text
    assert "2 of 2 nodes have joined the cluster at " in text and "done; 12 images (12 ok, 0 errors)" in text
    assert read_output(tmp_path / "job-out")["image_id"].to_pylist() == [f"{number:03d}.jpg" for number in range(12)]
    assert slurm.left() == [] and not (tmp_path / "requeued").exists()
    asked = re.findall(r"--nodelist=(\S+)", (tmp_path / "srun").read_text())
    assert sorted(asked) == ["node-1", "node-1", "node-2"]
    assert not Path(f"/tmp/ray-{os.getpid()}").exists()


@pytest.mark.nightly
def test_before_the_time_limit_it_is_requeued_and_continues(slurm, write_job, tmp_path):
    write_photos(tmp_path / "photos", 60)
    job = write_job(tmp_path / "photos", unit_size=2, input={"shard_size": 20})
    process = slurm.start(job)
    end = time.monotonic() + PATIENCE_S
    while not list((tmp_path / "job-out" / "data").glob("s*.parquet")):
        assert time.monotonic() < end and process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    with models_held(process.pid):  # so that the run does not end by itself
        process.send_signal(signal.SIGUSR1)
        text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143 and "requeued to continue" in text, text
    assert (tmp_path / "requeued").read_text() == f"{os.getpid()}\n" and slurm.left() == []
    rows = read_output(tmp_path / "job-out").num_rows
    code, text = slurm.run(job, "--quiet")
    assert code == 0 and 0 < rows < 60, text
    assert read_output(tmp_path / "job-out")["image_id"].to_pylist() == [f"{number:03d}.jpg" for number in range(60)]
