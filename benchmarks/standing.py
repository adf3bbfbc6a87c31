"""Models that only take time: they hold the device for as long as they are told, with Python's lock released, as a GPU
does. Their outputs have the shapes of real ones, so everything around them works as it does with a real model."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("SAPIENS_RAY_LOGICAL_GPUS", "1")

import argmax
import timeline

from sapiens_ray.engine.models import PreparedModel, TaskModel, in_pools
from sapiens_ray.execution import placement

if TYPE_CHECKING:
    from sapiens_ray.engine.host import ModelHost
    from sapiens_ray.engine.loaded import LoadedModel, Piece


@dataclass(frozen=True)
class SleepingModel(TaskModel):
    """A task whose model sleeps for some seconds per image, in batches of so many. trace: where its actor keeps a
    timeline."""

    seconds: float = 0.0
    batch: int = 4
    trace: str = ""

    def load(self, host: ModelHost) -> LoadedModel:
        import torch

        from sapiens_ray.engine.loaded import LoadedTask
        from sapiens_ray.models.device import Lane

        seconds, batch = self.seconds, self.batch
        shapes = {"seg": (28, 512, 384), "depth": (1, 1024, 768), "normal": (3, 512, 384), "features": (1024, 64, 64)}
        shape = shapes.get(self.options.task, (self.options.channels or 1, 256, 192))
        random = torch.Generator().manual_seed(0)
        # Of random logits more of a map is class borders than of a trained model's.
        seg = self.options.task == "seg"
        coarse = argmax.person(random, 24, 18) if seg else torch.rand(1, shape[0], 16, 12, generator=random)
        one = torch.nn.functional.interpolate(coarse, shape[1:], mode="bicubic")

        class Sleeping(LoadedTask):
            def __init__(self, task: Any) -> None:
                self.task, self.column, self.fields, self.needs = task, task.column, task.fields, task.needs
                self.enters_with_columns = bool(task.needs) and task.input_kind == "photo"
                self.lane = Lane(torch.device("cpu"))

            @property
            def batch_size(self) -> int:
                return batch

            def stage(self, inputs: Any) -> torch.Tensor:
                return self.lane.upload(inputs)

            def forward(self, inputs: torch.Tensor) -> Iterator[Piece]:
                time.sleep(seconds * len(inputs))
                yield 0, len(inputs), one.expand(len(inputs), -1, -1, -1)

            def warm_up(self) -> None: ...

            def take_notes(self) -> list[str]:
                return []

        loaded = Sleeping(self.task)
        if self.trace:
            timeline.Timeline(self.trace).watch(loaded)
        return loaded


def stand_in(seconds: dict[str, float], batch: int, trace: str = "") -> None:
    """Make the jobs of this process run with models that sleep. seconds: per image, by column. trace: a folder for
    timelines of the actors."""
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.cloudpickle.register_pickle_by_value(timeline)
    ray.cloudpickle.register_pickle_by_value(argmax)

    def sleeping(models: Sequence[PreparedModel], apart: bool = False) -> list[list[PreparedModel]]:
        return [
            [
                SleepingModel(one.task, one.checkpoint, seconds[one.column], batch, trace)
                for one in pool
                if isinstance(one, TaskModel)
            ]
            for pool in in_pools(models, apart)
        ]

    placement.in_pools = sleeping  # type: ignore[attr-defined]


def photos(folder: Path, count: int, width: int = 1280, height: int = 720) -> None:
    """`count` links to four JPEGs with the detail of photos."""
    import cv2
    import numpy as np

    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(4):
        coarse = random.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        noisy = np.clip(fine + random.integers(-6, 7, fine.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder.parent / f"{number}.jpg"), noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])
    for number in range(count):
        (folder / f"{number:06d}.jpg").hardlink_to(folder.parent / f"{number % 4}.jpg")
