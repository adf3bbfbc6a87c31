"""The stages of a job as Ray Data runs them: the callable for a block, and its resources."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sapiens_ray.engine.assemble import Contents
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.execution.attempts import Guard
from sapiens_ray.execution.blocks import ModelsBlock, PrepareBlock, ReadBlock, WriteBlock, feed_blocks
from sapiens_ray.execution.coordinator import CoordinatorHandle, attempts_at, settled_at
from sapiens_ray.execution.placement import ActorPool, ResourcePlan
from sapiens_ray.execution.preflight import PreparedJob
from sapiens_ray.execution.reading import UnitReader
from sapiens_ray.execution.storage_waits import teller_at
from sapiens_ray.job.config import Job
from sapiens_ray.storage import Folder

Arguments = dict[str, Any]  # of `Dataset.map_batches`

FEED_CPUS = 0.001
UNITS_AT_A_TIME = 4  # in one actor: their batches are filled from each other, and one's results are encoded meanwhile
READERS_PER_ACTOR = 8  # a GPU takes up to 80 photos a second; one stream from S3 gives 10 of 5 MB
UNITS_SENT = 6  # to one actor: two more are fetched before it needs them


@dataclass(frozen=True)
class StageSpec:
    """One operator of the dataset.

    call: a callable from a block to one or more blocks; for actors, the class whose instances are called. arguments:
    for the constructor of that class. pool: the actors; None for Ray tasks, tasks_at_a_time: the most of these.
    """

    name: str
    call: Callable[..., object]
    num_cpus: float
    pool: ActorPool | None = None
    arguments: tuple[object, ...] = ()
    tasks_at_a_time: int | None = None

    def ray_arguments(self) -> Arguments:
        """The arguments of `Dataset.map_batches` besides the callable. A batch is one row, which is one block."""
        import ray.data

        one: Arguments = {
            "batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True, "num_cpus": self.num_cpus,
        }  # fmt: skip
        if self.pool is None:
            # Without a limit Ray Data reserves CPUs for more tasks than there is work for.
            tasks = {"compute": ray.data.TaskPoolStrategy(self.tasks_at_a_time)} if self.tasks_at_a_time else {}
            return {**one, **tasks}
        spread = {} if self.pool.num_gpus or self.pool.most == 1 else _spread()
        return {
            **one,
            **spread,
            "num_gpus": self.pool.num_gpus,
            "fn_constructor_args": self.arguments,
            "compute": ray.data.ActorPoolStrategy(
                min_size=self.pool.least,
                max_size=self.pool.most,
                initial_size=self.pool.actors,
                max_concurrent_calls_per_actor=UNITS_AT_A_TIME,
                max_tasks_in_flight_per_actor=UNITS_SENT,
                enable_true_multi_threading=True,  # else Ray Data runs one call at a time
            ),
        }


def _spread() -> Arguments:
    """Arguments for actors without GPUs: else Ray puts several on one machine while others have none. Ray 2.64 drops
    them, and with them the choice."""
    import ray.data

    taken = inspect.signature(ray.data.Dataset.map_batches).parameters
    return {"scheduling_strategy": "SPREAD"} if "ray_remote_args" in taken else {}


def job_stages(
    prepared: PreparedJob, resources: ResourcePlan, coordinator: CoordinatorHandle, run_id: str
) -> list[StageSpec]:
    """The stages of a job, in order: feed, read, prepare, the pools with the models (mostly one), write."""
    job, tasks = prepared.job, prepared.tasks
    limits = job.image_timeout_s, job.storage_retry_s
    guard = Guard(prepared.output, attempts_at(coordinator), *limits, teller_at(coordinator))
    extra = prepared.plan.extra_schema
    sizes = prepared.unit_size, prepared.plan.unit_bytes
    reader = UnitReader(prepared.reading, Contents.of(job, prepared.box_files), prepared.output, *sizes, extra)
    unique_ids = job.input.id_column is None
    prepare = PrepareBlock(tasks, job.max_pixels, prepared.visualize.share, guard)
    write = WriteBlock(tasks, prepared.visualize, unique_ids, prepared.schema, run_id, guard)
    return [
        StageSpec("feed", partial(feed_blocks, coordinator=coordinator), FEED_CPUS, tasks_at_a_time=1),
        StageSpec("read", ReadBlock(reader, guard), resources.read_cpus, tasks_at_a_time=_readers(resources)),
        StageSpec("prepare", prepare, resources.work_cpus),
        *_model_stages(prepared.job, resources, guard, coordinator),
        StageSpec("write", write, resources.work_cpus),
    ]


def _readers(resources: ResourcePlan) -> int | None:
    """How many shards are read at a time, at the most. None if pools may grow: more actors need more readers."""
    actors = max(pool.actors for pool in resources.pools)
    return None if any(pool.most != pool.actors for pool in resources.pools) else READERS_PER_ACTOR * actors


def _model_stages(job: Job, resources: ResourcePlan, guard: Guard, coordinator: CoordinatorHandle) -> list[StageSpec]:
    stages = []
    for place, pool in enumerate(resources.pools):
        later = frozenset(model.input_kind for after in resources.pools[place + 1 :] for model in after.models)
        host = ModelHost(pool.device, pool.threads, pool.workers, cache_of(job), later, settled_at(coordinator))
        arguments = (pool.models, host, guard, pool.name, coordinator)
        stages.append(StageSpec(pool.name, ModelsBlock, pool.num_cpus, pool, arguments))
    return stages


def cache_of(job: Job) -> Folder | None:
    """Where compiled code is kept for all nodes."""
    return Folder(job.cache.rstrip("/"), job.output.storage_options) if job.cache else None
