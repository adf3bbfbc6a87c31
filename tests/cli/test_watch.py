"""`sapiens-ray status --watch`: a line or a table per look while a run is alive, then its state and exit code."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sapiens_ray.cli import main, watch
from sapiens_ray.output.lock import DEAD_AFTER_S, _this_process
from sapiens_ray.output.summary import Summary
from tests.conftest import PATIENCE_S
from tests.outputs import write_lock, write_output

GOOD, BAD = ("good.jpg", None, None), ("bad.jpg", "corrupt", "truncated")
HOST = _this_process()["host"]
SINCE = "running since 2026-01-31T12:00:00Z"


@pytest.fixture
def output(tmp_path):
    """An output of two shards, whose run is alive: this process holds it."""
    output = write_output(tmp_path / "out", [GOOD, BAD], [GOOD, GOOD])
    write_lock(output)
    return output


def say(output, images: int, elapsed: float, state: str = "running", message: str = "") -> None:
    """Write `summary.json` as a run does."""
    summary = Summary("job", output.uri, expected=4, state=state, message=message, labelled=images)
    said = {**summary.to_dict(), "elapsed_s": elapsed, "errors": {"corrupt": 1} if images > 1 else {}}
    said["ok"] = images - sum(said["errors"].values())
    output.write("summary.json", json.dumps(said).encode())


def end(output) -> None:
    output.delete("lock.json")


@pytest.fixture
def looks(output, monkeypatch):
    """What happens between the looks of a watch, in order, instead of time that passes."""
    steps = [
        lambda: say(output, 1, 4.0),
        lambda: say(output, 3, 8.0),
        lambda: (say(output, 4, 9.0, "done"), end(output)),
    ]
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        steps.pop(0)()

    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=sleep, strftime=time.strftime))
    return pauses


def test_a_line_per_look_and_then_the_state(command, output, looks):
    done = command("status", output.uri, "--watch", "--every", 2.5)
    *lines, images, errors, shards, state = done.out.splitlines()[:-4] + done.out.splitlines()[-4:]
    of = f"{SINCE}: process {os.getpid()} on {HOST}"
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in lines[:3]] == [
        f"starting; {of}",
        f"1 of 4 (25.0 %): 1 ok, 0 errors; {of}",
        f"3 of 4 (75.0 %): 2 ok, 1 error; 0.500 images/s, 2 s left; {of}",
    ]
    assert lines[3:] == [f"output  {output.uri}"] and looks == [2.5] * 3
    assert (images, errors) == ("images  4 of 4 (100.0 %): 3 ok, 1 error", "errors  1 corrupt")
    assert (shards, state, done.code) == ("shards  2 of 2 complete", "state   complete", 0)


def test_a_run_that_fails_gives_exit_code_1(command, output, monkeypatch):
    def fail(seconds: float) -> None:
        say(output, 4, 9.0, "failed", "the storage does not answer")
        end(output)

    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=fail, strftime=time.strftime))
    done = command("status", output.uri, "--watch", "-q")
    assert done.out.startswith("4 of 4 (100.0 %): 3 ok, 1 error; complete; failed at ") and done.code == 1
    assert done.out.endswith(": the storage does not answer\n") and done.out.count("\n") == 1


def test_json_waits_and_prints_the_status(command, output, looks):
    done = command("status", output.uri, "--watch", "--json")
    assert json.loads(done.out)["state"] == "done" and done.code == 0 and looks == [10.0] * 3


def test_a_run_that_has_ended_is_not_waited_for(command, output, monkeypatch):
    monkeypatch.setattr(watch, "time", None)
    say(output, 4, 9.0, "stopped", "stopped by SIGTERM")
    end(output)
    done = command("status", output.uri, "--watch", "-q")
    assert "stopped at" in done.out and done.out.endswith(": stopped by SIGTERM\n") and done.code == 1


def test_a_run_of_another_machine_is_alive_as_long_as_its_lock_changes(command, output, monkeypatch):
    """Its clock and ours are not compared. Once the lock has not changed for long enough it is dead."""
    write_lock(output, machine="elsewhere")
    monkeypatch.setattr("sapiens_ray.output.lock._watch", lambda output, found: found)
    now, beats = [0.0], iter(range(8, 11))
    monkeypatch.setattr("sapiens_ray.output.lock.time", SimpleNamespace(monotonic=lambda: now[0]))

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if (beat := next(beats, None)) is not None:
            write_lock(output, machine="elsewhere", beat=beat)

    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=sleep, strftime=time.strftime))
    done = command("status", output.uri, "--watch", "--every", DEAD_AFTER_S)
    assert now[0] == 5 * DEAD_AFTER_S, "three beats, then one look without, which is not too long yet"
    assert "stopped without a word" in done.out and done.code == 1


def test_a_terminal_gets_a_table_that_is_redrawn(output, looks, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("TERM", raising=False)
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal):
        assert main(["status", output.uri, "--watch"]) == 0
    shown = terminal.getvalue()
    tables = [part for part in shown.split("\x1b[2K") if "speed" in part or "state" in part]
    assert "speed   0.500 images/s, 2 s left" in shown and len(tables) >= 3
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert all(len(line.rstrip()) < 60 for line in plain.split("\n")[:-6] if "output" not in line)
    assert plain.splitlines()[-1].endswith("complete")


def test_every_needs_watch(command, output):
    done = command("status", output.uri, "--every", 2)
    assert (done.code, done.err) == (
        2, "sapiens-ray: --every: is the time between two looks of --watch, which is not given\n"
    )  # fmt: skip
    assert "--every: should be a number above 0 (got '-1')" in command("status", output.uri, "--every", -1).err


def test_ctrl_c_ends_a_watch(output):
    """A real process and a real signal."""
    tool = Path(sys.executable).parent / "sapiens-ray"
    process = subprocess.Popen(
        [tool, "status", output.uri, "--watch"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and "starting" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, told) == (130, "Stopped.\n")
