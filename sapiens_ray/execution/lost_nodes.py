"""Finds actors that wait for a node that does not come back, and holds up the job no longer for them.

Ray restarts the actor of a lost node as soon as it finds resources. Ray Data gives it those of other actors when all of
the input is read. Until then the units that it had take memory; where memory is short, nothing more is read, and the
job would wait for ever. So if nothing is written for a while, such actors are ended, and the pipeline is built again
for the images that are left.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from sapiens_ray.execution.cluster import alive_nodes

if TYPE_CHECKING:
    from sapiens_ray.execution.coordinator import CoordinatorHandle

LOG = logging.getLogger("sapiens_ray")
STALL_S = 60.0  # without a written unit; an autoscaler may replace a node within this time
LOOK_EVERY_S = 5.0
ANSWER_WITHIN_S = 10.0


class LostNodes:
    """Watches a pipeline from a thread of the driver. ended: the ids of the actors that were ended."""

    def __init__(self, coordinator: CoordinatorHandle) -> None:
        self.ended: set[str] = set()
        self._coordinator = coordinator
        self._actors: dict[str, str] = {}  # kept here, too: the coordinator may be lost with its node
        self._written = time.monotonic()
        self._stop = threading.Event()
        threading.Thread(target=self._watch, name="lost nodes", daemon=True).start()

    def written(self) -> None:
        """Note that a unit was written."""
        self._written = time.monotonic()

    def stop(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            try:
                self._look()
            except Exception:  # the cluster is not reached for a moment, or the job is over
                LOG.debug("looking for lost nodes failed", exc_info=True)

    def _look(self) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            self._actors |= ray.get(self._coordinator.actors.remote(), timeout=ANSWER_WITHIN_S)
        if time.monotonic() - self._written > STALL_S:
            self._end_stranded()

    def _end_stranded(self) -> None:
        alive = {node.id for node in alive_nodes()}
        if not any(node in alive for node in self._actors.values()):
            return  # there is nothing to go on with: wait for the node
        for actor, node in self._actors.items():
            if node not in alive and actor not in self.ended and not self._stop.is_set():
                LOG.info("the actor %s of a lost node is ended", actor)
                end_actor(actor)
                self.ended.add(actor)


def end_actor(actor: str) -> None:
    """End an actor for good. By its id, which only Ray's core takes: a handle would keep actors alive that Ray Data has
    released."""
    import ray

    ray._private.worker.global_worker.core_worker.kill_actor(ray.ActorID(bytes.fromhex(actor)), True)  # type: ignore[attr-defined]
