"""Runs a job on logical GPUs, some of which are broken: `python -m tests.faults.gpus FOLDER GPUS BROKEN WHEN`.

BROKEN: the numbers of the broken ones, such as 0,2. WHEN: `start`: they fail when a model is tried; `batch`: at every
batch; `once`: at their first batch only; `missing`: torch does not find them. Prints the summary as JSON.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["SAPIENS_RAY_LOGICAL_GPUS"] = "1"

import ray

import sapiens_ray as sr
from sapiens_ray.engine.models import TaskModel
from tests.stand_ins import run_with

if TYPE_CHECKING:
    from sapiens_ray.engine.host import ModelHost
    from sapiens_ray.engine.loaded import LoadedModel

# For an image on a GPU that works: the others get time to fail more than once, at batches ten times.
PAUSE_S = {"batch": 3.0}
WORDS = "CUDA error: uncorrectable ECC error encountered"


class OnBrokenGpu(TaskModel):
    """A real model on a GPU that may be broken. Both are set by `main`."""

    broken: tuple[str, ...] = ()
    when = ""
    folder = ""

    def load(self, host: ModelHost) -> LoadedModel:
        import torch

        from sapiens_ray.models.device import NoDeviceError

        here = os.environ["CUDA_VISIBLE_DEVICES"]
        loaded: Any = super().load(host)
        when, forward, mark = self.when, loaded.forward, Path(self.folder) / f"failed-{here}"

        def slow(batch: torch.Tensor) -> Iterator[Any]:
            time.sleep(PAUSE_S.get(when, 0.5))
            yield from forward(batch)

        if here not in self.broken:
            loaded.forward = slow
            return loaded  # type: ignore[no-any-return]
        if when == "missing":
            raise NoDeviceError(f"device: this process is to use GPU {here}, but torch finds none")

        def fails() -> None:
            raise RuntimeError(WORDS)

        def failing(batch: torch.Tensor) -> Iterator[Any]:
            if when == "batch" or not mark.exists():
                mark.touch()
                fails()
            yield from forward(batch)

        if when == "start":
            loaded.warm_up = fails
        else:
            loaded.forward = failing
        return loaded  # type: ignore[no-any-return]


def main(folder: Path, gpus: int, broken: Sequence[str], when: str) -> None:
    OnBrokenGpu.broken, OnBrokenGpu.when, OnBrokenGpu.folder = tuple(broken), when, str(folder)

    run_with(lambda model: OnBrokenGpu(model.task, model.checkpoint))
    ray.init(address="local", num_gpus=gpus, num_cpus=4, include_dashboard=False, log_to_driver=False,
             logging_level=logging.ERROR)  # fmt: skip
    try:
        summary = sr.run(sr.Job.load(folder / "job.yaml"))
    except sr.errors.SapiensRayError as error:
        print(json.dumps({"failed": str(error)}))
        sys.exit(error.exit_code)
    print(json.dumps(summary.to_dict()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","), sys.argv[4])
