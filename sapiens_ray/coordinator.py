"""The one actor that a job's stages talk to: which shards are to be read, and which units have been begun before.

It lives on the driver's node. Should it die, Ray starts it anew, `Feeder` tells it the shards again, and units that
are under way count as never begun, which costs them one more attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

# Opens an attempt at something with this name; gives how many earlier ones were not finished.
Attempt = Callable[[str], AbstractContextManager[int]]

FEED_EVERY_S = 0.2
STOP_WITHIN_S = 1.0  # `ray job stop` does not wait for long


class Coordinator:
    """The actor's methods."""

    def __init__(self) -> None:
        self._work: list[dict[str, Any]] = []
        self._ended = False
        self._begun: Counter[str] = Counter()
        self._repeated = 0

    async def offer(self, first: int, work: list[dict[str, Any]], ended: bool) -> tuple[int, int]:
        """Add the work from number `first` on. Returns how much there is, less than the caller thinks if this is
        a new life, and how many attempts were repeated because their worker died."""
        if first == len(self._work):
            self._work += work
            self._ended = ended
        return len(self._work), self._repeated

    async def work(self, number: int) -> dict[str, Any] | None:
        """The piece of work with this number as soon as it is there; None behind the last one."""
        while number >= len(self._work):
            if self._ended:
                return None
            await asyncio.sleep(0.05)
        return self._work[number]

    async def begin(self, what: str) -> int:
        """How many attempts were begun and not ended before this one."""
        earlier = self._begun[what]
        self._begun[what] += 1
        self._repeated += earlier > 0
        return earlier

    async def end(self, what: str) -> None:
        self._begun.pop(what, None)


def start_coordinator() -> Any:
    """Start the actor on this node. Returns its handle."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(Coordinator)
    return actor.options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=1000, scheduling_strategy=here
    ).remote()


def attempts_at(coordinator: Any) -> Attempt:
    """What stages count their attempts with."""
    return partial(_attempt, coordinator)


@contextlib.contextmanager
def _attempt(coordinator: Any, what: str) -> Iterator[int]:
    import ray

    yield ray.get(coordinator.begin.remote(what))
    # An exception ends the job, so it is no matter that it is not counted as an end.
    coordinator.end.remote(what)


def work_of(coordinator: Any) -> Iterator[dict[str, Any]]:
    """All work, as it becomes known. The same again for a second caller."""
    import ray

    number = 0
    while (work := ray.get(coordinator.work.remote(number))) is not None:
        yield work
        number += 1


class Feeder:
    """Gives work to the coordinator from a thread of the driver, as a listing yields it.

    failed: what ended the listing, if something did. The stages then finish what they have.
    repeated: how many attempts were begun again because their worker died, as far as the coordinator knows.
    """

    def __init__(self, coordinator: Any, batches: Iterator[list[dict[str, Any]]]) -> None:
        self.failed: Exception | None = None
        self.repeated = 0
        self._coordinator = coordinator
        self._work: list[dict[str, Any]] = []
        self._ended = False
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._list, args=(batches,), name="listing", daemon=True),
            threading.Thread(target=self._feed, name="feeder", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _list(self, batches: Iterator[list[dict[str, Any]]]) -> None:
        try:
            for batch in batches:
                self._work += batch
                if self._stop.is_set():
                    return
        except Exception as error:
            self.failed = error
        self._ended = True

    def _feed(self) -> None:
        import ray

        told, pause = 0, 0.0
        while not self._stop.wait(pause):
            pause = FEED_EVERY_S
            ended = self._ended  # before the work is counted: nothing follows then
            try:
                told, repeated = ray.get(self._coordinator.offer.remote(told, self._work[told:], ended))
                self.repeated = max(self.repeated, repeated)  # a new life begins at 0
            except ray.exceptions.RayError:
                continue  # restarting, or the job is over
            except Exception as error:
                self.failed = self.failed or error
                return

    def stop(self) -> None:
        """Wait for the threads, the one that lists at most for some seconds: it may be in the middle of a request."""
        self._stop.set()
        for thread in self._threads:
            thread.join(STOP_WITHIN_S)
