"""`benchmarks/gpu.py --small`: every table and every task, on a machine without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from tests.conftest import PATIENCE_S, ROOT

TASKS = ["seg", "depth", "pose308", "normal", "features", "pose133", "pose17"]


@pytest.mark.nightly
def test_gpu_benchmark_measures_everything_on_any_machine(tmp_path):
    file = tmp_path / "gpu.json"
    command = ["benchmarks/gpu.py", "--small", "--device", "cpu", "--minutes", "60", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines[0] == f"python {' '.join(command)}"
    assert lines[1].startswith("device   CPU, ") and f"torch {torch.__version__}, " in lines[2]
    assert [line.split(":")[0] for line in lines if line.startswith("== ")] == [
        "== ceiling", "== choices", "== equality", "== split", "== job", "== models",
    ]  # fmt: skip
    assert lines[-1].endswith(" s; 0 rows skipped for lack of time (--minutes)")
    assert max(map(len, lines[1:])) <= 100

    found = json.loads(file.read_text())
    tables = found["tables"]
    assert found["skipped"] == [] and found["head"] == lines[: len(found["head"])]
    assert [row for table in tables.values() for row in table if "failed" in row] == []
    for name in ("equality", "split", "models"):
        assert list(dict.fromkeys(row["task"] for row in tables[name])) == TASKS, name

    equality = {(row["task"], row["mode"]): row for row in tables["equality"]}
    for task in TASKS:
        strict = equality[task, "strict"]
        assert (strict["equal %"], strict["mean"], strict["most"]) == (100, 0, 0), "a CPU equals itself"
    assert equality["seg", "tf32"]["equal %"] == 100, "a CPU has no TF32"
    assert 50 < equality["seg", "bfloat16"]["equal %"] < 100 and equality["seg", "bfloat16"]["mean"] > 0

    assert {row["mode"] for row in tables["models"]} == {"bfloat16", "tf32", "strict", "torchscript"}
    for row in tables["models"]:
        assert row["b1"] > 0 and row["b2"] > 0 and row["best"] == max(row["b1"], row["b2"]) and row["GB"] > 0
        assert row["TF/s"] > 0
    assert [row["mode"] for row in tables["ceiling"]] == ["bfloat16", "tf32", "strict"]
    assert all(row["TF/s"] > 0 for row in tables["ceiling"])
    for row in tables["split"]:
        assert all(row[step] > 0 for step in ("copy in", "forward", "reduce", "of it copy", "encode"))
        assert row["of it copy"] < row["forward"]
    assert [(row["photos"], row["by"]) for row in tables["job"]] == [
        ("0.1 MP", "threads"), ("0.1 MP", "Ray"), ("0.3 MP", "threads"),
    ]  # fmt: skip
    for row in tables["job"]:
        assert row["images/s"] > 0 and row["bare"] > 0 and row["share"] == 100 * row["images/s"] / row["bare"]
        assert row["NVML"] == "-" and row["notes"] == ["no NVIDIA GPU"]
    assert 0 < tables["job"][1]["busy"] <= 100
    assert len(tables["choices"]) == 7 and all(row["ours"] > 0 and row["other"] > 0 for row in tables["choices"])


def test_rows_that_fail_or_come_too_late_are_lines(tmp_path):
    """A model that does not load, and no time: neither ends the command."""
    file = tmp_path / "gpu.json"
    arguments = ["--small", "--device", "cpu", "--sections", "models", "--tasks", "seg", "--json", str(file)]
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import gpu, gpu_parts\n"
        "def full(*a, **k): raise RuntimeError('CUDA out of memory. Tried to allocate 8 GiB')\n"
        "gpu_parts.Models.file = full\n"
        "sys.argv = ['gpu.py', *sys.argv[1:]]; gpu.main()"
    )
    for minutes in ("60", "0"):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments, "--minutes", minutes],
            cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        rows = json.loads(file.read_text())
        if minutes == "60":
            failed = [row["failed"] for row in rows["tables"]["models"]]
            assert failed == ["out of memory"] * 4 and done.stdout.count(" none out of memory\n") == 4
        else:
            assert rows["tables"]["models"] == [] and rows["skipped"][0] == "models: seg small bfloat16 none"
            assert "4 rows skipped" in done.stdout and done.stdout.count("  skipped  models: seg small ") == 4
