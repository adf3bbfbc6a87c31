"""The Ray cluster: connecting to it, and its resources."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from sapiens_ray.errors import ClusterError
from sapiens_ray.execution.authentication import forget_own_token, refuse_disagreement, use_own_token
from sapiens_ray.storage import translate_errors
from sapiens_ray.tasks.sections import Settings

_started_here = False  # whether `start_ray` started the cluster that this process is connected to


@dataclass(frozen=True)
class Cluster:
    """Resources of a cluster: in total, on its largest node, and the limits up to which an autoscaler may grow it."""

    cpus: float
    gpus: float
    node_cpus: float
    nodes: int
    limit_cpus: float
    limit_gpus: float
    node_gpus: tuple[float, ...]
    where: str


def this_machine() -> Cluster:
    """The cluster that a local run would start."""
    import torch

    cpus, gpus = _usable_cpus(), torch.cuda.device_count()
    return Cluster(cpus, gpus, cpus, 1, cpus, gpus, (float(gpus),), "this machine")


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def connected_cluster() -> Cluster:
    """The cluster that Ray is connected to."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    limits = _autoscaler_limits()
    return Cluster(
        cpus=cpus,
        gpus=gpus,
        node_cpus=max((node.get("CPU", 0.0) for node in nodes), default=0.0),
        nodes=len(nodes),
        limit_cpus=max(cpus, limits.get("CPU", 0)),
        limit_gpus=max(gpus, limits.get("GPU", 0)),
        node_gpus=tuple(node.get("GPU", 0.0) for node in nodes),
        where="this machine" if _started_here else f"the cluster of {len(nodes)} node{'s' if len(nodes) != 1 else ''}",
    )


def _autoscaler_limits() -> dict[str, float]:
    """The limits of the autoscaler; empty without one. Uses a private API of Ray: there is no public one."""
    try:
        from ray._private.state import state

        return dict(state.get_max_resources_from_cluster_config() or {})
    except Exception:
        return {}


def start_ray(address: str | None = None) -> None:
    """Connect to the cluster this process belongs to, or start one on this machine.

    Raises ClusterError if the cluster does not answer, or does not agree with this process on a token.
    """
    # Ray's C++ side writes advice about Ray Data's actors to the terminal as errors; this variable turns that off. Ray
    # then prints a line about the variable, so stderr is redirected during ray.init(), whose errors are exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        return
    options: Settings = {"log_to_driver": False, "logging_level": "ERROR"}
    named, what = address or "", f"--address {address}"
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
        what = "Ray did not start on this machine (its logs: session_latest/logs in RAY_TMPDIR, or in /tmp/ray)"
    with translate_errors(ClusterError, what), _stderr_to_devnull():
        ray.init(**options)
    global _started_here
    _started_here = options["address"] == "local"


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
