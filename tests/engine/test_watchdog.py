"""Time-outs of code that cannot be interrupted. Time is what the test says it is; ticks are waited for."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from sapiens_ray.engine import watchdog
from tests.conftest import PATIENCE_S

TICK_S = 0.002


class Clock:
    """Stands for the modules `time` and `faulthandler` in the watchdog."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.armed: list[float] = []  # after how many seconds faulthandler is to end the process
        self.cancelled = 0
        self._tick = threading.Condition()

    def monotonic(self) -> float:
        return self.now

    sleep = staticmethod(time.sleep)

    def dump_traceback_later(self, timeout: float, exit: bool, file: object) -> None:
        assert exit
        with self._tick:
            self.armed.append(timeout)
            self._tick.notify_all()

    def cancel_dump_traceback_later(self) -> None:
        self.cancelled += 1

    def ticks(self, count: int = 2) -> None:
        """Wait until the watchdog has looked, and so acted on what it saw at the ticks before."""
        with self._tick:
            wanted = len(self.armed) + count
            assert self._tick.wait_for(lambda: len(self.armed) >= wanted, PATIENCE_S)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    for name in ("time", "faulthandler"):
        monkeypatch.setattr(watchdog, name, clock)
    monkeypatch.setattr(watchdog, "TICK_S", TICK_S)
    yield clock
    assert not watchdog._watches, "nothing is watched any more"


class Expiries:
    """What `expired` was called with."""

    def __init__(self) -> None:
        self.indices: list[int | None] = []
        self._came = threading.Event()

    def __call__(self, index: int | None) -> None:
        self.indices.append(index)
        self._came.set()

    def wait(self) -> int | None:
        assert self._came.wait(PATIENCE_S)
        return self.indices[0]


def test_a_block_without_progress_expires_with_its_image(clock):
    expired = Expiries()
    with watchdog.watch(10, expired):
        watchdog.progress(7)
        clock.now += 10
        clock.ticks()
        assert expired.indices == [], "it may take all of its time"
        clock.now += 0.1
        assert expired.wait() == 7


def test_a_block_that_names_no_image_expires_with_none(clock):
    expired = Expiries()
    with watchdog.watch(10, expired):
        watchdog.progress()
        clock.now += 10.1
        assert expired.wait() is None


def test_progress_gives_new_time_and_keeps_the_image(clock):
    expired = Expiries()
    with watchdog.watch(10, expired):
        for index in (3, 4, None, None):
            watchdog.progress(index)
            clock.now += 9
            clock.ticks()
        assert expired.indices == []
        watchdog.progress(images=3)
        clock.now += 29
        clock.ticks()
        assert expired.indices == [], "a batch of three has three times the time"
        clock.now += 2
        assert expired.wait() == 4


def test_progress_outside_of_a_block_does_nothing(clock):
    watchdog.progress(3)
    expired = Expiries()
    with watchdog.watch(10, expired):
        clock.now += 11
        assert expired.wait() is None


def test_nothing_expires_behind_the_block(clock):
    expired = Expiries()
    with pytest.raises(ValueError, match="inside"), watchdog.watch(10, expired):
        raise ValueError("inside")
    other = Expiries()
    with watchdog.watch(1000, other):
        clock.now += 100
        clock.ticks()
    assert expired.indices == other.indices == []


def test_threads_are_watched_each_by_itself(clock):
    stuck, busy = Expiries(), Expiries()
    inside, leave = threading.Event(), threading.Event()

    def hang() -> None:
        with watchdog.watch(10, stuck):
            watchdog.progress(1)
            inside.set()
            leave.wait(PATIENCE_S)

    thread = threading.Thread(target=hang, daemon=True)
    thread.start()
    assert inside.wait(PATIENCE_S)
    with watchdog.watch(10, busy):
        clock.now += 8
        watchdog.progress(2)
        clock.now += 8
        assert stuck.wait() == 1
        clock.ticks()
        assert busy.indices == []
        leave.set()
        thread.join(PATIENCE_S)
        clock.ticks()  # the last look at the thread that is gone
        seen = len(stuck.indices)
        clock.now += 3
        assert busy.wait() == 2
        assert len(stuck.indices) == seen


def test_the_faulthandler_is_armed_while_something_is_watched(clock):
    with watchdog.watch(10, Expiries()):
        assert clock.armed[0] == 10 + 3 * TICK_S
        clock.ticks()
        assert clock.cancelled == 0
        inside, leave = threading.Event(), threading.Event()

        def longer() -> None:
            with watchdog.watch(50, Expiries()):
                inside.set()
                leave.wait(PATIENCE_S)

        thread = threading.Thread(target=longer, daemon=True)
        thread.start()
        assert inside.wait(PATIENCE_S)
        clock.ticks()
        assert clock.armed[-1] == 50 + 3 * TICK_S, "the longest of them"
        leave.set()
        thread.join(PATIENCE_S)
        assert clock.cancelled == 0
        clock.ticks()
        assert clock.armed[-1] == 10 + 3 * TICK_S
    assert clock.cancelled == 1
    armed = len(clock.armed)
    with watchdog.watch(5, Expiries()):
        assert len(clock.armed) > armed
    assert clock.cancelled == 2


STUCK = """
import ctypes
from sapiens_ray.engine import watchdog
watchdog.TICK_S = 0.05
print("entered", flush=True)
with watchdog.watch(0.05, lambda index: None):
    ctypes.PyDLL(None).sleep(3600)  # keeps Python's lock, as a loop in C does
print("left")
"""


def test_a_block_that_keeps_pythons_lock_ends_its_process():
    done = subprocess.run(
        [sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout) == (1, "entered\n"), done.stderr
