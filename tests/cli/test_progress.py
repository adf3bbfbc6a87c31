"""The bar: one line that fits, on real pseudo-terminals as well; log lines where a line cannot be moved."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from rich.cells import cell_len

from sapiens_ray.cli.progress import bar_line
from sapiens_ray.output.summary import Summary

# A run of a hundred units, as fast as the bar is drawn, with a note in between.
RUN = """
from sapiens_ray.cli.progress import ProgressView
from sapiens_ray.output.summary import Summary
from sapiens_ray.units import UnitReport

summary = Summary("job", "/out", 1234567)
with ProgressView() as view:
    view(summary)
    for number in range(100):
        notes = ["seg: compiled for /a/path/" + "x" * 80] if number == 50 else []
        summary.add(UnitReport("file", 12345, {"corrupt": 123}, {"read": 1.0}, notes, repeated=12))
        view(summary)
        if view.live:
            view._bar.refresh()
print("end")
"""


def summary(images: int, expected: int | None, errors: int, rate: float, repeated: int) -> Summary:
    """A summary in the middle of a run with this rate."""
    one = Summary("job", "/out", expected, labelled=images, repeated=repeated, elapsed=1.0 + images)
    one.errors["corrupt"] = errors
    one._first, one.elapsed = (0, 0.0), images / rate
    return one


MIDDLE = summary(512, 1_234_567, 24, 425.7, 2)


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (97, "⠋ labelling  ━━━━━━━━━━━━━━━━━━━━━  512/1234567  426 images/s  48:19 left  24 errors  2 repeated"),
        (80, "━━━━━━━━━━━━━━━━━  512/1234567  426 images/s  48:19 left  24 errors  2 repeated"),
        (64, "512/1234567  426 images/s  48:19 left  24 errors  2 repeated"),
        (60, "512/1234567  426 images/s  48:19 left  24 errors"),
        (40, "512/1234567  426/s  48:19  24 err"),
        (30, "512/1234567  48:19  24 err"),
        (24, "512/1234567  24 err"),
        (14, "512/1234567"),
        (10, "512/12345"),
    ],
)
def test_the_bar_gives_up_its_least_important_part_first(columns, line):
    assert bar_line(MIDDLE, columns, "⠋").plain == line


def test_the_bar_fits_in_any_width_and_state():
    states = [
        None,
        MIDDLE,
        summary(0, 10, 0, 1, 0),
        summary(512, None, 0, 3.3, 0),
        summary(10**9, 10**9, 10**9, 1e-4, 10**6),
    ]
    for columns in range(1, 200):
        for state in states:
            assert bar_line(state, columns, "⠋").cell_len < columns


def test_before_the_first_unit_and_without_unicode():
    assert bar_line(None, 80, "⠋").plain == "⠋ labelling  starting"
    assert bar_line(summary(0, 8, 0, 1, 0), 50, "⠋").plain == "⠋ labelling  ━━━━━━━━━━━━━━━━━━━━━  0/8  starting"
    half = summary(4, 8, 0, 2, 0)
    assert bar_line(half, 64, "|", ascii_only=True).plain == (
        "| labelling  #####-----  4/8  2.00 images/s  2 s left  0 errors"
    )


def on_terminal(columns: int, **environment: str) -> str:
    """What RUN writes to a terminal of this width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    env |= {"TERM": "xterm-256color", "PYTHONUTF8": "1", **environment}
    process = subprocess.Popen([sys.executable, "-c", RUN], stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    written = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(master)
    assert process.wait() == 0, written.decode()
    return written.decode()


@pytest.mark.parametrize("columns", [80, 40])
def test_no_update_is_wider_than_the_terminal(columns):
    screen = on_terminal(columns)
    assert "\x1b[1A\x1b[2K" not in screen.rpartition("12345")[0], "a bar of one line never moves the cursor up"
    updates = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", one) for one in re.split(r"[\r\n]+", screen)]
    (note,) = [one for one in updates if one.startswith("seg: compiled")]
    assert note.strip() == "seg: compiled for /a/path/" + "x" * 80, "a note is not broken"
    bars = [one for one in updates if "/1234567" in one]
    assert len(bars) >= 100 and any("1234500/1234567" in one for one in bars)
    assert max(map(cell_len, bars)) < columns


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_a_terminal_without_escape_codes_gets_log_lines(environment):
    screen = on_terminal(80, **environment)
    assert "\x1b" not in screen
    first, note, end = screen.replace("\r\n", "\n").splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d 0/1234567 images \(0\.0 %\), 0 errors, starting", first)
    assert note.startswith("seg: compiled") and end == "end"
