"""Which resources the stages and the actor pools of a job take, and whether a cluster can ever give them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sapiens_ray.errors import ClusterError
from sapiens_ray.execution.cluster import Cluster
from sapiens_ray.job.config import Job
from sapiens_ray.tasks.sections import PoolOptions

# With one thread torch takes other paths, whose sums differ in the last bits (1e-5 in logits, measured): labels
# would depend on how many actors share a machine.
LEAST_THREADS = 2
GPU_ACTOR_THREADS = 4  # CPU threads of torch beside a GPU: class borders are resolved where the logits are


@dataclass(frozen=True)
class ActorNeeds:
    """One model's actor pool: how many processes, what each takes, and how many CPU threads torch gets in it."""

    actors: int
    num_gpus: float
    num_cpus: float
    device: str
    threads: int


@dataclass(frozen=True)
class ResourcePlan:
    """Resources of every stage. `pools`: of `job.models`, in order. `read_cpus` and `work_cpus` differ so that Ray
    does not fuse the stages."""

    pools: tuple[ActorNeeds, ...]
    read_cpus: float
    work_cpus: float


def plan_resources(job: Job, cluster: Cluster) -> ResourcePlan:
    """Decide pools and CPU shares. Raises ClusterError, in one line, if the cluster can never satisfy them.

    Shares are fractions so that whatever the machine, all stages and all actors fit beside each other: actors
    that hold every CPU would leave none to feed them, and the job would hang.
    """
    on_gpu = job.device == "cuda" or (job.device == "auto" and cluster.limit_gpus > 0)
    if job.device == "cuda" and cluster.limit_gpus == 0:
        raise ClusterError(f"device: cuda was asked for, but {cluster.where} has no GPU; use device: auto")
    models = job.models
    counts, gpus = (
        _gpu_shares(models, cluster) if on_gpu else ([model.actors or 1 for model in models], [0.0] * len(models))
    )
    if cluster.limit_cpus < 1:
        raise ClusterError(f"{cluster.where} has {cluster.limit_cpus:g} CPUs; a job needs at least one")

    actors = sum(counts)
    cpus = max(cluster.cpus, 1.0)
    roomy = cpus >= actors + 2
    actor_cpus = 1.0 if roomy else math.floor(0.5 * cpus / actors * 1000) / 1000
    if actor_cpus < 0.001:
        raise ClusterError(f"tasks[].actors: {actors} actors are too many for the {cpus:g} CPUs of {cluster.where}")
    # Small enough that the reservations of Ray Data leave every stage its share while the input is being listed.
    work_cpus = 1.0 if roomy else 0.25 if cpus >= 2 else 0.125
    threads = max(LEAST_THREADS, int(cluster.node_cpus / max(1, math.ceil(actors / max(1, cluster.nodes)))))
    device = job.device if on_gpu else "cpu"
    pools = tuple(
        ActorNeeds(count, share, actor_cpus, device, GPU_ACTOR_THREADS if on_gpu else threads)
        for count, share in zip(counts, gpus, strict=True)
    )
    return ResourcePlan(pools, read_cpus=work_cpus / 2, work_cpus=work_cpus)


def _gpu_shares(models: Sequence[PoolOptions], cluster: Cluster) -> tuple[list[int], list[float]]:
    """Actors of each model, and the GPUs each of them takes. Raises ClusterError if they cannot all be placed.

    Fractions do not span GPUs. With fewer GPUs than models every GPU is cut into as many equal parts as it takes;
    what is left over goes to the models that have fewest actors.
    """
    share = 1 / max(1, math.ceil(len(models) / max(cluster.gpus, 1)))
    gpus = [model.num_gpus or share for model in models]
    counts = [model.actors or 1 for model in models]
    needed = sum(count * each for count, each in zip(counts, gpus, strict=True))
    if needed > cluster.limit_gpus + 1e-9:
        raise ClusterError(
            f"tasks[].actors: {sum(counts)} actors need {needed:g} GPUs, but {cluster.where} has "
            f"{cluster.limit_gpus:g}; ask for fewer actors or a smaller num_gpus"
        )
    if cluster.limit_gpus > cluster.gpus:  # nodes to come decide
        return counts, gpus
    left_out = _not_placed(counts, gpus, cluster)
    if left_out is not None:
        raise ClusterError(
            f"tasks[].num_gpus: the actors ({', '.join(_spelled(models, counts, gpus))}) do not fit on the GPUs of "
            f"{cluster.where}: no room is left for one of {models[left_out].column}; ask for fewer actors or a "
            "smaller num_gpus"
        )
    open_ended = [number for number, model in enumerate(models) if model.actors is None]
    while open_ended:
        fewest = min(open_ended, key=lambda number: counts[number])
        more = [count + (number == fewest) for number, count in enumerate(counts)]
        if _not_placed(more, gpus, cluster) is None:
            counts = more
        else:
            open_ended.remove(fewest)
    return counts, gpus


def _spelled(models: Sequence[PoolOptions], counts: list[int], gpus: list[float]) -> list[str]:
    return [f"{count} x {each:g} {model.column}" for model, count, each in zip(models, counts, gpus, strict=True)]


def _not_placed(counts: list[int], gpus: list[float], cluster: Cluster) -> int | None:
    """Number of a model of which an actor finds no room, largest shares placed first; None if all do."""
    nodes = [[1.0] * int(count) for count in cluster.node_gpus]
    for number in sorted(range(len(gpus)), key=lambda number: -gpus[number]):
        for _ in range(counts[number]):
            if not _take(nodes, gpus[number]):
                return number
    return None


def _take(nodes: list[list[float]], share: float) -> bool:
    """Take a share of one GPU, or several whole ones of one node, out of what is free."""
    each, count = min(share, 1.0), max(1, math.ceil(share - 1e-6))
    for free in nodes:
        places = [place for place, room in enumerate(free) if room + 1e-6 >= each][:count]
        if len(places) == count:
            for place in places:
                free[place] -= each
            return True
    return False
