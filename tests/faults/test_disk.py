"""Disks that are full, read-only, or different from the disk of temporary files."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sapiens_ray.units import UnitName
from tests.conftest import PATIENCE_S, read_output, write_photos
from tests.faults.test_kill import EXECUTABLE, check_whole

MOUNT = ["unshare", "--map-root-user", "--mount", "sh", "-c"]


def can_mount() -> bool:
    try:
        return subprocess.run([*MOUNT, "mount -t tmpfs none /mnt"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_mount = pytest.mark.skipif(not can_mount(), reason="needs user namespaces and unshare")


def run_in(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a mount namespace of its own."""
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    env["PATH"] = f"{EXECUTABLE.parent}:{env['PATH']}"
    return subprocess.run(
        [*MOUNT, script], capture_output=True, text=True, cwd=cwd, env=env, timeout=PATIENCE_S, check=False
    )


@needs_mount
@pytest.mark.nightly
def test_a_full_disk_ends_the_job_and_the_next_run_completes_it(write_job, tmp_path):
    write_photos(tmp_path / "photos", 60)
    path = write_job(tmp_path / "photos", unit_size=3, input={"shard_size": 20})
    output = tmp_path / "job-out"
    output.mkdir()
    done = run_in(
        f"mount -t tmpfs -o size=300k none {output} && sapiens-ray run {path}; code=$?; "
        f"cp -r {output} {tmp_path}/kept; mount -o remount,size=100m {output}; "
        f"sapiens-ray run {path}; echo first $code second $?; cp -r {output} {tmp_path}/whole",
        tmp_path,
    )
    assert "first 1 second 0" in done.stdout, done.stdout + done.stderr
    message = next(line for line in done.stderr.splitlines() if line.startswith("sapiens-ray:"))
    assert "No space left on device" in message and "run again to continue" in message and len(message) < 500, message
    assert "Traceback" not in done.stderr
    kept = [UnitName.parse(file.name) for file in (tmp_path / "kept" / "data").glob("s*.parquet")]
    for name in kept:
        table = pq.read_table(tmp_path / "kept" / "data" / name.file)
        assert table.num_rows == name.stop - name.start, "a torn file was published"
        assert all((tmp_path / "kept" / one).stat().st_size > 0 for one in table["visualization"].to_pylist())
    check_whole(tmp_path / "whole", 60)
    assert json.loads((tmp_path / "whole" / "summary.json").read_text())["already_done"] >= sum(
        name.stop - name.start for name in kept
    )


@needs_mount
def test_a_read_only_output_is_refused_in_one_line(write_job, tmp_path):
    write_photos(tmp_path / "photos", 2)
    (tmp_path / "ro").mkdir()
    path = write_job(tmp_path / "photos", output={"uri": str(tmp_path / "ro" / "labels")})
    done = run_in(f"mount -t tmpfs -o ro none {tmp_path}/ro && sapiens-ray run {path}", tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"sapiens-ray: output.uri: cannot write to {tmp_path}/ro/labels: OSError")


def test_temporary_files_on_another_file_system(cluster, sapiens_ray, write_job, tmp_path):
    """Renaming across file systems fails, so unfinished files must be on the file system of the output."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    write_photos(tmp_path / "photos", 4)
    path = write_job(tmp_path / "photos", unit_size=2)
    done = sapiens_ray("run", path, env={"TMPDIR": str(shared)})
    assert done.code == 0, done.text
    assert read_output(tmp_path / "job-out").num_rows == 4
    assert not list(shared.glob("sapiens-ray*")) and not list(shared.glob(".tmp-*"))


def test_output_that_is_a_file(cluster, sapiens_ray, write_job, tmp_path):
    write_photos(tmp_path / "photos", 1)
    (tmp_path / "file").write_text("mine")
    done = sapiens_ray("run", write_job(tmp_path / "photos", output={"uri": str(tmp_path / "file")}))
    assert done.code == 2 and "cannot" in done.err and len(done.err.splitlines()) == 1, done.err
    assert (tmp_path / "file").read_text() == "mine"
