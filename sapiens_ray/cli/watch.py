"""`sapiens-ray status --watch`: the progress of a run that goes on elsewhere, until it ends.

A look reads `lock.json` and `summary.json`, which the run rewrites every few seconds: two small files, however large
the output is.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sapiens_ray.cli.console import columns_of, is_live, shortened
from sapiens_ray.cli.errors_table import add_errors
from sapiens_ray.cli.tables import Facts
from sapiens_ray.errors import OutputError
from sapiens_ray.output.lock import Holder, Pulse
from sapiens_ray.output.summary import counted, duration, last_summary, three_digits
from sapiens_ray.storage import Folder, translate_errors
from sapiens_ray.storage.uris import redact_uri

Said = dict[str, Any]  # what `summary.json` says
Show = Callable[[Said, Holder], None]


def watch(output: Folder, every_s: float, quiet: bool) -> None:
    """Show the progress of the run that holds an output until it ends; return at once if none does.

    every_s: seconds between two looks. quiet: show nothing, only wait. Raises OutputError if the storage does not
    answer.
    """
    pulse = Pulse(output)
    speed = Speed()
    with _silent() if quiet else _view(output, speed) as show:
        while True:
            with translate_errors(OutputError, f"cannot read {output.uri}"):
                alive, said = pulse.beats(), last_summary(output)
            if not alive or pulse.found is None:
                return
            speed.look(said)
            show(said, pulse.found)
            time.sleep(every_s)


class Speed:
    """Images per second since the first look, by the clock of the run; before that, those since its start."""

    def __init__(self) -> None:
        self.rate = 0.0
        self._first: Said = {}

    def look(self, said: Said) -> None:
        """Take what the run says now."""
        if not self._first or said.get("elapsed_s", 0) < self._first.get("elapsed_s", 0):  # or another run began
            self._first = said
        passed = said.get("elapsed_s", 0) - self._first.get("elapsed_s", 0)
        done = said.get("images", 0) - self._first.get("images", 0)
        self.rate = done / passed if passed > 0 else said.get("images_per_s") or 0.0

    def text(self, said: Said) -> str:
        """The speed and the time left in words; empty while they are not known."""
        if not self.rate:
            return ""
        left = (said["expected"] - said["images"]) / self.rate if said.get("expected") else None
        return f"{three_digits(self.rate)} images/s" + (f", {duration(left)} left" if left is not None else "")


def progress_text(said: Said) -> str:
    """How far a run is: images, of how many, and errors."""
    if not said:
        return "starting"
    of = f" of {said['expected']} ({100 * said['images'] / said['expected']:.1f} %)" if said.get("expected") else ""
    return f"{said['images']}{of}: {said['ok']} ok, {counted(sum(said['errors'].values()), 'error')}"


@contextlib.contextmanager
def _silent() -> Iterator[Show]:
    yield lambda said, holder: None


@contextlib.contextmanager
def _view(output: Folder, speed: Speed) -> Iterator[Show]:
    """On a terminal a table that is redrawn in place, elsewhere a line per look."""
    if not is_live(sys.stdout):

        def line(said: Said, holder: Holder) -> None:
            parts = [progress_text(said), speed.text(said), _running(holder)]
            print(time.strftime("%H:%M:%S"), "; ".join(part for part in parts if part), flush=True)

        yield line
        return
    console = Console(file=sys.stdout, force_terminal=True)
    with Live(console=console, transient=True, auto_refresh=False) as live:

        def table(said: Said, holder: Holder) -> None:
            columns = columns_of(sys.stdout)
            facts = _facts(output, said, holder, speed)
            rows = [shortened(head + value, columns and columns - 1) for head, value in facts.lines(columns)]
            live.update(Text("\n".join(rows), no_wrap=True, overflow="crop"), refresh=True)

        yield table


def _facts(output: Folder, said: Said, holder: Holder, speed: Speed) -> Facts:
    table = Facts()
    table.add_whole("output", redact_uri(output.uri))
    table.add("images", progress_text(said))
    add_errors(table, said.get("errors", {}), {})
    if text := speed.text(said):
        table.add("speed", text)
    table.add("state", f"{_running(holder)}; looked at {time.strftime('%H:%M:%S')}")
    return table


def _running(holder: Holder) -> str:
    return f"running since {holder.get('since')}: process {holder.get('pid')} on {holder.get('host')}"
