"""Families of models that are built from the tensors of a checkpoint. One module per family.

To add one, write a module with subclasses of `Family` and `NativeModel`, and a line in ARCHITECTURES.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import nn

from sapiens_ray.models.rope import Precision
from sapiens_ray.registry import Registry
from sapiens_ray.tasks.network import LITE

if TYPE_CHECKING:
    from sapiens_ray.models.weights import Entry

Triple = tuple[float, float, float]


class Architecture(Protocol):
    """Everything about a model except its weights; `str()` of it names the model in messages."""

    @property
    def task(self) -> str: ...

    @property
    def channels(self) -> int | None:
        """Channels of the output; None for an encoder without a head."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels."""

    @property
    def details(self) -> list[str]:
        """Lines for `sapiens-ray checkpoints inspect`."""


class NativeModel(nn.Module):
    """A model of a known family. Takes B x 3 x H x W, RGB, normalised."""

    architecture: Architecture

    def compiled_parts(self) -> list[nn.Module]:
        """The modules that `compile:` compiles, each separately."""
        raise NotImplementedError

    def use_rope(self, precision: Precision) -> None:
        """Choose how rotary positions are computed; only for families that have them (`Family.rotary`)."""
        raise NotImplementedError


class Family(ABC):
    """An entry of the registry ARCHITECTURES.

    mean_rgb, std_rgb: for the normalisation of inputs, on the 0..255 scale. recipe: how tasks make the inputs of
    these models and read their outputs (`tasks/network.py`). rotary: whether the job may choose how their rotary
    positions are computed.
    """

    mean_rgb: ClassVar[Triple]
    std_rgb: ClassVar[Triple]
    recipe: ClassVar[str] = LITE
    rotary: ClassVar[bool] = False

    def for_task(self, task: str) -> Family:
        """This family, where shapes alone leave open for which task a model is. task: that of the job; may be empty."""
        return self

    @abstractmethod
    def tensors_of(self, state: Mapping[str, Entry]) -> dict[str, Entry]:
        """The tensors of the model by name, without other content of checkpoints; empty if it is not of this family."""

    @abstractmethod
    def read(self, tensors: Mapping[str, Entry], what: str) -> Architecture:
        """Infer the architecture from the tensor shapes. what: the file, for messages. Raises CheckpointError."""

    @abstractmethod
    def fitting(self, tensors: Mapping[str, Entry], what: str) -> Architecture:
        """The architecture that has exactly these tensors. Does not read their values.

        Raises CheckpointError with the first tensor that does not fit.
        """

    @abstractmethod
    def build(self, tensors: Mapping[str, Entry], what: str, dtype: torch.dtype, device: torch.device) -> NativeModel:
        """The model with these tensors, in eval mode. dtype: of the large matrix products. Raises CheckpointError."""


ARCHITECTURES: Registry[Family] = Registry(
    "sapiens_ray.architectures",
    Family,  # type: ignore[type-abstract]
    # In this order: encoders of Sapiens2 have some tensors with the names of those of Sapiens.
    {"sapiens2": "sapiens_ray.models.sapiens2:FAMILY", "sapiens": "sapiens_ray.models.sapiens:FAMILY"},
)


def recognise(state: Mapping[str, Entry]) -> tuple[Family, dict[str, Entry]] | None:
    """The family of the model in a checkpoint, and its tensors; None if no family recognises it."""
    for family in ARCHITECTURES.values():
        tensors = family.tensors_of(state)
        if tensors:
            return family, tensors
    return None
