"""Models in the memory of this process, as the engine sees them: a task's model, or a person detector.

The threads of the device call `stage`, `forward` and `reduce`; those around it call the rest.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sapiens_ray.engine.assemble import BOX_LIST
from sapiens_ray.engine.host import DEFAULT_BATCH, ModelHost
from sapiens_ray.errors import CheckpointError, ImageError, JobError
from sapiens_ray.models.checkpoint import Checkpoint
from sapiens_ray.tasks import AnyTask, CropTask
from sapiens_ray.tasks.base import Size
from sapiens_ray.tasks.persons import DetectorOptions
from sapiens_ray.units import Row, Unit

if TYPE_CHECKING:
    import torch

    from sapiens_ray.models.detectors import Found
    from sapiens_ray.models.device import Lane

MakeInput = Callable[[], np.ndarray]  # gives a network input, h x w x 3 uint8 BGR
Piece = tuple[int, int, Any]  # the output for a part of a batch: its first and its last item, and what the model gave


class LoadedModel(ABC):
    """A model on the device, which is at the end of the lane.

    column: its name in reports. fields: the columns that it adds. needs: the columns that its images must have before
    they are finished. enters_with_columns: whether they must have them before, to make the network inputs.
    """

    lane: Lane
    column: str
    fields: Sequence[pa.Field]
    needs: tuple[str, ...] = ()
    enters_with_columns = False

    @property
    def makes(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    @property
    def batch_size(self) -> int:
        """The largest batch that it takes at the moment: less after memory ran out."""
        return 1

    @abstractmethod
    def inputs_of(self, unit: Unit) -> dict[int, np.ndarray]:
        """Position of each decoded row -> the array from which its network inputs are made."""

    @abstractmethod
    def requests(self, array: np.ndarray, row: Row) -> list[MakeInput]:
        """The network inputs of one image, to be made when they are needed."""

    @abstractmethod
    def stage(self, inputs: list[np.ndarray]) -> Any:
        """The inputs of a batch as one object that can be sliced, on its way to the device."""

    @abstractmethod
    def forward(self, batch: Any) -> Iterator[Piece]:
        """Run a staged batch; in pieces if memory runs out."""

    @abstractmethod
    def reduce(self, output: Any, sizes: list[Size]) -> list[Any]:
        """What `forward` gave, on the device, to one small result per input; an ImageError for a bad one."""

    @abstractmethod
    def finish(self, results: list[Any], row: Row) -> Row:
        """The columns of one image, from the results of its inputs."""

    @abstractmethod
    def warm_up(self) -> None:
        """Run the model once, after all models are in memory. Raises CheckpointError."""

    def take_notes(self) -> list[str]:
        """Notes for the user since the last call."""
        return []


class LoadedTask(LoadedModel):
    """The model of a task."""

    def __init__(self, task: AnyTask, checkpoint: Checkpoint, host: ModelHost) -> None:
        """Load the model. Raises CheckpointError."""
        from sapiens_ray.engine.runner import Runner
        from sapiens_ray.models.loading import refuse_other_task

        self.task, self.column, self.fields, self.needs = task, task.column, task.fields, task.needs
        self.enters_with_columns = isinstance(task, CropTask) and not task.whole_photo
        options = task.options
        path = checkpoint.local_file()
        self.runner = Runner(
            path, host.device, options.batch_size, host.threads, task.flip_average, options.mode, options.matmul,
            options.task, options.rope,
        )  # fmt: skip
        self.lane = self.runner.lane
        if self.runner.loaded.architecture:
            refuse_other_task(self.runner.loaded.architecture, str(path), options)
        self._checkpoint, self._cache, self._settled = checkpoint, host.cache, host.settled

    def warm_up(self) -> None:
        from sapiens_ray.models.compiling import CompileCache

        options = self.task.options
        compiled = CompileCache(self._checkpoint.sha256, self._cache)
        height, width = options.network_size
        try:
            self.task.check_output(*self.runner.warm_up(height, width, options.compile, compiled, self._settled))
        except CheckpointError as error:
            raise CheckpointError(f"{error} It is {self._checkpoint.uri}") from None

    @property
    def batch_size(self) -> int:
        return self.runner.batch_size

    def inputs_of(self, unit: Unit) -> dict[int, np.ndarray]:
        if self.enters_with_columns:
            return unit.photos()
        return dict(zip(unit.decoded_rows(), unit.inputs.get(self.task.input_kind, ()), strict=True))

    def requests(self, array: np.ndarray, row: Row) -> list[MakeInput]:
        if self.enters_with_columns:
            assert isinstance(self.task, CropTask)
            return [partial(self.task.crop, array, box) for box in self.task.boxes(row)]
        return [lambda: array]

    def stage(self, inputs: list[np.ndarray]) -> torch.Tensor:
        return self.runner.lane.upload(inputs)

    def forward(self, batch: torch.Tensor) -> Iterator[Piece]:
        return self.runner(batch)

    def reduce(self, output: Any, sizes: list[Size]) -> list[Any]:
        """An ImageError for each output that is not finite, since arg-max and peaks of NaN look like labels. Runs on
        the CPU if photos are too large for the free GPU memory."""
        outputs = self.task.check_output(output, len(sizes))
        finite = are_finite(outputs)
        chosen = [number for number, good in enumerate(finite) if good]
        sound = outputs if all(finite) else outputs[chosen]
        reduced = self._reduced(sound, [sizes[number] for number in chosen]) if chosen else []
        if len(reduced) != len(chosen):
            raise JobError(f"{self.column}: reduce gives {len(reduced)} results for {len(chosen)} outputs")
        results = iter(reduced)
        message = f"{self.column}: the model's output holds NaN or infinity"
        return [next(results) if good else ImageError("not_finite", message) for good in finite]

    def _reduced(self, outputs: torch.Tensor, sizes: list[Size]) -> list[Any]:
        """The results of the task, from the CPU if the device has no memory for them."""
        from sapiens_ray.models.device import empty_cache, out_of_memory

        try:
            return list(self.task.reduce(outputs, sizes))
        except Exception as error:
            if not out_of_memory(error):
                raise
        # Not inside `except`: the traceback keeps what was in the device.
        empty_cache(outputs.device)
        return list(self.task.reduce(outputs.cpu(), sizes))

    def finish(self, results: list[Any], row: Row) -> Row:
        return self.task.finish(results, row)

    def take_notes(self) -> list[str]:
        return self.runner.take_notes()


class LoadedDetector(LoadedModel):
    """A person detector, which runs photos of one size together."""

    def __init__(self, options: DetectorOptions, checkpoint: Checkpoint, host: ModelHost) -> None:
        """Load the detector, which is never compiled. Raises CheckpointError."""
        from sapiens_ray.models.device import choose_device
        from sapiens_ray.models.hub_detectors import load_detector

        self.options, self.column = options, options.column
        self.fields = [pa.field(options.carried, BOX_LIST)]
        batch_size = DEFAULT_BATCH[choose_device(host.device).type]
        self.detector = load_detector(options, checkpoint.local_file(), host.device, host.threads, batch_size)
        self.lane = self.detector.lane

    def warm_up(self) -> None:
        with contextlib.suppress(Exception):  # any problem also shows on photos, and is reported there
            self.detector(np.zeros((480, 640, 3), np.uint8))

    def inputs_of(self, unit: Unit) -> dict[int, np.ndarray]:
        return unit.photos()

    def requests(self, array: np.ndarray, row: Row) -> list[MakeInput]:
        return [lambda: array]

    @property
    def batch_size(self) -> int:
        return self.detector.batch_size

    def stage(self, inputs: list[np.ndarray]) -> list[torch.Tensor]:
        return self.detector.stage(inputs)

    def forward(self, batch: list[torch.Tensor]) -> Iterator[Piece]:
        yield 0, len(batch), self.detector.forward(batch)

    def reduce(self, output: Found, sizes: list[Size]) -> list[Any]:
        return [self._persons(*one) for one in zip(*output, sizes, strict=True)]

    def _persons(self, boxes: torch.Tensor, labels: torch.Tensor, scores: torch.Tensor, size: Size) -> Any:
        try:
            return self.detector.persons(boxes, labels, scores, size)
        except ImageError as error:
            return error

    def finish(self, results: list[np.ndarray], row: Row) -> Row:
        return {self.options.carried: results[0].tolist()}


def are_finite(outputs: torch.Tensor) -> list[bool]:
    """Whether all values of each of B outputs are finite."""
    import torch

    # A sum is finite only if all values are; it may be infinite if they are large. 30 times faster on a CPU than
    # looking at every value (28 x 512 x 384, contiguous). Not flattened, which copies channels-last outputs.
    sums = outputs.sum(tuple(range(1, outputs.ndim)), dtype=torch.float32)
    finite: list[bool] = sums.isfinite().tolist()
    return finite if all(finite) else outputs.isfinite().flatten(1).all(1).tolist()
