"""The resources of a job on machines of every size, and the requests that are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.errors import ClusterError
from sapiens_ray.execution.cluster import Cluster
from sapiens_ray.execution.placement import auto_unit_size, plan_resources
from sapiens_ray.job.config import Job


def job(tasks: int = 1, device: str = "auto", **options: object) -> Job:
    task = {"task": "seg", "checkpoint": "x", **options}
    named = [{**task, "name": f"t{number}"} for number in range(tasks)]
    return Job.parse({"input": {"uri": "x"}, "output": {"uri": "y"}, "device": device, "tasks": named})


def machines(*nodes: tuple[float, float], limit_gpus: float | None = None) -> Cluster:
    cpus, gpus = sum(node[0] for node in nodes), sum(node[1] for node in nodes)
    limit = gpus if limit_gpus is None else limit_gpus
    return Cluster(
        cpus, gpus, max(node[0] for node in nodes), len(nodes), cpus, limit, tuple(n[1] for n in nodes), "it"
    )


@given(st.integers(1, 200), st.integers(0, 8), st.integers(1, 3))
def test_actors_always_leave_room_for_every_stage(cpus, gpus, tasks):
    placement = plan_resources(job(tasks), machines((cpus, gpus)))
    held = sum(pool.actors * pool.num_cpus for pool in placement.pools)
    assert held + placement.work_cpus <= cpus and held + placement.read_cpus <= cpus
    assert placement.read_cpus != placement.work_cpus, "equal shares would let Ray fuse the stages"
    assert sum(pool.actors * pool.num_gpus for pool in placement.pools) <= gpus + 1e-6


def test_defaults():
    assert plan_resources(job(), machines((16, 4))).pools[0].actors == 4
    assert plan_resources(job(), machines((16, 0))).pools[0].actors == 1
    assert [pool.num_gpus for pool in plan_resources(job(2), machines((16, 1))).pools] == [0.5, 0.5]
    assert plan_resources(job(device="cpu"), machines((16, 4))).pools[0].num_gpus == 0


@pytest.mark.parametrize(
    ("options", "nodes", "message"),
    [
        ({"actors": 5}, [(16, 4)], r"^tasks\[0\]\.actors: 5 actors need 5 GPUs, but it has 4"),
        ({"actors": 1, "num_gpus": 2}, [(8, 1)] * 4, r"^tasks\[0\]\.num_gpus: .* no room is left for one of t0"),
        ({"actors": 3, "num_gpus": 0.6}, [(8, 1)] * 2, "3 x 0.6 t0"),
        ({"device": "cuda"}, [(8, 0)], "it has no GPU"),
        ({"actors": 5000}, [(4, 0)], r"^tasks\[0\]\.actors: 5000 actors are too many for the 4 CPUs"),
    ],
)
def test_impossible_requests_are_refused(options, nodes, message):
    with pytest.raises(ClusterError, match=message):
        plan_resources(job(**options), machines(*nodes))


@given(st.integers(1, 9), st.lists(st.integers(1, 8), min_size=1, max_size=3))
def test_every_default_can_be_placed_and_leaves_no_gpu_idle(tasks, nodes):
    pools = plan_resources(job(tasks), machines(*((32, gpus) for gpus in nodes))).pools
    parts = round(1 / pools[0].num_gpus)
    assert {pool.num_gpus for pool in pools} == {1 / parts}, "equal shares fit in any order in which Ray places them"
    assert sum(pool.actors for pool in pools) == parts * sum(nodes)
    assert max(pool.actors for pool in pools) - min(pool.actors for pool in pools) <= 1


def test_a_job_waits_for_gpus_that_an_autoscaler_may_add():
    placement = plan_resources(job(actors=3), machines((8, 0), limit_gpus=8))
    assert placement.pools[0].actors == 3 and placement.pools[0].num_gpus == 1


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
    assert auto_unit_size(images, one, plan_resources(one, machines(*nodes))) == size


@given(st.integers(0, 10**8), st.integers(1, 8))
def test_units_of_two_runs_are_inside_each_other_or_apart(images, actors):
    one = job(actors=actors)
    size = auto_unit_size(images, one, plan_resources(one, machines((32, 0))))
    assert 64 % size == 0
