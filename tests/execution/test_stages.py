"""The stages of a job: what is called, where it runs, and what it takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import ray.data

from sapiens_ray.engine.models import DetectorModel, TaskModel
from sapiens_ray.execution.blocks import ModelsBlock, PrepareBlock, ReadBlock, WriteBlock, feed_blocks
from sapiens_ray.execution.cluster import Cluster, Node
from sapiens_ray.execution.placement import plan_resources
from sapiens_ray.execution.preflight import PreparedJob
from sapiens_ray.execution.stages import StageSpec, job_stages
from sapiens_ray.job.config import Job
from sapiens_ray.models.checkpoint import Checkpoint
from sapiens_ray.planning.plan import Plan
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.network import RESIZED
from sapiens_ray.units import PHOTO

COORDINATOR = object()


def stages_of(cluster: Cluster, *tasks: dict[str, Any], **sections: Any) -> tuple[PreparedJob, list[StageSpec]]:
    entries = [{"checkpoint": "x", **task} for task in tasks]
    job = Job.parse({"input": {"uri": "x"}, "output": {"uri": "/labels"}, "tasks": entries, **sections})
    file = Checkpoint("/models/x.pt2", 1, "0" * 64)
    models = [*(TaskModel.of(task, file) for task in job.tasks), *(DetectorModel(one, file) for one in job.detectors)]
    growth: Any = SimpleNamespace(plan=Plan([], 7, pa.schema([("key", pa.string())])), ended=False)
    prepared = PreparedJob(job, Folder("/labels"), models, [], growth, {}, [], {}, {})
    prepared.settle_units(64, 512 << 20)
    return prepared, job_stages(prepared, plan_resources(job, models, cluster), COORDINATOR, "this run")


def machine(cpus: float, gpus: float = 0) -> Cluster:
    return Cluster.of([Node(cpus, gpus)], "this machine")


def test_a_small_job_has_five_stages():
    prepared, stages = stages_of(machine(4), {"task": "seg"}, image_timeout_s=30, storage_retry_s=5)
    assert [stage.name for stage in stages] == ["feed", "read", "prepare", "seg", "write"]
    feed, read, prepare, seg, write = stages
    assert (feed.call.func, feed.call.keywords) == (feed_blocks, {"coordinator": COORDINATOR})
    assert [type(stage.call) for stage in (read, prepare, write)] == [ReadBlock, PrepareBlock, WriteBlock]
    assert [stage.num_cpus for stage in stages] == [0.001, 0.5, 1.0, 1.0, 1.0]
    assert [stage.pool is None for stage in stages] == [True, True, True, False, True]
    assert (read.call.reader.unit_size, read.call.reader.extra) == (7, pa.schema([("key", pa.string())]))
    assert prepare.call.tasks == write.call.tasks == prepared.tasks
    assert (write.call.run, write.call.unique_ids, write.call.schema) == ("this run", True, prepared.schema)
    guards = [stage.call.guard for stage in (read, prepare, write)] + [seg.arguments[2]]
    assert {(one.output.uri, one.timeout_s, one.retry_s) for one in guards} == {("/labels", 30, 5)}
    models, host, _, name, coordinator = seg.arguments
    assert seg.call is ModelsBlock and models == tuple(prepared.models)
    assert (name, coordinator) == ("seg", COORDINATOR)
    assert (seg.pool.actors, seg.pool.num_gpus, host.device, host.threads, host.workers) == (1, 0, "cpu", 4, 2)
    assert not host.kept_inputs and host.cache is None


def test_all_models_of_a_job_are_in_one_stage():
    pose = {"task": "pose", "keypoints": 17, "boxes": "detector"}
    prepared, stages = stages_of(machine(32), {"task": "depth"}, {"task": "seg"}, pose, cache="/cache/")
    assert [stage.name for stage in stages] == ["feed", "read", "prepare", "all models", "write"]
    models, host, *_ = stages[3].arguments
    assert [model.column for model in models] == ["detector", "persons", "seg", "depth"]
    assert all(model in prepared.models for model in models) and not host.kept_inputs and host.cache.uri == "/cache"


def test_models_with_actors_of_their_own_stand_in_the_order_in_which_a_unit_meets_them():
    pose = {"task": "pose", "keypoints": 17, "boxes": "detector", "actors": 2}
    prepared, stages = stages_of(machine(32), {"task": "depth", "actors": 3}, {"task": "seg", "actors": 4}, pose)
    models = stages[3:-1]
    assert [stage.name for stage in models] == ["detector", "persons", "seg", "depth"]
    assert [stage.pool.actors for stage in models] == [1, 2, 4, 3], "each model has its own pool"
    kept = [stage.arguments[1].kept_inputs for stage in models]
    assert kept == [{PHOTO, RESIZED}, {RESIZED}, {RESIZED}, set()], "photos, then network inputs"
    assert [stage.arguments[0][0].makes[0] for stage in models] == [
        prepared.job.detectors[0].carried, "persons", "seg", "depth",
    ]  # fmt: skip


def test_separate_models_share_a_gpu():
    _, stages = stages_of(machine(16, 1), {"task": "seg"}, {"task": "depth"}, placement="separate")
    models = stages[3:-1]
    assert [(stage.pool.num_gpus, stage.arguments[1].device) for stage in models] == [(0.5, "cuda")] * 2


def test_all_stages_fit_on_one_cpu():
    _, stages = stages_of(machine(1), {"task": "seg"})
    assert sum(stage.num_cpus for stage in stages if stage.pool) + max(s.num_cpus for s in stages if not s.pool) < 1
    read, prepare = stages[1], stages[2]
    assert read.num_cpus != prepare.num_cpus, "or Ray fuses the stages"


def test_ids_from_a_column_may_repeat():
    _, stages = stages_of(machine(4), {"task": "seg"}, input={"uri": "x.csv", "id_column": "id"})
    assert stages[-1].call.unique_ids is False


def test_what_ray_is_told():
    _, stages = stages_of(machine(16, 2), {"task": "seg", "actors": 2})
    one = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}
    read = stages[1].ray_arguments()
    assert read.pop("compute").size == 16 and read == {**one, "num_cpus": 0.5}
    assert stages[2].ray_arguments() == {**one, "num_cpus": 1.0}
    feed = stages[0].ray_arguments()
    assert feed.pop("compute").size == 1 and feed == {**one, "num_cpus": 0.001}
    seg = stages[3].ray_arguments()
    pool = seg.pop("compute")
    assert seg == {**one, "num_cpus": 2.0, "num_gpus": 1.0, "fn_constructor_args": stages[3].arguments}
    assert isinstance(pool, ray.data.ActorPoolStrategy)
    assert (pool.min_size, pool.initial_size, pool.max_size) == (2, 2, 2)
    assert (pool.max_concurrent_calls_per_actor, pool.max_tasks_in_flight_per_actor) == (4, 6)
    assert pool.enable_true_multi_threading


def test_what_ray_is_told_of_a_pool_that_may_grow():
    _, stages = stages_of(machine(16, 2), {"task": "seg"}, actors={"max": 5})
    pool = stages[3].ray_arguments()["compute"]
    assert (pool.min_size, pool.initial_size, pool.max_size) == (1, 2, 5)
    assert "compute" not in stages[1].ray_arguments(), "more actors need more readers"


def test_actors_without_gpus_are_on_different_machines():
    three = Cluster.of([Node(4)] * 3, "three machines")
    _, stages = stages_of(three, {"task": "seg"})
    assert stages[3].ray_arguments()["scheduling_strategy"] == "SPREAD"
    assert stages[3].pool is not None and stages[3].pool.actors == 3


@pytest.mark.parametrize("tasks", [[{"task": "seg"}], [{"task": "seg"}, {"task": "pose", "keypoints": 17}]])
def test_stages_travel_to_workers(tasks):
    """All but the coordinator's handle is pickled for them."""
    from ray import cloudpickle

    _, stages = stages_of(machine(4), *tasks)
    for stage in stages:
        arrived = cloudpickle.loads(cloudpickle.dumps((stage.call, stage.arguments)))
        assert type(arrived[0]) is type(stage.call) and len(arrived[1]) == len(stage.arguments)
