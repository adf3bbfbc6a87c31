"""The stages as Ray Data calls them: on blocks of one row, guarded against images that kill or stop their worker.

The work of the stages is in `engine/`, in `execution/reading.py` and in `output/writing.py`.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from sapiens_ray.engine.draw import draw
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.engine.models import PreparedModel
from sapiens_ray.engine.prepare import keep_for_pictures, prepare
from sapiens_ray.errors import ConfigError, DeviceFailedError, JobError, SapiensRayError
from sapiens_ray.execution.attempts import DRAW, Guard, end_process
from sapiens_ray.execution.coordinator import CoordinatorHandle, DeviceReports, tell_start, work_of
from sapiens_ray.execution.reading import UnitReader
from sapiens_ray.execution.worker import use_huge_pages
from sapiens_ray.output.writing import write_unit
from sapiens_ray.planning.plan import ShardWork
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.tasks import AnyTask
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.units import Picture, Unit, UnitReport

DEATHS_WHILE_READING = 5
# Python's default is 5 ms: the thread of the device would wait for so long whenever another one computes.
SWITCH_S = 0.0005
WORK, REPORT = "work", "report"  # columns of the first and the last kind of block


def feed_blocks(block: pa.Table, coordinator: CoordinatorHandle) -> Iterator[pa.Table]:
    """One block per shard, as the coordinator receives them."""
    for work in work_of(coordinator):
        yield pa.table({WORK: [work]})


@dataclass(frozen=True)
class ReadBlock:
    """Stage read: a shard to blocks of one unit each."""

    reader: UnitReader
    guard: Guard

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        guard = self.guard
        guard.settle_task()
        work = ShardWork.from_json(block[WORK][0].as_py())
        with guard.attempt(f"shard {work.shard.number}") as earlier:
            if earlier > DEATHS_WHILE_READING:
                raise JobError(
                    f"the worker died {earlier} times while it read {redact_uri(work.shard.uri)}: memory ran out, or "
                    "its content crashes the reader; everything written is kept; remove it from the input, or run "
                    "again to continue"
                )
            units = self.reader.units(work)
            while True:
                # Not around the yield: there Ray Data may pause this task for any time.
                with guard.without_images():
                    unit = next(units, None)
                    made = None if unit is None else unit.to_block()
                if made is None:
                    return
                yield made


@dataclass(frozen=True)
class PrepareBlock:
    """Stage prepare: encoded images to network inputs."""

    tasks: list[AnyTask]
    max_pixels: int
    pictures: float  # the share of the images that get one
    guard: Guard

    def __call__(self, block: pa.Table) -> pa.Table:
        self.guard.settle_task()
        unit = Unit.from_block(block)
        return self.guard.run(unit, "prepare", self._prepared, Unit.to_block)

    def _prepared(self, unit: Unit) -> Unit:
        return keep_for_pictures(prepare(unit, self.tasks, self.max_pixels), self.pictures)


class ModelsBlock:
    """An actor of a pool: an engine with the models of the pool. Several threads call it, each with a unit.

    A wrong checkpoint, or a GPU that is broken or not there, is an error of the first unit. An exception in the
    constructor would not end the job: Ray Data would treat it as a lost actor, and try others first.
    """

    def __init__(
        self, models: Sequence[PreparedModel], host: ModelHost, guard: Guard, name: str, coordinator: CoordinatorHandle
    ) -> None:
        use_huge_pages()
        from sapiens_ray.engine.engine import Engine  # imports torch, which the driver does without
        from sapiens_ray.models.device import NoDeviceError, device_failed

        guard.settle_process()
        sys.setswitchinterval(SWITCH_S)
        self.guard = guard
        self.name = name
        tell_start(coordinator)
        self.reports = DeviceReports(coordinator)
        self.failing = threading.Lock()
        self.load_error: SapiensRayError | None = None
        try:
            self.reports.refuse_if_broken()
            self.engine = Engine(models, host, self._device_failed)
        except NoDeviceError as error:
            self.load_error = self.reports.missing(error)
        except (ConfigError, DeviceFailedError) as error:
            self.load_error = error
        except Exception as error:
            if device_failed(error):
                self.reports.failed(error, starting=True)
                end_process(error)
            raise
        gc.collect()
        gc.freeze()  # Python's lock is held while it looks at all objects: with torch loaded, for 0.1 s and more

    def _device_failed(self, error: Exception) -> None:
        """Called by several threads, if one error of the device shows in each: it counts once."""
        with self.failing:
            self.reports.failed(error, answered=self.engine.answered)
            end_process(error)

    def __call__(self, block: pa.Table) -> pa.Table:
        if self.load_error:
            raise self.load_error
        return self.guard.run(Unit.from_block(block), self.name, self.engine, Unit.to_block)


@dataclass(frozen=True)
class WriteBlock:
    """Stage write: finished units to files. The returned block holds the report.

    unique_ids: False if ids come from a column of the input, where they may repeat. run: the run that must hold the
    lock of the output.
    """

    tasks: list[AnyTask]
    visualize: Visualize
    unique_ids: bool
    schema: pa.Schema
    run: str
    guard: Guard

    def __call__(self, block: pa.Table) -> pa.Table:
        self.guard.settle_task()
        pictures: list[Picture] = []

        def drawn(part: Unit) -> Unit:
            part, made = draw(part, self.tasks, self.visualize, self.unique_ids)
            pictures.extend(made)
            return part

        def undrawn(part: Unit) -> Unit:
            none = self.visualize.model_copy(update={"fraction": 0.0})
            return draw(part, self.tasks, none, self.unique_ids)[0]

        def written(unit: Unit) -> UnitReport:
            return write_unit(unit, pictures, self.schema, self.guard.output, self.run)

        report = self.guard.run(Unit.from_block(block), DRAW, drawn, written, undrawn)
        return pa.table({REPORT: [report.to_json()]})
