"""torch.compile with a cache: later actors, jobs and machines of the same kind load the compiled code.

One layer of the encoder is compiled for all layers, and the head separately. That takes a fraction of the time that
compiling the whole network takes, and the code is as fast.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import platform
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

# CUDA graphs return outputs in their own memory, which the next batch would overwrite while the last is reduced.
_INDUCTOR_MODES = {"default": "default", "max-autotune": "max-autotune-no-cudagraphs"}
_COMPLETE = "complete"
_SHAPES = 64  # batch sizes of all models of a process, tried ones and halved ones included


def no_compiler(device: torch.device) -> str | None:
    """The reason why this node cannot compile for a device; None if it can."""
    node = f"on node {os.uname().nodename}"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return f"triton is not installed {node}"
    variable, names = ("CC", ["gcc", "clang", "cc"]) if device.type == "cuda" else ("CXX", ["g++", "clang++"])
    wanted = [os.environ[variable]] if os.environ.get(variable) else names
    if not any(shutil.which(name.split()[0]) for name in wanted):
        return f"no C++ compiler ({' or '.join(wanted)}) {node}"
    return None


def compile_native(model: NativeModel, compiling: str) -> None:
    """Compile the model's parts when they first run. The code is specific to the shape of the batch."""
    # torch counts shapes by function, and all models of a process share theirs. After too many it would run eagerly.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SHAPES)
    for part in model.compiled_parts():
        part.compile(mode=_INDUCTOR_MODES[compiling], dynamic=False)


def run_eagerly(model: NativeModel) -> None:
    """Undo `compile_native`."""
    for part in model.compiled_parts():
        part._compiled_call_impl = None


@dataclass
class Start:
    """Whether code was compiled or loaded, as a line for the log."""

    line: str = ""


class CompileCache:
    """Compiled code of one model: a folder on this node, and an archive that all nodes can read.

    The code in it is executed: anybody with write access to it can run programs on the nodes.
    """

    def __init__(self, model: str, shared: Folder | None, host: str | None = None) -> None:
        """model: SHA-256 of the checkpoint. shared: where archives are kept; None: code stays on this node. host: the
        name of this node, which other nodes with the same home folder do not have."""
        self.model, self.shared = model, shared
        self.host = host or platform.node()

    @contextlib.contextmanager
    def entered(self, kind: Sequence[str]) -> Iterator[Start]:
        """Compile inside the block, with the code that is kept for this model, torch version and `kind` (machine, mode
        and batch).

        Only one process per node compiles at a time; the others then load its code. Nodes that share a home folder do
        not wait for each other: each compiles in a folder of its own, and the first that is ready publishes it. New
        code is kept when the block ends. Afterwards the line of the yielded Start says what happened, and how long it
        took.
        """
        key = hashlib.sha256("\0".join([self.model, torch.__version__, *kind]).encode()).hexdigest()[:32]
        published = cache_folder() / "compiled" / key
        own = published.with_name(f"{key}.{self.host}")  # what a killed process left in it is used
        published.parent.mkdir(parents=True, exist_ok=True)
        start, started = Start(), time.perf_counter()
        with FileLock(own.with_name(f"{own.name}.lock")):
            there = f"{published}" if (published / _COMPLETE).exists() else None
            local = published if there else own
            local.mkdir(exist_ok=True)
            problem = ""
            if there is None and self.shared is not None:
                there, problem = self._fetched(key, local)
            before = _files(local)
            folders = {"TORCHINDUCTOR_CACHE_DIR": str(local / "inductor"), "TRITON_CACHE_DIR": str(local / "triton")}
            with environment(folders):
                yield start
            seconds = time.perf_counter() - started
            new = there is None or _files(local) != before
            kept: Path | str = published
            if self.shared is not None:
                try:
                    # Code that this node compiled for an earlier job may not be in the shared cache yet.
                    if new or not self.shared.exists(f"{key}.zip"):
                        self.shared.write(f"{key}.zip", _packed(local))
                    kept = self.shared.join(f"{key}.zip")
                except Exception as error:  # the job continues without it
                    problem += f"; cannot keep it in {self.shared.uri}: {type(error).__name__}: {first_line(error)}"
            if new:
                start.line = f"compiled in {seconds:.1f} s, kept in {kept}{problem}"
            else:
                start.line = f"compiled code from {there} ready in {seconds:.1f} s{problem}"
            if local != published:
                _publish(local, published)

    def _fetched(self, key: str, local: Path) -> tuple[str | None, str]:
        """Unpack the shared archive. Returns its URI, or None and why it cannot be used (empty if it is missing)."""
        assert self.shared is not None
        name = f"{key}.zip"
        try:
            if not self.shared.exists(name):
                return None, ""
            with zipfile.ZipFile(io.BytesIO(self.shared.read(name))) as archive:
                archive.extractall(local)  # stays inside the folder, whatever the names in the archive
        except Exception as error:
            return None, f"; {self.shared.join(name)} cannot be used: {type(error).__name__}: {first_line(error)}"
        return self.shared.join(name), ""


def _publish(folder: Path, published: Path) -> None:
    """Give a complete folder its final name, in one step. If another node was faster, its code stays."""
    (folder / _COMPLETE).touch()
    if published.exists() and not (published / _COMPLETE).exists():
        shutil.rmtree(published)  # an earlier version of this package was killed while it compiled there
    try:
        folder.rename(published)
    except OSError:
        if not (published / _COMPLETE).exists():
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _files(folder: Path) -> set[str]:
    """The relevant files of a cache: no locks and no temporary files."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if path.suffix not in (".lock", ".tmp") and path.name != _COMPLETE}


def _packed(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(_files(folder)):
            archive.write(folder / name, name)
    return buffer.getvalue()
