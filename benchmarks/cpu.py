"""Where the CPU time of an image goes: by stage, and what Ray itself takes.

    python benchmarks/cpu.py                                  all tasks at 0.9, 2 and 8 megapixels
    python benchmarks/cpu.py --tasks depth --sizes 0.9 --pictures 1
    python benchmarks/cpu.py --ray                            Ray's own share, with stages that do nothing

By stage: all stages in this process, one after the other, as Ray calls them. Milliseconds of CPU of all threads per
image; `models` is without the model itself, whose time is in brackets.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import against_script
import nothing
import pyarrow as pa

from sapiens_ray.engine.assemble import Contents
from sapiens_ray.engine.engine import Engine
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.execution.attempts import Guard
from sapiens_ray.execution.blocks import WORK, PrepareBlock, ReadBlock, WriteBlock
from sapiens_ray.execution.preflight import open_output, prepare_job, save_job
from sapiens_ray.execution.reading import UnitReader
from sapiens_ray.job.config import Job
from sapiens_ray.output.lock import OutputLock
from sapiens_ray.planning.plan import CUT_ON_CPUS
from sapiens_ray.units import Unit

Answer = TypeVar("Answer")
UNIT = 64
IMAGES = {0.9: 128, 2.0: 64, 8.0: 32}
WARM_UP = 8  # images before the clock starts


@contextlib.contextmanager
def never_tried(what: str) -> Iterator[int]:
    yield 0


class Clock:
    """CPU seconds of this process by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, stage: str, work: Callable[[], Answer]) -> Answer:
        started = time.process_time()
        answer = work()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.process_time() - started
        return answer


def by_stage(task: str, model: Path, photos: Path, out: Path, pictures: float, clock: Clock) -> int:
    """Run the stages on all photos. Returns how many there are."""
    job = Job.parse(against_script.job_of(task, model, photos, out, pictures))
    with OutputLock(open_output(job), lambda line: None) as lock:
        prepared = prepare_job(job)
        prepared.settle_units(UNIT, CUT_ON_CPUS)
        save_job(prepared)
        guard = Guard(prepared.output, never_tried, job.image_timeout_s, job.storage_retry_s)
        extra = prepared.plan.extra_schema
        read = ReadBlock(
            UnitReader(prepared.reading, Contents.of(job), prepared.output, UNIT, CUT_ON_CPUS, extra), guard
        )
        prepare = PrepareBlock(prepared.tasks, job.max_pixels, prepared.visualize.share, guard)
        write = WriteBlock(prepared.tasks, prepared.visualize, True, prepared.schema, lock.run, guard)
        engine = Engine(prepared.models, ModelHost(threads=1))
        for batch in prepared.work():
            for work in batch:
                shard = pa.table({WORK: [work.to_json()]})
                for block in clock.time("read", lambda: list(read(shard))):  # noqa: B023
                    ready = clock.time("prepare", lambda: prepare(block))  # noqa: B023
                    labelled = clock.time("models", lambda: engine(Unit.from_block(ready)).to_block())  # noqa: B023
                    clock.time("write", lambda: write(labelled))  # noqa: B023
        return prepared.expected or 0


def stage_table(tasks: list[str], sizes: list[float], pictures: float) -> None:
    print(f"{'MP':>4} {'task':>10} {'read':>7} {'prepare':>8} {'models':>8} {'(model)':>9} {'write':>7} {'sum':>7}")
    for size in sizes:
        for task in tasks:
            with tempfile.TemporaryDirectory() as name:
                root = Path(name)
                model = root / "models" / f"{task}.pt2"
                model.parent.mkdir()
                against_script.write_model(model, task)
                alone = 1000 * against_script.model_seconds(model, task)
                for number, count in enumerate((WARM_UP, IMAGES[size])):
                    clock = Clock()
                    photos = root / f"photos-{number}"
                    against_script.photos(photos, count, against_script.SIZES[size])
                    images = by_stage(task, model, photos, root / f"out-{number}", pictures, clock)
                each = {stage: 1000 * spent / images for stage, spent in clock.seconds.items()}
                each["models"] -= alone
                print(
                    f"{size:>4} {task:>10} {each['read']:>7.1f} {each['prepare']:>8.1f} {each['models']:>8.1f} "
                    f"{f'({alone:.1f})':>9} {each['write']:>7.1f} {sum(each.values()):>7.1f}",
                    flush=True,
                )


def ray_table() -> None:
    nothing.start_ray()
    network = UNIT * 1024 * 768 * 3
    cases = {"empty blocks": (1, 1, 1), "0.9 MP, seg": (UNIT * 300_000, network, UNIT * 40_000)}
    print(f"{'stages that do nothing':>24} {'CPU ms per unit':>16} {'per image':>10}")
    for name, sizes in cases.items():
        nothing.run(16, sizes)
        few, many = nothing.run(16, sizes).cpu_s, nothing.run(80, sizes).cpu_s
        each = 1000 * (many - few) / 64
        print(f"{name:>24} {each:>16.1f} {each / UNIT:>10.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(against_script.TASKS), choices=against_script.TASKS)
    parser.add_argument("--sizes", nargs="+", type=float, default=list(IMAGES), choices=list(IMAGES))
    parser.add_argument("--pictures", type=float, default=0.01, help="output.visualize.fraction")
    parser.add_argument("--ray", action="store_true", help="only Ray's own share")
    arguments = parser.parse_args()
    if arguments.ray:
        ray_table()
    else:
        stage_table(arguments.tasks, arguments.sizes, arguments.pictures)


if __name__ == "__main__":
    main()
