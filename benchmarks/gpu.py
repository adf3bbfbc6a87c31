"""All that is worth knowing about this package on a GPU, in one command.

    python benchmarks/gpu.py                                         ten minutes, the most important rows first
    python benchmarks/gpu.py --minutes 60 --json gpu.json            more rows, and a file of them
    python benchmarks/gpu.py --sections models --tasks seg --sizes 1b --modes bfloat16 --batches 1 2 4 8 16 32 64
    python benchmarks/gpu.py --small                                 all of it with tiny models, on any machine

Models have the architecture of the published ones, and seeded random weights; nothing is downloaded.
docs/performance.md says what each table means.
"""

from __future__ import annotations

import argparse
import collections
import functools
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("SAPIENS_RAY_LOGICAL_GPUS", "")  # `standing` would allow GPUs that do not exist
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
sys.path.insert(0, str(Path(__file__).parent))

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from gpu_labels import difference
from gpu_options import MODES, SECTIONS, parsed
from gpu_parts import (
    Budget,
    Models,
    Nvml,
    Report,
    Rows,
    architecture,
    by_driver,
    bytes_of,
    floating_point_operations,
    forget_peak,
    head,
    noise,
    peak_gb,
    refuse_errors,
    run_job,
    task_options,
)

import sapiens_ray
from sapiens_ray.engine.host import DEFAULT_BATCH, ModelHost
from sapiens_ray.engine.loaded import LoadedModel
from sapiens_ray.engine.models import resolve_models
from sapiens_ray.engine.runner import Runner
from sapiens_ray.errors import ImageError
from sapiens_ray.job.config import Job
from sapiens_ray.labeler import Labeler
from sapiens_ray.models.compiling import CompileCache
from sapiens_ray.models.device import Lane, choose_device, empty_cache, float32_products
from sapiens_ray.tasks.argmax import upsampled_argmax

LONGEST_PASS_S = 2.0
SAMPLES = Path(sapiens_ray.__file__).parent / "samples"


class Bench:
    """The measurements; a method for each table."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, device: torch.device) -> None:
        self.asked, self.folder, self.device = arguments, folder, device
        self.models = Models(folder, device)
        self.lane = Lane(device)
        self.task, self.size = arguments.tasks[0], arguments.sizes[0]
        self.batch = min(arguments.batches, key=lambda size: abs(size - DEFAULT_BATCH["cuda"]))

    # -- what a batch costs ------------------------------------------------------------------------------------------

    def spared(self, task: str, special: bool) -> bool:
        """Whether --small leaves this out: what is special is tried with the first task alone."""
        return bool(self.asked.small and special and task != self.task)

    def input_size(self, task: str) -> tuple[int, int]:
        return architecture(task, self.size).input_size

    def runner(self, task: str, size: str, mode: str, batch: int) -> Runner:
        options = task_options(task, self.models.file(task, size, mode == "torchscript"), mode, batch)
        path = Path(options["checkpoint"])
        return Runner(path, self.device.type, batch, mode=options["mode"], matmul=options["matmul"])

    def seconds(self, call: Callable[[], object]) -> float:
        """Time of one call, by the device's own clock, when it is warm: the mean over `--seconds`."""
        for _ in range(2 if self.asked.seconds else 1):  # TorchScript still compiles in the second call
            call()
        once = self.span(call, 1)
        count = min(200, int(self.asked.seconds / max(once, 1e-6)))
        return self.span(call, count) / count if count > 1 else once

    def span(self, call: Callable[[], object], count: int) -> float:
        start = self.lane.moment()
        for _ in range(count):
            call()
        return self.lane.seconds(start, self.lane.moment())

    def images_per_s(self, runner: Runner, task: str, batch: int) -> float | None:
        """The model alone, on inputs that are on the device; None if a batch does not fit into memory."""
        runner.batch_size = batch
        images = runner.lane.upload(noise(batch, self.input_size(task)))
        seconds = self.seconds(lambda: collections.deque(runner(images), maxlen=0))
        return batch / seconds if runner.batch_size == batch else None

    def model_row(self, task: str, size: str, mode: str, compiling: str) -> dict[str, Any]:
        # Compiled code is for one size of a batch, and takes long to make.
        batches = [self.batch] if compiling != "none" else self.asked.batches
        runner = self.runner(task, size, mode, batches[0])
        row: dict[str, Any] = {"peaks": {}}
        for batch in batches:
            forget_peak(self.device)
            runner.batch_size = batch
            if compiling != "none":
                runner.warm_up(*self.input_size(task), compiling, CompileCache(f"{task}-{size}", None))
            speed = self.images_per_s(runner, task, batch)
            if speed is None:
                row[f"b{batch}"] = "memory"  # ran out; larger batches would, too
                break
            row |= {f"b{batch}": speed}
            row["peaks"][f"b{batch}"] = peak_gb(self.device)
            if speed >= row.get("best", 0.0):
                rate = speed * floating_point_operations(task, size) / 1e12
                row |= {"best": speed, "GB": row["peaks"][f"b{batch}"], "TF/s": rate}
            if self.asked.seconds and 2 * batch / speed > LONGEST_PASS_S:
                break  # the device is long full, and larger batches would only take the time of other rows
        row["notes"] = [note for note in runner.take_notes() if "batches of" not in note]
        return row

    def model_rows(self) -> Rows:
        """Those first that differ least from an uncompiled model in bfloat16 of the first task."""
        asked = self.asked
        cases: list[tuple[int, int, tuple[str, str, str, str]]] = []
        for case in itertools.product(asked.sizes, asked.tasks, asked.modes, asked.compile):
            size, task, mode, compiling = case
            compiled = compiling != "none"
            if (compiled and mode == "torchscript") or self.spared(task, mode != asked.modes[0]):
                continue  # a program runs as it is
            rank = MODES.index(mode) + 2 * compiled + min(2, asked.tasks.index(task))
            cases.append((rank, len(cases), case))
        for *_, (size, task, mode, compiling) in sorted(cases):
            yield (task, size, mode, compiling), functools.partial(self.model_row, task, size, mode, compiling)

    def ceiling_row(self, mode: str) -> dict[str, Any]:
        """The rate of one large matrix product, which no model exceeds."""
        side = 512 if self.asked.small else 8192
        dtype = torch.bfloat16 if mode == "bfloat16" else torch.float32
        torch.manual_seed(0)
        one, other = (torch.randn(side, side, device=self.device, dtype=dtype) for _ in range(2))
        with torch.inference_mode(), float32_products("tf32" if mode == "tf32" else "strict"):
            return {"TF/s": 2 * side**3 / self.seconds(lambda: one @ other) / 1e12}

    def ceiling_rows(self) -> Rows:
        for mode in self.asked.modes:
            if mode != "torchscript":
                yield (mode,), functools.partial(self.ceiling_row, mode)

    # -- one batch, step by step -------------------------------------------------------------------------------------

    def loaded(self, task: str, mode: str, batch: int) -> LoadedModel:
        options = task_options(task, self.models.file(task, self.size), mode, batch)
        job = Job.parse({"input": {"uri": "-"}, "output": {"uri": "-"}, "tasks": [options]})
        (model,) = resolve_models(job)
        loaded = model.load(ModelHost(self.device.type))
        loaded.warm_up()
        return loaded

    def split_row(self, task: str, photo: tuple[int, int]) -> dict[str, Any]:
        batch = self.batch
        model = self.loaded(task, self.asked.modes[0], batch)
        inputs = noise(batch, self.input_size(task))
        steps = [self.steps(model, inputs, photo) for _ in range(self.asked.repeat + 1)][1:]  # the first one warms up
        row = {name: 1000 * statistics.median(step[name] for step in steps) for name in steps[0]}
        return {**row, "batch": str(batch)}

    def steps(self, model: LoadedModel, inputs: list[np.ndarray], photo: tuple[int, int]) -> dict[str, float]:
        """Seconds of each step of a batch, one after the other; in a job they overlap."""
        lane, clock = model.lane, time.perf_counter
        began = clock()
        staged = model.stage(inputs)  # waits for its copy
        copied = clock() - began
        started = lane.moment()
        pieces = list(model.forward(staged))
        ended = lane.moment()
        forward = lane.seconds(started, ended)
        if len(pieces) > 1:
            raise torch.cuda.OutOfMemoryError("out of memory")
        output = pieces[0][2]
        with lane.beside(ended, output):
            started = lane.moment()
            results = model.reduce(output, [photo] * len(inputs))
            reduce = lane.seconds(started, lane.moment())
            back = torch.zeros(max(1, bytes_of(results)), dtype=torch.uint8, device=lane.device)
            started = lane.moment()
            back.cpu()
            home = lane.seconds(started, lane.moment())
        if any(isinstance(result, ImageError) for result in results):
            raise ValueError("the output of the random model is not finite")
        began = clock()
        for result in results:
            model.finish([result], {"width": photo[0], "height": photo[1]})
        encode = clock() - began
        return {"copy in": copied, "forward": forward, "reduce": reduce, "of it copy": home, "encode": encode}

    def split_rows(self) -> Rows:
        for (name, photo), task in itertools.product(self.asked.photos.items(), self.asked.tasks):
            if not self.spared(task, photo != next(iter(self.asked.photos.values()))):
                yield (task, name), functools.partial(self.split_row, task, photo)

    # -- the whole job -----------------------------------------------------------------------------------------------

    @functools.cached_property
    def bare(self) -> float:
        """Images per second of the job's model, alone."""
        speed = self.images_per_s(
            self.runner(self.task, self.size, self.asked.modes[0], self.batch), self.task, self.batch
        )
        if speed is None:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return speed

    def photos(self, name: str, count: int) -> Path:
        import standing

        folder = self.folder / f"{name} {count}" / "photos"
        if not folder.exists():
            folder.parent.mkdir()
            standing.photos(folder, count, *self.asked.photos[name])
        return folder

    def job_options(self) -> dict[str, Any]:
        mode = self.asked.modes[0]
        return task_options(self.task, self.models.file(self.task, self.size, mode == "torchscript"), mode, self.batch)

    def threads_row(self, name: str) -> dict[str, Any]:
        """The engine in this process, called from threads that also decode: a job without Ray."""
        bare = self.bare
        labeler = Labeler(tasks=[self.job_options()], device=self.device.type)
        paths = sorted(map(str, self.photos(name, self.asked.images).iterdir()))
        parts = [paths[start : start + 16] for start in range(0, len(paths), 16)]
        labeler(parts[0], decode=False)
        nvml = Nvml(self.device)
        nvml.working.set()
        with nvml, ThreadPoolExecutor(max(4, (os.cpu_count() or 4) // 2)) as threads:
            began = time.perf_counter()
            rows = [row for part in threads.map(lambda part: labeler(part, decode=False), parts) for row in part]
            speed = len(rows) / (time.perf_counter() - began)
        refuse_errors(row["error"] for row in rows)
        return {"images/s": speed, "bare": bare, "share": 100 * speed / bare, **by_driver(nvml)}

    def ray_row(self, name: str) -> dict[str, Any]:
        """A job as `sapiens-ray run` runs it, in a process of its own, since Ray ends its driver if it fails."""
        bare = self.bare
        empty_cache(self.device)  # for the actor
        job = {
            "input": {"uri": str(self.photos(name, self.asked.images))},
            "output": {"uri": tempfile.mkdtemp(dir=self.folder), "visualize": {"fraction": 0}},
            "device": self.device.type, "tasks": [self.job_options()],
        }  # fmt: skip
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            row = process.submit(run_job, job).result()
        speed = row["images/s"]
        return {**row, "bare": bare, "share": 100 * speed / bare if speed else None}

    def job_rows(self) -> Rows:
        for name in self.asked.photos:
            yield (self.task, name, "threads"), functools.partial(self.threads_row, name)
            if name != "0.3 MP":  # with --small one start of Ray is enough
                yield (self.task, name, "Ray"), functools.partial(self.ray_row, name)

    # -- the same labels as on a CPU ---------------------------------------------------------------------------------

    def labels(self, task: str, mode: str, device: str) -> list[dict[str, Any]]:
        options = task_options(task, self.models.file(task, self.size), mode, 1)
        rows = Labeler(tasks=[options], device=device)([SAMPLES / name for name in self.asked.samples])
        refuse_errors(row["error"] for row in rows)
        return rows

    def equality_rows(self) -> Rows:
        on_cpu = functools.cache(functools.partial(self.labels, mode="strict", device="cpu"))
        for task, mode in itertools.product(self.asked.tasks, self.asked.modes):
            if mode == "torchscript" or self.spared(task, mode != "strict"):
                continue  # a program has the weights and products of strict
            yield (
                (task, mode),
                lambda task=task, mode=mode: difference(  # type: ignore[misc]
                    task, on_cpu(task), self.labels(task, mode, self.device.type)
                ),
            )

    # -- choices that were made without a GPU ------------------------------------------------------------------------

    def choice(self, ours: Callable[[], object], other: Callable[[], object]) -> dict[str, Any]:
        """Milliseconds of what the package does and of what it could do."""
        now, then = 1000 * self.seconds(ours), 1000 * self.seconds(other)
        return {"ours": now, "other": then, "ratio": then / now}

    def head_row(self, mode: str) -> dict[str, Any]:
        ours, other = (self.runner(self.task, self.size, mode, self.batch) for _ in range(2))
        weights = [one for one in other.loaded.native.parameters() if one.ndim == 4] if other.loaded.native else []
        last = mode == "strict" and self.device.type == "cuda"  # where ours is torch's order
        order = torch.channels_last if last else torch.contiguous_format
        for one in weights:
            one.data = one.data.to(memory_format=order) if last else one.data.clone(memory_format=order)
        images = self.lane.upload(noise(self.batch, self.input_size(self.task)))
        return self.choice(lambda: list(ours(images)), lambda: list(other(images)))

    def attention_row(self, dtype: torch.dtype) -> dict[str, Any]:
        tokens = 256 if self.asked.small else 3072
        torch.manual_seed(0)
        q, k, v = (torch.randn(1, 32, tokens, 60, device=self.device, dtype=dtype) for _ in range(3))

        def padded() -> torch.Tensor:
            wide_q, wide_k, wide_v = (F.pad(one, (0, 4)) for one in (q, k, v))
            return F.scaled_dot_product_attention(wide_q, wide_k, wide_v, scale=60**-0.5)[..., :60]

        with torch.inference_mode():
            return self.choice(lambda: F.scaled_dot_product_attention(q, k, v), padded)

    def argmax_row(self, photo: tuple[int, int]) -> dict[str, Any]:
        coarse = torch.randn(1, 28, 16, 12, generator=torch.Generator().manual_seed(0)).to(self.device)
        logits = F.interpolate(coarse, (512, 384), mode="bicubic")[0]
        plain = self.device.type != "cpu"  # what ours is
        width, height = photo
        with torch.inference_mode():
            return self.choice(
                lambda: upsampled_argmax(logits, height, width),
                lambda: upsampled_argmax(logits, height, width, everything=not plain),
            )

    def choice_rows(self) -> Rows:
        for mode in ("bfloat16", "tf32", "strict"):
            yield (f"head, {mode}: order as ours | the other",), functools.partial(self.head_row, mode)
        for dtype in (torch.bfloat16, torch.float32):
            name = str(dtype).removeprefix("torch.")
            yield (f"attention of 2b, {name}: torch's | padded",), functools.partial(self.attention_row, dtype)
        for name, photo in self.asked.photos.items():
            yield (f"arg-max at {name}: as ours | the other",), functools.partial(self.argmax_row, photo)


def main() -> None:
    asked = parsed((__doc__ or "").splitlines()[0])
    cv2.setNumThreads(1)  # as in the processes of a job
    device = choose_device(asked.device)
    report = Report(Budget(asked.minutes), head(device), asked.json)
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        os.environ["SAPIENS_RAY_CACHE"] = str(Path(name) / "cache")  # nothing compiled is there yet
        bench = Bench(asked, Path(name), device)
        of = f"{bench.size}, batches of {bench.batch}"
        tables: dict[str, tuple[str, list[tuple[str, int]], Rows]] = {
            "ceiling": (
                "a large matrix product, TFLOP/s", [("mode", 9), ("TF/s", 8)], bench.ceiling_rows(),
            ),
            "choices": (
                f"milliseconds of ours and of the other way; {of}",
                [("choice", 46), ("ours", 9), ("other", 9), ("ratio", 7)], bench.choice_rows(),
            ),
            "equality": (
                f"labels against those of this machine's CPU in strict float32; {bench.size}, batches of 1",
                [("task", 9), ("mode", 9), ("equal %", 8), ("mean", 9), ("most", 9), ("differs by", 16)],
                bench.equality_rows(),
            ),
            "split": (
                f"one batch step by step, ms (encode: one thread); {asked.modes[0]}, {bench.size}",
                [("task", 9), ("photos", 7), ("batch", 6), ("copy in", 8), ("forward", 9), ("reduce", 8),
                 ("of it copy", 11), ("encode", 8)], bench.split_rows(),
            ),
            "job": (
                f"{asked.images} photos, no pictures, against the bare model; {asked.modes[0]}, {of}",
                [("task", 9), ("photos", 7), ("by", 8), ("images/s", 9), ("bare", 8), ("share", 7), ("busy", 6),
                 ("waiting", 8), ("NVML", 6)], bench.job_rows(),
            ),
            "models": (
                "images/s of the model alone, by batch size; GB and TFLOP/s at the best one",
                [("task", 8), ("size", 5), ("mode", 11), ("compile", 7), *((f"b{one}", 6) for one in asked.batches),
                 ("GB", 6), ("TF/s", 6)], bench.model_rows(),
            ),
        }  # fmt: skip
        chosen = {section: until for section, until in SECTIONS.items() if section in asked.sections}
        for section, until in chosen.items():
            report.table(section, *tables[section], until / max(chosen.values()))
        report.end()


if __name__ == "__main__":
    main()
