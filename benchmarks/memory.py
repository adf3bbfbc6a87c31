"""Memory of the driver and of the workers while a job runs, for a small and a large input.

    python benchmarks/memory.py 1000 20000

Small photos run through the whole pipeline, with a stand-in model that returns immediately. The figure is anonymous
memory (RssAnon), without the object store: USS counts its pages for a worker as long as no other process has touched
them. Each line is a run in a separate process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import cv2
import psutil
import standing  # first: it keeps Ray quiet

import ray  # isort: skip

from sapiens_ray.execution import pipeline
from sapiens_ray.job.config import Job
from sapiens_ray.models.stand_ins import write_model


def measure(images: int) -> dict[str, float]:
    """Peak of anonymous memory in MB: of the driver, and of the largest worker of each kind."""
    import numpy as np

    standing.stand_in({"seg": 0.0}, batch=8)
    peaks: dict[str, float] = defaultdict(float)
    ended = threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not ended.wait(1.0):
            for process in [me, *me.children(recursive=True)]:
                try:
                    title = "driver" if process == me else process.cmdline()[0]
                    if title == "driver" or title.startswith("ray::"):
                        peaks[title] = max(peaks[title], anonymous_mb(process.pid))
                except (psutil.Error, IndexError, OSError):
                    continue

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        small = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (96, 72, 3), np.uint8))[1].tobytes()
        (folder / "one.jpg").write_bytes(small)
        for number in range(images):
            (folder / "photos" / f"{number:07d}.jpg").hardlink_to(folder / "one.jpg")
        write_model(folder / "model.pt2")
        job = Job.parse({
            "input": {"uri": str(folder / "photos")},
            "output": {"uri": str(folder / "out"), "visualize": {"fraction": 0}},
            "tasks": [{"task": "seg", "checkpoint": str(folder / "model.pt2")}],
        })  # fmt: skip
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=40)
        threading.Thread(target=watch, daemon=True).start()
        started = time.perf_counter()
        assert pipeline.run(job).images == images
        seconds = time.perf_counter() - started
        ended.set()
        ray.shutdown()
    workers = {title.removeprefix("ray::"): peak for title, peak in peaks.items() if title != "driver"}
    print({title: round(peak) for title, peak in workers.items()}, file=sys.stderr)
    return {"seconds": seconds, "driver": peaks["driver"], "worker": max(workers.values())}


def anonymous_mb(pid: int) -> float:
    """Anonymous memory of a process now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=int, nargs="*", default=[500, 2000])
    parser.add_argument("--by-stage", action="store_true", help="print the peak of every kind of worker")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.images[0])))
        return
    print(f"{'images':>8} {'seconds':>8} {'driver MB':>10} {'largest worker MB':>18}")
    for images in arguments.images:
        command = [sys.executable, __file__, str(images), "--one"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        if arguments.by_stage:
            print(done.stderr.strip().splitlines()[-1])
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"{images:>8} {found['seconds']:>8.1f} {found['driver']:>10.0f} {found['worker']:>18.0f}", flush=True)


if __name__ == "__main__":
    main()
