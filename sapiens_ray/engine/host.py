"""The process in which models are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sapiens_ray.storage import Folder

DEFAULT_BATCH = {"cuda": 8, "cpu": 1}  # on a CPU larger batches are not faster, and take more memory

# Gives the number of this name: found by the function, or by another process that has found it before.
Settled = Callable[[str, Callable[[], int]], int]


def settled_alone(what: str, find: Callable[[], int]) -> int:
    """For a process that shares nothing with others."""
    return find()


@dataclass(frozen=True)
class ModelHost:
    """Settings of the process that holds models.

    device: auto, cpu or cuda. threads: CPU threads of torch; None keeps torch's default. workers: threads that make
    inputs, and as many that encode results. cache: where compiled code is kept for all nodes. kept_inputs: the kinds
    of inputs that later stages need. settled: how processes on devices of one kind agree on a batch size.
    """

    device: str = "auto"
    threads: int | None = None
    workers: int = 2
    cache: Folder | None = None
    kept_inputs: frozenset[str] = frozenset()
    settled: Settled = settled_alone
