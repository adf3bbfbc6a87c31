"""What a run does, as metrics that Ray exports to Prometheus. docs/cluster.md lists them.

The driver records them, from the reports of the units: what is written is counted once, whoever died meanwhile. Ray
sends them to the agent of the driver's node, at the latest when the driver ends, and puts `ray_` before their names and
`_total` behind those of counters.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from sapiens_ray.output.summary import Summary
from sapiens_ray.units import UnitReport

SHOW_EVERY_S = 5.0  # half of Ray's interval: it exports a gauge only if it was set in the interval
JOB = "job_name"  # not `job`, which is a label of Prometheus: ours would become `exported_job`
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "images": ("Rows written, error rows included", ()),
    "error_rows": ("Error rows written", ("kind",)),
    "repeated": ("Units and shards started again because their worker died", ()),
    "stage_seconds": ("Seconds of work, summed over processes", ("stage",)),
    "device_seconds": ("Seconds since the first batch of each device, summed over devices", ()),
    "device_input_wait_seconds": ("Seconds in which devices waited for inputs", ()),
    "device_busy_seconds": ("Seconds in which devices ran this model", ("model",)),
    "network_inputs": ("Network inputs that this model was run on", ("model",)),
    "batch_places": ("Places in the batches of this model", ("model",)),
}
GAUGES = {
    "images_done": "Images that have a row, those of earlier runs included",
    "images_expected": "Images in the plan; missing until all of the input is listed",
}


class RunMetrics:
    """The metrics of a run, in a process that is connected to Ray."""

    def __init__(self, summary: Summary) -> None:
        from ray.util.metrics import Counter, Gauge

        self._summary = summary
        self._repeated = summary.repeated  # by pipelines before this one
        self._counters: dict[str, Any] = {
            name: Counter(f"sapiens_ray_{name}", what, (JOB, *tags)) for name, (what, tags) in COUNTERS.items()
        }
        self._gauges: dict[str, Any] = {
            name: Gauge(f"sapiens_ray_{name}", what, (JOB,)) for name, what in GAUGES.items()
        }

    def add(self, report: UnitReport) -> None:
        """Count a written unit."""
        self._count("images", report.rows)
        for kind, rows in report.errors.items():
            self._count("error_rows", rows, kind=kind)
        self._count("repeated", report.repeated - self._repeated)
        self._repeated = report.repeated
        for stage, seconds in report.seconds.items():
            self._count("stage_seconds", seconds, stage=stage)
        for model, use in report.device.items():
            if model:
                for name, value in zip(("network_inputs", "batch_places", "device_busy_seconds"), use, strict=True):
                    self._count(name, value, model=model)
            else:
                passed, waited, _ = use
                self._count("device_seconds", passed)
                self._count("device_input_wait_seconds", waited)

    def show(self) -> None:
        """Set the gauges from the summary."""
        self._gauges["images_done"].set(self._summary.images, self._tags())
        self._gauges["images_expected"].set(self._summary.expected, self._tags())  # None sets nothing

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the gauges alive inside the block, however long a unit takes."""
        ended = threading.Event()

        def repeat() -> None:
            self.show()
            while not ended.wait(SHOW_EVERY_S):
                self.show()
            self.show()

        thread = threading.Thread(target=repeat, name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _count(self, name: str, value: float, **tags: str) -> None:
        if value > 0:  # Ray refuses 0
            self._counters[name].inc(value, self._tags(**tags))

    def _tags(self, **tags: str) -> dict[str, str]:
        """The tags of a series. Ray takes ASCII only."""
        named = {JOB: self._summary.name, **tags}
        return {name: value.encode("ascii", "backslashreplace").decode("ascii") for name, value in named.items()}
