"""Which batch the device runs next: a queue of network inputs per model, shared by all units under way.

A batch is filled across units. It is run when it is full, when no unit under way can add to it any more, or when one
of its images has waited while several younger units came in. Of several batches the one goes first that holds up the
oldest unit, so that units are finished, and the next ones come in.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sapiens_ray.tasks.base import Size

OVERDUE = 4  # younger units: an actor has four under way, so one of them has overtaken the image


class Asker(Protocol):
    """A unit under way, as the threads of the device see it. number: its place in the order in which units came."""

    number: int

    def deliver(self, request: Request, result: Any) -> None:
        """Take the result of a request, or the ImageError in its place."""

    def used(self, model: int, inputs: int, places: float, seconds: float) -> None:
        """Take note of its share in a batch, before the results of the batch come."""

    def fail(self, error: BaseException) -> None:
        """Take an exception that no image is the cause of."""


@dataclass(frozen=True, eq=False)
class Request:
    """One network input, and whose it is.

    run, model, position, part: the unit, the place of the model among those of the engine, the row in the unit, and
    which of the inputs of that row. make: gives the h x w x 3 uint8 BGR input. size: width and height of the photo.
    """

    run: Asker
    model: int
    position: int
    part: int
    make: Callable[[], np.ndarray]
    size: Size

    def answer(self, result: Any) -> None:
        """Give the unit the result, or the ImageError in its place."""
        self.run.deliver(self, result)


class TakesBatches(Protocol):
    """What the queues need to know of a model: the largest batch that it takes at the moment."""

    @property
    def batch_size(self) -> int: ...


class Queues:
    """The requests that wait. Safe to use from any thread."""

    def __init__(self, models: Sequence[TakesBatches]) -> None:
        self._models = models
        self._waiting: list[deque[Request]] = [deque() for _ in models]
        # By model: units under way, and how many of their images may still come.
        self._coming: list[Counter[Asker]] = [Counter() for _ in models]
        self._runs: set[Asker] = set()  # units under way
        self._failure: Exception | None = None
        self._newest = 0
        self._changed = threading.Condition()
        self._closed = False

    def expect(self, run: Asker, images: int) -> None:
        """Announce a unit, so many images of which will `add` their requests to each model."""
        with self._changed:
            if self._failure is not None:
                raise self._failure
            self._runs.add(run)
            self._newest = max(self._newest, run.number)
            for coming in self._coming:
                if images:
                    coming[run] = images

    def add(self, run: Asker, model: int, requests: Sequence[Request]) -> None:
        """Add the requests of one image that was announced; there may be none."""
        with self._changed:
            coming = self._coming[model]
            if run not in coming:  # the unit was given up meanwhile
                return
            coming[run] -= 1
            if not coming[run]:
                del coming[run]
            self._waiting[model].extend(requests)
            self._changed.notify_all()

    def withdraw(self, run: Asker) -> None:
        """Forget a unit: what it has announced, and its requests."""
        with self._changed:
            self._runs.discard(run)
            for model, coming in enumerate(self._coming):
                coming.pop(run, None)
                if any(one.run is run for one in self._waiting[model]):
                    self._waiting[model] = deque(one for one in self._waiting[model] if one.run is not run)
            self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """End the units under way with this error, and refuse others."""
        with self._changed:
            self._failure = error
            for run in self._runs:
                run.fail(error)

    def take(self) -> list[Request] | None:
        """Wait for the next batch, all of one model; None after `close`."""
        with self._changed:
            while not self._closed:
                chosen = self._chosen()
                if chosen is not None:
                    waiting, size = self._waiting[chosen], self._models[chosen].batch_size
                    return [waiting.popleft() for _ in range(min(size, len(waiting)))]
                self._changed.wait()
            return None

    def _chosen(self) -> int | None:
        """The model to run; None if it is better to wait."""
        models = [model for model, waiting in enumerate(self._waiting) if waiting]
        due = [model for model in models if self._is_full(model) or self._is_overdue(model)]
        ready = due or [model for model in models if not self._coming[model]]
        return min(ready, key=lambda model: (self._waiting[model][0].run.number, model), default=None)

    def _is_full(self, model: int) -> bool:
        return len(self._waiting[model]) >= self._models[model].batch_size

    def _is_overdue(self, model: int) -> bool:
        return self._newest - self._waiting[model][0].run.number >= OVERDUE

    def close(self) -> None:
        """Let `take` return None from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
