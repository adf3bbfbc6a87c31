"""A timeline of what the threads of an actor do: spans in the format that https://ui.perfetto.dev reads, and its gaps.

`Timeline.watch` is called in the actor, with each of its models; `write` and `gaps` in the driver, after the job.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

DEVICE = "run_next"  # the thread that runs models
Event = dict[str, Any]


class Timeline:
    """Spans of this process, a line of JSON each: whoever ends the actor takes nothing away."""

    def __init__(self, folder: str) -> None:
        self._file = Path(folder, f"{os.getpid()}.jsonl").open("a", buffering=1)  # noqa: SIM115
        self._named: set[int] = set()

    def watch(self, model: Any) -> None:
        """Note when a loaded model stages, runs, reduces and finishes, and when units are under way."""
        from sapiens_ray.engine.unit_run import UnitRun

        for name in ("stage", "reduce", "finish"):
            setattr(model, name, self._noted(f"{name} {model.column}", getattr(model, name)))
        forward = model.forward

        def noted(batch: Any) -> Iterator[Any]:
            pieces = forward(batch)
            while True:
                started = time.time_ns()
                piece = next(pieces, None)
                if piece is None:
                    return
                self._note(f"forward {model.column}", started)
                yield piece

        model.forward = noted
        if not hasattr(UnitRun.finish, "__wrapped__"):
            UnitRun.finish = self._noted("unit", UnitRun.finish)  # type: ignore[method-assign]

    def _noted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            started = time.time_ns()
            try:
                return function(*arguments)
            finally:
                self._note(name, started)

        return call

    def _note(self, name: str, started: int) -> None:
        thread = threading.current_thread()
        here = {"pid": os.getpid(), "tid": threading.get_native_id()}
        if here["tid"] not in self._named:
            self._named.add(here["tid"])
            self._put({"ph": "M", "name": "thread_name", "args": {"name": thread.name}, **here})
        duration = (time.time_ns() - started) / 1000  # in microseconds, as the format has it
        self._put({"ph": "X", "name": name, "ts": started / 1000, "dur": duration, **here})

    def _put(self, event: Event) -> None:
        self._file.write(json.dumps(event) + "\n")


def write(folder: Path, path: Path) -> list[Event]:
    """Write the spans of all processes as one file. Returns them."""
    events = [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    path.write_text(json.dumps({"traceEvents": events}))
    return events


def gaps(events: list[Event]) -> Iterable[str]:
    """Lines about the device's thread of each process: how long it ran models, and where it did not."""
    devices = {(one["pid"], one["tid"]) for one in events if one["ph"] == "M" and one["args"]["name"] == DEVICE}
    for place in sorted(devices):
        spans = sorted(
            (one["ts"], one["ts"] + one["dur"], one["name"])
            for one in events
            if one["ph"] == "X" and (one["pid"], one["tid"]) == place and one["name"].startswith("forward")
        )
        first, last = spans[0][0], spans[-1][1]
        between = [(after[0] - before[1], before[1] - first) for before, after in itertools.pairwise(spans)]
        idle = sum(length for length, _ in between)
        yield (
            f"process {place[0]}: {len(spans)} batches in {(last - first) / 1e6:.2f} s, the device held "
            f"{100 * (1 - idle / (last - first)):.1f} %; between batches {idle / max(1, len(between)) / 1000:.1f} ms"
        )
        for length, since in sorted(between, reverse=True)[:5]:
            yield f"    a gap of {length / 1000:.1f} ms after {since / 1e6:.2f} s"
