"""The actor that all stages of a job call. It knows which shards are to be read, which units were started before, and
which GPUs failed, and which batch sizes were found. Workers tell it that they wait for a storage.

It runs on the driver's node. If it dies, Ray restarts it, and `Feeder` sends it the shards again. Units in progress
then count as never started, which costs them one more attempt. Actors that start later find their batch size again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from sapiens_ray.errors import ClusterError, DeviceFailedError, last_line
from sapiens_ray.execution.devices import Device, Devices, own_device

if TYPE_CHECKING:  # the actor itself needs none of it, and starts faster
    from sapiens_ray.engine.host import Settled
    from sapiens_ray.execution.attempts import Attempt
    from sapiens_ray.planning.plan import ShardWork

CoordinatorHandle = Any  # Ray's handle of a `Coordinator` actor
Text = str  # a `ShardWork` as JSON

FEED_EVERY_S = 0.2
TELL_WITHIN_S = 10.0  # a process that is about to end waits for so long
STOP_WITHIN_S = 1.0  # `ray job stop` does not wait for long
ASK_EVERY_S = 1.0  # whether another process has found a number
LEASE_S = 60.0  # a process that finds a number says this often that it is alive, or another one finds it
RENEW_EVERY_S = 10.0


class Coordinator:
    """The actor's methods."""

    def __init__(self, lease_s: float = LEASE_S) -> None:
        self._lease_s = lease_s
        self._settled: dict[str, int] = {}
        self._finding: dict[str, tuple[str, float]] = {}  # who finds a number, and until when
        self._work: list[Text] = []
        self._ended = False
        self._started: Counter[str] = Counter()
        self._repeated = 0
        self._devices = Devices()
        self._actors: dict[str, str] = {}
        self._waits: list[tuple[str, dict[str, Any]]] = []

    async def offer(self, first: int, work: list[Text], ended: bool) -> tuple[int, int]:
        """Add work, from number `first` on. Returns how many pieces of work are known (fewer than were sent if the
        actor was restarted), and how many attempts were repeated because their worker died."""
        if first == len(self._work):
            self._work += work
            self._ended = ended
        return len(self._work), self._repeated

    async def work(self, number: int) -> Text | None:
        """Wait for the piece of work with this number, and return it; None after the last one."""
        while number >= len(self._work):
            if self._ended:
                return None
            await asyncio.sleep(0.05)
        return self._work[number]

    async def begin(self, what: str) -> int:
        """Start an attempt. Returns how many earlier ones were started and not ended."""
        earlier = self._started[what]
        self._started[what] += 1
        self._repeated += earlier > 0
        return earlier

    async def end(self, what: str) -> None:
        self._started.pop(what, None)

    async def started(self, actor: str, node: str) -> None:
        self._actors[actor] = node

    async def actors(self) -> dict[str, str]:
        """The node on which each actor with models was started last, by the id of the actor."""
        return self._actors

    async def device_failed(self, device: Device, reason: str, starting: bool, answered: int) -> bool:
        return self._devices.failed(device, reason, starting, answered)

    async def device_missing(self, device: Device, reason: str) -> None:
        self._devices.missing(device, reason)

    async def reason_if_broken(self, device: Device) -> str:
        return self._devices.broken().get(device, "")

    async def broken_devices(self) -> dict[Device, str]:
        return self._devices.broken()

    async def waits(self, host: str, waiting: dict[str, Any]) -> None:
        """Take note that a process on this host waits for a storage (`retries.Waiting`, as a dict)."""
        self._waits.append((host, waiting))

    async def take_waits(self) -> list[tuple[str, dict[str, Any]]]:
        """What was noted since this was asked last."""
        taken, self._waits = self._waits, []
        return taken

    async def ask(self, what: str, who: str) -> tuple[int | None, bool]:
        """Ask for a number. Returns it, or None while it is not known, and whether the process that asks is to find it.
        That process asks again and again, to say that it is alive."""
        if what in self._settled:
            return self._settled[what], False
        now = time.monotonic()
        holder, until = self._finding.get(what, (who, now))
        if holder != who and now < until:
            return None, False
        self._finding[what] = who, now + self._lease_s
        return None, True

    async def settle(self, what: str, number: int) -> int:
        """Tell a number that was found. Returns the one that counts: the first that was told."""
        return self._settled.setdefault(what, number)

    async def give_up(self, what: str, who: str) -> None:
        """Let another process find a number at once, after an error."""
        if self._finding.get(what, ("", 0.0))[0] == who:
            del self._finding[what]


def start_coordinator(lease_s: float = LEASE_S) -> CoordinatorHandle:
    """Start the actor on this node. Returns its handle. lease_s: see `LEASE_S`."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: CoordinatorHandle = ray.remote(Coordinator)
    return actor.options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=1000, scheduling_strategy=here
    ).remote(lease_s)


def attempts_at(coordinator: CoordinatorHandle) -> Attempt:
    """The function that stages use to count their attempts."""
    return partial(_attempt, coordinator)


@contextlib.contextmanager
def _attempt(coordinator: CoordinatorHandle, what: str) -> Iterator[int]:
    import ray

    yield ray.get(coordinator.begin.remote(what))
    # An exception ends the job, so it does not matter that the attempt is not counted as ended.
    coordinator.end.remote(what)


def settled_at(coordinator: CoordinatorHandle) -> Settled:
    """The function with which the processes of a job agree on numbers that depend on the kind of device."""
    return partial(_settled, coordinator)


def _settled(coordinator: CoordinatorHandle, what: str, find: Callable[[], int]) -> int:
    import ray

    who = uuid.uuid4().hex
    while True:
        number, mine = ray.get(coordinator.ask.remote(what, who))
        if number is not None:
            return int(number)
        if mine:
            break
        time.sleep(ASK_EVERY_S)
    found = threading.Event()

    def renew() -> None:
        while not found.wait(RENEW_EVERY_S):
            coordinator.ask.remote(what, who)

    renewing = threading.Thread(target=renew, name="renew", daemon=True)
    renewing.start()
    try:
        return int(ray.get(coordinator.settle.remote(what, find())))
    except BaseException:
        found.set()
        renewing.join()  # else it could ask once more, and take back what is given up
        coordinator.give_up.remote(what, who)
        raise
    finally:
        found.set()


def work_of(coordinator: CoordinatorHandle) -> Iterator[Text]:
    """All work, as it becomes known. Every caller gets all of it."""
    import ray

    number = 0
    while (work := ray.get(coordinator.work.remote(number))) is not None:
        yield work
        number += 1


def tell_start(coordinator: CoordinatorHandle) -> None:
    """Tell that this actor was started, or started again, and where."""
    import ray

    context = ray.get_runtime_context() if ray.is_initialized() else None
    if context is not None and context.get_actor_id() is not None:  # else this is no actor
        coordinator.started.remote(context.get_actor_id(), context.get_node_id())


class DeviceReports:
    """An actor's view of its own GPU. Without a GPU it does nothing."""

    def __init__(self, coordinator: CoordinatorHandle) -> None:
        self._coordinator, self._device = coordinator, own_device()

    def refuse_if_broken(self) -> None:
        """Raise DeviceFailedError if this GPU failed again and again."""
        import ray

        if self._device is not None:
            reason = ray.get(self._coordinator.reason_if_broken.remote(self._device))
            if reason:
                raise DeviceFailedError(f"{self._device}: {reason}")

    def failed(self, error: Exception, starting: bool = False, answered: int = 0) -> bool:
        """Report a failure. Returns whether the GPU is broken, as far as the coordinator can be asked."""
        import ray

        if self._device is None:
            return False
        with contextlib.suppress(Exception):  # the process is about to end; a count that is lost costs one more try
            count = self._coordinator.device_failed.remote(self._device, last_line(error), starting, answered)
            return bool(ray.get(count, timeout=TELL_WITHIN_S))
        return False

    def missing(self, error: ClusterError) -> DeviceFailedError:
        """Report that torch does not find the GPU of this actor. Returns the error to raise."""
        import ray

        if self._device is not None:
            with contextlib.suppress(Exception):  # then this actor is started again, and reports it again
                ray.get(self._coordinator.device_missing.remote(self._device, last_line(error)), timeout=TELL_WITHIN_S)
        return DeviceFailedError(str(error))


class Feeder:
    """Sends work to the coordinator from a thread of the driver, as the listing yields it.

    failed: the exception that ended the listing, if any. The stages then finish the work that they have.
    repeated: how many attempts were started again because their worker died, as far as the coordinator knows.
    """

    def __init__(self, coordinator: CoordinatorHandle, batches: Iterator[list[ShardWork]]) -> None:
        self.failed: Exception | None = None
        self.repeated = 0
        self._coordinator = coordinator
        self._work: list[Text] = []
        self._ended = False
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._list, args=(batches,), name="listing", daemon=True),
            threading.Thread(target=self._feed, name="feeder", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _list(self, batches: Iterator[list[ShardWork]]) -> None:
        try:
            for batch in batches:
                self._work += [work.to_json() for work in batch]
                if self._stop.is_set():
                    return
        except Exception as error:
            self.failed = error
        self._ended = True

    def _feed(self) -> None:
        import ray

        sent, pause = 0, 0.0
        while not self._stop.wait(pause):
            pause = FEED_EVERY_S
            ended = self._ended  # read before the work is sent: if True, no more work follows
            try:
                sent, repeated = ray.get(self._coordinator.offer.remote(sent, self._work[sent:], ended))
                self.repeated = max(self.repeated, repeated)  # a restarted coordinator counts from 0
            except ray.exceptions.RayError:
                continue  # restarting, or the job is over
            except Exception as error:
                self.failed = self.failed or error
                return

    def stop(self) -> None:
        """Wait for the threads, but not for long: the listing may be in the middle of a request."""
        self._stop.set()
        for thread in self._threads:
            thread.join(STOP_WITHIN_S)
