"""Finds images that kill their worker, makes them error rows (quarantine), and labels the other images of the unit.

A dead worker cannot report at which image it died. So a stage reports to the coordinator which unit it starts. A unit
that was started before but not finished is processed image by image, and before each image a record is written to
`attempts/` in the output. The image at which the worker dies repeatedly is the cause; it becomes an error row. The
records outlive the job: the next run does not try a quarantined image again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeVar

from sapiens_ray.engine import watchdog
from sapiens_ray.errors import JobError, last_line
from sapiens_ray.execution.worker import keep_freed_memory, let_models_go_first
from sapiens_ray.output.layout import attempts_file, attempts_of
from sapiens_ray.storage import Folder
from sapiens_ray.storage.retries import LOGGED, Teller, set_retry_deadline, set_teller
from sapiens_ray.tasks.sections import Settings
from sapiens_ray.units import Errors, Unit, UnitName, join_units, set_errors, split_unit

Answer = TypeVar("Answer")
Work = Callable[[Unit], Unit]
# Starts an attempt at the work with this name; yields how many earlier attempts were not finished.
Attempt = Callable[[str], AbstractContextManager[int]]

DRAW = "draw"  # the optional stage: an image that cannot be drawn keeps its labels
DEATHS_AT_AN_IMAGE = 3  # with no other image in the process; once or twice may be a kill by the system or a person
DEATHS_OUTSIDE_IMAGES = 20  # per unit: after these the job ends
_QUARANTINED = "condemned"  # the key in the files; the same as in earlier versions


@dataclass
class Record:
    """What is known about a unit in one stage; a JSON file under `attempts/`.

    at: the image that is being tried. deaths: how often the worker died at each image. quarantined: error kind and
    message of images that are not tried again. reason: why the worker ended itself at `at`, if it did.
    """

    output: Folder
    unit: UnitName
    stage: str
    at: int | None = None
    deaths: dict[int, int] = field(default_factory=dict)
    quarantined: Errors = field(default_factory=dict)
    reason: str = ""

    @property
    def file(self) -> str:
        return attempts_file(self.unit, self.stage)

    @classmethod
    def load(cls, output: Folder, unit: UnitName, stage: str) -> Record:
        """The record of a unit; an empty one if nothing is known."""
        record = cls(output, unit, stage)
        try:
            known = json.loads(output.read(record.file))
        except FileNotFoundError:
            return record
        record.at = known["at"]
        record.deaths = {int(index): count for index, count in known["deaths"].items()}
        record.reason = known.get("reason", "")
        record.quarantined = {int(index): (kind, why) for index, (kind, why) in known[_QUARANTINED].items()}
        return record

    def save(self) -> None:
        known: Settings = {"at": self.at, "deaths": self.deaths, _QUARANTINED: self.quarantined}
        if self.reason:
            known["reason"] = self.reason
        self.output.write(self.file, json.dumps(known).encode())

    def count_death(self) -> None:
        """Count a death of the worker that wrote this record, at the image that it was trying."""
        if self.at is None:
            return
        self.deaths[self.at] = self.deaths.get(self.at, 0) + 1
        if self.deaths[self.at] >= DEATHS_AT_AN_IMAGE:
            why = (
                f"{self.stage}: the worker died {self.deaths[self.at]} times at this image "
                f"({self.reason or 'a crash, or out of memory'})"
            )
            self.quarantined[self.at] = ("crashed", why)
        self.at, self.reason = None, ""


@dataclass(frozen=True)
class Guard:
    """Guards a stage: counts attempts, and applies a time-out.

    attempt: counts attempts at the coordinator. timeout_s: per image. retry_s: how long storage requests are retried.
    teller: how a process tells that it waits for a storage.
    """

    output: Folder
    attempt: Attempt
    timeout_s: float
    retry_s: float
    teller: Teller = LOGGED

    def settle_process(self) -> None:
        """Apply settings of the whole worker process."""
        import cv2

        cv2.setNumThreads(1)  # one task per core: more threads would compete
        keep_freed_memory()
        set_retry_deadline(self.retry_s)
        set_teller(self.teller)

    def settle_task(self) -> None:
        """Apply the settings of a stage that feeds the models or empties them: those of the process, and its place
        behind the models where CPUs are short."""
        self.settle_process()
        let_models_go_first()

    def run(
        self,
        unit: Unit,
        stage: str,
        work: Work,
        then: Callable[[Unit], Answer],
        instead: Work | None = None,
    ) -> Answer:
        """Return `then(work(unit))`. The work is done image by image if an earlier attempt was not finished.

        instead: called for a quarantined image; by default the image becomes an error row.
        An image that takes longer than `timeout_s` ends this process; the reason is recorded for the next attempt.
        """
        with self.attempt(f"{unit.name.file}:{stage}") as earlier:
            if earlier > DEATHS_OUTSIDE_IMAGES + DEATHS_AT_AN_IMAGE * unit.rows.num_rows:
                raise JobError(
                    f"the worker of stage {stage} died {earlier} times at unit {unit.name.file}, which starts with "
                    f"{_first_id(unit)}, but not at a particular image; see Ray's logs; run again to continue"
                )
            with _TURNS.alone() if earlier else _TURNS.shared():
                with watchdog.watch(self.timeout_s, lambda index: self._too_long(unit, stage, index)):
                    if earlier and unit.rows.num_rows:
                        record = Record.load(self.output, unit.name, stage)
                        finished = _one_by_one(unit, work, record, instead)
                    else:
                        finished = work(unit)
                with self.without_images():  # a slow storage is not the fault of the last image
                    return then(finished)

    def without_images(self) -> AbstractContextManager[None]:
        """A time-out for what no image can be blamed for, such as reading or publishing: it ends this process."""
        return watchdog.watch(self.timeout_s + self.retry_s, end_process)

    def _too_long(self, unit: Unit, stage: str, index: int | None) -> None:
        """Quarantine the image that took too long, and end this process."""
        try:
            if index is not None:
                record = Record.load(self.output, unit.name, stage)
                message = f"{stage}: took longer than image_timeout_s = {self.timeout_s:g}"
                record.quarantined[index] = ("timeout", message)
                record.at = None
                record.save()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)


def end_process(why: object = None) -> None:
    """End this process. Ray starts another one, and tries its units again there.

    why: the error of a device that failed; it is told in Ray's logs, and in the row of an image at which that happens
    again and again.
    """
    if isinstance(why, Exception):
        reason = last_line(why)
        logging.getLogger("sapiens_ray").error("the device of %s failed: %s", socket.gethostname(), why)
        with contextlib.suppress(Exception):
            if _TURNS.record is not None:
                _TURNS.record.reason = reason
                _TURNS.record.save()
    os.kill(os.getpid(), signal.SIGKILL)


class Turns:
    """A lock for the calls of a process: several run at a time, or a single one that processes its unit image by image.
    If the process dies then, no other image can be the cause."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting = 0  # calls that want to run alone go first
        self.record: Record | None = None  # of the unit that is alone

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._inside >= 0 and not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: self._inside == 0)
            self._waiting -= 1
            self._inside = -1
        try:
            yield
        finally:
            with self._changed:
                self._inside = 0
                self._changed.notify_all()


_TURNS = Turns()


def _one_by_one(unit: Unit, work: Work, record: Record, instead: Work | None) -> Unit:
    record.count_death()
    _TURNS.record = record
    finished: list[Unit] = []
    for one in split_unit(unit):
        index = one.start
        watchdog.progress(index)
        if index in record.quarantined and instead:
            finished.append(instead(one))
            continue
        if index in record.quarantined:
            one.rows = set_errors(one.rows, {0: record.quarantined[index]})
        elif one.good_rows():
            record.at = index
            record.save()
        finished.append(work(one))
    record.at = None
    _TURNS.record = None
    record.save()  # for the next run, in case this one dies before the rows are written
    return join_units(finished, unit)


def _first_id(unit: Unit) -> str:
    return str(unit.rows["image_id"][0].as_py()) if unit.rows.num_rows else "nothing"


def quarantined_images(output: Folder) -> dict[int, Errors]:
    """The quarantined images of earlier runs: shard to index to (error kind, message). Images that cannot be drawn are
    not included, since they are labelled."""
    known: dict[int, Errors] = {}
    for _, unit, stage in attempts_of(output):
        if stage != DRAW:
            known.setdefault(unit.shard, {}).update(Record.load(output, unit, stage).quarantined)
    return known


def forget(output: Folder, shard: int | None = None) -> None:
    """Remove all records, or those of one shard."""
    for file, unit, _ in attempts_of(output):
        if shard in (None, unit.shard):
            output.delete(file)
