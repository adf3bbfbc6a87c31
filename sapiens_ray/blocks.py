"""The stages as Ray Data calls them: on blocks of one row, guarded against images that kill or stop their worker.

What the stages do is in `stages.py` and `inference.py`.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sapiens_ray import stages, watchdog
from sapiens_ray.attempts import DRAW, guarded
from sapiens_ray.coordinator import Attempt, work_of
from sapiens_ray.errors import CheckpointError, ImageError, JobFailed
from sapiens_ray.plan import Shard
from sapiens_ray.retries import set_patience
from sapiens_ray.sink import write_unit
from sapiens_ray.sources import Done
from sapiens_ray.storage import Folder
from sapiens_ray.tasks import Task
from sapiens_ray.units import Unit
from sapiens_ray.uris import shown

DEATHS_WHILE_READING = 5


@dataclass(frozen=True)
class Guard:
    """What a stage runs under: see `attempts.guarded` and `retries`."""

    output: Folder
    attempt: Attempt
    timeout_s: float
    patience_s: float

    def settle(self) -> None:
        """Settle what concerns this whole process."""
        import cv2

        cv2.setNumThreads(1)  # one task a core; more threads would only fight
        set_patience(self.patience_s)

    def __call__(
        self,
        unit: Unit,
        stage: str,
        work: Callable[[Unit], Unit],
        then: Callable[[Unit], pa.Table] = Unit.to_block,
        instead: Callable[[Unit], Unit] | None = None,
    ) -> pa.Table:
        return guarded(unit, stage, work, then, self.output, self.attempt, self.timeout_s, instead)


def shard_blocks(block: pa.Table, coordinator: Any) -> Iterator[pa.Table]:
    for work in work_of(coordinator):
        yield pa.table({"work": [json.dumps(work)]})


def read_block(
    block: pa.Table, settings: Any, unit_size: int, extra: pa.Schema, wanted: stages.Wanted, guard: Guard
) -> Iterator[pa.Table]:
    guard.settle()
    work = json.loads(block["work"][0].as_py())
    shard = Shard(**work["shard"])
    done = Done(tuple((start, stop) for start, stop in work["ranges"]), work["total"])
    condemned = {index: ImageError(kind, why) for index, kind, why in work["condemned"]}
    with guard.attempt(f"shard {shard.number}") as earlier:
        if earlier > DEATHS_WHILE_READING:
            raise JobFailed(
                f"the worker died {earlier} times while it read {shown(shard.uri)}: memory ran out, or what is in it "
                "crashes the reader; what is written stays, take it out of the input or run again to go on"
            )
        units = stages.read_units(shard, done, settings, guard.output, unit_size, extra, wanted, condemned)
        while True:
            # Not round the yield, where Ray Data may hold this task back for as long as it likes.
            with watchdog.watch(guard.timeout_s + guard.patience_s, lambda index: os.kill(os.getpid(), signal.SIGKILL)):
                unit = next(units, None)
                block = None if unit is None else unit.to_block()
            if block is None:
                return
            yield block


def prepare_block(block: pa.Table, tasks: list[Task], max_pixels: int, guard: Guard) -> pa.Table:
    guard.settle()
    unit = Unit.from_block(block)
    return guard(unit, "prepare", lambda part: stages.prepare(part, tasks, max_pixels))


class ModelBlock:
    """An actor of a pool. A checkpoint that is wrong ends the job at the first unit: Ray Data would take an exception
    in a constructor for a loss, and try other actors first."""

    def __init__(self, guard: Guard, stage: Callable[..., Any], what: Any, *args: Any) -> None:
        guard.settle()
        self.guard = guard
        self.name = what.column
        self.wrong: CheckpointError | None = None
        try:
            self.model = stage(what, *args)
        except CheckpointError as error:
            self.wrong = error

    def __call__(self, block: pa.Table) -> pa.Table:
        if self.wrong:
            raise self.wrong
        return self.guard(Unit.from_block(block), self.name, self.model)


def write_block(
    block: pa.Table, tasks: list[Task], visualize: Any, unique_ids: bool, schema: pa.Schema, run: str, guard: Guard
) -> pa.Table:
    guard.settle()
    pictures: list[stages.Picture] = []

    def draw(part: Unit) -> Unit:
        part, drawn = stages.draw(part, tasks, visualize, unique_ids)
        pictures.extend(drawn)
        return part

    def undrawn(part: Unit) -> Unit:
        return stages.draw(part, tasks, visualize.model_copy(update={"fraction": 0.0}))[0]

    def write(unit: Unit) -> pa.Table:
        return pa.table({"report": [json.dumps(write_unit(unit, pictures, schema, guard.output, run))]})

    return guard(Unit.from_block(block), DRAW, draw, write, undrawn)
