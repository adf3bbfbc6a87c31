"""A time-out for code that cannot be interrupted: a decoder in an endless loop, a kernel that never returns.

A thread looks after all calls under way; where one makes no progress it ends the process, which Ray replaces. Code
that also keeps Python's lock would stop that thread too; then `faulthandler`, whose timer is a thread in C, ends it.
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
    """Call `expired` with the image under way if the block makes no progress for so long. Not to be nested."""
    global _thread
    me = threading.get_ident()
    with _lock:
        _watches[me] = _Watch(timeout_s, expired, time.monotonic() + timeout_s)
        if _thread is None:
            _thread = threading.Thread(target=_look, name="watchdog", daemon=True)
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
    """Say that this thread gets on: with the image `index`, or with a batch of so many of them."""
    one = _watches.get(threading.get_ident())
    if one is not None:
        one.index = one.index if index is None else index
        one.deadline = time.monotonic() + one.timeout_s * images


def _look() -> None:
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
    """Put the end of this process off. It comes only if no tick follows, since another thread keeps Python's lock."""
    longest = max(one.timeout_s for one in _watches.values())
    faulthandler.dump_traceback_later(longest + 3 * TICK_S, exit=True, file=_nowhere())


@cache
def _nowhere() -> IO[str]:
    """Where `faulthandler` writes the dump that it insists on."""
    return open(os.devnull, "w")
