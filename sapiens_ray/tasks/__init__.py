"""Tasks: what the network sees, what becomes of its output, and how it looks. One module a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    import torch

    from sapiens_ray.config import Visualize


class Task(Protocol):
    """All that the pipeline asks of a task. `tasks/seg.py` is the shortest one to read.

    `Pose`, whose `input_kind` is PHOTO, makes its inputs by `boxes` and `cut` instead of one an image.
    """

    options: Any
    column: str
    input_kind: str
    needs: tuple[str, ...]  # columns of the unit that `finish` and `draw` look at, beside width and height

    @property
    def fields(self) -> list[pa.Field]: ...

    @property
    def metadata(self) -> dict[str, Any]: ...

    def prepare(self, image: np.ndarray) -> np.ndarray: ...

    def check_output(self, output: Any, batch: int) -> torch.Tensor: ...

    def reduce(self, outputs: torch.Tensor, sizes: list[tuple[int, int]]) -> list[Any]: ...

    def finish(self, results: list[Any], row: dict[str, Any]) -> dict[str, Any]: ...

    def draw(self, photo: np.ndarray, row: dict[str, Any], settings: Visualize) -> np.ndarray | None: ...


def make_task(options: Any) -> Task:
    """The task of its options."""
    from sapiens_ray.tasks.depth import Depth
    from sapiens_ray.tasks.features import Features
    from sapiens_ray.tasks.normal import Normal
    from sapiens_ray.tasks.pose import Pose
    from sapiens_ray.tasks.seg import Seg

    kinds: dict[str, Any] = {"seg": Seg, "depth": Depth, "normal": Normal, "pose": Pose, "features": Features}
    task: Task = kinds[options.task](options)
    return task
