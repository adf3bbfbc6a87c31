"""Every command and snippet of the README runs, in the order of the README."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import PATIENCE_S, ROOT


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A checkout in which `make demo` was called, and its output. It uses the venv of this test run."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("Makefile", "configs", "jobs", "sapiens_ray", "pyproject.toml", ".rayignore"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = ["make", "demo", f"VENV={sys.prefix}", f"--old-file={sys.prefix}/installed"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done


def run_block(language: str, code: str, folder: Path, dashboard: str) -> str:
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_API_SERVER_ADDRESS": dashboard,
        "HF_HOME": str(folder / "hf"),
    }
    command = ["bash", "-euc", code] if language == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_make_demo_reports_its_result(demo):
    folder, done = demo
    assert "random weights: their labels mean nothing" in done.stdout
    assert f"{folder}/runs/demo/data/*.parquet" in done.stdout
    assert "5 (5 ok, 0 errors)" in done.stdout
    assert "Deprecat" not in done.stderr
    lines = done.stdout.splitlines()
    command = lines[lines.index("read a row:") + 1]
    read = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "astronaut.jpg" in read.stdout, read.stderr
    assert "RANDOM weights" in done.stderr


def test_the_readme_works_after_the_demo(cluster, demo):
    checkout, _ = demo
    blocks = re.findall(r"```(bash|python)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 8, "a block was added or lost its language"
    printed = [run_block(language, code, checkout, cluster.dashboard) for language, code in blocks]
    assert "5 in 1 shard (list)" in printed[0] and "5 of 5 (100.0 %)" in printed[0]
    assert "5 (5 ok, 0 errors)" in printed[1]
    (on_cluster,) = (checkout / "runs" / "on-cluster" / "data").iterdir()
    columns = set(pq.read_schema(on_cluster).names)
    assert {"seg", "depth", "normal", "persons", "features"} <= columns
    assert printed[2].split("\n")[:2] == ["astronaut.jpg (512, 512)", "(512, 512) (512, 512, 3)"]
    assert "grace_hopper.jpg" in printed[4]
    assert "(512, 512)" in printed[5]
    assert "(512, 512)" in printed[6] and "1 person, 17 keypoints" in printed[6]
    assert "pose308-1b" in printed[7] and "as it is, cast" in printed[7] and "seg_random_bfloat16.pt2" in printed[7]
    assert (checkout / "runs" / "lite" / "seg" / "crops" / "hopper_face_seg.npy").exists()
    exported = ("lite/persons/astronaut.json", "lite/depth/crops/hopper_face.npy", "coco/persons.json", "coco/seg.json")
    for written in (*exported, "masks/seg/grace_hopper.png"):
        assert (checkout / "runs" / written).exists(), written


def test_the_commands_of_the_page_about_the_command_line_work(cluster, demo):
    checkout, _ = demo
    (code,) = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "cli.md").read_text(), re.DOTALL)
    assert run_block("bash", code, checkout, cluster.dashboard) == "5 images\n"
    assert (checkout / "errors.jsonl").read_text() == ""
    assert json.loads((checkout / "result.json").read_text())["event"] == "finished"


def test_the_pictures_of_the_readme_exist():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / "README.md").read_text())
    assert pictures == ["docs/images/cover.png"]
    assert (ROOT / pictures[0]).stat().st_size < 400_000


def test_the_job_of_the_readme_is_valid():
    import yaml

    from sapiens_ray import Job

    text, on_s3 = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    job = Job.parse(yaml.safe_load(text))
    assert job.output.visualize.fraction == 0.01
    stored = Job.parse({**yaml.safe_load(text), **yaml.safe_load(on_s3)})
    assert stored.input.uri == ["s3://bucket/photos/"]


def test_the_error_kinds_in_the_docs_equal_those_in_the_code():
    section = (ROOT / "docs" / "outputs.md").read_text().split("## Kinds of error")[1].split("| --- |")[1]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    source = "".join(path.read_text() for path in (ROOT / "sapiens_ray").rglob("*.py"))
    raised = set(re.findall(r'ImageError\(\s*"(\w+)"', source)) | {"failed"}
    raised |= set(re.findall(r'quarantined\[.*\("(\w+)", ', source))  # kinds of images that kill their worker
    assert documented == raised
