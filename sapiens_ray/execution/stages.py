"""The stages of a job as Ray Data runs them: the callable for a block, and its resources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sapiens_ray.engine.assemble import Contents
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.engine.models import in_order, last_of_kind
from sapiens_ray.execution.attempts import Guard
from sapiens_ray.execution.blocks import ModelBlock, PrepareBlock, ReadBlock, WriteBlock, feed_blocks
from sapiens_ray.execution.coordinator import CoordinatorHandle, attempts_at
from sapiens_ray.execution.failures import ACTOR_TASK_RETRIES, TASK_RETRIES
from sapiens_ray.execution.placement import ActorNeeds, ResourcePlan
from sapiens_ray.execution.preflight import PreparedJob
from sapiens_ray.execution.reading import UnitReader
from sapiens_ray.job.config import Job
from sapiens_ray.storage import Folder

Arguments = dict[str, Any]  # of `Dataset.map_batches`

FEED_CPUS = 0.001


@dataclass(frozen=True)
class StageSpec:
    """One operator of the dataset.

    call: a callable from a block to one or more blocks; for actors, the class whose instances are called. arguments:
    for the constructor of that class. pool: the actors; None for Ray tasks.
    """

    name: str
    call: Callable[..., object]
    num_cpus: float
    pool: ActorNeeds | None = None
    arguments: tuple[object, ...] = ()

    def ray_arguments(self) -> Arguments:
        """The arguments of `Dataset.map_batches` besides the callable. A batch is one row, which is one block."""
        import ray.data

        one: Arguments = {
            "batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True, "num_cpus": self.num_cpus,
        }  # fmt: skip
        if self.pool is None:
            return {**one, "ray_remote_args_fn": partial(dict, max_retries=TASK_RETRIES)}
        return {
            **one,
            "num_gpus": self.pool.num_gpus,
            "fn_constructor_args": self.arguments,
            "compute": ray.data.ActorPoolStrategy(
                size=self.pool.actors, max_concurrent_calls_per_actor=2, max_tasks_in_flight_per_actor=4
            ),
            "ray_remote_args_fn": partial(dict, max_task_retries=ACTOR_TASK_RETRIES, max_restarts=-1),
        }


def job_stages(
    prepared: PreparedJob, resources: ResourcePlan, coordinator: CoordinatorHandle, run_id: str
) -> list[StageSpec]:
    """The stages of a job, in order: feed, read, prepare, one pool per model, write."""
    job, tasks = prepared.job, prepared.tasks
    guard = Guard(prepared.output, attempts_at(coordinator), job.image_timeout_s, job.storage_retry_s)
    extra = prepared.plan.extra_schema
    reader = UnitReader(prepared.reading, Contents.of(job), prepared.output, prepared.unit_size, extra)
    unique_ids = job.input.id_column is None
    write = WriteBlock(tasks, job.output.visualize, unique_ids, prepared.schema, run_id, guard)
    return [
        StageSpec("feed", partial(feed_blocks, coordinator=coordinator), FEED_CPUS),
        StageSpec("read", ReadBlock(reader, guard), resources.read_cpus),
        StageSpec("prepare", PrepareBlock(tasks, job.max_pixels, guard), resources.work_cpus),
        *_model_stages(prepared, resources, guard),
        StageSpec("write", write, resources.work_cpus),
    ]


def _model_stages(prepared: PreparedJob, resources: ResourcePlan, guard: Guard) -> list[StageSpec]:
    pools = {model.record_name: pool for model, pool in zip(prepared.models, resources.pools, strict=True)}
    models = in_order(prepared.models)
    cache = cache_of(prepared.job)
    stages = []
    for position, model in enumerate(models):
        pool = pools[model.record_name]
        host = ModelHost(pool.device, pool.threads, cache, last_of_kind(models, position))
        stages.append(StageSpec(model.column, ModelBlock, pool.num_cpus, pool, (model, host, guard)))
    return stages


def cache_of(job: Job) -> Folder | None:
    """Where compiled code is kept for all nodes."""
    return Folder(job.cache.rstrip("/"), job.output.storage_options) if job.cache else None
