"""The threads that keep the device busy: one makes the next batch, one runs it, one reduces what came out before.

Only the second one runs models, so the device is never shared. While it runs a batch, the first has the next one ready
on the device, and others turn the outputs of the last one into small results.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from sapiens_ray.engine.backlog import Backlog
from sapiens_ray.engine.loaded import LoadedModel
from sapiens_ray.engine.prepare import error_columns
from sapiens_ray.engine.queues import Queues, Request
from sapiens_ray.errors import ImageError, JobError, SapiensRayError, last_line
from sapiens_ray.models.device import Moment, device_failed, empty_cache, out_of_memory
from sapiens_ray.units import DeviceUse

CPU_REDUCERS = 2
AHEAD = 1  # batches that are ready before the device needs them
FAILURES_IN_A_ROW = 50  # single images at which a model raises: then it is the model, or the device, and not the images
CLOSE_WITHIN_S = 2.0
STAGE_TRIES, STAGE_AGAIN_S = 4, 0.5  # for one image that does not fit beside what is in the device
Staged = tuple[LoadedModel, list[Request], Any]


@dataclass(frozen=True)
class Ran:
    """What a model gave for a batch, or for a part of it, and when it began and ended."""

    model: LoadedModel
    requests: list[Request]
    output: Any
    started: Moment
    ended: Moment


class DeviceLoop:
    """Runs the batches that the queues give, until they are closed.

    croppers: make network inputs that cost time. backlog: results that wait to be encoded; the device waits while it is
    full. on_device_error: called, in place of going on, with an error of the device itself. batches: how many were run:
    whoever waits for the device sees from it that it is alive. answered: how many gave their results: errors of a GPU
    show late.
    """

    def __init__(
        self,
        models: Sequence[LoadedModel],
        queues: Queues,
        croppers: ThreadPoolExecutor,
        backlog: Backlog,
        on_device_error: Callable[[Exception], None] | None = None,
    ) -> None:
        self.batches = 0
        self.answered = 0
        self._clock = threading.Lock()
        self._since: float | None = None
        self._waited = 0.0
        self._failures: Counter[int] = Counter()  # in a row, by the id of the model: two detectors have one name
        self._models, self._queues, self._croppers, self._backlog = models, queues, croppers, backlog
        self._on_device_error = on_device_error
        self._staged: queue.Queue[Staged | None] = queue.Queue(AHEAD)
        # A GPU reduces beside its models. On a CPU one thread would leave cores idle between the steps of torch.
        self._reducers = 1 if any(model.lane.device.type == "cuda" for model in models) else CPU_REDUCERS
        self._outputs: queue.Queue[Ran | None] = queue.Queue(self._reducers)  # outputs that wait to be reduced
        # Each step is a function of its own: the variables of a loop would keep the last batch alive while it waits.
        steps = (self._stage_next, self._run_next, *[self._reduce_next] * self._reducers)
        self._threads = [
            threading.Thread(target=self._repeat, args=(step,), name=step.__name__.strip("_"), daemon=True)
            for step in steps
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads. What is under way is finished, but not waited for for long."""
        self._queues.close()
        self._backlog.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(CLOSE_WITHIN_S)

    def take_times(self) -> DeviceUse:
        """The seconds that passed since the last call, and those in which the device waited for inputs."""
        with self._clock:
            now = time.perf_counter()
            since, waited = self._since or now, self._waited
            self._waited = 0.0
            if self._since is not None:
                self._since = now
        return {"": [now - since, waited, 0.0]}

    def _repeat(self, step: Callable[[], bool]) -> None:
        """The work of a thread. Without any of the threads units would wait for ever, so an error ends all of them."""
        try:
            while step():
                pass
        except Exception as error:
            if device_failed(error) and self._on_device_error is not None:
                self._on_device_error(error)
            self._queues.fail(error)

    def _stage_next(self) -> bool:
        requests = self._queues.take()
        if requests is None:
            self._staged.put(None)
            return False
        model = self._models[requests[0].model]
        try:
            sound, inputs = self._inputs(model, requests)
        except Exception as error:
            self._give_up(requests, error)
            return True
        self._stage(model, sound, inputs)
        return True

    def _inputs(self, model: LoadedModel, requests: list[Request]) -> tuple[list[Request], list[np.ndarray]]:
        """The inputs of a batch, without those that cannot be made: these are answered with an error."""
        makers = self._croppers.map(_made, requests) if model.enters_with_columns else map(_made, requests)
        inputs, sound = [], []
        for request, made in zip(requests, makers, strict=True):
            if isinstance(made, np.ndarray):
                inputs.append(made)
                sound.append(request)
            elif isinstance(made, MemoryError) or _has_no_image(made):
                raise made
            else:
                request.answer(ImageError(*error_columns(made, model.column)))
        return sound, inputs

    def _stage(self, model: LoadedModel, requests: list[Request], inputs: list[np.ndarray], tries: int = 1) -> None:
        """Copy a batch to the device: in two halves if it has no memory for all of it."""
        if not requests:
            return
        try:
            self._staged.put((model, requests, model.stage(inputs)))
            return
        except Exception as error:
            failure = error.with_traceback(None)
        if not out_of_memory(failure):
            self._give_up(requests, failure)
        elif len(requests) == 1 and tries == STAGE_TRIES:
            requests[0].answer(_image_error(failure, model))
        elif len(requests) == 1:  # what is in the device now may leave room
            empty_cache(model.lane.device)
            time.sleep(STAGE_AGAIN_S)
            self._stage(model, requests, inputs, tries + 1)
        else:
            empty_cache(model.lane.device)
            half = len(requests) // 2
            self._stage(model, requests[:half], inputs[:half])
            self._stage(model, requests[half:], inputs[half:])

    def _run_next(self) -> bool:
        started = time.perf_counter()
        batch = self._staged.get()
        now = time.perf_counter()
        with self._clock:
            self._waited += now - started if self._since is not None else 0.0  # not the wait for the first batch
            self._since = self._since or now
        if batch is None:
            for _ in range(self._reducers):
                self._outputs.put(None)
            return False
        self._backlog.wait()
        self._run(*batch)
        self.batches += 1
        return True

    def _run(self, model: LoadedModel, requests: list[Request], inputs: Any) -> None:
        """Run a batch. If the model raises, find the image that is the cause by halving the batch."""
        done = 0
        try:
            pieces = model.forward(inputs)
            while True:
                started = model.lane.moment()
                piece = next(pieces, None)
                if piece is None:
                    return
                start, stop, output = piece
                self._outputs.put(Ran(model, requests[start:stop], output, started, model.lane.moment()))
                del piece, output
                self._failures[id(model)] = 0
                done = stop
        except Exception as error:
            failure = error.with_traceback(None)  # it keeps the tensors of the batch alive
        left = requests[done:]
        if _has_no_image(failure):
            self._give_up(left, failure)
        elif len(left) > 1:
            middle = done + len(left) // 2
            for start, stop in ((done, middle), (middle, len(requests))):
                self._run(model, requests[start:stop], inputs[start:stop])
        elif left:
            self._failed_alone(model, left[0], failure)

    def _failed_alone(self, model: LoadedModel, request: Request, error: Exception) -> None:
        """A model raised on a single image. Once in a while it is the image; if it does on all of them, it is not."""
        self._failures[id(model)] += 1
        if self._failures[id(model)] < FAILURES_IN_A_ROW:
            request.answer(_image_error(error, model))
            return
        self._failures[id(model)] = 0
        self._give_up([request], JobError(
            f"{model.column}: the model raises on every image, {FAILURES_IN_A_ROW} in a row: {last_line(error)}"
        ))  # fmt: skip

    def _reduce_next(self) -> bool:
        ran = self._outputs.get()
        if ran is None:
            return False
        try:
            with ran.model.lane.beside(ran.ended, ran.output):
                results = self._reduced(ran.model, ran.requests, ran.output)
            _share(ran)  # before the answers: the last one ends the unit
        except Exception as error:  # also one of the device, which shows where it is waited for
            self._give_up(ran.requests, error)
            return True
        for request, result in zip(ran.requests, results, strict=True):
            request.answer(result)
        self.answered += 1
        return True

    def _reduced(self, model: LoadedModel, requests: list[Request], output: Any) -> list[Any]:
        """The results of a batch; of one image at a time if an image cannot be reduced."""
        try:
            return model.reduce(output, [request.size for request in requests])
        except Exception as error:
            if _has_no_image(error):
                raise
            if len(requests) == 1:
                return [_image_error(error, model)]
        alone = (self._reduced(model, [one], _part(output, place)) for place, one in enumerate(requests))
        return [result for results in alone for result in results]

    def _give_up(self, requests: Sequence[Request], error: Exception) -> None:
        """End the units of these requests with an error that no image is the cause of."""
        if device_failed(error) and self._on_device_error is not None:
            self._on_device_error(error)
        for run in {request.run for request in requests}:
            run.fail(error)


def _made(request: Request) -> np.ndarray | Exception:
    try:
        return request.make()
    except Exception as error:  # such as cv2.error: OpenCV before 5 cannot warp photos with a side of 32767 pixels
        return error


def _has_no_image(error: Exception) -> bool:
    """Whether an error cannot be due to an image: one of the device, or one that ends a job."""
    return device_failed(error) or (isinstance(error, SapiensRayError) and not isinstance(error, ImageError))


def _part(output: Any, place: int) -> Any:
    """The output for one item of a batch."""
    if isinstance(output, list | tuple):
        return type(output)(one[place : place + 1] for one in output)
    return output[place : place + 1]


def _share(ran: Ran) -> None:
    """Tell every unit its share in a batch."""
    seconds = ran.model.lane.seconds(ran.started, ran.ended) / len(ran.requests)
    places = max(1.0, ran.model.batch_size / len(ran.requests))  # memory may have run out since
    for run, count in Counter(request.run for request in ran.requests).items():
        run.used(ran.requests[0].model, count, count * places, count * seconds)


def _image_error(error: Exception, model: LoadedModel) -> ImageError:
    """The error of the image at which a model raised."""
    if isinstance(error, ImageError):
        return error
    if out_of_memory(error):
        return ImageError("out_of_memory", f"{model.column}: {last_line(error)}")
    return ImageError("failed", f"{model.column}: {type(error).__name__}: {last_line(error)}")
