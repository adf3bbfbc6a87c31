"""`run --json`: the events of a run, and what stays silent with `--quiet`."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from sapiens_ray.cli import events as module
from sapiens_ray.cli.events import RunEvents
from sapiens_ray.errors import InputError
from sapiens_ray.output.summary import Summary
from sapiens_ray.units import UnitReport

EXAMPLES = {"corrupt": [{"image_id": "1.jpg", "error": "truncated"}]}


def add(summary: Summary, notes: list[str] | None = None) -> None:
    """A unit of four images, in the second second of the run."""
    summary.add(UnitReport("f", 4, {"corrupt": 1}, {"read": 0.5}, notes or [], 0, EXAMPLES, DEVICE))
    summary.elapsed = 2.0


DEVICE = {"seg": [12.0, 16.0, 2.0], "": [4.0, 1.0, 0.0]}


def printed(capsys) -> list[dict[str, object]]:
    """The events without their time."""
    out, err = capsys.readouterr()
    assert err == ""
    found = [json.loads(line) for line in out.splitlines()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one.pop("time")) for one in found)
    return found


LAST = {
    "name": "job", "output": "/out", "images": 6, "expected": 10, "ok": 5, "errors": {"corrupt": 1},
    "examples": EXAMPLES, "already_done": 2, "repeated": 0, "elapsed_s": 2.0, "images_per_s": 2.0,
    "stages": {"read": 0.125},
    "device": {
        "busy": 0.5, "waiting_for_input": 0.25,
        "models": {"seg": {"inputs": 12, "batch_fill": 0.75, "inputs_per_s": 6.0}},
    },
}  # fmt: skip


def test_the_events_of_a_run(capsys, monkeypatch):
    monkeypatch.setattr(module, "PROGRESS_EVERY_S", 0.0)
    summary = Summary("job", "/out", expected=10, already_done=2)
    with RunEvents() as events:
        events.note("waiting for the lock")
        events(summary)  # before the start: the plan says this
        events.started({"name": "job"})
        add(summary, ["seg: compiled"])
        events(summary)
        events(summary)
        events.ended("finished", 0)
        events.ended("stopped", 130)
        events.note("too late")
    progress = {
        "event": "progress", "images": 6, "expected": 10, "ok": 5, "errors": {"corrupt": 1}, "repeated": 0,
        "elapsed_s": 2.0,
    }  # fmt: skip
    note, started, compiled, first, second, last = printed(capsys)
    assert note == {"event": "note", "text": "waiting for the lock"}
    assert started == {"event": "started", "plan": {"name": "job"}}
    assert compiled == {"event": "note", "text": "seg: compiled"}
    assert first == second == {**progress, "images_per_s": first["images_per_s"], "left_s": first["left_s"]}
    assert last == {"event": "finished", **LAST, "error": None, "kind": None, "exit_code": 0}


def test_progress_is_told_at_most_once_a_second(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    summary = Summary("job", "/out", expected=None)
    events = RunEvents()
    events.started({})
    for seconds in (0.0, 0.9, 0.2):
        clock[0] += seconds
        events(summary)
    assert [one["event"] for one in printed(capsys)] == ["started", "progress", "progress"]


def test_quiet_tells_only_the_last_event(capsys):
    events = RunEvents(last_only=True)
    events.started({})
    events.note("a note")
    events.ended("failed", 2, InputError("input.uri: s3://me:secret@bucket/x does not exist"))
    nothing = dict.fromkeys(LAST)
    assert printed(capsys) == [{
        "event": "failed", **nothing, "error": "input.uri: s3://bucket/x does not exist", "kind": "InputError",
        "exit_code": 2,
    }]  # fmt: skip


def test_a_sign_of_life_while_a_unit_takes_long(capsys, monkeypatch):
    monkeypatch.setattr(module, "ALIVE_EVERY_S", 0.01)
    monkeypatch.setattr(module, "PROGRESS_EVERY_S", 3600.0)
    with RunEvents() as events:
        events.started({})
        events(Summary("job", "/out", expected=10))
        found: list[dict[str, object]] = []
        while len(found) < 3:
            found += printed(capsys)
    assert [one["event"] for one in found[:3]] == ["started", "progress", "progress"]


def test_a_run_goes_on_when_nobody_reads_its_events():
    code = """
import sys
from sapiens_ray.cli.events import RunEvents

events = RunEvents()
sys.stdin.readline()  # until the reader is gone
for number in range(3):
    events.note("x" * 100_000)
print("went on", file=sys.stderr)
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, b"went on\n")
