"""Does the device wait? Jobs with stand-ins that hold it for a given time, against the time that they hold it.

    python benchmarks/engine.py                                   one model, 100 ms per batch of 4
    python benchmarks/engine.py --milliseconds 20 20 20 20 20     five models in one job
    python benchmarks/engine.py --milliseconds 60 10 10 10 10 --gpus 4
    python benchmarks/engine.py --trace trace.json                what each thread of an actor does, and when

The figure is the slope between two jobs of different size, from their first label on: neither the start nor the end
count. It is the share of the time in which the device was held. Photos of 0.9 megapixels by default, no pictures.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
sys.path.insert(0, str(Path(__file__).parent))

import ray
import standing
import timeline

from sapiens_ray.execution import pipeline
from sapiens_ray.execution.cluster import keeping_workers
from sapiens_ray.job.config import Job
from sapiens_ray.models.stand_ins import write_model
from sapiens_ray.output.summary import Summary

SHARD = 64  # images: the files of a shard are merged while the next ones are labelled, as in a job of many shards
LEAST_S = 5.0  # of work between the two jobs: less, and the time that their starts differ by is in the slope
TASKS = ("depth", "normal", "seg", "features", "depth2")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, nargs=2, default=[64, 256], metavar="N")
    parser.add_argument("--milliseconds", type=float, nargs="+", default=[25.0], help="of each model, per image")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--gpus", type=int, default=0, help="logical GPUs; 0: one actor on the CPU")
    parser.add_argument("--unit", type=int, default=16)
    parser.add_argument("--photo", type=int, nargs=2, default=[1280, 720], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a timeline for https://ui.perfetto.dev")
    arguments = parser.parse_args()
    columns = TASKS[: len(arguments.milliseconds)]
    seconds = {column: each / 1000 for column, each in zip(columns, arguments.milliseconds, strict=True)}
    traces = tempfile.mkdtemp() if arguments.trace else ""
    standing.stand_in(seconds, arguments.batch, traces)
    bound = sum(seconds.values()) / max(1, arguments.gpus)
    print(f"{'images':>12} {'ms per image':>13} {'bound':>7} {'share':>7}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model.pt2")
        counts = [16, *arguments.images]  # the first job is slower: it warms everything up
        for number, count in enumerate(counts):
            (folder / str(number)).mkdir()
            standing.photos(folder / str(number) / "photos", count, *arguments.photo)
        with keeping_workers():
            ray.init(
                address="local", num_gpus=arguments.gpus, include_dashboard=False, log_to_driver=False,
                logging_level=logging.ERROR,
            )  # fmt: skip
        for again in range(arguments.repeat):
            spent = []
            for number, count in enumerate(counts):
                job = job_of(columns, folder, number, again, arguments)
                first: list[tuple[float, int]] = []

                def note(summary: Summary, first: Any = first) -> None:
                    if summary.labelled and not first:
                        first.append((time.perf_counter(), summary.labelled))

                summary = pipeline.run(job, on_progress=note)
                spent.append((time.perf_counter() - first[0][0], count - first[0][1]))
                fill = summary.device["models"]
                stages = ", ".join(f"{name} {use['batch_fill']:.3f} full" for name, use in fill.items()) + "; "
                busy, waiting = summary.device["busy"], summary.device["waiting_for_input"]
                stages += f"{100 * busy:.0f} % busy, {100 * waiting:.0f} % waiting for input; "
                stages += ", ".join(f"{stage} {1000 * each:.1f}" for stage, each in summary.stages.items())
            few, many = arguments.images
            each = (spent[2][0] - spent[1][0]) / (spent[2][1] - spent[1][1])
            share = f"{100 * bound / each:.1f}%"
            if bound * (many - few) < LEAST_S:
                stages = f"(less than {LEAST_S:g} s between the two jobs: noise of the start) {stages}"
            print(f"{few:>5} to {many:>4} {1000 * each:>12.1f} {1000 * bound:>7.1f} {share:>7}   {stages}", flush=True)
    if arguments.trace:
        for line in timeline.gaps(timeline.write(Path(traces), arguments.trace)):
            print(line)
        shutil.rmtree(traces)


def job_of(columns: tuple[str, ...], folder: Path, number: int, again: int, arguments: argparse.Namespace) -> Job:
    tasks = [
        {
            "task": column.rstrip("2"),
            "name": column,
            "checkpoint": str(folder / "model.pt2"),
            "batch_size": arguments.batch,
        }
        for column in columns
    ]
    for task in tasks:
        if task["task"] in ("depth", "normal"):
            task["mask"] = "none"
    return Job.parse({
        "input": {"uri": str(folder / str(number) / "photos"), "shard_size": SHARD},
        "output": {"uri": str(folder / f"out-{number}-{again}"), "visualize": {"fraction": 0}},
        "tasks": tasks, "unit_size": arguments.unit,
    })  # fmt: skip


if __name__ == "__main__":
    main()
