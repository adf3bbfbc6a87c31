"""The resources of a job on machines of every size, and the requests that are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.engine.models import TaskModel
from sapiens_ray.errors import ClusterError
from sapiens_ray.execution.cluster import Cluster, Node
from sapiens_ray.execution.placement import (
    ActorPool,
    ResourcePlan,
    auto_unit_bytes,
    auto_unit_size,
    plan_resources,
    plan_what_is_left,
)
from sapiens_ray.job.config import Job
from sapiens_ray.models.checkpoint import Checkpoint
from sapiens_ray.tasks.sections import PoolSize


def job(tasks: int = 1, device: str = "auto", placement: str = "separate", **options: object) -> Job:
    task = {"task": "seg", "checkpoint": "x", **options}
    named = [{**task, "name": f"t{number}"} for number in range(tasks)]
    sections = {"input": {"uri": "x"}, "output": {"uri": "y"}, "device": device, "placement": placement}
    return Job.parse({**sections, "tasks": named})


def resources_of(job: Job, cluster: Cluster) -> ResourcePlan:
    return plan_resources(job, [TaskModel.of(one, Checkpoint("x", 1, "0" * 64)) for one in job.tasks], cluster)


def machines(*nodes: tuple[float, float], limit_cpus: float = 0, limit_gpus: float = 0) -> Cluster:
    return Cluster.of([Node(*node) for node in nodes], "it", limit_cpus, limit_gpus)


@given(st.integers(1, 200), st.integers(0, 8), st.integers(1, 3), st.sampled_from(["together", "separate"]))
def test_actors_always_leave_room_for_every_stage(cpus, gpus, tasks, together):
    placement = resources_of(job(tasks, placement=together), machines((cpus, gpus)))
    held = sum(pool.actors * pool.num_cpus for pool in placement.pools)
    assert held + placement.work_cpus <= cpus and held + placement.read_cpus <= cpus
    assert placement.read_cpus != placement.work_cpus, "equal shares would let Ray fuse the stages"
    assert sum(pool.actors * pool.num_gpus for pool in placement.pools) <= gpus + 1e-6


def test_defaults():
    assert resources_of(job(), machines((16, 4))).pools[0].actors == 4
    assert resources_of(job(), machines((16, 0))).pools[0].actors == 1
    assert [pool.num_gpus for pool in resources_of(job(2), machines((16, 1))).pools] == [0.5, 0.5]
    assert resources_of(job(device="cpu"), machines((16, 4))).pools[0].num_gpus == 0


def test_all_models_share_the_actors_unless_they_have_their_own():
    (pool,) = resources_of(job(3, placement="together"), machines((16, 2))).pools
    assert [model.column for model in pool.models] == ["t0", "t1", "t2"]
    assert (pool.actors, pool.num_gpus, pool.num_cpus, pool.workers, pool.name) == (2, 1, 2, 4, "all models")
    tasks = [{"task": "seg", "checkpoint": "x", "name": f"t{n}", **({"actors": 1} if n == 1 else {})} for n in range(3)]
    own = Job.parse({"input": {"uri": "x"}, "output": {"uri": "y"}, "tasks": tasks, "num_gpus": 0.5})
    pools = resources_of(own, machines((16, 2))).pools
    assert [[model.column for model in pool.models] for pool in pools] == [["t0", "t2"], ["t1"]]
    assert [(pool.actors, pool.num_gpus, pool.name) for pool in pools] == [(3, 0.5, "all models"), (1, 0.5, "t1")]


def test_the_wishes_of_the_job_are_named_in_refusals():
    whole = job(2, placement="together").model_copy(update={"actors": PoolSize(min=5, max=5)})
    with pytest.raises(ClusterError, match=r"^actors: 5 actors need 5 GPUs, but it has 4; ask for fewer actors"):
        resources_of(whole, machines((16, 4)))


@pytest.mark.parametrize(
    ("options", "nodes", "message"),
    [
        ({"actors": 5}, [(16, 4)], r"^tasks\[0\]\.actors: 5 actors need 5 GPUs, but it has 4"),
        ({"actors": 1, "num_gpus": 2}, [(8, 1)] * 4, r"^tasks\[0\]\.num_gpus: .* no room is left for one of t0"),
        ({"actors": 3, "num_gpus": 0.6}, [(8, 1)] * 2, "3 x 0.6 t0"),
        ({"device": "cuda"}, [(8, 0)], r"has no GPU; use device: auto; if an autoscaler .*: actors: {max: 8}$"),
        ({"actors": 5000}, [(4, 0)], r"^tasks\[0\]\.actors: 5000 actors are too many for the 4 CPUs"),
    ],
)
def test_impossible_requests_are_refused(options, nodes, message):
    with pytest.raises(ClusterError, match=message):
        resources_of(job(**options), machines(*nodes))


@given(st.integers(1, 9), st.lists(st.integers(1, 8), min_size=1, max_size=3))
def test_every_default_can_be_placed_and_leaves_no_gpu_idle(tasks, nodes):
    pools = resources_of(job(tasks), machines(*((32, gpus) for gpus in nodes))).pools
    parts = round(1 / pools[0].num_gpus)
    assert {pool.num_gpus for pool in pools} == {1 / parts}, "equal shares fit in any order in which Ray places them"
    assert sum(pool.actors for pool in pools) == parts * sum(nodes)
    assert max(pool.actors for pool in pools) - min(pool.actors for pool in pools) <= 1


def test_a_job_waits_for_gpus_that_its_file_promises():
    placement = resources_of(job(device="cuda", actors={"max": 3}), machines((2, 0)))
    (pool,) = placement.pools
    assert sizes(pool) == (1, 1, 3) and (pool.num_gpus, pool.num_cpus, placement.work_cpus) == (1, 1, 1)
    with pytest.raises(ClusterError, match=r"this machine has no GPU; use device: auto$"):
        resources_of(job(device="cuda", actors={"max": 3}), Cluster.of([Node(2)], "this machine"))


def test_a_job_waits_for_gpus_that_an_autoscaler_may_add():
    placement = resources_of(job(actors=3), machines((8, 0), limit_gpus=8))
    assert placement.pools[0].actors == 3 and placement.pools[0].num_gpus == 1


def sizes(pool: ActorPool) -> tuple[int, int, int | None]:
    return pool.least, pool.actors, pool.most


@pytest.mark.parametrize(
    ("actors", "nodes", "limit", "expected"),
    [
        (None, [(16, 4)], 0, (4, 4, None)),  # a node that joins is used
        (None, [(8, 0), (16, 2)], 64, (2, 2, None)),  # what is there is used at once
        (None, [(8, 0)], 64, (1, 1, None)),
        (3, [(16, 4)], 0, (3, 3, 3)),
        ({"min": 2, "max": 3}, [(16, 4)], 0, (2, 3, 3)),
        ({"min": 2}, [(16, 4)], 0, (2, 4, None)),
        ({"min": 2, "max": 8}, [(16, 1)], 8, (2, 2, 8)),  # waits for the second
        ({"max": 6}, [(16, 0)], 0, (1, 1, 6)),  # on CPUs
        (None, [(16, 0)] * 3, 0, (3, 3, 3)),  # one per machine
    ],
)
def test_pools_grow_with_the_cluster(actors, nodes, limit, expected):
    (pool,) = resources_of(job(actors=actors), machines(*nodes, limit_cpus=8 * limit, limit_gpus=limit)).pools
    assert sizes(pool) == expected


def test_a_cluster_that_lost_gpus_is_used_as_far_as_it_goes():
    """A pool of fixed size, or with a minimum, would otherwise end a job that can go on."""
    fixed = job(actors=2)
    models = [TaskModel.of(one, Checkpoint("x", 1, "0" * 64)) for one in fixed.tasks]
    assert plan_what_is_left(fixed, models, machines((16, 2))) == plan_resources(fixed, models, machines((16, 2)))
    left = plan_what_is_left(fixed, models, machines((16, 1)))
    assert sizes(left.pools[0]) == (1, 1, None)
    assert (
        left.notes[-1] == "as many actors as fit now: tasks[0].actors: 2 actors need 2 GPUs, but it has 1; ask for "
        "fewer actors or a smaller num_gpus"
    )
    large = job(actors=2, num_gpus=2)
    models = [TaskModel.of(one, Checkpoint("x", 1, "0" * 64)) for one in large.tasks]
    with pytest.raises(ClusterError):
        plan_what_is_left(large, models, machines((16, 1)))


@pytest.mark.parametrize(
    ("nodes", "limits", "actor", "work"),
    [
        ([(16, 1)], (0, 0), 4, 1),  # as its threads use
        ([(96, 8)] * 2, (0, 0), 3, 1),
        ([(128, 0), (8, 4)], (0, 0), 1, 1),  # two for each: the other CPUs are for the other stages
        ([(128, 0), (2, 4)], (0, 0), 0.25, 1),  # or the fourth actor would find no CPU on its node
        ([(2, 2)], (0, 0), 0.5, 0.25),
        ([(0, 0)], (512, 64), 1, 1),  # a head without CPUs: the nodes to come decide
        ([(1, 0)], (2, 4), 0.25, 0.25),
    ],
)
def test_cpu_shares_follow_from_the_shape_of_the_nodes(nodes, limits, actor, work):
    placement = resources_of(job(), machines(*nodes, limit_cpus=limits[0], limit_gpus=limits[1]))
    assert (placement.pools[0].num_cpus, placement.work_cpus) == (actor, work)


@pytest.mark.parametrize(
    ("images", "nodes", "options", "size"),
    [
        (5, [(2, 0)], {}, 1),  # progress after every image
        (100, [(2, 0)], {}, 8),
        (100, [(8, 0)], {"actors": 4}, 2),
        (1_000, [(2, 0)], {}, 64),
        (None, [(2, 0)], {}, 64),  # not counted
        (5, [(16, 1)], {}, 8),  # at least a whole batch
        (5, [(16, 1)], {"batch_size": 12}, 16),
        (5, [(2, 0)], {"batch_size": 200}, 64),
        (10_000, [(96, 8)] * 8, {}, 16),
        (1_000_000, [(96, 8)] * 8, {}, 64),
    ],
)
def test_the_automatic_unit_size(images, nodes, options, size):
    one = job(**options)
    assert auto_unit_size(images, one, resources_of(one, machines(*nodes))) == size


@given(st.integers(0, 10**8), st.integers(1, 8))
def test_units_of_two_runs_are_inside_each_other_or_apart(images, actors):
    one = job(actors=actors)
    size = auto_unit_size(images, one, resources_of(one, machines((32, 0))))
    assert 64 % size == 0


@pytest.mark.parametrize(("nodes", "megabytes"), [((2, 0), 128), ((16, 4), 512), ((999, 64), 512)])
def test_units_of_large_photos_are_cut_by_bytes(nodes, megabytes):
    assert auto_unit_bytes(resources_of(job(), machines(nodes))) == megabytes << 20


def test_an_actor_with_a_gpu_does_not_run_on_the_cpu_in_silence(monkeypatch):
    assert resources_of(job(), machines((16, 1))).pools[0].device == "cuda"
    monkeypatch.setenv("SAPIENS_RAY_LOGICAL_GPUS", "1")
    assert resources_of(job(), machines((16, 1))).pools[0].device == "auto"
    assert resources_of(job(device="cpu"), machines((16, 1))).pools[0].device == "cpu"
