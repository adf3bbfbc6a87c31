"""A time-out for code that cannot be interrupted: a decoder in an endless loop, a kernel that never returns.

A thread watches all running calls. If one makes no progress, the thread ends the process, which Ray replaces. Code
that does not release the GIL would stop this thread too; then `faulthandler`, whose timer is a C thread, ends the
process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import IO

TICK_S = 1.0


@dataclass
class _Watch:
    timeout_s: float
    expired: Callable[[int | None], None]
    deadline: float
    index: int | None = None


_watches: dict[int, _Watch] = {}  # by thread
_lock = threading.Lock()
_thread: threading.Thread | None = None


@contextlib.contextmanager
def watch(timeout_s: float, expired: Callable[[int | None], None]) -> Iterator[None]:
    """Call `expired` with the index of the current image if the block makes no progress for `timeout_s`. Cannot be
    nested."""
    global _thread
    me = threading.get_ident()
    with _lock:
        _watches[me] = _Watch(timeout_s, expired, time.monotonic() + timeout_s)
        if _thread is None:
            _thread = threading.Thread(target=_watch_all, name="watchdog", daemon=True)
            _thread.start()
        _arm()
    try:
        yield
    finally:
        with _lock:
            _watches.pop(me, None)
            if not _watches:
                faulthandler.cancel_dump_traceback_later()


def progress(index: int | None = None, images: int = 1) -> None:
    """Report progress of this thread: it starts image `index`, or a batch of this many images."""
    one = _watches.get(threading.get_ident())
    if one is not None:
        one.index = one.index if index is None else index
        one.deadline = time.monotonic() + one.timeout_s * images


def _watch_all() -> None:
    while True:
        time.sleep(TICK_S)
        with _lock:
            watches = list(_watches.values())
            if watches:
                _arm()
        for one in watches:
            if time.monotonic() > one.deadline:
                one.expired(one.index)


def _arm() -> None:
    """Postpone the exit by `faulthandler`. It happens only if no tick follows, because another thread holds the GIL."""
    longest = max(one.timeout_s for one in _watches.values())
    faulthandler.dump_traceback_later(longest + 3 * TICK_S, exit=True, file=_devnull())


@cache
def _devnull() -> IO[str]:
    """The file for the dump of `faulthandler`, which cannot be turned off."""
    return open(os.devnull, "w")
