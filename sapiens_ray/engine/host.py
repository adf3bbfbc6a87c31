"""Where a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from sapiens_ray.storage import Folder


@dataclass(frozen=True)
class ModelHost:
    """The process that holds a model.

    device: auto, cpu or cuda. threads: of torch on the CPU; None leaves them. cache: where compiled code is kept for
    all nodes. drop_input: no later stage needs the inputs of this model's kind.
    """

    device: str = "auto"
    threads: int | None = None
    cache: Folder | None = None
    drop_input: bool = False
