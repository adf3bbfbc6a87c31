"""A count of attempts in this process, in place of the coordinator's."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator

from sapiens_ray.engine import watchdog


class Died(BaseException):
    """Stands for the end of a worker process: nothing catches it, and the attempt is not ended."""


class Attempts:
    """What a Guard counts its attempts with. unfinished: how many attempts at everything are said to have died."""

    def __init__(self, unfinished: int = 0) -> None:
        self.unfinished = unfinished
        self.started: Counter[str] = Counter()
        self.ended: list[str] = []

    @contextlib.contextmanager
    def __call__(self, what: str) -> Iterator[int]:
        earlier = self.started[what] + self.unfinished
        self.started[what] += 1
        yield earlier
        self.started.pop(what)
        self.ended.append(what)


def let_time_run_out() -> None:
    """What is watched in this thread has had all of its time."""
    watchdog._watches[threading.get_ident()].deadline = time.monotonic()
