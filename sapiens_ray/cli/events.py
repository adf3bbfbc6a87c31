"""`sapiens-ray run --json`: what happens in a run as lines of JSON on stdout, one object per line."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from sapiens_ray.cli.answers import error_fields
from sapiens_ray.output.clock import utc_now
from sapiens_ray.output.summary import Summary
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.tasks.sections import Settings

if TYPE_CHECKING:
    from sapiens_ray.job.config import Job

PROGRESS_EVERY_S = 1.0  # at most this often; a unit may take milliseconds
ALIVE_EVERY_S = 10.0  # at least this often; a unit may take minutes


class RunEvents:
    """Context manager that prints the events. Call it with the summary after every unit.

    last_only: print only the last event. If nobody reads stdout any more, the run goes on without events.
    """

    def __init__(self, last_only: bool = False) -> None:
        self._last_only = last_only
        self._started = False
        self._unread = False  # whether nobody reads events, or the last one is printed
        self._summary: Summary | None = None
        self._job: Settings = {}
        self._printed_notes = 0
        self._printed_at = 0.0
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> RunEvents:
        threading.Thread(target=self._show_life, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()

    def about(self, job: Job) -> None:
        """What the last event says of the job, whatever happens."""
        self._job = {"name": job.name, "output": redact_uri(job.output.uri)}

    def started(self, plan: Settings) -> None:
        """The first event: what will be done."""
        self._started = True
        self._print("started", {"plan": plan})

    def __call__(self, summary: Summary) -> None:
        self._summary = summary
        if not self._started:  # the plan says what is done already
            return
        for note in summary.notes[self._printed_notes :]:
            self.note(note)
        self._printed_notes = len(summary.notes)
        if time.monotonic() - self._printed_at >= PROGRESS_EVERY_S:
            self._progress(summary)

    def note(self, text: str) -> None:
        """Something that a person should know."""
        self._print("note", {"text": text})

    def ended(self, event: str, exit_code: int, error: BaseException | None = None) -> None:
        """The last event: finished, failed, or stopped. Others that come after it are dropped."""
        about = error_fields(error) if error else {"error": None, "kind": None}
        self._print(event, {**_result(self._summary), **self._job, **about, "exit_code": exit_code}, last=True)
        self._ended.set()
        self._unread = True

    def _progress(self, summary: Summary) -> None:
        self._printed_at = time.monotonic()
        eta = summary.eta()
        self._print(
            "progress",
            {
                "images": summary.images,
                "expected": summary.expected,
                "ok": summary.images - summary.failed,
                "errors": dict(sorted(summary.errors.items())),
                "repeated": summary.repeated,
                "elapsed_s": round(summary.elapsed, 3),
                "images_per_s": round(summary.rate_now, 3),
                "left_s": None if eta is None else round(eta, 3),
            },
        )

    def _show_life(self) -> None:
        while not self._ended.wait(ALIVE_EVERY_S):
            summary = self._summary
            if self._started and summary and time.monotonic() - self._printed_at >= ALIVE_EVERY_S:
                summary.tick()
                self._progress(summary)

    def _print(self, event: str, values: Settings, last: bool = False) -> None:
        if self._unread or (self._last_only and not last):
            return
        with self._lock:
            try:
                sys.stdout.write(json.dumps({"event": event, "time": utc_now(), **values}) + "\n")
                sys.stdout.flush()
            except BrokenPipeError:
                self._unread = True
                with contextlib.suppress(OSError, ValueError):  # else Python would complain at its end
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _result(summary: Summary | None) -> Settings:
    """What a run has done; nulls if it failed before it looked at its output."""
    known = summary.to_dict() if summary else {}
    keys = (
        "name", "output", "images", "expected", "ok", "errors", "examples", "already_done", "repeated", "elapsed_s",
        "images_per_s", "device", "stages",
    )  # fmt: skip
    return {key: known.get(key) for key in keys}
