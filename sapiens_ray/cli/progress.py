"""Progress of a running job: a live bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from sapiens_ray.cli.console import columns_of, is_live, tell, terminal_columns
from sapiens_ray.output.summary import Summary, counted, duration, three_digits

LOG_EVERY_S = 10.0
LEAST_BAR, LONGEST_BAR = 10, 40
# What the bar gives up where the columns do not suffice, in this order. The count of images always stays.
GIVES_UP = ("spinner", "title", "bar", "repeated", "words", "rate", "left", "errors")


def bar_line(summary: Summary | None, columns: int, spinner: str, ascii_only: bool = False) -> Text:
    """The bar as one line of less than `columns` columns, without the parts for which there is no room."""
    line = Text()
    for given_up in range(len(GIVES_UP) + 1):
        line = _line(summary, columns - 1, spinner, set(GIVES_UP[:given_up]), ascii_only)
        if line.cell_len < columns:
            return line
    line.truncate(columns - 1)
    return line


def _line(summary: Summary | None, columns: int, spinner: str, without: set[str], ascii_only: bool) -> Text:
    """The parts that are not given up. The bar takes the columns that the others leave, from LEAST_BAR on."""
    head = Text(" ".join(text for part, text in (("spinner", spinner), ("title", "labelling")) if part not in without))
    if summary is None or summary.expected is None:
        count = Text(counted(summary.images, "image") if summary else "")
    else:
        count = Text(f"{summary.images}/{summary.expected}", style="green")
    parts = [head, count, *(_figures(summary, without) if summary and summary.labelled else [Text("starting", "dim")])]
    parts = [part for part in parts if part.plain]
    if summary and summary.expected and "bar" not in without:
        taken = sum(part.cell_len + 2 for part in parts)
        length = min(max(columns - taken, LEAST_BAR), LONGEST_BAR)
        parts.insert(1 if head.plain else 0, _bar(summary.images / summary.expected, length, ascii_only))
    return Text("  ").join(parts)


def _figures(summary: Summary, without: set[str]) -> list[Text]:
    """Rate, time left, errors and repetitions; without their words where these are given up."""
    words = "words" not in without
    parts = []
    if summary.rate_now and "rate" not in without:
        parts.append(Text(f"{three_digits(summary.rate_now)}{' images/s' if words else '/s'}"))
    eta = summary.eta()
    if eta and "left" not in without:
        parts.append(Text(f"{duration(eta)}{' left' if words else ''}"))
    if "errors" not in without:
        text = counted(summary.failed, "error") if words else f"{summary.failed} err"
        parts.append(Text(text, style="red" if summary.failed else "dim"))
    if summary.repeated and "repeated" not in without:
        parts.append(Text(f"{summary.repeated} repeated", style="yellow"))
    return parts


def _starts(summary: Summary) -> bool:
    """Whether no image was labelled yet, and some are left."""
    return not summary.labelled and summary.images != summary.expected


def _bar(share: float, length: int, ascii_only: bool) -> Text:
    done = round(min(share, 1.0) * length)
    full, rest = ("#", "-") if ascii_only else ("━", "━")
    return Text.assemble((full * done, "green"), (rest * (length - done), "bright_black"))


class ProgressView:
    """Context manager. Call it with the summary after every unit."""

    def __init__(self) -> None:
        self.live = is_live(sys.stderr)
        self._summary: Summary | None = None
        self._printed_notes = 0  # how many notes of the summary are on the screen
        self._ended = threading.Event()
        self._console = Console(file=sys.stderr, force_terminal=self.live)
        ascii_only = not self._console.encoding.startswith("utf")
        self._spinner = Spinner("line" if ascii_only else "dots")
        self._ascii_only = ascii_only
        self._bar = Live(get_renderable=self._render, console=self._console, transient=True, refresh_per_second=8)

    def _render(self) -> Text:
        """The line of this moment. The terminal may have been made narrower than $COLUMNS says."""
        columns = terminal_columns(sys.stderr)
        columns = min(columns, columns_of(sys.stderr) or columns)
        frame = self._spinner.render(time.monotonic())
        return bar_line(self._summary, columns, str(frame), self._ascii_only)

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
            self.tell(note)
        self._printed_notes = len(summary.notes)
        if first and not self.live:
            self._log_line(summary)

    def tell(self, line: str) -> None:
        """Print a line for the user, above the bar. It is never wrapped: it may hold a path."""
        if self.live:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            tell(line)

    def _log(self) -> None:
        """Print a line every few seconds, even if a unit takes minutes: without output a job would seem to hang."""
        while not self._ended.wait(LOG_EVERY_S):
            if self._summary is not None:
                self._log_line(self._summary)

    def _log_line(self, summary: Summary) -> None:
        tell(f"{time.strftime('%H:%M:%S')} {summary.line()}{', starting' if _starts(summary) else ''}")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self.live:
            self._bar.stop()
