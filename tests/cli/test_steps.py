"""The progress of long commands: lines in a pipe, one line on a terminal, nothing if it is short or quiet."""

from __future__ import annotations

import io
import sys

import pytest

from sapiens_ray.cli import steps


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def told(monkeypatch):
    """What a command with three steps tells, with a clock that goes on by a second with every look."""

    def run(stream: io.StringIO, quiet: bool = False, seconds: float = 1.0) -> str:
        clock = iter(range(100))
        monkeypatch.setattr(steps.time, "monotonic", lambda: next(clock) * seconds)
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.delenv("TERM", raising=False)
        with steps.Steps(quiet) as progress:
            for done in range(6):
                progress("rows compared", done, None if done < 3 else 6)
        return stream.getvalue()

    return run


def test_in_a_pipe_a_line_every_ten_seconds(told):
    assert told(io.StringIO(), seconds=6) == "0 rows compared\n2 rows compared\n4 of 6 rows compared\n"


def test_on_a_terminal_one_line_that_is_removed(told):
    lines = told(Terminal()).split("\r\x1b[K")
    assert lines == [
        "", "1 rows compared", "2 rows compared", "3 of 6 rows compared", "4 of 6 rows compared",
        "5 of 6 rows compared", "",
    ]  # fmt: skip


def test_short_and_quiet_commands_tell_nothing(told):
    assert told(Terminal(), seconds=0.1) == ""
    assert told(Terminal(), quiet=True) == ""
