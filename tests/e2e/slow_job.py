"""Runs a job whose models take their time: `python -m tests.e2e.slow_job JOB ADDRESS SECONDS`, per batch."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sapiens_ray as sr
from sapiens_ray.engine.models import TaskModel
from tests.stand_ins import run_with

if TYPE_CHECKING:
    from sapiens_ray.engine.host import ModelHost
    from sapiens_ray.engine.loaded import LoadedModel


class Slow(TaskModel):
    """A real model that waits before each batch."""

    seconds = 0.0

    def load(self, host: ModelHost) -> LoadedModel:
        loaded: Any = super().load(host)
        seconds, forward = self.seconds, loaded.forward

        def slow(batch: Any) -> Iterator[Any]:
            time.sleep(seconds)
            yield from forward(batch)

        loaded.forward = slow
        return loaded  # type: ignore[no-any-return]


def main(job: Path, address: str, seconds: float) -> None:
    Slow.seconds = seconds
    run_with(lambda model: Slow(model.task, model.checkpoint))
    sr.run(sr.Job.load(job), address=address, on_progress=lambda summary: print(summary.line(), flush=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
