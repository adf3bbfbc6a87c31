"""Keeps actors away from broken GPUs."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable
from typing import Any

from sapiens_ray.errors import JobError
from sapiens_ray.execution.cluster import alive_nodes
from sapiens_ray.execution.devices import Device, own_device

OCCUPY_WITHIN_S = 20.0


class _Occupant:
    """An actor that holds a GPU and does nothing with it."""

    def device(self) -> Device | None:
        return own_device()


class LeftOut:
    """The broken GPUs of a run, which the driver occupies until the run ends."""

    def __init__(self) -> None:
        self._occupants: list[Any] = []
        self.devices: set[Device] = set()

    def add(self, broken: Iterable[Device]) -> None:
        """Occupy these GPUs. Raises JobError if none of them could be: the next actors would only meet them again."""
        gc.collect()  # the executor that failed refers to itself: until it is collected, its actors hold their GPUs
        if not broken:
            return
        new = set(broken) - self.devices
        wanted = {(device.node, gpu) for device in new for gpu in device.gpus}
        nodes = {device.node for device in new}
        found = {place for node in nodes for place in self._occupy(node, wanted)}
        if not found and not _gone(nodes):
            names = ", ".join(map(str, broken))
            raise JobError(
                f"{names} failed again and again, and could not be left out; everything written is kept; repair or "
                "remove the node, and run again to continue"
            )
        self.devices |= new

    def _occupy(self, node: str, wanted: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """Start an occupant for each free GPU of a node, and keep those that got a wanted one."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        occupant: Any = ray.remote(_Occupant)
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        gpus = next((int(one.gpus) for one in alive_nodes() if one.id == node), 0)
        started = [
            occupant.options(num_cpus=0, num_gpus=1, scheduling_strategy=here, max_restarts=-1).remote()
            for _ in range(gpus - sum(device.node == node for device in self.devices))
        ]
        asked = {actor.device.remote(): actor for actor in started}
        ready, _ = ray.wait(list(asked), num_returns=max(1, len(asked)), timeout=OCCUPY_WITHIN_S) if asked else ([], [])
        found = set()
        for answer in ready:
            with contextlib.suppress(ray.exceptions.RayError):
                device = ray.get(answer)
                places = {(node, gpu) for gpu in device.gpus} & wanted
                if places:
                    found |= places
                    self._occupants.append(asked.pop(answer))
        for actor in asked.values():
            ray.kill(actor)
        return found

    def release(self) -> None:
        """Give the GPUs back to Ray."""
        import ray

        for actor in self._occupants:
            with contextlib.suppress(Exception):
                ray.kill(actor)
        self._occupants.clear()


def _gone(nodes: set[str]) -> bool:
    """Whether there are such nodes, and none of them is alive any more."""
    return bool(nodes) and not any(node.id in nodes for node in alive_nodes())
