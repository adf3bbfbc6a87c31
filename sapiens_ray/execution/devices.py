"""GPUs that fail again and again: found by their actors, kept by the coordinator, left out by the driver.

An error of a GPU ends its process. Ray starts the actor again, mostly on the same GPU. One that fails while models are
loaded and tried on black images, or at one batch after the other, is broken. Its actor then refuses to work, and the
run goes on without that GPU: the driver occupies it, so that Ray gives it to no other actor, and builds the pipeline
again for the images that are left.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sapiens_ray.errors import JobError
from sapiens_ray.execution.cluster import Cluster

FAILED_STARTS = 3  # in a row: no image is involved
FAILED_BATCHES = 10  # in a row: at three images, each of which was tried three times and then left out
RECOVERED_BATCHES = 20  # that gave results in one process, after which a GPU counts as sound


class Device(NamedTuple):
    """The GPUs of an actor, mostly one. node: Ray's id of the machine. gpus: their numbers there."""

    node: str
    host: str
    gpus: tuple[str, ...]

    def __str__(self) -> str:
        return f"GPU {', '.join(self.gpus)} of {self.host}"


def own_device() -> Device | None:
    """The GPUs that Ray gave to this actor; None without one, or outside Ray."""
    import ray

    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    gpus = context.get_accelerator_ids().get("GPU", [])
    return Device(context.get_node_id(), socket.gethostname(), tuple(map(str, gpus))) if gpus else None


Broken = dict[Device, str]  # broken GPUs, with what they said last


@dataclass
class DeviceRecord:
    """What the coordinator knows of a GPU. starts, batches: failures in a row. missing: torch does not find it."""

    starts: int = 0
    batches: int = 0
    missing: bool = False
    reason: str = ""

    @property
    def broken(self) -> bool:
        return self.missing or self.starts >= FAILED_STARTS or self.batches >= FAILED_BATCHES


class Devices:
    """The records of all GPUs that failed: a part of the coordinator."""

    def __init__(self) -> None:
        self._records: dict[Device, DeviceRecord] = {}

    def record(self, device: Device) -> DeviceRecord:
        return self._records.setdefault(device, DeviceRecord())

    def failed(self, device: Device, reason: str, starting: bool, answered: int) -> bool:
        """Count a failure. answered: the batches that gave results in this process before. Returns whether the GPU is
        broken."""
        record = self.record(device)
        if answered >= RECOVERED_BATCHES:
            record.starts = record.batches = 0
        record.starts += starting
        record.batches += not starting
        record.reason = reason
        return record.broken

    def missing(self, device: Device, reason: str) -> None:
        """Note that torch does not find this GPU: to try again does not help."""
        record = self.record(device)
        record.missing, record.reason = True, reason

    def broken(self) -> Broken:
        return {device: record.reason for device, record in self._records.items() if record.broken}


class RebuildError(JobError):
    """The pipeline ended because of GPUs, or of lost nodes, that the run can do without. devices: the broken GPUs."""

    def __init__(self, devices: Broken) -> None:
        super().__init__("; ".join(f"{device}: {reason}" for device, reason in devices.items()) or "a node was lost")
        self.devices = devices


def usable(cluster: Cluster, left_out: Iterable[Device]) -> Cluster:
    """The cluster without these GPUs."""
    taken: Counter[str] = Counter()
    for device in left_out:
        taken[device.node] += len(device.gpus)
    nodes = [node._replace(gpus=max(0.0, node.gpus - taken[node.id])) for node in cluster.nodes]
    return Cluster.of(nodes, cluster.where, cluster.limit_cpus, cluster.limit_gpus - taken.total())
