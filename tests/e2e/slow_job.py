"""Runs a job whose models take their time: `python -m tests.e2e.slow_job JOB ADDRESS SECONDS [GATE]`, per batch.

With GATE, a path, no batch begins before that file exists.
"""

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
    gate: Path | None = None

    def load(self, host: ModelHost) -> LoadedModel:
        loaded: Any = super().load(host)
        seconds, gate, forward = self.seconds, self.gate, loaded.forward

        def slow(batch: Any) -> Iterator[Any]:
            while gate is not None and not gate.exists():
                time.sleep(0.1)
            time.sleep(seconds)
            yield from forward(batch)

        loaded.forward = slow
        return loaded  # type: ignore[no-any-return]


def main(job: Path, address: str, seconds: float, gate: Path | None) -> None:

    def slow(model: TaskModel) -> Slow:
        made = Slow(model.task, model.checkpoint)
        made.seconds, made.gate = seconds, gate
        return made

    run_with(slow)
    sr.run(sr.Job.load(job), address=address, on_progress=lambda summary: print(summary.line(), flush=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), Path(sys.argv[4]) if sys.argv[4:] else None)
