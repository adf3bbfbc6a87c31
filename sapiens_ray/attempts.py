"""Images that kill the worker that handles them: found, condemned to an error row, and their neighbours labelled.

A worker that is gone cannot say at which image it died. So a stage says at the coordinator which unit it begins, and
a unit that was begun before and not finished is handled image by image, with a note under `attempts/` of the output
before each one. The image at which the worker dies again and again is the one; it becomes an error row. The notes
outlive the job: what is known of an image is not tried again by the next run.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sapiens_ray import watchdog
from sapiens_ray.errors import JobFailed
from sapiens_ray.storage import Folder
from sapiens_ray.units import Unit, UnitName, join_units, set_errors, split_unit

if TYPE_CHECKING:
    from sapiens_ray.coordinator import Attempt

ATTEMPTS_FOLDER = "attempts"
DRAW = "draw"  # the stage without which an image has labels all the same
DEATHS_AT_AN_IMAGE = 3  # alone; others may have killed the worker once or twice: the system, somebody
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
        return f"{ATTEMPTS_FOLDER}/{self.unit.file.removesuffix('.parquet')}-{self.stage}.json"

    @classmethod
    def load(cls, output: Folder, unit: UnitName, stage: str) -> Record:
        """The record of a unit; an empty one if nothing is known."""
        record = cls(output, unit, stage)
        if output.exists(record.file):
            known = json.loads(output.read(record.file))
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
    output: Folder,
    attempt: Attempt,
    timeout_s: float,
    instead: Callable[[Unit], Unit] | None = None,
) -> Unit:
    """`work(unit)`, image by image where an earlier attempt at this unit was not finished.

    instead: what is done with a condemned image; by default it becomes an error row.
    An image that takes longer than `timeout_s` ends this process; the next attempt knows why.
    """

    def too_long(index: int | None) -> None:
        if index is not None:
            record = Record.load(output, unit.name, stage)
            message = f"{stage}: took longer than image_timeout_s = {timeout_s:g}"
            record.condemned[index], record.at = ("timeout", message), None
            record.save()
        os.kill(os.getpid(), signal.SIGKILL)

    with attempt(f"{unit.name.file}:{stage}") as earlier, watchdog.watch(timeout_s, too_long):
        if earlier == 0:
            return work(unit)
        if earlier > DEATHS_OUTSIDE_IMAGES + DEATHS_AT_AN_IMAGE * unit.rows.num_rows:
            raise JobFailed(
                f"the worker of stage {stage} died {earlier} times at unit {unit.name.file}, which begins with "
                f"{_first_id(unit)}, but at no image in particular; see Ray's logs; run again to go on"
            )
        return _one_by_one(unit, work, Record.load(output, unit.name, stage), instead)


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
        head, _, stage = file.removesuffix(".json").rpartition("-")
        unit = UnitName.parse(f"{head}.parquet")
        if unit is not None and stage != DRAW:
            record = Record.load(output, unit, stage)
            known.setdefault(unit.shard, {}).update(record.condemned)
    return known


def forget(output: Folder) -> None:
    """Remove all records: every image has its row."""
    for file in output.files(ATTEMPTS_FOLDER):
        output.delete(f"{ATTEMPTS_FOLDER}/{file}")
