"""The interface of a task. To add one, write a module with subclasses of these and a line in `tasks/__init__.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

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
    """What the stages call. A task holds no model and no state. `tasks/seg.py` is the shortest one to read.

    For each image, `prepare` makes the network's input, the model runs, `check_output` validates the output, `reduce`
    shrinks it on the device, `finish` makes the columns of the row, and `draw` makes the picture.
    """

    def __init__(self, options: Options) -> None:
        self.options = options

    @property
    def input_kind(self) -> str:
        """The kind of input that `prepare` makes. Tasks of one kind share one input per image."""
        return RESIZED

    @property
    def column(self) -> str:
        """The first output column; also the name of the task in reports."""
        return self.options.column

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns of the unit that `finish` and `draw` read, besides width and height. The models that make them run
        first."""
        return ()

    @property
    @abstractmethod
    def fields(self) -> list[pa.Field]:
        """The Arrow columns that the task adds."""

    @property
    def metadata(self) -> About:
        """What readers of the columns must know; stored as JSON in the metadata of the output files."""
        return {}

    @property
    def flip_average(self) -> Average | None:
        """Combines the outputs for a batch and for the mirrored batch; None if no mirrored batch is run."""
        return None

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """H x W x 3 uint8 BGR to the network's input, h x w x 3 uint8 BGR."""
        return resize_to_network(image)

    @abstractmethod
    def check_output(self, output: Output, batch: int) -> torch.Tensor:
        """The output tensor in what the model returned for a batch. Raises CheckpointError if it is not as expected."""

    @abstractmethod
    def reduce(self, outputs: torch.Tensor, sizes: list[Size]) -> list[Any]:
        """The outputs of a batch, on the device, to one small result per input. sizes: the sizes of the photos."""

    @abstractmethod
    def finish(self, results: list[Any], row: Row) -> Row:
        """The columns of one image.

        results: one item; for a `CropTask` one per person. row: `width`, `height` and the columns in `needs`.
        """

    def draw(self, photo: np.ndarray, row: Row, settings: Visualize) -> np.ndarray | None:
        """The picture, h x w x 3 uint8 BGR; None if there is none.

        photo: h x w x 3 uint8 BGR, at the size of the picture. row: the finished row, with the columns in `needs`.
        """
        return None


AnyTask = Task[Any]


class CropTask(Task[Options]):
    """A task whose network sees persons. Its inputs are cropped from the photo only when the model is ready for them:
    until then a crowd of a hundred takes no more memory than its photo. If the whole photo is the only box, it is
    cropped at once, and does not travel on."""

    @property
    def whole_photo(self) -> str:
        """The kind of crop, for inputs that are made of whole photos; empty if there are other boxes."""
        return ""

    @property
    def input_kind(self) -> str:
        return self.whole_photo or PHOTO

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """The photo as it is, or the crop of the whole photo."""
        if not self.whole_photo:
            return image
        height, width = image.shape[:2]
        return self.crop(image, self.boxes({"width": width, "height": height})[0])

    @abstractmethod
    def boxes(self, row: Row) -> np.ndarray:
        """The boxes of an image, N x 5 float64 (x1, y1, x2, y2, score). Each becomes one network input."""

    @abstractmethod
    def crop(self, photo: np.ndarray, box: np.ndarray) -> np.ndarray:
        """The network's 1024 x 768 x 3 uint8 BGR input for one person of an H x W x 3 uint8 BGR photo."""


@dataclass(frozen=True)
class TaskKind:
    """An entry of the registry TASKS: all that the rest of the package uses of a task.

    options: its section in the job file. task: used by the stages. stored: used by readers and exports. recipes: the
    tasks for checkpoints of other recipes than that of Sapiens-Lite, by their names (`tasks/network.py`).
    """

    name: str
    options: type[ModelOptions]
    task: Callable[[Any], AnyTask]
    stored: type[StoredLabels] = StoredLabels
    recipes: Mapping[str, Callable[[Any], AnyTask]] = field(default_factory=dict)
