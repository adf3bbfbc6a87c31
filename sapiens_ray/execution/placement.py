"""The resources of the stages and actor pools of a job, and whether a cluster can provide them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sapiens_ray.engine.host import DEFAULT_BATCH
from sapiens_ray.engine.models import PreparedModel, in_pools
from sapiens_ray.errors import ClusterError
from sapiens_ray.execution.cluster import Cluster, Node
from sapiens_ray.job.config import Job
from sapiens_ray.planning.plan import CUT_ON_CPUS, LARGEST_CUT
from sapiens_ray.tasks.sections import PoolSize

# With one thread torch uses other kernels, whose sums differ in the last bits (1e-5 in logits, measured). Labels would
# then depend on how many actors share a machine.
LEAST_THREADS = 2
GPU_ACTOR_THREADS = 4  # CPU threads of torch in an actor with a GPU: what is reduced on the CPU is small there
CPU_ACTOR_WORKERS, GPU_ACTOR_WORKERS = 2, 4  # threads that encode

LOGICAL_GPUS = "SAPIENS_RAY_LOGICAL_GPUS"  # if set, GPUs need not exist: to try how a job is placed on a cluster
NO_FIELD = "tasks"  # named in messages if no field of the job file asks for what is wrong
SHARED_POOL = "all models"  # name of a pool that holds several; no column has a space
LARGEST_UNIT = 64  # images
UNITS_PER_ACTOR = 8


@dataclass(frozen=True)
class ActorPool:
    """A pool of actors: its name, which no other pool of the job has, the models that each actor holds, how many actors
    there are, and the resources of each.

    actors: at the start. most: up to which the pool grows when the cluster does; None for as many as it allows. least:
    actors that it has even where another pool could use their place. threads: CPU threads of torch. workers: threads
    that make inputs, and as many that encode results.
    """

    name: str
    models: tuple[PreparedModel, ...]
    actors: int
    least: int
    most: int | None
    num_gpus: float
    num_cpus: float
    device: str
    threads: int
    workers: int


@dataclass(frozen=True)
class ResourcePlan:
    """Resources of every stage. pools: in the order in which a unit meets them. `read_cpus` and `work_cpus` differ, so
    that Ray does not fuse the stages. notes: for the user, about wishes that do not suit the cluster."""

    pools: tuple[ActorPool, ...]
    read_cpus: float
    work_cpus: float
    notes: tuple[str, ...] = ()

    def pool_of(self, model: PreparedModel) -> ActorPool:
        """The pool that holds a model."""
        return next(pool for pool in self.pools if model in pool.models)


@dataclass(frozen=True)
class _Wish:
    """What the job file asks for a pool. where: the entry that does, such as tasks[0]; empty for the whole job."""

    models: tuple[PreparedModel, ...]
    actors: PoolSize | None
    num_gpus: float | None
    where: str

    @property
    def least(self) -> int:
        return self.actors.min if self.actors else 1

    @property
    def most(self) -> int | None:
        return self.actors.max if self.actors else None

    @property
    def name(self) -> str:
        return self.models[0].column if len(self.models) == 1 else SHARED_POOL

    def field(self, option: str) -> str:
        return f"{self.where}.{option}" if self.where else option


def plan_what_is_left(job: Job, models: Sequence[PreparedModel], cluster: Cluster) -> ResourcePlan:
    """As `plan_resources`, for a cluster that has lost nodes or GPUs: if it cannot have the actors that the job asks
    for any more, as many as fit. Raises ClusterError if none do."""
    try:
        return plan_resources(job, models, cluster)
    except ClusterError as error:
        fewer = plan_resources(job, models, cluster, as_asked=False)
        return replace(fewer, notes=(*fewer.notes, f"as many actors as fit now: {error}"))


def plan_resources(job: Job, models: Sequence[PreparedModel], cluster: Cluster, as_asked: bool = True) -> ResourcePlan:
    """Choose pools and CPU shares. Raises ClusterError, in one line, if the cluster can never provide them.

    models: of the job, in the order of `job.models`. as_asked: with the numbers of actors that the job asks for. Shares
    are fractions, so that all stages and all actors fit on any machine at the same time: if actors held every CPU, no
    stage could feed them, and the job would hang.
    """
    on_gpu = job.device == "cuda" or (job.device == "auto" and cluster.limit_gpus > 0)
    wishes = _wishes(job, models)
    if not as_asked:
        wishes = [replace(wish, actors=None) for wish in wishes]
    if job.device == "cuda" and cluster.limit_gpus == 0:
        cluster = _promised(wishes, cluster)
    if cluster.limit_cpus < 1:
        raise ClusterError(f"{cluster.where} has {cluster.limit_cpus:g} CPUs; a job needs at least one")
    if on_gpu:
        counts, gpus = _gpu_shares(wishes, cluster)
        sizes = [wish.most for wish in wishes]
    else:
        machines = max(1, sum(node.cpus >= 1 for node in cluster.nodes))
        counts, gpus = [wish.least if wish.actors else machines for wish in wishes], [0.0] * len(wishes)
        sizes = [wish.most if wish.actors else count for wish, count in zip(wishes, counts, strict=True)]
    actors = sum(counts)
    actor_cpus, work_cpus = _cpu_shares(wishes, counts, gpus, cluster)
    per_node = max(1, math.ceil(actors / len(cluster.nodes)))
    workers = GPU_ACTOR_WORKERS if on_gpu else CPU_ACTOR_WORKERS
    threads = GPU_ACTOR_THREADS if on_gpu else max(LEAST_THREADS, int(cluster.node_cpus / per_node))
    # Not auto: an actor that was given a GPU must not run on the CPU without a word.
    device = ("auto" if os.environ.get(LOGICAL_GPUS) else "cuda") if on_gpu else "cpu"
    pools = tuple(
        ActorPool(
            name,
            wish.models,
            count,
            wish.least if wish.actors else count,
            most,
            share,
            actor_cpus,
            device,
            threads,
            workers,
        )
        for name, wish, count, most, share in zip(_names(wishes), wishes, counts, sizes, gpus, strict=True)
    )
    return ResourcePlan(pools, work_cpus / 2, work_cpus, tuple(_notes(wishes, actors, on_gpu, cluster)))


def _promised(wishes: Sequence[_Wish], cluster: Cluster) -> Cluster:
    """A cluster without GPUs, with those that the job file says will come. Raises ClusterError if it says nothing.

    Ray does not tell up to which size its autoscalers will grow a cluster. So the user says it.
    """
    if cluster.is_one_machine or not all(wish.actors for wish in wishes):
        advice = "" if cluster.is_one_machine else "; if an autoscaler will add some, say how many: actors: {max: 8}"
        raise ClusterError(f"device: cuda was asked for, but {cluster.where} has no GPU; use device: auto{advice}")
    actors = sum(wish.most or wish.least for wish in wishes)
    gpus = sum((wish.most or wish.least) * (wish.num_gpus or 1) for wish in wishes)
    cpus = cluster.limit_cpus + 2 * actors  # one for each actor, and one to feed it
    return replace(cluster, limit_cpus=cpus, limit_gpus=gpus)


def _cpu_shares(
    wishes: Sequence[_Wish], counts: Sequence[int], gpus: Sequence[float], cluster: Cluster
) -> tuple[float, float]:
    """CPUs of an actor, and of a task of the other stages.

    Whole CPUs where there are enough of them, also counting those that an autoscaler may add; else fractions.
    """
    cpus, actors = max(cluster.limit_cpus, 1.0), sum(counts)
    if cluster.may_grow and any(gpus):
        open_ended = [share for wish, share in zip(wishes, gpus, strict=True) if wish.most is None]
        actors = max(actors, int(cluster.limit_gpus / min(open_ended)) if open_ended else 0)
    roomy = cpus >= actors + 2
    actor_cpus = 1.0 if roomy else _floor(0.5 * cpus / actors)
    if any(gpus) and not cluster.may_grow:
        actor_cpus = min(_on_node(node, actors / cluster.gpus, roomy) for node in cluster.nodes if node.gpus)
    if actor_cpus < 0.001:
        where = _fields(wishes, "actors", "num_gpus")
        raise ClusterError(f"{where}: {actors} actors are too many for the {cpus:g} CPUs of {cluster.where}")
    # Small enough that Ray Data's reservations leave every stage its share while the input is listed.
    return actor_cpus, 1.0 if roomy else 0.25 if cpus >= 2 else 0.125


def _on_node(node: Node, actors_per_gpu: float, roomy: bool) -> float:
    """CPUs of an actor with a GPU of this node: a quarter of what there is for each, up to what its threads use."""
    each = node.cpus / max(1.0, math.ceil(node.gpus * actors_per_gpu))
    if roomy and each > 1:
        return float(min(GPU_ACTOR_WORKERS, max(1, int(each / 4))))
    return _floor(0.5 * each)


def _floor(cpus: float) -> float:
    """In thousandths of a CPU."""
    return math.floor(1000 * cpus) / 1000


def _notes(wishes: Sequence[_Wish], actors: int, on_gpu: bool, cluster: Cluster) -> list[str]:
    """What a user should know of wishes that are followed as far as the cluster allows: a job file is for a cluster and
    for a laptop."""
    notes = []
    where = _fields(wishes, "num_gpus")
    if where != NO_FIELD and not on_gpu:
        notes.append(f"{where}: has no effect here; the models run on the CPUs of {cluster.where}")
    if actors > max(cluster.limit_cpus, len(wishes)):
        where = _fields(wishes, "actors", "num_gpus") if on_gpu else _fields(wishes, "actors")
        notes.append(
            f"{where}: {actors} actors share the {cluster.limit_cpus:g} CPUs of {cluster.where}; each holds its models "
            "in memory, and more than one per CPU is not faster"
        )
    return notes


def _names(wishes: Sequence[_Wish]) -> list[str]:
    """A name for each pool: its model's, or that of shared pools. A unit may meet two pools that are shared, with one
    between them."""
    names = [wish.name for wish in wishes]
    earlier = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name} #{again + 1}" if again else name for name, again in zip(names, earlier, strict=True)]


def _wishes(job: Job, models: Sequence[PreparedModel]) -> list[_Wish]:
    """What the job file says of each pool."""
    wishes = []
    apart = job.placement == "separate"
    for pool in in_pools(models, apart):
        first = pool[0].options
        if apart or first.has_own_pool:
            entry = job.entries[list(models).index(pool[0])]
            wishes.append(_Wish(tuple(pool), first.actors or job.actors, first.num_gpus or job.num_gpus, entry))
        else:
            wishes.append(_Wish(tuple(pool), job.actors, job.num_gpus, ""))
    return wishes


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


def auto_unit_bytes(resources: ResourcePlan) -> int:
    """The estimated size at which a unit is cut, where photos or labels are large. Several units of an actor are under
    way at a time: less without GPUs, where one machine has memory for all. GPUs have large batches, which take images
    of four units at the most."""
    return LARGEST_CUT if any(pool.num_gpus for pool in resources.pools) else CUT_ON_CPUS


def _gpu_shares(wishes: Sequence[_Wish], cluster: Cluster) -> tuple[list[int], list[float]]:
    """Actors of each pool, and the GPUs each of them takes. Raises ClusterError if they cannot all be placed.

    A fraction cannot span several GPUs. With fewer GPUs than pools, every GPU is divided into as many equal parts as
    needed; parts that are left over go to the pools with the fewest actors.
    """
    share = 1 / max(1, math.ceil(len(wishes) / max(cluster.gpus, 1)))
    gpus = [wish.num_gpus or share for wish in wishes]
    counts = [wish.least for wish in wishes]
    needed = sum(count * each for count, each in zip(counts, gpus, strict=True))
    if needed > cluster.limit_gpus + 1e-9:
        where = _fields(wishes, "actors", "num_gpus")
        raise ClusterError(
            f"{where}: {sum(counts)} actors need {needed:g} GPUs, but {cluster.where} has "
            f"{cluster.limit_gpus:g}; ask for fewer actors or a smaller num_gpus"
        )
    left_out = _not_placed(counts, gpus, cluster)
    if left_out is not None and cluster.limit_gpus > cluster.gpus:  # future nodes decide
        return counts, gpus
    if left_out is not None:
        spelled = [f"{count} x {each:g} {wish.name}" for wish, count, each in zip(wishes, counts, gpus, strict=True)]
        raise ClusterError(
            f"{wishes[left_out].field('num_gpus')}: the actors ({', '.join(spelled)}) do not fit on the GPUs of "
            f"{cluster.where}: no room is left for one of {wishes[left_out].name}; ask for fewer actors or a smaller "
            "num_gpus"
        )
    open_ended = list(range(len(wishes)))
    while open_ended:
        fewest = min(open_ended, key=lambda number: counts[number])
        if counts[fewest] == wishes[fewest].most:
            open_ended.remove(fewest)
            continue
        more = [count + (number == fewest) for number, count in enumerate(counts)]
        if _not_placed(more, gpus, cluster) is None:
            counts = more
        else:
            open_ended.remove(fewest)
    return counts, gpus


def _fields(wishes: Sequence[_Wish], *options: str) -> str:
    """The fields of the job file that ask for actors or GPUs, such as tasks[0].actors, num_gpus."""
    found = [wish.field(option) for wish in wishes for option in options if getattr(wish, option) is not None]
    return ", ".join(dict.fromkeys(found)) or NO_FIELD


def _not_placed(counts: list[int], gpus: list[float], cluster: Cluster) -> int | None:
    """The number of a pool with an actor that does not fit, placing the largest shares first; None if all fit."""
    nodes = [[1.0] * int(node.gpus) for node in cluster.nodes]
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
