"""The process in which models are loaded."""

from __future__ import annotations

from dataclasses import dataclass

from sapiens_ray.storage import Folder

DEFAULT_BATCH = {"cuda": 8, "cpu": 1}  # on a CPU larger batches are not faster, and take more memory


@dataclass(frozen=True)
class ModelHost:
    """Settings of the process that holds models.

    device: auto, cpu or cuda. threads: CPU threads of torch; None keeps torch's default. workers: threads that make
    inputs, and as many that encode results. cache: where compiled code is kept for all nodes. kept_inputs: the kinds
    of inputs that later stages need.
    """

    device: str = "auto"
    threads: int | None = None
    workers: int = 2
    cache: Folder | None = None
    kept_inputs: frozenset[str] = frozenset()
