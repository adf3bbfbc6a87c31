"""How throughput grows with actors: the whole pipeline, with a model that sleeps as long as a GPU would compute.

    python benchmarks/actors.py --images 960 --actors 1 2 4 8 16 --milliseconds 50

Photos of 0.9 megapixels are read, decoded, resized and sent to actors with logical GPUs. The stand-in sleeps for each
unit and returns class maps, which are encoded and written. Above some number of actors the CPUs are the limit; the CPU
time is printed per stage.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
sys.path.insert(0, str(Path(__file__).parent))

import ray
import standing

from sapiens_ray.execution import pipeline
from sapiens_ray.job.config import Job
from sapiens_ray.models.stand_ins import write_model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--milliseconds", type=float, default=100, help="time of the stand-in per image")
    parser.add_argument("--pictures", type=float, default=0.0, help="share of the images that get a picture")
    arguments = parser.parse_args()
    standing.stand_in({"seg": arguments.milliseconds / 1000}, batch=4)
    print(f"{'actors':>6} {'images/s':>9} {'limit':>7} {'share':>6}   CPU ms per image: stages")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        standing.photos(folder / "photos", arguments.images)
        write_model(folder / "model.pt2")
        for actors in arguments.actors:
            ray.init(
                address="local",
                num_gpus=actors,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            job = Job.parse({
                "input": {"uri": str(folder / "photos"), "shard_size": 160},
                "output": {"uri": str(folder / f"out-{actors}"), "visualize": {"fraction": arguments.pictures}},
                "tasks": [{"task": "seg", "checkpoint": str(folder / "model.pt2"), "actors": actors}],
                "unit_size": 16,
            })  # fmt: skip
            first: list[tuple[int, float]] = []
            last: list[tuple[int, float]] = []

            def on_progress(summary: Any, first: Any = first, last: Any = last) -> None:
                if summary.labelled:
                    (last if first else first).append((summary.labelled, time.perf_counter()))

            summary = pipeline.run(job, on_progress=on_progress)
            ray.shutdown()
            rate = (last[-1][0] - first[0][0]) / (last[-1][1] - first[0][1])
            limit = actors * 1000 / arguments.milliseconds
            spent = ", ".join(f"{stage} {1000 * seconds:.1f}" for stage, seconds in summary.stages.items())
            print(f"{actors:>6} {rate:>9.1f} {limit:>7.1f} {100 * rate / limit:>5.0f}%   {spent}", flush=True)


if __name__ == "__main__":
    main()
