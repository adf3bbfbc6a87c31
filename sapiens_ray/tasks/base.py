"""What a task is. A new one is a module with subclasses of these, and a line in `tasks/__init__.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import pyarrow as pa

from sapiens_ray.tasks.network import RESIZED, resize_to_network
from sapiens_ray.tasks.options import ModelOptions
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.tasks.stored import About, StoredLabels
from sapiens_ray.units import PHOTO, Row

if TYPE_CHECKING:
    import torch

Options = TypeVar("Options", bound=ModelOptions)
Size = tuple[int, int]  # width and height of a photo in pixels
Output = Any  # what a network returned: a tensor, or a sequence of them
Average = Callable[[Output, Output, int], "torch.Tensor"]


class Task(ABC, Generic[Options]):
    """What the stages ask of a task. Holds no model and no state. `tasks/seg.py` is the shortest one to read.

    The journey of an image: `prepare` makes the network's input, the model runs, `check_output` looks at what it
    returned, `reduce` makes it small where it is (on the device), `finish` gives the columns of the row, `draw` the
    picture.
    """

    input_kind: ClassVar[str] = RESIZED  # tasks of one kind share one input per image

    def __init__(self, options: Options) -> None:
        self.options = options

    @property
    def column(self) -> str:
        """The output column, or the first one: what the task is called in reports."""
        return self.options.column

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns of the unit that `finish` and `draw` look at, beside width and height. A model that makes one of
        them runs first."""
        return ()

    @property
    @abstractmethod
    def fields(self) -> list[pa.Field]:
        """The Arrow columns that the task adds."""

    @property
    def metadata(self) -> About:
        """What readers of the columns must know; in the metadata of the output files, as JSON."""
        return {}

    @property
    def flip_average(self) -> Average | None:
        """What the output for a batch and that for the mirrored batch make together; None: nothing is mirrored."""
        return None

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """H x W x 3 uint8 BGR to the network's input, h x w x 3 uint8 BGR."""
        return resize_to_network(image)

    @abstractmethod
    def check_output(self, output: Output, batch: int) -> torch.Tensor:
        """The tensor in what the model returned for a batch. Raises CheckpointError for anything unexpected."""

    @abstractmethod
    def reduce(self, outputs: torch.Tensor, sizes: list[Size]) -> list[Any]:
        """The outputs of a batch, on the device, to one small result each. sizes: of the photos."""

    @abstractmethod
    def finish(self, results: list[Any], row: Row) -> Row:
        """The columns of one image from its results: one, or of a `CropTask` one per person.

        row: `width`, `height` and the columns in `needs`.
        """

    def draw(self, photo: np.ndarray, row: Row, settings: Visualize) -> np.ndarray | None:
        """The picture, h x w x 3 uint8 BGR; None if there is none.

        photo: h x w x 3 uint8 BGR, of picture size. row: the finished row, with the columns in `needs`.
        """
        return None


AnyTask = Task[Any]


class CropTask(Task[Options]):
    """A task whose network sees persons: its inputs are cropped from the photo when the model is ready for them, so
    that a crowd of a hundred weighs what its photo weighs on the way."""

    input_kind = PHOTO

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """The photo as it is."""
        return image

    @abstractmethod
    def boxes(self, row: Row) -> np.ndarray:
        """N x 5 float64 (x1, y1, x2, y2, score) of an image: one network input each."""

    @abstractmethod
    def crop(self, photo: np.ndarray, box: np.ndarray) -> np.ndarray:
        """A person of an H x W x 3 uint8 BGR photo as the network's 1024 x 768 x 3 uint8 BGR."""


@dataclass(frozen=True)
class TaskKind:
    """An entry of the registry TASKS: all that the rest of the package asks of a task.

    options: its section in the job file. task: what the stages call. stored: what readers and exports call.
    """

    name: str
    options: type[ModelOptions]
    task: Callable[[Any], AnyTask]
    stored: type[StoredLabels] = StoredLabels
