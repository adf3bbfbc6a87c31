"""Which batch is run next."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from sapiens_ray.engine.backlog import MOST, Backlog
from sapiens_ray.engine.queues import OVERDUE, Queues, Request
from tests.conftest import PATIENCE_S


@dataclass(frozen=True)
class Model:
    batch_size: int = 4


@dataclass(frozen=True)
class Run:
    """A unit under way."""

    number: int

    def deliver(self, request: Request, result: Any) -> None: ...

    def used(self, model: int, inputs: int, places: float, seconds: float) -> None: ...

    def fail(self, error: BaseException) -> None: ...


def requests(run: Run, model: int, count: int) -> list[Request]:
    return [Request(run, model, 0, part, lambda: np.empty(0), (1, 1)) for part in range(count)]


def taken(queues: Queues) -> list[tuple[int, int]] | None:
    """Unit and model of each request of the next batch; None if the device is to wait."""
    if queues._chosen() is None:
        return None
    return [(one.run.number, one.model) for one in queues.take() or []]


def test_a_batch_is_filled_across_units_and_in_their_order():
    queues, one, two = Queues([Model()]), Run(1), Run(2)
    queues.expect(one, 2)
    queues.expect(two, 2)
    queues.add(one, 0, requests(one, 0, 3))
    queues.add(two, 0, requests(two, 0, 3))
    assert taken(queues) == [(1, 0)] * 3 + [(2, 0)]
    assert taken(queues) is None, "more may come"
    queues.add(one, 0, [])
    assert taken(queues) is None
    queues.add(two, 0, requests(two, 0, 1))
    assert taken(queues) == [(2, 0)] * 3


def test_the_model_that_holds_up_the_oldest_unit_goes_first():
    queues, one, two = Queues([Model(), Model()]), Run(1), Run(2)
    queues.expect(one, 1)
    queues.expect(two, 1)
    queues.add(two, 0, requests(two, 0, 4))
    queues.add(one, 1, requests(one, 1, 4))
    assert taken(queues) == [(1, 1)] * 4 and taken(queues) == [(2, 0)] * 4


def test_an_image_does_not_wait_for_ever_for_its_batch_to_be_filled():
    """Units come without end, and none has an image for the second model; it may always come."""
    queues = Queues([Model(), Model()])
    runs = [Run(number) for number in range(OVERDUE + 1)]
    for run in runs[:-1]:
        queues.expect(run, 8)
        queues.add(run, 0, requests(run, 0, 4))
    queues.add(runs[0], 1, requests(runs[0], 1, 1))
    assert taken(queues) == [(0, 0)] * 4
    queues.expect(runs[-1], 8)
    assert taken(queues) == [(0, 1)], "four younger units have come in"
    assert taken(queues) == [(1, 0)] * 4


def test_a_unit_that_is_given_up_leaves_nothing():
    queues, one, two = Queues([Model()]), Run(1), Run(2)
    for run in (one, two):
        queues.expect(run, 3)
        queues.add(run, 0, requests(run, 0, 1))
    queues.withdraw(one)
    queues.add(one, 0, requests(one, 0, 5))  # by a thread that had not heard of it
    queues.add(two, 0, [])
    queues.add(two, 0, [])
    assert taken(queues) == [(2, 0)] and not any(queues._coming) and not any(queues._waiting)


def test_the_end():
    queues = Queues([Model()])
    ended: list[object] = []
    waiting = threading.Thread(target=lambda: ended.append(queues.take()), daemon=True)
    waiting.start()
    queues.close()
    waiting.join(PATIENCE_S)
    assert ended == [None]


@pytest.mark.parametrize("ends", ["done", "close"])
def test_the_device_waits_while_too_many_results_wait(ends):
    backlog = Backlog()
    for _ in range(MOST):
        backlog.add()
    waiting = threading.Thread(target=backlog.wait, daemon=True)
    waiting.start()
    waiting.join(0.05)  # it must not go on meanwhile; waiting longer would find no more
    assert waiting.is_alive()
    getattr(backlog, ends)()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
