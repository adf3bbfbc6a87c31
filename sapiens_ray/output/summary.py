"""Counts, rates and stage times of a job: for the progress bar, the log, `summary.json` and `status`."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from dataclasses import dataclass, field

from sapiens_ray.output.clock import utc_now
from sapiens_ray.output.error_rows import add_examples
from sapiens_ray.output.layout import SUMMARY_FILE
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.sections import Settings
from sapiens_ray.units import EXAMPLE, DeviceUse, Examples, UnitReport, add_use

TELLING_S = 1.0  # a rate over less time says nothing


@dataclass
class Summary:
    """The state of a job. images = ok + errors = already_done + what this run labelled.

    expected: images in the plan; None while some tar is not counted. examples: up to two error rows of each kind.
    stages: seconds of work per image, summed over all processes (so they may exceed elapsed_s / images). notes: reports
    of the actors about their start: batch sizes that were found, what was compiled and how long it took. repeated:
    units and shards that were started again because their worker died. subset: the images that a trial run labels, in
    words; empty for all. failed_before: error rows among those that were already done.
    """

    name: str
    output: str
    expected: int | None
    state: str = "running"
    already_done: int = 0
    failed_before: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    examples: Examples = field(default_factory=dict)
    labelled: int = 0
    message: str = ""
    notes: list[str] = field(default_factory=list)
    repeated: int = 0
    subset: str = ""
    started: float = field(default_factory=time.monotonic, repr=False)
    elapsed: float = 0.0
    written_at: float = field(default=0.0, repr=False)  # `elapsed` when the file was written last
    _device: DeviceUse = field(default_factory=dict, repr=False)
    _seconds: Counter[str] = field(default_factory=Counter, repr=False)
    _first: tuple[int, float] | None = field(
        default=None, repr=False
    )  # images and time at the first report, when everything is warm

    def add(self, report: UnitReport) -> None:
        """Count a written unit."""
        self.labelled += report.rows
        self.errors.update(report.errors)
        add_examples(self.examples, report.examples)
        self._seconds.update(report.seconds)
        self._device = add_use(self._device, report.device)
        said = {note.partition(EXAMPLE)[0] for note in self.notes}
        self.notes += [note for note in report.notes if note.partition(EXAMPLE)[0] not in said]
        self.repeated = report.repeated
        self.tick()
        self._first = self._first or (self.labelled, self.elapsed)

    @property
    def images(self) -> int:
        return self.already_done + self.labelled

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    @property
    def ok(self) -> int:
        return self.images - self.failed

    @property
    def rate(self) -> float:
        """Images per second of this run, including its start."""
        return self.labelled / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def rate_now(self) -> float:
        """Images per second since the first unit was done: without the start, to estimate the remaining time. 0 as
        long as it cannot be told."""
        images, seconds = self._first or (0, 0.0)
        passed = self.elapsed - seconds
        return (self.labelled - images) / passed if self._first and passed >= TELLING_S else 0.0

    @property
    def stages(self) -> dict[str, float]:
        return {stage: spent / max(1, self.labelled) for stage, spent in self._seconds.items()}

    @property
    def device(self) -> Settings:
        """What the devices did, as shares of the time since their first batch: busy, waiting_for_input, and waiting for
        results to be reduced (the rest). By model: network inputs, how full their batches were (batch_fill, 1 for
        full), and how many the device runs per second (inputs_per_s). Empty without models."""
        passed, waited, _ = self._device.get("", (0.0, 0.0, 0.0))
        models = {name: use for name, use in self._device.items() if name}
        if not passed or not models:
            return {}
        busy = min(1.0, sum(seconds for *_, seconds in models.values()) / passed)
        return {
            "busy": round(busy, 4),
            "waiting_for_input": round(min(1 - busy, waited / passed), 4),
            "models": {
                name: {
                    "inputs": round(inputs),
                    "batch_fill": round(inputs / places, 4) if places else None,
                    "inputs_per_s": round(inputs / seconds, 3) if seconds else None,
                }
                for name, (inputs, places, seconds) in models.items()
            },
        }

    def tick(self) -> None:
        self.elapsed = time.monotonic() - self.started

    def to_dict(self) -> Settings:
        return {
            "name": self.name,
            "state": self.state,
            "message": self.message,
            "output": self.output,
            "images": self.images,
            "expected": self.expected,
            "ok": self.images - self.failed,
            "errors": dict(sorted(self.errors.items())),
            "examples": dict(sorted(self.examples.items())),
            "already_done": self.already_done,
            "subset": self.subset,
            "repeated": self.repeated,
            "elapsed_s": round(self.elapsed, 3),
            "images_per_s": round(self.rate, 3),
            "device": self.device,
            "stages": {stage: round(spent, 6) for stage, spent in self.stages.items()},
            "notes": self.notes,
            "written_at": utc_now(),
        }

    def write(self, output: Folder) -> None:
        """Write `summary.json`."""
        self.tick()
        self.written_at = self.elapsed
        output.write(SUMMARY_FILE, json.dumps(self.to_dict(), indent=2).encode() + b"\n", durable=False)

    def line(self) -> str:
        """One line for a log."""
        of = f"/{self.expected}" if self.expected is not None else ""
        share = f" ({100 * self.images / self.expected:.1f} %)" if self.expected else ""
        eta = self.eta()
        left = f", {duration(eta)} left" if eta is not None else ""
        rate = f", {three_digits(self.rate_now)} images/s" if self.rate_now else ""
        repeated = f", {self.repeated} repeated" if self.repeated else ""
        busy = f", device {100 * self.device['busy']:.0f} % busy" if self.device else ""
        return f"{self.images}{of} images{share}{rate}{busy}, {counted(self.failed, 'error')}{repeated}{left}"

    def eta(self) -> float | None:
        """Seconds left at the rate since the first unit was done; None while unknown."""
        if self.expected is None or self.rate_now == 0:
            return None
        return max(0, self.expected - self.images) / self.rate_now


def is_done(output: Folder, subset: str) -> bool:
    """Whether `summary.json` says that the last run labelled these images, all of them."""
    last = last_summary(output)
    return bool(last.get("state") == "done" and last.get("subset") == subset)


def planned_subset(output: Folder) -> str:
    """The images for which an output was planned, if its last run was a trial; else empty."""
    return str(last_summary(output).get("subset") or "")


def last_summary(output: Folder) -> Settings:
    """What `summary.json` says; empty if there is none."""
    try:
        last = json.loads(output.read(SUMMARY_FILE))
    except (OSError, ValueError):
        return {}
    return last if isinstance(last, dict) else {}


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun: 1 error, 2 errors. plural: if it is not the noun with an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or f'{noun}s'}"


def three_digits(value: float) -> str:
    """A positive number for people, with three digits that count: 0.0123, 4.56, 78.9, 1234."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def duration(seconds: float) -> str:
    """Seconds in a readable form: 48 s, 3:07, 2:04:00."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
