"""Other models in place of those of a job, in its driver and in its actors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import ray

from sapiens_ray.engine.models import PreparedModel, TaskModel, in_pools
from sapiens_ray.execution import placement


def run_with(stand_in: Callable[[TaskModel], TaskModel]) -> None:
    """Let the jobs of this process run with what `stand_in` returns for each model of a task. Workers cannot import its
    module, so they are sent its code."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[stand_in.__module__])

    def pools(models: Sequence[PreparedModel], apart: bool = False) -> list[list[PreparedModel]]:
        return [[stand_in(one) for one in pool if isinstance(one, TaskModel)] for pool in in_pools(models, apart)]

    placement.in_pools = pools  # type: ignore[attr-defined]
