"""Throughput with an object store that responds with a delay, relative to one without delay.

    python benchmarks/latency.py --images 400 --milliseconds 0 50

The store is a real S3 server (moto) behind a proxy that waits before each response. All delays are measured in one run,
so the ratio is fair. A stand-in replaces the model, and takes as long as a GPU would.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

sys.path.insert(0, str(Path(__file__).parent.parent))

import standing

from sapiens_ray.execution import pipeline
from sapiens_ray.job.config import Job
from sapiens_ray.models.stand_ins import write_model
from tests.s3_server import s3_server


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--milliseconds", type=float, nargs="+", default=[0, 50])
    parser.add_argument("--model", type=float, default=60, help="milliseconds of the stand-in per image")
    arguments = parser.parse_args()
    standing.stand_in({"seg": arguments.model / 1000}, batch=8)
    print(f"{'latency':>8} {'images/s':>9} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as name, s3_server() as s3:
        folder = Path(name)
        standing.photos(folder / "photos", arguments.images)
        write_model(folder / "model.pt2")
        direct = s3.direct
        direct.mkdir("bucket")
        direct.put(str(folder / "photos"), "bucket/photos", recursive=True)
        first_rate = 0.0
        for latency in arguments.milliseconds:
            s3.clean()
            s3.latency = latency / 1000
            ray.init(address="local", num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level=40)
            job = Job.parse({
                "input": {"uri": "s3://bucket/photos/", "shard_size": 100, "storage_options": s3.options},
                "output": {"uri": f"s3://bucket/out-{latency}", "storage_options": s3.options},
                "tasks": [{"task": "seg", "checkpoint": str(folder / "model.pt2")}],
                "unit_size": 16,
            })  # fmt: skip
            times: list[tuple[int, float]] = []

            def on_progress(summary: Any, times: Any = times) -> None:
                if summary.labelled and (not times or times[-1][0] < summary.labelled):
                    times.append((summary.labelled, time.perf_counter()))

            pipeline.run(job, on_progress=on_progress)
            ray.shutdown()
            rate = (times[-1][0] - times[0][0]) / (times[-1][1] - times[0][1])
            first_rate = first_rate or rate
            print(f"{latency:>5.0f} ms {rate:>9.2f} {rate / first_rate:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
