"""torch.compile, paid for once: what it makes is kept, and later actors, jobs and machines of the same kind load it.

The unit of compilation is a layer of the encoder, compiled once for all layers, and the head. That takes a fraction
of the time that the whole network takes, and the code is as fast.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock

from sapiens_ray.errors import first_line
from sapiens_ray.models.architectures import NativeModel
from sapiens_ray.models.checkpoint import cache_folder
from sapiens_ray.models.environment import environment
from sapiens_ray.storage import Folder

# The graphs of CUDA hand out their own memory as output, which the next batch overwrites while the last is reduced.
_INDUCTOR_MODES = {"default": "default", "max-autotune": "max-autotune-no-cudagraphs"}
_COMPLETE = "complete"


def no_compiler(device: torch.device) -> str | None:
    """Why nothing can be compiled for a device on this node; None if it can."""
    node = f"on node {os.uname().nodename}"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return f"triton is not installed {node}"
    variable, names = ("CC", ["gcc", "clang", "cc"]) if device.type == "cuda" else ("CXX", ["g++", "clang++"])
    wanted = [os.environ[variable]] if os.environ.get(variable) else names
    if not any(shutil.which(name.split()[0]) for name in wanted):
        return f"no C++ compiler ({' or '.join(wanted)}) {node}"
    return None


def compile_native(model: NativeModel, compiling: str) -> None:
    """Have the model's parts compiled when they first run; the shape of the batch is part of the code."""
    for part in model.compiled_parts():
        part.compile(mode=_INDUCTOR_MODES[compiling], dynamic=False)


def run_eagerly(model: NativeModel) -> None:
    """Undo `compile_native`."""
    for part in model.compiled_parts():
        part._compiled_call_impl = None


@dataclass
class Start:
    """How compiled code came about, for the log."""

    line: str = ""


class CompileCache:
    """Compiled code of one model: a folder on this node, and an archive where all nodes find it.

    Code in it is run: whoever may write there may run programs on the nodes.
    """

    def __init__(self, model: str, shared: Folder | None) -> None:
        """model: SHA-256 of the checkpoint. shared: where archives are kept; without it they stay on the node."""
        self.model, self.shared = model, shared

    @contextlib.contextmanager
    def entered(self, kind: Sequence[str]) -> Iterator[Start]:
        """Compile inside: with what is kept for this model, this torch and this `kind` of machine, mode and batch.

        One process of a node at a time; the others then find what it made. What is new afterwards is kept. The
        line of the yielded Start says in the end what happened, and how long it took.
        """
        key = hashlib.sha256("\0".join([self.model, torch.__version__, *kind]).encode()).hexdigest()[:32]
        local = cache_folder() / "compiled" / key
        local.mkdir(parents=True, exist_ok=True)
        start, began = Start(), time.perf_counter()
        with FileLock(local.with_suffix(".lock")):
            there = f"{local}" if (local / _COMPLETE).exists() else None
            problem = ""
            if there is None and self.shared is not None:
                there, problem = self._fetched(key, local)
            before = _files(local)
            folders = {"TORCHINDUCTOR_CACHE_DIR": str(local / "inductor"), "TRITON_CACHE_DIR": str(local / "triton")}
            with environment(folders):
                yield start
            seconds = time.perf_counter() - began
            new = there is None or _files(local) != before
            kept: Path | str = local
            if self.shared is not None:
                try:
                    # What this node compiled for an earlier job may not be there yet.
                    if new or not self.shared.exists(f"{key}.zip"):
                        self.shared.write(f"{key}.zip", _packed(local))
                    kept = self.shared.join(f"{key}.zip")
                except Exception as error:  # the job goes on without
                    problem += f"; cannot keep it in {self.shared.uri}: {type(error).__name__}: {first_line(error)}"
            if new:
                start.line = f"compiled in {seconds:.1f} s, kept in {kept}{problem}"
            else:
                start.line = f"compiled code of {there} ready in {seconds:.1f} s{problem}"
            (local / _COMPLETE).touch()

    def _fetched(self, key: str, local: Path) -> tuple[str | None, str]:
        """Unpack the archive of other nodes. Returns where it was, or None and why it is of no use."""
        assert self.shared is not None
        name = f"{key}.zip"
        try:
            if not self.shared.exists(name):
                return None, ""
            with zipfile.ZipFile(io.BytesIO(self.shared.read(name))) as archive:
                archive.extractall(local)  # keeps to the folder, whatever the names in it
        except Exception as error:
            return None, f"; {self.shared.join(name)} is of no use: {type(error).__name__}: {first_line(error)}"
        return self.shared.join(name), ""


def _files(folder: Path) -> set[str]:
    """The files of a cache that matter: not locks, nor what is being written."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if path.suffix not in (".lock", ".tmp") and path.name != _COMPLETE}


def _packed(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(_files(folder)):
            archive.write(folder / name, name)
    return buffer.getvalue()
