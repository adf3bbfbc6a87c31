"""Two runs on one output: the second is refused; the lock of a dead run is taken over."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from sapiens_ray.errors import JobError, OutputError
from sapiens_ray.output import lock as locking
from sapiens_ray.output.lock import OutputLock, Writer, find_writer, holder, read_lock, require_held
from sapiens_ray.storage import Folder
from tests.outputs import write_lock


@pytest.fixture
def output(tmp_path):
    return Folder(str(tmp_path / "out"))


@pytest.fixture
def quick(monkeypatch):
    """Holders beat often, and are not assumed to be dead however slow this machine is."""
    for name, seconds in (("BEAT_S", 0.1), ("DEAD_AFTER_S", 3600.0), ("LOOK_S", 0.1)):
        monkeypatch.setattr(locking, name, seconds)


def test_a_living_holder_is_recognised_by_its_beat_and_a_silent_one_is_taken_over(output, quick, monkeypatch):
    messages: list[str] = []
    with OutputLock(output) as first:
        with pytest.raises(OutputError, match=rf"being written by another run: process {os.getpid()} on \S+, since"):
            OutputLock(output, messages.append).__enter__()
        assert messages and "waiting up to 3600 s to see if it is alive" in messages[0]
        assert not first.lost
    assert not Path(output.uri).exists(), "a folder that was created only for the lock is removed"
    write_lock(output, machine="another one", host="far-away")  # its process, which never beats, cannot be inspected
    monkeypatch.setattr(locking, "DEAD_AFTER_S", 1.0)
    started = time.monotonic()
    with OutputLock(output, messages.append) as second:
        assert time.monotonic() - started > 1.0 and holder(output) == second.run
        assert "far-away" in messages[-1]


@pytest.mark.parametrize(
    "changes",
    [{"pid": 2**22 + 1}, {"process_start": "1"}, {"run": ""}, {"pid": None}],
    ids=["ended", "process id used again", "no run", "no process"],
)
def test_a_dead_holder_on_this_machine_is_recognised_at_once(output, changes):
    write_lock(output, **changes)
    messages: list[str] = []
    with OutputLock(output, messages.append) as mine:
        assert holder(output) == mine.run
    assert messages == [], "there was nothing to wait for"
    assert not (Path(output.uri) / "lock.json").exists()


def test_no_clock_is_compared(output, quick, monkeypatch):
    """The clock of this machine jumps by a day, forwards and backwards."""
    with OutputLock(output) as first:
        for jump in (86_400, -86_400):
            real = time.time
            with monkeypatch.context() as patch, pytest.raises(OutputError, match="being written by another run"):
                patch.setattr(time, "time", lambda real=real, jump=jump: real() + jump)
                OutputLock(output, lambda line: None).__enter__()
        assert not first.lost


def test_a_run_that_lost_the_output_stops_and_its_workers_write_nothing(output, quick):
    with OutputLock(output) as first:
        while not first.lost:  # it may be in the middle of a beat, which overwrites the file: the last writer wins
            write_lock(output)
            first._thread.join(0.5)
        with pytest.raises(JobError, match="taken over by another run"):
            first.check()
        with pytest.raises(JobError, match="must not write"):
            require_held(output, first.run)
    assert read_lock(output)["run"] == "another", "the lock of another run is not removed"


def test_exactly_one_of_many_runs_gets_the_lock(output, quick):
    got: list[OutputLock] = []
    refused: list[OutputError] = []

    def enter() -> None:
        try:
            lock = OutputLock(output, lambda line: None)
            lock.__enter__()
            got.append(lock)
        except OutputError as error:
            refused.append(error)

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and len(refused) == 7
    got[0].__exit__()


HOST = locking._this_process()["host"]
SINCE, SEEN = "2026-01-31T12:00:00Z", "2026-01-31T12:34:56Z"


def test_no_writer_is_found_where_the_last_run_has_ended(output, quick):
    assert find_writer(output) is None
    with OutputLock(output):
        writer = find_writer(output)
        assert writer is not None and writer.alive and (writer.host, writer.pid) == (HOST, os.getpid())
    assert find_writer(output) is None


@pytest.mark.parametrize(
    ("changes", "writer"),
    [
        ({}, Writer(HOST, os.getpid(), SINCE, SEEN, alive=True)),
        ({"pid": 2**22 + 1}, Writer(HOST, 2**22 + 1, SINCE, SEEN, alive=False)),
        ({"process_start": "1"}, Writer(HOST, os.getpid(), SINCE, SEEN, alive=False)),
        ({"pid": None}, Writer(None, None, None, None, alive=False)),
    ],
    ids=["alive", "ended", "process id used again", "no process"],
)
def test_a_writer_on_this_machine_is_looked_up_at_once(output, changes, writer):
    write_lock(output, **changes)
    messages: list[str] = []
    assert find_writer(output, messages.append) == writer
    assert messages == []


@pytest.mark.parametrize("then", ["beats", "is silent", "ends"])
def test_a_writer_elsewhere_is_watched(output, quick, monkeypatch, then):
    """The beat comes, or does not come, after the user was told that it is waited for."""
    elsewhere = {"machine": "another one", "host": "far-away", "pid": 1}
    write_lock(output, **elsewhere)
    if then == "is silent":
        monkeypatch.setattr(locking, "DEAD_AFTER_S", 0.3)
    messages: list[str] = []

    def tell(line: str) -> None:
        messages.append(line)
        if then == "beats":
            write_lock(output, **elsewhere, beat=8, at="2026-01-31T12:35:01Z")
        elif then == "ends":
            output.delete("lock.json")

    found = find_writer(output, tell)
    assert (
        found
        == {
            "beats": Writer("far-away", 1, SINCE, "2026-01-31T12:35:01Z", alive=True),
            "is silent": Writer("far-away", 1, SINCE, SEEN, alive=False),
            "ends": None,
        }[then]
    )
    (line,) = messages
    assert "is held by process 1 on far-away, since 2026-01-31T12:00:00Z; watching up to" in line
