"""What `gpu.py` needs beside its measurements: models with random weights, a job, the machine in words, tables."""

from __future__ import annotations

import functools
import gc
import json
import os
import platform
import shlex
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from models import HEADS, LAYERS
from torch.utils.flop_counter import FlopCounterMode

from sapiens_ray.errors import last_line
from sapiens_ray.models.device import empty_cache, out_of_memory
from sapiens_ray.models.sapiens import OTHER_HEAD_WIDTH, SIZES, Sapiens, SapiensArchitecture

TASKS = ("seg", "depth", "pose308", "normal", "features", "pose133", "pose17")  # the important ones first
TINY = {"small": (32, 1)}  # width and layers, for machines without a GPU
TINY_HEAD = 8
WIDTH = 96  # of the tables
Rows = Iterator[tuple[Sequence[str], Callable[[], dict[str, Any]]]]  # names of a row, and what measures the rest of it


def task_options(task: str, checkpoint: Path, mode: str, batch: int) -> dict[str, Any]:
    """The entry of a job file. task: one of TASKS. mode: strict, tf32, bfloat16 or torchscript."""
    options: dict[str, Any] = {"task": task, "checkpoint": str(checkpoint), "batch_size": batch}
    options["mode"] = "bfloat16" if mode == "bfloat16" else "float32"
    options["matmul"] = "tf32" if mode == "tf32" else "strict"
    if task.startswith("pose"):
        options |= {"task": "pose", "keypoints": int(task.removeprefix("pose"))}
    if task in ("depth", "normal"):
        options["mask"] = "none"
    return options


def architecture(task: str, size: str) -> SapiensArchitecture:
    """The architecture of a published model; size "small": of its form, but narrow."""
    kind = "pose" if task.startswith("pose") else task
    width, layers = {**LAYERS, **TINY}[size]
    heads = SIZES[width][1] if width in SIZES else width // OTHER_HEAD_WIDTH
    deconv, conv, channels, head, last = HEADS[kind]
    if size in TINY:
        deconv, conv = (TINY_HEAD,) * len(deconv), (TINY_HEAD,) * len(conv)
    if kind == "pose":
        channels = int(task.removeprefix("pose"))
    return SapiensArchitecture(kind, width, layers, heads, 4 * width, deconv, conv, channels, head, last)


@functools.cache
def floating_point_operations(task: str, size: str) -> int:
    """Of the matrix products and convolutions of one image; a multiplication and an addition are two."""
    about = architecture(task, size)
    with torch.device("meta"), torch.inference_mode():  # shapes without values
        model, image = Sapiens(about).eval(), torch.empty(1, 3, *about.input_size)
        with FlopCounterMode(display=False) as counter:
            model(image)
    return int(counter.get_total_flops())


class Models:
    """Checkpoints in a folder, written when they are first asked for. Only the last few stay there: a 2b model takes
    4.3 GB."""

    KEPT = 4

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device

    def file(self, task: str, size: str, program: bool = False) -> Path:
        """A checkpoint of safetensors with bfloat16 weights, which run in every mode; or a TorchScript program."""
        path = self.folder / f"{task}-{size}{'.pt2' if program else '.safetensors'}"
        if not path.exists():
            files = (one for one in self.folder.iterdir() if one.suffix in (".pt2", ".safetensors"))
            for old in sorted(files, key=lambda one: one.stat().st_mtime)[: -self.KEPT]:
                old.unlink()
            self._write(path, task, size, program)
        return path

    def _write(self, path: Path, task: str, size: str, program: bool) -> None:
        from safetensors.torch import save_file

        torch.manual_seed(0)
        with torch.device(self.device):  # a GPU draws the two billion weights of 2b at once
            model = Sapiens(architecture(task, size)).eval().requires_grad_(False)
        torch.nn.init.normal_(model.backbone.pos_embed, std=0.02)
        if program:
            images = torch.zeros(1, 3, *model.architecture.input_size, device=self.device)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch would rather export, but the published programs are traced
                torch.jit.trace(model, images, check_trace=False).save(str(path))
        else:
            save_file({name: one.to("cpu", torch.bfloat16) for name, one in model.state_dict().items()}, path)
        del model
        empty_cache(self.device)


def head(device: torch.device) -> list[str]:
    """The command, the device, and the versions that matter."""
    lines = ["python " + shlex.join(sys.argv), f"device   {device_name(device)}"]
    versions = f"torch {torch.__version__}, python {platform.python_version()}"
    if device.type == "cuda":
        versions += f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, driver {driver()}"
    return [*lines, f"software {versions}", f"host     {os.cpu_count()} CPU cores, {platform.machine()}"]


def device_name(device: torch.device) -> str:
    if device.type != "cuda":
        return f"CPU, {torch.get_num_threads()} threads: no figure below says anything about a GPU"
    about = torch.cuda.get_device_properties(device)
    return f"{about.name}, {about.total_memory / 2**30:.0f} GiB, sm_{about.major}{about.minor}"


def driver() -> str:
    """The version of NVIDIA's driver, as the kernel module tells it."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
        return next(word for word in words if word.count(".") >= 1 and word[0].isdigit())
    except (OSError, StopIteration):
        return "unknown"


def forget_peak(device: torch.device) -> None:
    """Let `peak_gb` start again. On a CPU the peak of a process cannot be forgotten."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device) -> float:
    """The most memory in GB that tensors took on the GPU; on a CPU, that the process took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e9


class Nvml:
    """The share of time in which the GPU ran anything, by its driver, sampled beside a block."""

    def __init__(self, device: torch.device) -> None:
        self.share: float | None = None
        self.why_not = "" if device.type == "cuda" else "no NVIDIA GPU"
        self._ended = threading.Event()
        self._samples: list[float] = []
        try:
            import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]

            pynvml.nvmlInit()
            self._gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
            self._ask = pynvml.nvmlDeviceGetUtilizationRates
        except Exception as error:
            self.why_not = self.why_not or f"pynvml: {type(error).__name__}: {last_line(error)}"
        self.working = threading.Event()  # samples count from when this is set

    def __enter__(self) -> Nvml:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        if self._samples:
            self.share = sum(self._samples) / len(self._samples) / 100

    def _watch(self) -> None:
        while not self.why_not and not self._ended.wait(0.1):
            if self.working.is_set():
                self._samples.append(float(self._ask(self._gpu).gpu))


def noise(count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Network inputs, h x w x 3 uint8: black ones would be faster than photos are."""
    one = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    return [one] * count


def bytes_of(results: object) -> int:
    if isinstance(results, np.ndarray):
        return results.nbytes
    if isinstance(results, dict):
        results = list(results.values())
    return sum(map(bytes_of, results)) if isinstance(results, list | tuple) else 0


def refuse_errors(errors: Any) -> None:
    found = [str(error) for error in errors if error]
    if found:
        raise RuntimeError(f"{len(found)} errors, such as {found[0]}")


def by_driver(nvml: Nvml) -> dict[str, Any]:
    """The cells of a row that NVML fills."""
    return {"NVML": "-" if nvml.share is None else 100 * nvml.share, "notes": [nvml.why_not] if nvml.why_not else []}


def run_job(raw: dict[str, Any]) -> dict[str, Any]:
    """Run a job on a Ray of its own. Its speed is that since its first unit was done: without the start; None if that
    was less than a second."""
    from sapiens_ray.execution import pipeline
    from sapiens_ray.job.config import Job
    from sapiens_ray.output.summary import Summary

    nvml = Nvml(torch.device(raw["device"]))

    def progress(summary: Summary) -> None:
        if summary.labelled:
            nvml.working.set()

    with nvml:
        summary = pipeline.run(Job.parse(raw), address="local", on_progress=progress)
    refuse_errors(summary.errors)
    busy, waiting = (100 * summary.device[name] for name in ("busy", "waiting_for_input"))
    return {"images/s": summary.rate_now or None, "busy": busy, "waiting": waiting, **by_driver(nvml)}


class Budget:
    """Minutes for everything, of which each section may take a share."""

    def __init__(self, minutes: float | None) -> None:
        self.started = time.monotonic()
        self.seconds = None if minutes is None else 60 * minutes

    def spent(self, share: float) -> bool:
        """Whether more than this share of the time has passed."""
        return self.seconds is not None and time.monotonic() - self.started > share * self.seconds


class Report:
    """Prints tables, a line as soon as it is measured, and keeps them for a file of JSON."""

    def __init__(self, budget: Budget, lines: Sequence[str], path: Path | None) -> None:
        """lines: the head. path: of the file, which always holds what was measured so far."""
        self.budget, self.lines, self.path = budget, lines, path
        print("\n".join(lines), flush=True)
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.skipped: list[str] = []

    def table(
        self,
        name: str,
        about: str,
        columns: Sequence[tuple[str, int]],
        rows: Rows,
        until: float,
    ) -> None:
        """Measure and print the rows of a table.

        about: what it shows. columns: titles and widths; the first ones are those of the names. rows: the names of a
        row and the function that measures its other columns. until: the share of the minutes after which the rest is
        skipped. A row that fails is a line with the reason.
        """
        print(f"\n== {name}: {about}")
        print(" ".join(f"{title:>{width}}" for title, width in columns), flush=True)
        kept = self.tables.setdefault(name, [])
        for names, measure in rows:
            if self.budget.spent(until):
                self.skipped.append(f"{name}: {' '.join(names)}")
                continue
            titles = [title for title, _ in columns]
            row: dict[str, Any] = dict(zip(titles, names, strict=False))
            gc.collect()  # models of the last row
            try:
                row |= measure()
            except Exception as error:
                row["failed"] = "out of memory" if out_of_memory(error) else f"{type(error).__name__}: {reason(error)}"
            kept.append(row)
            cells = [f"{shown(row.get(title, '')):>{width}}" for title, width in columns]
            if "failed" in row:
                cells = [*cells[: len(names)], row["failed"]]
            print(" ".join(cells)[: 2 * WIDTH], flush=True)
            for note in row.get("notes", ()):
                print(f"{'':>8} {note}"[:WIDTH], flush=True)
            self._write()

    def end(self) -> None:
        """Say what was skipped."""
        took = time.monotonic() - self.budget.started
        print(f"\n{took:.0f} s; {len(self.skipped)} rows skipped for lack of time (--minutes)")
        for one in self.skipped:
            print(f"  skipped  {one}")
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            found = {"head": self.lines, "tables": self.tables, "skipped": self.skipped}
            self.path.write_text(json.dumps(found, indent=1))


def reason(error: Exception) -> str:
    return last_line(error)[:120]


def shown(value: object) -> str:
    """A number with three digits that count; other values as they are."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
