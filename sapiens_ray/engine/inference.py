"""The models of actors as plain callables from unit to unit: a task's model, or a person detector.

Batches are made here, inside the actor, which sees whole units. So they are full for any number of persons per image.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
import pyarrow as pa

from sapiens_ray.engine import watchdog
from sapiens_ray.engine.assemble import BOX_LIST
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.engine.prepare import error_columns
from sapiens_ray.errors import CheckpointError, ImageError
from sapiens_ray.models.checkpoint import Checkpoint
from sapiens_ray.models.device import empty_cache
from sapiens_ray.tasks import AnyTask, CropTask
from sapiens_ray.tasks.base import Size
from sapiens_ray.tasks.network import NETWORK_HEIGHT, NETWORK_WIDTH
from sapiens_ray.tasks.persons import DetectorOptions
from sapiens_ray.units import PHOTO, Errors, Row, Unit, set_column, set_errors

if TYPE_CHECKING:
    import torch

    from sapiens_ray.engine.runner import Batches

ModelStage = Callable[[Unit], Unit]


class Infer:
    """The model of one task. Runs in an actor of its pool, or in the process of a Labeler."""

    def __init__(self, task: AnyTask, checkpoint: Checkpoint, host: ModelHost) -> None:
        """Load the model, and run it once. Raises CheckpointError."""
        from sapiens_ray.engine.runner import Runner
        from sapiens_ray.models.compiling import CompileCache
        from sapiens_ray.models.loading import refuse_other_task

        self.task = task
        self.drop_input = host.drop_input
        options = task.options
        path = checkpoint.local_file()
        self.runner = Runner(path, host.device, options.batch_size, host.threads, task.flip_average, options.mode)
        if self.runner.loaded.architecture:
            refuse_other_task(self.runner.loaded.architecture, str(path), options)
        compiled = CompileCache(checkpoint.sha256, host.cache)
        height, width = options.network_size
        try:
            task.check_output(*self.runner.warm_up(height, width, options.compile, compiled))
        except CheckpointError as error:
            raise CheckpointError(f"{error} It is {checkpoint.uri}") from None
        workers = 2 if self.runner.device.type == "cpu" else 4
        self._finishers = ThreadPoolExecutor(workers, thread_name_prefix="finish")
        self._croppers = ThreadPoolExecutor(workers, thread_name_prefix="crop")

    def __call__(self, unit: Unit) -> Unit:
        """Run the model on the unit's images; adds the task's columns.

        Results are reduced on the device, batch by batch, while threads encode the results of earlier batches.
        """
        started = time.perf_counter()
        task = self.task
        needed = ("width", "height", *task.needs)
        rows = {position: unit.cells(position, needed) for position in unit.good_rows()}
        errors: Errors = {}
        inputs, owners = self._inputs(unit, rows, errors)
        missing = Counter(owners)
        results: dict[int, list[Any]] = defaultdict(list)
        futures: dict[int, Future[Row]] = {
            position: self._finishers.submit(task.finish, [], row)
            for position, row in rows.items()
            if position not in missing and position not in errors
        }
        watchdog.progress(images=self.runner.batch_size)
        for start, stop, output in self.runner(inputs):
            watchdog.progress(images=self.runner.batch_size)
            if isinstance(inputs, Crops):
                errors |= {owners[person]: error_columns(why, task.column) for person, why in inputs.failed.items()}
            outputs = task.check_output(output, stop - start)
            sizes = [(rows[position]["width"], rows[position]["height"]) for position in owners[start:stop]]
            for position, result in zip(owners[start:stop], self._reduce(outputs, sizes), strict=True):
                if isinstance(result, ImageError):
                    errors[position] = error_columns(result, task.column)
                results[position].append(result)
                missing[position] -= 1
                if missing[position] == 0:
                    complete = results.pop(position)
                    if position not in errors:
                        futures[position] = self._finishers.submit(task.finish, complete, rows[position])
        finished: dict[int, Row] = {}
        for position, future in futures.items():
            try:
                finished[position] = future.result()
            except Exception as error:
                errors[position] = error_columns(error, task.column)
        columns = {field.name: _column(field, finished, errors, unit.rows.num_rows) for field in task.fields}
        table = set_errors(unit.rows, errors)
        for name, values in columns.items():
            table = set_column(table, name, values)
        seconds = {**unit.seconds, task.column: time.perf_counter() - started}
        notes = (*unit.notes, *(f"{task.column}: {note}" for note in self.runner.take_notes()))
        left = _remaining_inputs(unit, task.input_kind, self.drop_input)
        return replace(unit, rows=table, inputs=left, seconds=seconds, notes=notes)

    def _inputs(self, unit: Unit, rows: dict[int, Row], errors: Errors) -> tuple[Batches, list[int]]:
        """The network inputs of the unit in order, and the row of each input."""
        if not isinstance(self.task, CropTask):
            places = [place for place, position in enumerate(unit.decoded_rows()) if position in rows]
            array = unit.inputs.get(self.task.input_kind, np.empty((0,)))
            return array if len(places) == len(array) else array[places], list(rows)
        photos = unit.photos()
        persons: list[tuple[np.ndarray, np.ndarray]] = []
        owners: list[int] = []
        found = [self._croppers.submit(self.task.boxes, row) for row in rows.values()]  # may decode class maps
        for position, future in zip(rows, found, strict=True):
            try:
                boxes = future.result()
            except Exception as error:
                errors[position] = error_columns(error, self.task.column)
                continue
            persons += [(photos[position], box) for box in boxes]
            owners += [position] * len(boxes)
        return cast("Batches", Crops(self.task, persons, self._croppers)), owners

    def _reduce(self, outputs: torch.Tensor, sizes: list[Size]) -> list[Any]:
        """The task's results for a batch; an ImageError for each output that is not finite, since arg-max and
        peaks of NaN look like labels. Runs on the CPU if photos are too large for the free GPU memory."""
        import torch

        finite = outputs.flatten(1).isfinite().all(1).tolist()
        chosen = [number for number, good in enumerate(finite) if good]
        sound = outputs if all(finite) else outputs[chosen]
        reduced: list[Any] = []
        try:
            if chosen:
                reduced = list(self.task.reduce(sound, [sizes[number] for number in chosen]))
        except torch.cuda.OutOfMemoryError:
            empty_cache(sound.device)
            reduced = list(self.task.reduce(sound.cpu(), [sizes[number] for number in chosen]))
        if len(reduced) != len(chosen):
            raise RuntimeError(f"{self.task.column}: reduce gives {len(reduced)} results for {len(chosen)} outputs")
        results = iter(reduced)
        message = f"{self.task.column}: the model's output holds NaN or infinity"
        return [next(results) if good else ImageError("not_finite", message) for good in finite]


def _column(field: pa.Field, finished: dict[int, Row], errors: Errors, count: int) -> pa.Array:
    """The values of a column; one that does not have the type of the column becomes an error of its row."""
    values = [finished.get(position, {}).get(field.name) for position in range(count)]
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


class Crops:
    """The persons of a unit as network inputs. They are cropped only when a batch is requested: the uint8 crops of a
    crowd take far more memory than its photo."""

    def __init__(
        self, task: CropTask[Any], persons: Sequence[tuple[np.ndarray, np.ndarray]], pool: ThreadPoolExecutor
    ) -> None:
        """persons: photo (H x W x 3 uint8 BGR) and box of each person."""
        self._task, self._persons, self._pool = task, persons, pool
        self.failed: dict[int, Exception] = {}  # persons that could not be cropped, and are black instead

    def __len__(self) -> int:
        return len(self._persons)

    def __getitem__(self, span: slice) -> np.ndarray:
        """N x 1024 x 768 x 3 uint8 BGR."""
        return np.stack(list(self._pool.map(self._crop, range(len(self))[span])))

    def _crop(self, number: int) -> np.ndarray:
        try:
            return self._task.crop(*self._persons[number])
        except cv2.error as error:  # OpenCV before 5 cannot warp photos with a side of 32767 pixels or more
            self.failed[number] = error
            return np.zeros((NETWORK_HEIGHT, NETWORK_WIDTH, 3), np.uint8)


class Detect:
    """One person detector. Runs in an actor of its pool, or in the process of a Labeler."""

    def __init__(self, options: DetectorOptions, checkpoint: Checkpoint, host: ModelHost) -> None:
        """Load the detector, which is never compiled. Raises CheckpointError."""
        from sapiens_ray.models.detectors import Detector

        self.options = options
        self.drop_input = host.drop_input
        self.detector = Detector(options, checkpoint.local_file(), host.device, host.threads)
        with contextlib.suppress(Exception):  # warm-up; any problem also shows on photos, and is reported there
            self.detector(np.zeros((480, 640, 3), np.uint8))

    def __call__(self, unit: Unit) -> Unit:
        """Find the persons of each photo; adds the column of boxes that pose reads."""
        started = time.perf_counter()
        photos = unit.photos()
        boxes: list[list[list[float]] | None] = [None] * unit.rows.num_rows
        errors: Errors = {}
        for position in unit.good_rows():
            watchdog.progress()
            try:
                boxes[position] = self.detector(photos[position]).tolist()
            except Exception as error:
                if isinstance(error, CheckpointError) or "CUDA" in str(error):  # not caused by this photo
                    raise
                errors[position] = error_columns(error, self.options.column)
        rows = set_column(set_errors(unit.rows, errors), self.options.carried, pa.array(boxes, BOX_LIST))
        spent = (
            unit.seconds.get(self.options.column, 0.0) + time.perf_counter() - started
        )  # there may be several detectors
        seconds = {**unit.seconds, self.options.column: spent}
        return replace(unit, rows=rows, inputs=_remaining_inputs(unit, PHOTO, self.drop_input), seconds=seconds)


def _remaining_inputs(unit: Unit, kind: str, drop: bool) -> dict[str, np.ndarray]:
    """The inputs that later stages need."""
    return {name: array for name, array in unit.inputs.items() if not (drop and name == kind)}
