"""Compiled models: fixed shapes, a cache for other processes and nodes, machines without a compiler."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import torch

from sapiens_ray.engine.runner import Runner
from sapiens_ray.storage import Folder
from tests.conftest import PATIENCE_S
from tests.small_models import small, write

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

RUN = """
import json, sys, time
import numpy as np, torch
from pathlib import Path
from sapiens_ray.models.compiling import CompileCache
from sapiens_ray.engine.runner import Runner
from sapiens_ray.storage import Folder
path, shared, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
runner = Runner(Path(path), "cpu", 3, 2, mode="bfloat16")
runner.warm_up(1024, 768, "default", CompileCache("model", Folder(shared, options) if shared else None))
photos = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 1024, 768, 3), np.uint8))
with torch.compiler.set_stance("fail_on_recompile"):  # also for the last batch, which has one image
    found = torch.cat([output for _, _, output in runner(photos)])
eager = Runner(Path(path), "cpu", 3, 2, mode="bfloat16")
wanted = torch.cat([output for _, _, output in eager(photos)])
error = ((found - wanted).square().mean().sqrt() / wanted.std()).item()
print(json.dumps({"notes": runner.take_notes(), "error": error, "shape": list(found.shape)}))
"""


def run(path: Path, shared: str, cache: Path, options: dict | None = None, **env: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path), shared, json.dumps(options or {})],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        env={**os.environ, "SAPIENS_RAY_CACHE": str(cache), **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.nightly
@needs_compiler
def test_code_is_compiled_once_and_found_by_other_nodes(tmp_path):
    path = write(tmp_path / "model.pth", small("depth", layers=1), "pth")
    shared = tmp_path / "shared"
    first = run(path, str(shared), tmp_path / "node1")
    (archive,) = shared.glob("*.zip")
    assert len(first["notes"]) == 1 and first["notes"][0].startswith("compiled in ")
    assert first["notes"][0].endswith(f"kept in {archive}")
    assert first["shape"] == [4, 1, 1024, 768] and first["error"] < 0.03
    # Another node finds the archive.
    second = run(path, str(shared), tmp_path / "node2")
    assert second["notes"][0].startswith(f"compiled code from {archive} ready in "), second
    assert second["error"] < 0.03


@needs_compiler
def test_a_compiler_that_fails_leaves_an_eager_model(tmp_path):
    path = write(tmp_path / "model.pth", small("depth", layers=1), "pth")
    broken = tmp_path / "broken-g++"
    broken.write_text("#!/bin/sh\necho no such instruction >&2\nexit 1\n")
    broken.chmod(0o755)
    seen = run(path, "", tmp_path / "cache", CXX=str(broken))
    assert seen["notes"][0].startswith("compiling failed, runs eagerly: ") and len(seen["notes"]) == 1
    assert seen["error"] == 0


def test_as_many_batch_sizes_as_needed_are_compiled(monkeypatch):
    """torch stops compiling a function, with a line in a log, when it has code for eight shapes."""
    from sapiens_ray.models.compiling import compile_native

    class Part(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch + 1

        def compile(self, *, mode: str, dynamic: bool) -> None:  # as torch does, without its slow compiler
            super().compile(backend=graph, dynamic=dynamic)

    def graph(module: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        shapes.append(1)
        return module

    shapes: list[int] = []
    parts = [Part(), Part()]
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    compile_native(SimpleNamespace(compiled_parts=lambda: parts), "default")  # type: ignore[arg-type]
    for size in range(2, 14):
        for part in parts:
            part(torch.zeros(size))
    assert len(shapes) == 12
    torch._dynamo.reset()


def test_programs_that_run_as_they_are_are_not_compiled(tmp_path, model):
    from sapiens_ray.models.compiling import CompileCache

    runner = Runner(model, "cpu", 2)
    runner.warm_up(1024, 768, "default", CompileCache("x", None))
    assert runner.take_notes() == ["not compiled: a torchscript program runs as it is in mode float32"]


def test_a_program_of_one_batch_size_gets_full_batches(tmp_path):
    native = small("seg", layers=1)
    program = torch.export.export(native, (torch.zeros(4, 3, 1024, 768),))
    torch.export.save(program, tmp_path / "x.pt2")

    class Foreign(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.avg_pool2d(batch, 2)

    torch.export.save(torch.export.export(Foreign(), (torch.zeros(4, 3, 8, 8),)), tmp_path / "foreign.pt2")
    runner = Runner(tmp_path / "foreign.pt2", "cpu", 1)
    photos = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8))
    spans = [(start, stop, output) for start, stop, output in runner(photos)]
    assert [(start, stop, len(output)) for start, stop, output in spans] == [(0, 4, 4), (4, 6, 2)]
    wanted = Foreign()(runner.lane.normalize(photos, runner._mean, runner._std))
    assert torch.equal(torch.cat([output for _, _, output in spans]), wanted)
    # For a Sapiens model the weights are used, not the program.
    assert Runner(tmp_path / "x.pt2", "cpu", 1).loaded.batch is None


ENTER = """
import os, sys, time
from pathlib import Path
from sapiens_ray.models.compiling import CompileCache
host, name, signals = sys.argv[1], sys.argv[2], Path(sys.argv[3])
print("asks", flush=True)
with CompileCache("model", None, host).entered(["a"]) as start:
    kernel = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "kernel.so"
    found = kernel.exists()
    if not found:
        kernel.parent.mkdir(parents=True)
        kernel.write_text(name)
    (signals / f"{name} is inside").touch()
    while not (signals / f"{name} may go").exists():
        time.sleep(0.02)
print(name, "found" if found else "made", start.line, flush=True)
"""


def test_processes_of_a_node_wait_for_each_other_and_nodes_with_one_home_do_not(tmp_path):
    cache, signals = tmp_path / "cache", tmp_path / "signals"
    signals.mkdir()

    def enter(host: str, name: str) -> subprocess.Popen[str]:
        started = subprocess.Popen(
            [sys.executable, "-c", ENTER, host, name, str(signals)], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "SAPIENS_RAY_CACHE": str(cache)},
        )  # fmt: skip
        assert started.stdout is not None and started.stdout.readline() == "asks\n"
        return started

    def until_inside(name: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not (signals / f"{name} is inside").exists():
            assert time.monotonic() < end, name
            time.sleep(0.02)

    def said(process: subprocess.Popen[str]) -> str:
        return process.communicate(timeout=PATIENCE_S)[0]

    first = enter("one", "first")
    until_inside("first")
    second, other = enter("one", "second"), enter("two", "other")
    try:
        until_inside("other")  # while the first process of node one has the lock of that node
        assert not (signals / "second is inside").exists()
        for name in ("second", "first"):
            (signals / f"{name} may go").touch()
        assert said(first).startswith("first made compiled in ")
        until_inside("second")
        assert said(second).startswith("second found compiled code from ")
        (signals / "other may go").touch()
        assert said(other).startswith("other made compiled in ")
    finally:
        for process in (first, second, other):
            process.kill()
    (entry,) = [path for path in (cache / "compiled").iterdir() if path.is_dir()]
    assert (entry / "inductor" / "kernel.so").read_text() == "first", "the code of the faster node stays, whole"


def test_code_that_a_killed_process_left_is_completed(tmp_path, monkeypatch):
    from sapiens_ray.models.compiling import CompileCache

    monkeypatch.setenv("SAPIENS_RAY_CACHE", str(tmp_path))
    cache = CompileCache("model", None, "one")
    with pytest.raises(ZeroDivisionError), cache.entered(["a"]):
        kernel = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "kernel.so"
        kernel.parent.mkdir(parents=True)
        kernel.touch()
        raise ZeroDivisionError
    (left,) = [path for path in (tmp_path / "compiled").iterdir() if path.is_dir()]
    published = left.with_name(left.name.removesuffix(".one"))
    (published / "of an earlier version").mkdir(parents=True)  # which compiled here, and was killed
    with cache.entered(["a"]):
        assert (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "kernel.so").exists()
    assert (published / "inductor" / "kernel.so").exists() and not left.exists()


def test_the_compile_cache_works_on_any_storage(tmp_path):
    """A missing archive, or one that cannot be written, is not an error."""
    from sapiens_ray.models.compiling import CompileCache

    os.environ["SAPIENS_RAY_CACHE"], before = str(tmp_path / "node"), os.environ.get("SAPIENS_RAY_CACHE")
    kept = {name: os.environ.get(name) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")}
    try:
        cache = CompileCache("model", Folder("memory://kept", {}))
        with cache.entered(["a"]) as start:
            (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "x").mkdir(parents=True)
            (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "x" / "code.so").write_bytes(b"code")
        assert "kept in memory://kept/" in start.line
        os.environ["SAPIENS_RAY_CACHE"] = str(tmp_path / "other")
        with cache.entered(["a"]) as start:
            assert (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "x" / "code.so").read_bytes() == b"code"
        assert start.line.startswith("compiled code from memory://kept/")
        os.environ["SAPIENS_RAY_CACHE"] = str(tmp_path / "third")
        fs = fsspec.filesystem("memory")
        (archive,) = fs.glob("/kept/*.zip")
        fs.pipe_file(archive, b"PK broken")
        with cache.entered(["a"]) as start:  # a broken archive is reported and replaced
            Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).mkdir(parents=True)
            (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "code.so").write_bytes(b"code")
        assert start.line.startswith("compiled in ") and "cannot be used: BadZipFile" in start.line
        assert zipfile.is_zipfile(fs.open(archive))
        with cache.entered(["b"]) as start:
            assert not Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).exists(), "another kind of machine, other code"
        (tmp_path / "file").write_text("")
        with CompileCache("model", Folder(str(tmp_path / "file"), {})).entered(["a2"]) as start:
            Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).mkdir(parents=True)
            (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "code.so").write_bytes(b"code")
        assert "cannot keep it in" in start.line
    finally:
        for name, value in {"SAPIENS_RAY_CACHE": before, **kept}.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
