"""The Ray cluster: connecting to it, and its resources."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sapiens_ray.errors import ClusterError, JobError, SapiensRayError
from sapiens_ray.execution.authentication import forget_own_token, refuse_disagreement, use_own_token
from sapiens_ray.storage import translate_errors
from sapiens_ray.tasks.sections import Settings

THIS_MACHINE = "this machine"
KEPT, LEAST_KEPT = "RAY_num_workers_soft_limit", 8  # idle workers of a Ray that is started here
_started_here = False  # whether `start_ray` started the cluster that this process is connected to


class Node(NamedTuple):
    """The resources of a machine, and Ray's id of it."""

    cpus: float
    gpus: float = 0.0
    id: str = ""


@dataclass(frozen=True)
class Cluster:
    """The machines of a cluster, and the totals up to which an autoscaler may grow it."""

    nodes: tuple[Node, ...]
    limit_cpus: float
    limit_gpus: float
    where: str
    is_one_machine: bool = False  # started by us, or to be: it never grows

    @classmethod
    def of(cls, nodes: Sequence[Node], where: str, limit_cpus: float = 0, limit_gpus: float = 0) -> Cluster:
        """The cluster with these nodes. Limits below what is there already count as none."""
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        return cls(tuple(nodes), max(cpus, limit_cpus), max(gpus, limit_gpus), where, where == THIS_MACHINE)

    @property
    def cpus(self) -> float:
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(node.gpus for node in self.nodes)

    @property
    def node_cpus(self) -> float:
        """Of the largest node."""
        return max((node.cpus for node in self.nodes), default=0.0)

    @property
    def may_grow(self) -> bool:
        """Whether an autoscaler may add nodes, whose shapes are not known."""
        return self.limit_cpus > self.cpus or self.limit_gpus > self.gpus


def this_machine() -> Cluster:
    """The cluster that a local run would start."""
    import torch

    return Cluster.of([Node(_usable_cpus(), torch.cuda.device_count())], THIS_MACHINE)


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def alive_nodes() -> list[Node]:
    """The machines of the cluster that Ray is connected to."""
    import ray

    return [
        Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0), node["NodeID"])
        for node in ray.nodes()
        if node["Alive"]
    ]


def connected_cluster() -> Cluster:
    """The cluster that Ray is connected to."""
    nodes = alive_nodes()
    limits = _autoscaler_limits()
    several = f"the cluster of {len(nodes)} node{'s' if len(nodes) != 1 else ''}"
    return Cluster.of(nodes, THIS_MACHINE if _started_here else several, limits.get("CPU", 0), limits.get("GPU", 0))


def _autoscaler_limits() -> dict[str, float]:
    """The limits of the autoscaler; empty without one. Uses a private API of Ray: there is no public one."""
    try:
        from ray._private.state import state

        return dict(state.get_max_resources_from_cluster_config() or {})
    except Exception:
        return {}


def start_ray(address: str | None = None) -> None:
    """Connect to the cluster this process belongs to, or start one on this machine.

    Raises ClusterError if the cluster does not answer, or does not agree with this process on a token; JobError if none
    can be started on this machine, which may succeed the next time.
    """
    # Ray's C++ side writes advice about Ray Data's actors to the terminal as errors; this variable turns that off. Ray
    # then prints a line about the variable, so stderr is redirected during ray.init(), whose errors are exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        return
    options: Settings = {"log_to_driver": False, "logging_level": "ERROR"}
    named, what = address or "", f"--address {address}"
    failed: type[SapiensRayError] = ClusterError
    if named in ("", "auto") and os.environ.get("RAY_ADDRESS"):  # which Ray prefers to these two
        named = os.environ["RAY_ADDRESS"]
        what = f"RAY_ADDRESS={named}"
    if named not in ("", "local"):
        _refuse_silent_address(named, what)
        forget_own_token()
        refuse_disagreement(named, what)
        options["address"] = named
        what = f"{what}: cannot connect to Ray"
    else:
        use_own_token()
        options |= {"address": "local", "include_dashboard": False}
        failed = JobError
        what = (
            "Ray did not start on this machine; run the command again, with fewer other programs beside it (Ray's "
            "logs: session_latest/logs in RAY_TMPDIR, or in /tmp/ray)"
        )
    with translate_errors(failed, what), _stderr_to_devnull(), keeping_workers():
        ray.init(**options)
    global _started_here
    _started_here = options["address"] == "local"


@contextlib.contextmanager
def keeping_workers() -> Iterator[None]:
    """Let a Ray that is started in this block keep its workers. By default it ends those beyond one per CPU when they
    are idle for a second. Where stages take turns on few CPUs it starts others at once, each for one to two
    CPU-seconds."""
    if KEPT in os.environ:
        yield
        return
    os.environ[KEPT] = str(max(LEAST_KEPT, _usable_cpus()))
    try:
        yield
    finally:
        os.environ.pop(KEPT, None)


def _refuse_silent_address(address: str, what: str) -> None:
    """Raise ClusterError if nothing listens at host:port; Ray itself would wait silently for more than a minute."""
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ClusterError(f"{what}: no Ray cluster answers there ({error})") from None


@contextlib.contextmanager
def _stderr_to_devnull() -> Iterator[None]:
    """Redirect file descriptor 2 of this process, to which C++ code writes directly, to /dev/null."""
    saved = os.dup(2)
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(devnull)


def stop_ray(within_s: float) -> None:
    """Disconnect from Ray, waiting at most this long: its shutdown waits for tasks, but ours are safe to interrupt."""
    import ray

    closing = threading.Thread(target=ray.shutdown, daemon=True)
    closing.start()
    closing.join(within_s)
