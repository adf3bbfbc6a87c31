"""The way of one unit through the models: which image may enter which model, and what comes back.

Images do not wait for each other. An image enters a model as soon as the columns are there that its input is made
from; so its persons are cropped while the segmentation of the next image runs. All of the state of a unit is changed by
the thread that called the engine. Other threads only put events into its queue.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from sapiens_ray.engine import watchdog
from sapiens_ray.engine.backlog import Backlog
from sapiens_ray.engine.loaded import LoadedModel, MakeInput
from sapiens_ray.engine.prepare import error_columns
from sapiens_ray.engine.queues import Queues, Request
from sapiens_ray.errors import ImageError
from sapiens_ray.units import DeviceUse, Errors, Row, Unit, add_use, binary_array, set_column, set_errors

Event = tuple[str, int, int, Any]  # what happened, model, position, value; an exception in its place
LOOK_EVERY_S = 1.0
_SECONDS, _SHARED = "_seconds", "_shared"  # in a finished row: the time that it took, and what other models need of it


@dataclass
class _Visit:
    """One image in one model.

    results: of its network inputs, in order, as far as they have come. missing: how many have not; None until the
    number of inputs is known. entered: whether its inputs are made, or being made. finishing: whether its columns are.
    """

    results: list[Any] = field(default_factory=list)
    missing: int | None = None
    entered: bool = False
    finishing: bool = False


class UnitRun:
    """A unit under way. number: of the units of the engine, in the order in which they came."""

    def __init__(
        self,
        number: int,
        unit: Unit,
        models: Sequence[LoadedModel],
        queues: Queues,
        workers: ThreadPoolExecutor,
        backlog: Backlog,
        batches: Callable[[], int],
    ) -> None:
        """workers: threads for boxes and encoding. backlog: counts their work. batches: how many the device has run."""
        self.number = number
        self._backlog = backlog
        self._batches, self._seen_batches = batches, batches()
        self._queued = 0  # network inputs that wait for the device, or are in it
        self._unit, self._models, self._queues, self._workers = unit, models, queues, workers
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        needed = {name for model in models for name in model.needs}
        self._shared = [needed & set(model.makes) for model in models]  # columns that other models need
        self._rows: dict[int, Row] = {}
        self._visits: dict[tuple[int, int], _Visit] = {}
        self._finished: list[dict[int, Row]] = [{} for _ in models]
        self._errors: list[Errors] = [{} for _ in models]
        self._seconds: defaultdict[int, float] = defaultdict(float)
        self._device: DeviceUse = {}

    def deliver(self, request: Request, result: Any) -> None:
        """Called by the device's threads: the result of a request."""
        self._events.put(("result", request.model, request.position, (request.part, result)))

    def used(self, model: int, inputs: int, places: float, seconds: float) -> None:
        """Called by the device's threads: the share of this unit in a batch, before the results of the batch."""
        self._events.put(("used", model, -1, [inputs, places, seconds]))

    def fail(self, error: BaseException) -> None:
        """Called by the device's threads: an exception that no image is the cause of. It is raised by `finish`."""
        self._events.put(("failed", -1, -1, error))

    def finish(self) -> Unit:
        """Wait until every image has been in every model. Returns the unit with the columns of the models."""
        unit, models = self._unit, self._models
        positions = unit.good_rows()
        made = set().union(*self._shared)
        given = {"width", "height", *(name for model in models for name in model.needs if name not in made)}
        self._rows = {position: unit.cells(position, given) for position in positions}
        self._inputs = [model.inputs_of(unit) for model in models]
        self._visits = {(place, position): _Visit() for place in range(len(models)) for position in positions}
        try:
            self._queues.expect(self, len(positions))
            self._show_progress()
            for place, position in list(self._visits):
                self._advance(place, position)
            while self._visits:
                self._handle(*self._next_event())
        finally:
            self._queues.withdraw(self)
        return self._joined()

    def _next_event(self) -> Event:
        """Wait for an event. Events are progress for the watchdog, and so are batches of others while the device is
        waited for."""
        while True:
            batches = self._batches()
            if self._queued and batches != self._seen_batches:
                self._show_progress()
                self._seen_batches = batches
            with contextlib.suppress(queue.Empty):
                event = self._events.get(timeout=LOOK_EVERY_S)
                self._show_progress()
                return event

    def _show_progress(self) -> None:
        """The next progress comes after a batch at the latest."""
        largest = max((model.batch_size for model in self._models), default=1)
        watchdog.progress(images=max(1, min(largest, self._queued)))

    def _handle(self, what: str, place: int, position: int, value: Any) -> None:
        """Take in one event."""
        if what == "failed":
            raise value
        if what == "used":
            self._device = add_use(self._device, {self._models[place].column: value})
            self._seconds[place] += value[-1]
            return
        visit = self._visits.get((place, position))
        self._queued -= what == "result"
        if what == "inputs":  # also of an image that has failed meanwhile: the queue counts on it
            makers = [] if visit is None or isinstance(value, Exception) else value
            self._enter(place, position, makers)
        if visit is None:
            return
        failure = value if isinstance(value, Exception) else None
        if what == "inputs" and not failure:
            visit.results, visit.missing = [None] * len(value), len(value)
        elif what == "result":
            part, visit.results[part] = value
            assert visit.missing is not None
            visit.missing -= 1
            if visit.missing == 0:
                failure = next((one for one in visit.results if isinstance(one, ImageError)), None)
        if failure:
            self._give_up(place, position, error_columns(failure, self._models[place].column))
        elif what == "row":
            self._complete(place, position, value)
        else:
            self._advance(place, position)

    def _enter(self, place: int, position: int, makers: Sequence[MakeInput]) -> None:
        """Add the network inputs of an image to the queue of a model."""
        row = self._rows[position]
        size = row["width"], row["height"]
        self._queued += len(makers)
        requests = [Request(self, place, position, part, make, size) for part, make in enumerate(makers)]
        self._queues.add(self, place, requests)

    def _give_up(self, failed: int, position: int, error: tuple[str, str]) -> None:
        """Take an image that failed in a model out of that model and of those after it. Those before go on: which error
        the image gets must not depend on who was faster."""
        self._errors[failed][position] = error
        for place in range(failed, len(self._models)):
            visit = self._visits.pop((place, position), None)
            if visit is not None and not visit.entered:
                self._enter(place, position, [])

    def _complete(self, place: int, position: int, finished: Row) -> None:
        """Take the columns of an image, and see which models it may enter with them, or be finished in."""
        del self._visits[place, position]
        self._seconds[place] += finished.pop(_SECONDS)
        self._rows[position].update(finished.pop(_SHARED))
        self._finished[place][position] = finished
        for later, model in enumerate(self._models):
            if self._shared[place] & set(model.needs):
                self._advance(later, position)

    def _advance(self, place: int, position: int) -> None:
        """Start what can be started for an image in a model."""
        visit = self._visits.get((place, position))
        if visit is None:
            return
        model, row = self._models[place], dict(self._rows[position])  # threads read it while it grows
        complete = all(name in row for name in model.needs)
        if not visit.entered and (complete or not model.enters_with_columns):
            visit.entered = True
            array = self._inputs[place][position]
            if model.enters_with_columns:  # boxes may come from a class map, which takes time to decode
                self._start("inputs", place, position, lambda: model.requests(array, row))
            else:
                self._events.put(("inputs", place, position, model.requests(array, row)))
        if visit.missing == 0 and complete and not visit.finishing:
            visit.finishing = True
            results = visit.results
            self._start("row", place, position, lambda: self._row(place, results, row))

    def _start(self, what: str, place: int, position: int, work: Callable[[], Any]) -> None:
        """Do this work in a thread. Its value or its exception comes back as an event."""

        def call() -> None:
            try:
                event = (what, place, position, work())
            except Exception as error:
                event = (what, place, position, error)
            except BaseException as error:  # of a foreign library: without an event the unit would wait for ever
                event = ("failed", place, position, error)
            finally:
                self._backlog.done()
            self._events.put(event)

        self._backlog.add()
        self._workers.submit(call)

    def _row(self, place: int, results: list[Any], row: Row) -> Row:
        """The columns of an image, with those that other models need as they would be read from the unit."""
        started = time.perf_counter()
        model = self._models[place]
        finished = model.finish(results, row)
        shared = {
            column.name: _as_read(column, finished.get(column.name))
            for column in model.fields
            if column.name in self._shared[place]
        }
        return {**finished, _SHARED: shared, _SECONDS: time.perf_counter() - started}

    def _joined(self) -> Unit:
        """The unit with all columns. Of several errors of an image, that of the first model counts."""
        unit, table = self._unit, self._unit.rows
        errors: Errors = {}
        for place, model in enumerate(self._models):
            for row_field in model.fields:
                values = column_of(row_field, self._finished[place], self._errors[place], table.num_rows)
                table = set_column(table, row_field.name, values)
            errors = {**self._errors[place], **errors}
        seconds = dict(unit.seconds)
        for place, model in enumerate(self._models):
            seconds[model.column] = seconds.get(model.column, 0.0) + self._seconds[place]
        notes = (*unit.notes, *(f"{model.column}: {note}" for model in self._models for note in model.take_notes()))
        device = add_use(unit.device, self._device)
        return replace(unit, rows=set_errors(table, errors), seconds=seconds, notes=notes, device=device)


def _as_read(field: pa.Field, value: Any) -> Any:
    """A value of a column as Arrow gives it back. Raises ImageError if it does not have the type of the column."""
    try:
        return pa.array([value], field.type)[0].as_py()
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ImageError(*error_columns(error, f"column {field.name}")) from None


def column_of(field: pa.Field, finished: dict[int, Row], errors: Errors, count: int) -> pa.Array:
    """The values of a column; one that does not have the type of the column becomes an error of its row."""
    values = [finished.get(position, {}).get(field.name) for position in range(count)]
    if pa.types.is_binary(field.type) and all(value is None or isinstance(value, bytes) for value in values):
        array = binary_array(values)
        if array is not None:
            return array
    try:
        return pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        for position, value in enumerate(values):
            try:
                pa.array([value], field.type)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                errors[position] = error_columns(error, f"column {field.name}")
                values[position] = None
        return pa.array(values, field.type)
