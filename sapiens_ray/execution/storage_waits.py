"""Lines for the user while a job waits for a storage that does not answer: at most one a minute for each storage,
whichever processes wait for it.

The driver tells its own waits. Workers tell theirs to the coordinator, which the driver asks every second.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from sapiens_ray.storage import retries
from sapiens_ray.storage.retries import Teller, Waiting

if TYPE_CHECKING:
    from sapiens_ray.execution.coordinator import CoordinatorHandle

ASK_EVERY_S = 1.0
ANSWER_WITHIN_S = 10.0


class StorageWaits:
    """What the driver knows of waits. tell: called with a line, by any thread. every_s: between two lines about the
    same storage."""

    def __init__(self, tell: Callable[[str], None], every_s: float | None = None) -> None:
        self._tell = tell
        self._every_s = retries.TELL_EVERY_S if every_s is None else every_s
        self._told_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def told(self, waiting: Waiting, host: str = "") -> None:
        """Tell a wait, unless another one for this storage was told a moment ago. host: where it is; empty: here."""
        now = time.monotonic()
        with self._lock:
            if now - self._told_at.get(waiting.storage, -math.inf) < self._every_s:
                return
            self._told_at[waiting.storage] = now
        self._tell(wait_line(waiting, host, time.time()))

    @contextlib.contextmanager
    def of_workers(self, coordinator: CoordinatorHandle) -> Iterator[None]:
        """Inside the block, the waits of the workers are told as well."""
        ended = threading.Event()
        thread = threading.Thread(target=self._ask, args=(coordinator, ended), name="storage waits", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()

    def _ask(self, coordinator: CoordinatorHandle, ended: threading.Event) -> None:
        import ray

        while not ended.wait(ASK_EVERY_S):
            # A coordinator that is being restarted has lost the waits that it knew; workers tell them again.
            with contextlib.suppress(ray.exceptions.RayError):
                for host, waiting in ray.get(coordinator.take_waits.remote(), timeout=ANSWER_WITHIN_S):
                    self.told(Waiting(**waiting), host)


def wait_line(waiting: Waiting, host: str, now: float) -> str:
    """A wait in one line. now: seconds since 1970; times of day are those of the driver, as in its other lines."""
    since, until = (
        time.strftime("%H:%M:%S", time.localtime(moment)) for moment in (now - waiting.waited_s, now + waiting.left_s)
    )
    where = f" on {host}" if host else ""
    what = f"The storage {waiting.storage}" if waiting.storage else "A storage"
    return f"{what} does not answer{where} ({waiting.reason}); trying again since {since}, until {until}."


def teller_at(coordinator: CoordinatorHandle) -> Teller:
    """How a worker tells that it waits for a storage."""
    return Teller(partial(_tell, coordinator), retries.SILENT_S, retries.TELL_EVERY_S)


def _tell(coordinator: CoordinatorHandle, waiting: Waiting) -> None:
    with contextlib.suppress(Exception):  # the job may be over; what matters is the call that waits
        coordinator.waits.remote(socket.gethostname(), asdict(waiting))
