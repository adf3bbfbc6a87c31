"""The actor that all stages talk to: its methods by themselves, then through Ray."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sapiens_ray.errors import InputError
from sapiens_ray.execution.cluster import start_ray
from sapiens_ray.execution.coordinator import (
    Coordinator,
    Feeder,
    attempts_at,
    settled_at,
    start_coordinator,
    work_of,
)
from sapiens_ray.planning.plan import Shard, ShardWork
from tests.conftest import PATIENCE_S


def shards(*numbers: int) -> list[ShardWork]:
    return [ShardWork(Shard(number, "images", f"/photos/{number}", str(number))) for number in numbers]


def work(*numbers: int) -> list[str]:
    """As the coordinator holds it."""
    return [one.to_json() for one in shards(*numbers)]


async def soon(call):
    return await asyncio.wait_for(call, PATIENCE_S)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_work_is_handed_out_by_number_as_often_as_it_is_asked_for():
    async def scene() -> None:
        coordinator = Coordinator()
        assert await coordinator.offer(0, work(0, 1), False) == (2, 0)
        assert await coordinator.offer(2, work(2), True) == (3, 0)
        for number in (2, 0, 1, 0):
            assert [await soon(coordinator.work(number))] == work(number)
        assert await soon(coordinator.work(3)) is None and await soon(coordinator.work(9)) is None

    asyncio.run(scene())


def test_work_is_waited_for():
    async def scene() -> None:
        coordinator = Coordinator()
        asked = [asyncio.ensure_future(coordinator.work(number)) for number in (0, 1, 2)]
        await asyncio.sleep(0)
        assert not any(one.done() for one in asked)
        await coordinator.offer(0, work(0), False)
        assert [await soon(asked[0])] == work(0)
        assert not asked[1].done(), "more may come"
        await coordinator.offer(1, work(1), False)
        assert [await soon(asked[1])] == work(1)
        assert not asked[2].done()
        await coordinator.offer(2, [], True)
        assert await soon(asked[2]) is None

    asyncio.run(scene())


def test_an_offer_that_does_not_follow_says_where_to_begin():
    """A restarted coordinator knows nothing, and an offer that is sent twice must not double the work."""

    async def scene() -> None:
        coordinator = Coordinator()
        assert await coordinator.offer(2, work(2), True) == (0, 0)
        assert await coordinator.offer(0, work(0, 1), False) == (2, 0)
        assert await coordinator.offer(0, work(0, 1), False) == (2, 0)
        assert await coordinator.offer(2, work(2), True) == (3, 0)
        assert [await soon(coordinator.work(number)) for number in range(4)] == [*work(0, 1, 2), None]

    asyncio.run(scene())


def test_attempts_are_counted_until_one_ends():
    async def scene() -> None:
        coordinator = Coordinator()
        assert [await coordinator.begin("unit:seg") for _ in range(3)] == [0, 1, 2]
        assert await coordinator.begin("unit:depth") == 0, "each by itself"
        await coordinator.end("unit:seg")
        assert await coordinator.begin("unit:seg") == 0
        await coordinator.end("never begun")
        assert await coordinator.offer(0, [], False) == (0, 2), "two attempts were repeated"

    asyncio.run(scene())


def test_one_process_finds_a_number_and_the_others_get_it():
    async def scene() -> None:
        coordinator = Coordinator()
        assert await coordinator.ask("batch", "first") == (None, True)
        assert await coordinator.ask("batch", "second") == (None, False)
        assert await coordinator.ask("batch", "first") == (None, True), "it says that it is alive"
        assert await coordinator.ask("batch of another kind", "second") == (None, True)
        await coordinator.give_up("batch", "second")
        assert await coordinator.ask("batch", "third") == (None, False), "only who finds it may give up"
        await coordinator.give_up("batch", "first")
        await coordinator.give_up("batch", "first")
        assert await coordinator.ask("batch", "third") == (None, True)
        assert await coordinator.settle("batch", 16) == 16
        assert await coordinator.settle("batch", 8) == 16, "all have the same"
        assert await coordinator.ask("batch", "second") == (16, False)

    asyncio.run(scene())


def test_a_process_that_no_longer_says_that_it_is_alive_is_replaced():
    async def scene() -> None:
        coordinator = Coordinator(lease_s=0.0)
        assert await coordinator.ask("batch", "first") == (None, True)
        assert await coordinator.ask("batch", "second") == (None, True)

    asyncio.run(scene())


class Host:
    """A process that holds models, and needs a batch size."""

    def __init__(self, settled: Any, folder: Path, finds: int) -> None:
        self.settled, self.folder, self.finds = settled, folder, finds

    def batch_size(self) -> int:
        return int(self.settled("batch", self.find))

    def find(self) -> int:
        """Find it as soon as that is allowed."""
        (self.folder / f"{self.finds} is found").touch()
        while not (self.folder / f"{self.finds} may be told").exists():
            time.sleep(0.02)
        if self.finds < 0:
            raise ValueError("nothing fits")
        return self.finds


def hosts(settled: Any, folder: Path, *finds: int) -> list[Any]:
    import ray

    return [ray.remote(Host).options(num_cpus=0).remote(settled, folder, number) for number in finds]


def test_hosts_of_a_job_agree_on_what_one_of_them_finds(cluster, tmp_path):
    import ray

    start_ray()
    coordinator = start_coordinator()
    settled = settled_at(coordinator)
    broken, first, second = hosts(settled, tmp_path, -1, 8, 16)
    try:
        fails = broken.batch_size.remote()
        until((tmp_path / "-1 is found").exists)
        found = first.batch_size.remote()
        assert ray.wait([found], timeout=0.5)[1] and not (tmp_path / "8 is found").exists(), "it waits"
        (tmp_path / "-1 may be told").touch()
        with pytest.raises(ValueError, match="nothing fits"):
            ray.get(fails)
        until((tmp_path / "8 is found").exists)
        waits = second.batch_size.remote()
        (tmp_path / "8 may be told").touch()
        assert ray.get([found, waits], timeout=PATIENCE_S) == [8, 8]
        assert not (tmp_path / "16 is found").exists()
        assert settled("batch", lambda: 32) == 8
    finally:
        for actor in (broken, first, second, coordinator):
            ray.kill(actor)


def test_a_host_that_dies_while_it_finds_a_number_is_replaced(cluster, tmp_path):
    import ray

    start_ray()
    coordinator = start_coordinator(lease_s=2.0)
    dies, lives = hosts(settled_at(coordinator), tmp_path, 8, 16)
    try:
        dies.batch_size.remote()
        until((tmp_path / "8 is found").exists)
        found = lives.batch_size.remote()
        ray.kill(dies)
        (tmp_path / "16 may be told").touch()
        assert ray.get(found, timeout=PATIENCE_S) == 16
    finally:
        for actor in (lives, coordinator):
            ray.kill(actor)


def test_a_job_on_ray_gets_all_work_though_its_coordinator_dies(cluster):
    import ray

    start_ray()
    coordinator = start_coordinator()
    listing = threading.Event()

    def batches() -> Iterator[list[ShardWork]]:
        yield shards(0, 1)
        assert listing.wait(PATIENCE_S)
        yield shards(2)
        yield []

    feeder = Feeder(coordinator, batches())
    try:
        found = work_of(coordinator)
        assert [next(found), next(found)] == work(0, 1)
        attempts = attempts_at(coordinator)
        with attempts("unit:seg") as earlier:
            assert earlier == 0
        ray.get(coordinator.end.remote("unit:seg"))  # an async actor may run calls of one caller in another order
        with pytest.raises(ValueError, match="inside"), attempts("unit:seg") as earlier:
            assert earlier == 0, "the one before has ended"
            raise ValueError("inside")
        with attempts("unit:seg") as earlier:
            assert earlier == 1
        until(lambda: feeder.repeated == 1)
        ray.kill(coordinator, no_restart=False)
        # An offer out of turn changes nothing; a restarted coordinator knows of no repeated attempts.
        until(lambda: ray.get(coordinator.offer.remote(-1, [], False))[1] == 0)
        listing.set()
        assert list(found) == work(2)
        assert list(work_of(coordinator)) == work(0, 1, 2)
        with attempts("unit:seg") as earlier:
            assert earlier == 0, "a restarted coordinator counts anew"
        assert feeder.failed is None and feeder.repeated == 1, "what is known stays"
    finally:
        feeder.stop()
        ray.kill(coordinator)


def test_what_ends_the_listing_is_kept_and_the_work_before_it_is_done(cluster):
    import ray

    start_ray()
    coordinator = start_coordinator()

    def batches() -> Iterator[list[ShardWork]]:
        yield shards(0)
        raise InputError("the rest cannot be listed")

    feeder = Feeder(coordinator, batches())
    try:
        assert list(work_of(coordinator)) == work(0)
        assert str(feeder.failed) == "the rest cannot be listed"
    finally:
        feeder.stop()
        ray.kill(coordinator)
    for thread in feeder._threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
