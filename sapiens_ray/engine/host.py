"""The process in which a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from sapiens_ray.storage import Folder

DEFAULT_BATCH = {"cuda": 8, "cpu": 1}  # on a CPU larger batches are not faster, and take more memory


@dataclass(frozen=True)
class ModelHost:
    """Settings of the process that holds a model.

    device: auto, cpu or cuda. threads: CPU threads of torch; None keeps torch's default. cache: where compiled code is
    kept for all nodes. drop_input: whether no later stage needs inputs of this model's kind.
    """

    device: str = "auto"
    threads: int | None = None
    cache: Folder | None = None
    drop_input: bool = False
