"""How `run` ends when it is told to: by Ctrl-C, SIGTERM, or `ray job stop`."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from sapiens_ray.cli.console import is_live


@contextlib.contextmanager
def leaving_on_signals(before: Callable[[int], None]) -> Iterator[None]:
    """Inside the block, SIGINT and SIGTERM end the process immediately, with a message: nothing has been started.

    before: called with the exit code.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(Exception):
            before(128 + number)
        os.write(2, b"Stopped before anything was done.\n")
        os._exit(128 + number)

    with _handled_by(leave):
        yield


@contextlib.contextmanager
def _handled_by(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside the block a function handles SIGINT and SIGTERM. Only the main thread can ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def prepare_exit() -> None:
    """For the moments in which the process ends: a signal shows no stack trace, and a stream without colours gets no
    code that resets them, which colorama, a dependency of Ray, would print."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: os._exit(128 + number))
    colorama = sys.modules.get("colorama")
    if colorama is not None and not is_live(sys.stdout):
        atexit.unregister(colorama.initialise.reset_all)


class Stopped(BaseException):
    """The process received SIGINT or SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class StopSignals:
    """Turns the first SIGINT or SIGTERM into Stopped, raised in the main thread."""

    def install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._handle)
            signal.signal(signal.SIGTERM, self._handle)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        with _handled_by(self._handle):
            yield

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Inside the block a signal ends the process without a word."""
        with _handled_by(lambda number, frame: os._exit(128 + number)):
            yield

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A second signal, or a cleanup that takes too long, ends the process immediately.
        signal.signal(number, lambda *_: os._exit(128 + number))
        timer = threading.Timer(_killed_after_s(), lambda: os._exit(128 + number))
        timer.daemon = True
        timer.start()
        raise Stopped(number)


def _killed_after_s() -> float:
    """When `ray job stop` kills a process after SIGTERM: 3 s, or what Ray's own variable says."""
    try:
        return float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "3"))
    except ValueError:
        return 3.0


def end_process(code: int) -> NoReturn:
    """End the process within seconds: our tasks are safe to interrupt."""
    from sapiens_ray.execution.cluster import stop_ray

    stop_ray(max(0.0, _killed_after_s() - 1))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
