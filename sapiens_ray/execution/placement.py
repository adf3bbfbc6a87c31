"""The resources of the stages and actor pools of a job, and whether a cluster can provide them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sapiens_ray.engine.host import DEFAULT_BATCH
from sapiens_ray.errors import ClusterError
from sapiens_ray.execution.cluster import Cluster
from sapiens_ray.job.config import Job
from sapiens_ray.tasks.sections import PoolOptions

# With one thread torch uses other kernels, whose sums differ in the last bits (1e-5 in logits, measured). Labels would
# then depend on how many actors share a machine.
LEAST_THREADS = 2
GPU_ACTOR_THREADS = (
    4  # CPU threads of torch in an actor with a GPU: class borders are resolved on the device of the logits
)


LARGEST_UNIT = 64  # images
UNITS_PER_ACTOR = 8


@dataclass(frozen=True)
class ActorNeeds:
    """The actor pool of one model: number of processes, resources of each, and CPU threads of torch in each."""

    actors: int
    num_gpus: float
    num_cpus: float
    device: str
    threads: int


@dataclass(frozen=True)
class ResourcePlan:
    """Resources of every stage. pools: in the order of `job.models`. `read_cpus` and `work_cpus` differ, so that Ray
    does not fuse the stages."""

    pools: tuple[ActorNeeds, ...]
    read_cpus: float
    work_cpus: float


def plan_resources(job: Job, cluster: Cluster) -> ResourcePlan:
    """Choose pools and CPU shares. Raises ClusterError, in one line, if the cluster can never provide them.

    Shares are fractions, so that all stages and all actors fit on any machine at the same time: if actors held every
    CPU, no stage could feed them, and the job would hang.
    """
    on_gpu = job.device == "cuda" or (job.device == "auto" and cluster.limit_gpus > 0)
    if job.device == "cuda" and cluster.limit_gpus == 0:
        raise ClusterError(f"device: cuda was asked for, but {cluster.where} has no GPU; use device: auto")
    models = job.models
    counts, gpus = (
        _gpu_shares(job, cluster) if on_gpu else ([model.actors or 1 for model in models], [0.0] * len(models))
    )
    if cluster.limit_cpus < 1:
        raise ClusterError(f"{cluster.where} has {cluster.limit_cpus:g} CPUs; a job needs at least one")

    actors = sum(counts)
    cpus = max(cluster.cpus, 1.0)
    roomy = cpus >= actors + 2
    actor_cpus = 1.0 if roomy else math.floor(0.5 * cpus / actors * 1000) / 1000
    if actor_cpus < 0.001:
        where = _settings(job, "actors")
        raise ClusterError(f"{where}: {actors} actors are too many for the {cpus:g} CPUs of {cluster.where}")
    # Small enough that Ray Data's reservations leave every stage its share while the input is listed.
    work_cpus = 1.0 if roomy else 0.25 if cpus >= 2 else 0.125
    threads = max(LEAST_THREADS, int(cluster.node_cpus / max(1, math.ceil(actors / max(1, cluster.nodes)))))
    device = job.device if on_gpu else "cpu"
    pools = tuple(
        ActorNeeds(count, share, actor_cpus, device, GPU_ACTOR_THREADS if on_gpu else threads)
        for count, share in zip(counts, gpus, strict=True)
    )
    return ResourcePlan(pools, read_cpus=work_cpus / 2, work_cpus=work_cpus)


def auto_unit_size(images: int | None, job: Job, resources: ResourcePlan) -> int:
    """Images per unit: 64, or fewer if every actor would get less than eight units, but a whole batch.

    images: of the job; None if they are not counted. A power of two: if units of two runs of an output have different
    sizes, each is then inside the other or apart from it, so a late write of a dead run cannot half overlap a unit.
    """
    batches = [task.batch_size for task in job.tasks if isinstance(task.batch_size, int)]
    on_gpu = any(pool.num_gpus for pool in resources.pools)
    least = max([*batches, DEFAULT_BATCH["cuda" if on_gpu else "cpu"]])
    fair = (
        LARGEST_UNIT if images is None else images // (UNITS_PER_ACTOR * max(pool.actors for pool in resources.pools))
    )
    smallest = 1 << (min(least, LARGEST_UNIT) - 1).bit_length()
    return max(smallest, min(LARGEST_UNIT, 1 << (max(1, fair).bit_length() - 1)))


def _gpu_shares(job: Job, cluster: Cluster) -> tuple[list[int], list[float]]:
    """Actors of each model, and the GPUs each of them takes. Raises ClusterError if they cannot all be placed.

    A fraction cannot span several GPUs. With fewer GPUs than models, every GPU is divided into as many equal parts as
    needed; parts that are left over go to the models with the fewest actors.
    """
    models = job.models
    share = 1 / max(1, math.ceil(len(models) / max(cluster.gpus, 1)))
    gpus = [model.num_gpus or share for model in models]
    counts = [model.actors or 1 for model in models]
    needed = sum(count * each for count, each in zip(counts, gpus, strict=True))
    if needed > cluster.limit_gpus + 1e-9:
        where = _settings(job, "actors", "num_gpus")
        raise ClusterError(
            f"{where}: {sum(counts)} actors need {needed:g} GPUs, but {cluster.where} has "
            f"{cluster.limit_gpus:g}; ask for fewer actors or a smaller num_gpus"
        )
    if cluster.limit_gpus > cluster.gpus:  # future nodes decide
        return counts, gpus
    left_out = _not_placed(counts, gpus, cluster)
    if left_out is not None:
        spelled = ", ".join(_spelled(models, counts, gpus))
        raise ClusterError(
            f"{job.entries[left_out]}.num_gpus: the actors ({spelled}) do not fit on the GPUs of "
            f"{cluster.where}: no room is left for one of {models[left_out].column}; ask for fewer actors or a smaller "
            "num_gpus"
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


def _settings(job: Job, *options: str) -> str:
    """The settings of the job file that ask for actors or GPUs, such as tasks[0].actors, tasks[2].num_gpus."""
    found = [
        f"{entry}.{option}"
        for entry, model in zip(job.entries, job.models, strict=True)
        for option in options
        if getattr(model, option) is not None
    ]
    return ", ".join(found) or "tasks"


def _spelled(models: Sequence[PoolOptions], counts: list[int], gpus: list[float]) -> list[str]:
    return [f"{count} x {each:g} {model.column}" for model, count, each in zip(models, counts, gpus, strict=True)]


def _not_placed(counts: list[int], gpus: list[float], cluster: Cluster) -> int | None:
    """The number of a model with an actor that does not fit, placing the largest shares first; None if all fit."""
    nodes = [[1.0] * int(count) for count in cluster.node_gpus]
    for number in sorted(range(len(gpus)), key=lambda number: -gpus[number]):
        for _ in range(counts[number]):
            if not _take(nodes, gpus[number]):
                return number
    return None


def _take(nodes: list[list[float]], share: float) -> bool:
    """Take a share of one GPU, or several whole GPUs of one node, from the free GPUs. Returns whether it fits."""
    each, count = min(share, 1.0), max(1, math.ceil(share - 1e-6))
    for free in nodes:
        places = [place for place, room in enumerate(free) if room + 1e-6 >= each][:count]
        if len(places) == count:
            for place in places:
                free[place] -= each
            return True
    return False
