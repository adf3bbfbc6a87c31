"""What Ray takes for units that are not worked on: CPU time, and memory of the driver.

    python benchmarks/nothing.py 5000 20000        memory of the driver, and units per second
    python benchmarks/cpu.py --ray                 CPU time per unit

The dataset is that of a job, with stages that only make blocks of a given size.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import psutil
import pyarrow as pa

from sapiens_ray.execution import pipeline, stages
from sapiens_ray.execution.blocks import REPORT, feed_blocks
from sapiens_ray.execution.coordinator import start_coordinator
from sapiens_ray.execution.placement import ActorPool
from sapiens_ray.execution.stages import StageSpec

SHARDS = 4
WARM_UP = 100  # units


@dataclass(frozen=True)
class Spent:
    """seconds: from the first unit to the last. cpu_s: of all processes. driver_mb: anonymous memory at the end."""

    seconds: float
    cpu_s: float
    driver_mb: float


def start_ray() -> None:
    from sapiens_ray.execution import cluster

    cluster.start_ray()


def payload(size: int) -> pa.Table:
    """A block of one row of so many bytes, as a unit is."""
    return pa.table({"unit": pa.array([bytes(size)], pa.large_binary())})


class ReadNothing:
    """Stage read: makes units."""

    def __init__(self, units: int, size: int) -> None:
        self.units, self.size = units, size

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        for _ in range(self.units):
            yield payload(self.size)


class PassOn:
    """Stage prepare, or an actor: takes a unit, gives one of another size."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, block: pa.Table) -> pa.Table:
        return payload(self.size)


def report_nothing(block: pa.Table) -> pa.Table:
    return pa.table({REPORT: ["{}"]})


def run(units: int, sizes: tuple[int, int, int] = (1, 1, 1)) -> Spent:
    """Run a dataset of this many units. sizes: bytes of a unit when it is read, prepared and labelled."""
    import ray

    coordinator = start_coordinator()
    pool = ActorPool("models", (), 1, 1, 1, 0.0, 0.25, "cpu", 1, 1)

    def specs(*_: Any) -> list[StageSpec]:
        return [
            StageSpec("feed", partial(feed_blocks, coordinator=coordinator), stages.FEED_CPUS, tasks_at_a_time=1),
            StageSpec("read", ReadNothing(units // SHARDS, sizes[0]), 0.25, tasks_at_a_time=SHARDS),
            StageSpec("prepare", PassOn(sizes[1]), 0.25),
            StageSpec("models", PassOn, 0.25, pool, (sizes[2],)),
            StageSpec("write", report_nothing, 0.25),
        ]

    pipeline.job_stages = specs  # type: ignore[assignment, attr-defined]
    ray.get(coordinator.offer.remote(0, ["{}"] * SHARDS, True))
    before, started = used_by_all(), 0.0
    prepared: Any = None
    reports = 0
    with pipeline.settings_of_ray_data():
        dataset = pipeline.build_dataset(prepared, prepared, coordinator, "")
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            started = started or time.perf_counter()
            reports += len(block)
        spent = Spent(time.perf_counter() - started, used_by_all() - before, driver_mb())
    assert reports == units, reports
    return spent


def used_by_all() -> float:
    """CPU seconds so far of this process and those below it."""
    me = psutil.Process()
    spent = 0.0
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            spent += times.user + times.system + times.children_user + times.children_system
    return spent


def driver_mb() -> float:
    """Anonymous memory of this process."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("units", type=int, nargs="*", default=[5000, 20000])
    arguments = parser.parse_args()
    start_ray()
    run(WARM_UP)
    print(f"{'units':>8} {'units/s':>8} {'driver MB':>10} {'more MB per million units':>26}")
    before = None
    for units in arguments.units:
        spent = run(units)
        more = f"{1e6 * (spent.driver_mb - before[1]) / (units - before[0]):.0f}" if before else ""
        print(f"{units:>8} {units / spent.seconds:>8.1f} {spent.driver_mb:>10.0f} {more:>26}", flush=True)
        before = units, spent.driver_mb


if __name__ == "__main__":
    main()
