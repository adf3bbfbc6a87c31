"""Images that kill the worker that handles them: found, condemned to an error row, and their neighbours labelled.

A worker that is gone cannot say at which image it died. So a stage says at the coordinator which unit it begins, and
a unit that was begun before and not finished is handled image by image, with a note under `attempts/` of the output
before each one. The image at which the worker dies again and again is the one; it becomes an error row. The notes
outlive the job: what is known of an image is not tried again by the next run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from sapiens_ray import watchdog
from sapiens_ray.errors import JobFailed
from sapiens_ray.storage import Folder
from sapiens_ray.units import Unit, UnitName, join_units, set_errors, split_unit

if TYPE_CHECKING:
    from sapiens_ray.coordinator import Attempt

Answer = TypeVar("Answer")

ATTEMPTS_FOLDER = "attempts"
DRAW = "draw"  # the stage without which an image has labels all the same
DEATHS_AT_AN_IMAGE = 3  # alone in its process; the system, or somebody, may have killed it once or twice
DEATHS_OUTSIDE_IMAGES = 20  # of one unit: then the job ends


@dataclass
class Record:
    """What is known of a unit in one stage; a JSON file under `attempts/`.

    at: the image that is tried right now. deaths: how often the worker died at an image. condemned: error kind and
    message of images that are not tried again.
    """

    output: Folder
    unit: UnitName
    stage: str
    at: int | None = None
    deaths: dict[int, int] = field(default_factory=dict)
    condemned: dict[int, tuple[str, str]] = field(default_factory=dict)

    @property
    def file(self) -> str:
        return f"{ATTEMPTS_FOLDER}/{self.unit.file.removesuffix('.parquet')}.{self.stage}.json"

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
        record.condemned = {int(index): (kind, why) for index, (kind, why) in known["condemned"].items()}
        return record

    def save(self) -> None:
        known = {"at": self.at, "deaths": self.deaths, "condemned": self.condemned}
        self.output.write(self.file, json.dumps(known).encode())

    def count_death(self) -> None:
        """Take note that the worker that wrote this record is gone, at the image it was trying."""
        if self.at is None:
            return
        self.deaths[self.at] = self.deaths.get(self.at, 0) + 1
        if self.deaths[self.at] >= DEATHS_AT_AN_IMAGE:
            why = (
                f"{self.stage}: the worker died {self.deaths[self.at]} times at this image (a crash, or out of memory)"
            )
            self.condemned[self.at] = ("crashed", why)
        self.at = None


def guarded(
    unit: Unit,
    stage: str,
    work: Callable[[Unit], Unit],
    then: Callable[[Unit], Answer],
    output: Folder,
    attempt: Attempt,
    timeout_s: float,
    instead: Callable[[Unit], Unit] | None = None,
) -> Answer:
    """`then(work(unit))`, the work image by image where an earlier attempt at this unit was not finished.

    instead: what is done with a condemned image; by default it becomes an error row.
    An image that takes longer than `timeout_s` ends this process; the next attempt knows why.
    """

    def too_long(index: int | None) -> None:
        try:
            if index is not None:
                record = Record.load(output, unit.name, stage)
                message = f"{stage}: took longer than image_timeout_s = {timeout_s:g}"
                record.condemned[index], record.at = ("timeout", message), None
                record.save()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    with attempt(f"{unit.name.file}:{stage}") as earlier:
        if earlier > DEATHS_OUTSIDE_IMAGES + DEATHS_AT_AN_IMAGE * unit.rows.num_rows:
            raise JobFailed(
                f"the worker of stage {stage} died {earlier} times at unit {unit.name.file}, which begins with "
                f"{_first_id(unit)}, but at no image in particular; see Ray's logs; run again to go on"
            )
        with _ROOM.alone() if earlier else _ROOM.shared(), watchdog.watch(timeout_s, too_long):
            if earlier:
                return then(_one_by_one(unit, work, Record.load(output, unit.name, stage), instead))
            return then(work(unit))


class _Room:
    """Many calls of an actor at a time, or one that goes through its unit image by image: when the process dies then,
    no other image can have been the cause."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting = 0  # those who want to be alone go first

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


_ROOM = _Room()


def _one_by_one(
    unit: Unit, work: Callable[[Unit], Unit], record: Record, instead: Callable[[Unit], Unit] | None
) -> Unit:
    record.count_death()
    finished: list[Unit] = []
    for one in split_unit(unit):
        index = one.start
        watchdog.progress(index)
        if index in record.condemned and instead:
            finished.append(instead(one))
            continue
        if index in record.condemned:
            one.rows = set_errors(one.rows, {0: record.condemned[index]})
        elif one.good_rows():
            record.at = index
            record.save()
        finished.append(work(one))
    record.at = None
    record.save()  # what is condemned stays so in the next run, should this one die before the row is written
    return join_units(finished, unit)


def _first_id(unit: Unit) -> Any:
    return unit.rows["image_id"][0].as_py() if unit.rows.num_rows else "nothing"


def condemned_images(output: Folder) -> dict[int, dict[int, tuple[str, str]]]:
    """What earlier runs learned: shard to index to (error kind, message). Images that only cannot be drawn are
    labelled."""
    known: dict[int, dict[int, tuple[str, str]]] = {}
    for file in output.files(ATTEMPTS_FOLDER):
        stage = file.removesuffix(".json").partition(".")[2]
        unit = _unit_of(file)
        if unit is not None and stage != DRAW:
            record = Record.load(output, unit, stage)
            known.setdefault(unit.shard, {}).update(record.condemned)
    return known


def forget(output: Folder, shard: int | None = None) -> None:
    """Remove all records, or those of one shard."""
    for file in output.files(ATTEMPTS_FOLDER):
        unit = _unit_of(file)
        if unit is not None and shard in (None, unit.shard):
            output.delete(f"{ATTEMPTS_FOLDER}/{file}")


def _unit_of(file: str) -> UnitName | None:
    return UnitName.parse(f"{file.partition('.')[0]}.parquet")
