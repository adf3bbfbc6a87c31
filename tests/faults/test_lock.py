"""Two runs on one output: the second is refused, a dead one is taken over."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from sapiens_ray.errors import JobError, OutputError
from sapiens_ray.output import lock as locking
from sapiens_ray.output.lock import OutputLock, holder, read_lock, require_held
from sapiens_ray.storage import Folder


@pytest.fixture
def output(tmp_path):
    return Folder(str(tmp_path / "out"))


@pytest.fixture
def quick(monkeypatch):
    """Holders beat often, and however slow this machine is they are not taken for dead."""
    for name, seconds in (("BEAT_S", 0.1), ("DEAD_AFTER_S", 3600.0), ("LOOK_S", 0.1)):
        monkeypatch.setattr(locking, name, seconds)


def leave(output: Folder, **changes: object) -> None:
    """A lock file as a run leaves it that was killed."""
    Path(output.uri).mkdir(exist_ok=True)
    found = {"run": "another", "beat": 7, **locking._this_process(), **changes}
    (Path(output.uri) / "lock.json").write_text(json.dumps(found))


def test_a_living_holder_is_told_by_its_beat_and_a_silent_one_is_taken_over(output, quick, monkeypatch):
    said: list[str] = []
    with OutputLock(output) as first:
        with pytest.raises(OutputError, match=rf"being written by another run: process {os.getpid()} on \S+, since"):
            OutputLock(output, said.append).__enter__()
        assert said and "looking for 3600 s if it is alive" in said[0]
        assert not first.lost
    assert not Path(output.uri).exists(), "a folder that was made for the lock alone is removed"
    leave(output, machine="another one", host="far-away")  # nothing can be known of its process, which never beats
    monkeypatch.setattr(locking, "DEAD_AFTER_S", 1.0)
    began = time.monotonic()
    with OutputLock(output, said.append) as second:
        assert time.monotonic() - began > 1.0 and holder(output) == second.run
        assert "far-away" in said[-1]


@pytest.mark.parametrize(
    "changes",
    [{"pid": 2**22 + 1}, {"process_start": "1"}, {"run": ""}, {"pid": None}],
    ids=["gone", "number used again", "no run", "no process"],
)
def test_a_dead_holder_on_this_machine_is_known_at_once(output, changes):
    leave(output, **changes)
    said: list[str] = []
    with OutputLock(output, said.append) as mine:
        assert holder(output) == mine.run
    assert said == [], "it was not waited for"
    assert not (Path(output.uri) / "lock.json").exists()


def test_no_clock_is_compared(output, quick, monkeypatch):
    """The clock of this machine jumps by a day, there and back."""
    with OutputLock(output) as first:
        for jump in (86_400, -86_400):
            real = time.time
            with monkeypatch.context() as patch, pytest.raises(OutputError, match="being written by another run"):
                patch.setattr(time, "time", lambda real=real, jump=jump: real() + jump)
                OutputLock(output, lambda line: None).__enter__()
        assert not first.lost


def test_who_lost_the_output_stops_and_its_workers_write_nothing(output, quick):
    with OutputLock(output) as first:
        while not first.lost:  # it may be in the middle of a beat, which then stays: the last to write has it
            leave(output)
            first._thread.join(0.5)
        with pytest.raises(JobError, match="taken over by another run"):
            first.check()
        with pytest.raises(JobError, match="must not write"):
            require_held(output, first.run)
    assert read_lock(output)["run"] == "another", "what is another's is not removed"


def test_one_of_many_gets_it(output, quick):
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
