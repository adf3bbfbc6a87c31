"""Progress of a running job: a live bar on a terminal, a line every few seconds without one."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
)
from rich.text import Text

from sapiens_ray.output.summary import Summary, duration

LOG_EVERY_S = 10.0


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        summary: Summary | None = task.fields.get("summary")
        if summary is None or summary.labelled == 0:
            return Text("starting", style="dim")
        eta = summary.eta()
        text = Text(f"{summary.rate_now:.2f} images/s" if summary.rate_now else "")
        if eta is not None and eta > 0:
            text.append(f"  {duration(eta)} left")
        text.append(f"  {summary.failed} errors", style="red" if summary.failed else "dim")
        if summary.repeated:
            text.append(f"  {summary.repeated} repeated", style="yellow")
        return text


class ProgressView:
    """Context manager. Call it with the summary after every unit."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr)
        self.live = self.console.is_terminal
        self._summary: Summary | None = None
        self._printed_notes = 0  # how many notes of the summary are on the screen
        self._ended = threading.Event()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task("labelling", total=None)

    def __enter__(self) -> ProgressView:
        if self.live:
            self._bar.start()
        else:
            threading.Thread(target=self._log, daemon=True).start()
        return self

    def __call__(self, summary: Summary) -> None:
        first = self._summary is None
        self._summary = summary
        for note in summary.notes[self._printed_notes :]:
            self.console.print(note, markup=False, highlight=False, soft_wrap=True)
        self._printed_notes = len(summary.notes)
        if self.live:
            self._bar.update(self._task, total=summary.expected, completed=summary.images, summary=summary)
        elif first:
            self._print(summary)

    def _log(self) -> None:
        """Print a line every few seconds, even if a unit takes minutes: without output a job would seem to hang."""
        while not self._ended.wait(LOG_EVERY_S):
            if self._summary is not None:
                self._print(self._summary)

    def _print(self, summary: Summary) -> None:
        print(f"{time.strftime('%H:%M:%S')} {summary.line()}", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self.live:
            self._bar.stop()
