"""How throughput grows with actors: the whole pipeline, with a model that sleeps as long as a GPU would compute.

    python benchmarks/actors.py --images 960 --actors 1 2 4 8 16 --milliseconds 50

Photos of 0.9 megapixels are read, decoded, resized and sent to actors with logical GPUs. The stand-in sleeps for each
unit and returns class maps, which are encoded and written. Above some number of actors the CPUs are the limit; the CPU
time is printed per stage.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import ray
import ray.cloudpickle

from sapiens_ray.engine import models as ordering
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.engine.inference import ModelStage
from sapiens_ray.engine.models import PreparedModel, TaskModel
from sapiens_ray.execution import pipeline, stages
from sapiens_ray.job.config import Job
from sapiens_ray.models.stand_ins import write_model
from sapiens_ray.tasks import Task


class Sleeping:
    """Replaces `inference.Infer`: sleeps, then gives each image a class map of rectangles."""

    def __init__(self, task: Task[Any], seconds_per_image: float) -> None:
        self.task, self.seconds = task, seconds_per_image

    def __call__(self, unit: Any) -> Any:
        import numpy as np
        import pyarrow as pa

        from sapiens_ray.units import set_column

        started = time.perf_counter()
        rows = [unit.cells(position, ("width", "height")) for position in unit.good_rows()]
        time.sleep(self.seconds * len(rows))
        finished = []
        for row in rows:
            classes = np.zeros((row["height"], row["width"]), np.uint8)
            classes[row["height"] // 4 :, row["width"] // 3 :] = 21
            finished.append(self.task.finish([classes], row))
        table = unit.rows
        for field in self.task.fields:
            table = set_column(table, field.name, pa.array([one[field.name] for one in finished], field.type))
        seconds = {**unit.seconds, "sleep": time.perf_counter() - started}
        return replace(unit, rows=table, inputs={}, seconds=seconds)


def photos(folder: Path, count: int) -> None:
    """`count` links to a few JPEGs of 720 x 1280 with the detail of photos."""
    import cv2
    import numpy as np

    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(4):
        coarse = random.integers(0, 256, (90, 160, 3), np.uint8)
        fine = cv2.resize(coarse, (1280, 720), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        noisy = np.clip(fine + random.integers(-6, 7, fine.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder.parent / f"{number}.jpg"), noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])
    for number in range(count):
        (folder / f"{number:06d}.jpg").hardlink_to(folder.parent / f"{number % 4}.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--milliseconds", type=float, default=100, help="time of the stand-in per image")
    parser.add_argument("--pictures", type=float, default=0.0, help="share of the images that get a picture")
    arguments = parser.parse_args()
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    stand_in(arguments.milliseconds / 1000)
    print(f"{'actors':>6} {'images/s':>9} {'limit':>7} {'share':>6}   CPU ms per image: stages")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos(folder / "photos", arguments.images)
        write_model(folder / "model.pt2")
        for actors in arguments.actors:
            ray.init(
                address="local",
                num_gpus=actors,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            job = Job.parse({
                "input": {"uri": str(folder / "photos"), "shard_size": 160},
                "output": {"uri": str(folder / f"out-{actors}"), "visualize": {"fraction": arguments.pictures}},
                "tasks": [{"task": "seg", "checkpoint": str(folder / "model.pt2"), "actors": actors}],
                "unit_size": 16,
            })  # fmt: skip
            first: list[tuple[int, float]] = []
            last: list[tuple[int, float]] = []

            def on_progress(summary: Any, first: Any = first, last: Any = last) -> None:
                if summary.labelled:
                    (last if first else first).append((summary.labelled, time.perf_counter()))

            summary = pipeline.run(job, on_progress=on_progress)
            ray.shutdown()
            rate = (last[-1][0] - first[0][0]) / (last[-1][1] - first[0][1])
            limit = actors * 1000 / arguments.milliseconds
            spent = ", ".join(f"{stage} {1000 * seconds:.1f}" for stage, seconds in summary.stages.items())
            print(f"{actors:>6} {rate:>9.1f} {limit:>7.1f} {100 * rate / limit:>5.0f}%   {spent}", flush=True)


@dataclass(frozen=True)
class SleepingModel(TaskModel):
    """A model whose actors sleep."""

    seconds_per_image: float = 0.0

    def load(self, host: ModelHost) -> ModelStage:
        return Sleeping(self.task, self.seconds_per_image)


def stand_in(seconds_per_image: float) -> None:
    """Make jobs of this process run without real models."""
    real = ordering.in_order

    def in_order(models: Sequence[PreparedModel]) -> list[PreparedModel]:
        tasks = [model for model in real(models) if isinstance(model, TaskModel)]
        return [SleepingModel(model.task, model.checkpoint, seconds_per_image) for model in tasks]

    stages.in_order = in_order  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
