"""Any checkpoint as a model that runs on this torch, in either mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.export.passes import move_to_device_pass

from sapiens_ray.errors import CheckpointError
from sapiens_ray.models.checkpoint import Container, container_of
from sapiens_ray.models.exported import load_export
from sapiens_ray.models.sapiens import Architecture, Sapiens, build, fitting_architecture, tensors_of
from sapiens_ray.models.weights import load_torchscript, read_weights

if TYPE_CHECKING:
    from sapiens_ray.tasks.options import ModelOptions


@dataclass(frozen=True)
class Model:
    """A model on its device.

    dtype: of the images it takes. batch: the only batch size it takes, if there is but one. architecture: of a
    native model; None for a program that runs as it is.
    """

    module: Callable[[torch.Tensor], Any]
    container: Container
    dtype: torch.dtype
    batch: int | None = None
    architecture: Architecture | None = None

    @property
    def native(self) -> Sapiens | None:
        return self.module if isinstance(self.module, Sapiens) else None


def load_model(path: Path, mode: str, device: torch.device) -> Model:
    """A checkpoint of any container as a model. Raises CheckpointError.

    mode torchscript: a TorchScript program as it is; weights in the native module, float32. mode bfloat16: the
    native module, its large products in bfloat16; programs that are no Sapiens are cast. Exported programs that are
    no Sapiens run as they are, in the mode whose type they have.
    """
    container = container_of(path)
    if container == "torchscript" and mode == "torchscript":
        module = load_torchscript(path, device)
        if any(parameter.dtype != torch.float32 for parameter in module.parameters()):
            raise CheckpointError(f"{path}: mode torchscript runs float32 programs; this one holds other types")
        return Model(module, container, torch.float32)
    dtype = torch.bfloat16 if mode == "bfloat16" else torch.float32
    tensors = tensors_of(read_weights(path))
    if tensors:
        native = build(tensors, str(path), dtype, device)
        if device.type == "cpu":  # oneDNN's convolutions are faster so; NVIDIA's choose for themselves
            native.to(memory_format=torch.channels_last)
        return Model(native, container or "pickle", torch.float32, architecture=native.architecture)
    if container == "torchscript":
        return Model(load_torchscript(path, device).to(dtype), container, dtype)
    if container == "export":
        return _exported(path, mode, dtype, device)
    raise no_sapiens(path)


def _exported(path: Path, mode: str, dtype: torch.dtype, device: torch.device) -> Model:
    program = load_export(path)
    _refuse_other_types((tensor.dtype for tensor in program.state_dict.values()), path, mode, dtype)
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    names = set(program.graph_signature.user_inputs)
    first = next(node.meta["val"] for node in inputs if node.name in names)
    batch = first.shape[0] if isinstance(first.shape[0], int) else None
    return Model(move_to_device_pass(program, device).module(), "export", dtype, batch)


def refuse_unfit(path: Path, options: ModelOptions) -> None:
    """Raise CheckpointError if a file that is no TorchScript program cannot serve the task, told by its names alone."""
    entries = read_weights(path)
    tensors = tensors_of(entries)
    if tensors:
        refuse_other_task(fitting_architecture(tensors, str(path)), str(path), options)
    elif container_of(path) == "export":
        dtype = torch.bfloat16 if options.mode == "bfloat16" else torch.float32
        _refuse_other_types((entry.dtype for entry in entries.values()), path, options.mode, dtype)
    else:
        raise no_sapiens(path)


def no_sapiens(path: Path) -> CheckpointError:
    """What to say of tensors that are those of another model."""
    return CheckpointError(
        f"{path} holds tensors, but not those of a Sapiens model: there is none named "
        "backbone.patch_embed.projection.weight. Other models run as TorchScript programs"
    )


def _refuse_other_types(found: Iterable[torch.dtype], path: Path, mode: str, dtype: torch.dtype) -> None:
    floating = {one for one in found if one.is_floating_point}
    if floating - {dtype}:
        held = ", ".join(sorted(str(one).removeprefix("torch.") for one in floating))
        raise CheckpointError(f"{path} is a program with {held} weights, and cannot run in mode {mode}")


def refuse_other_task(architecture: Architecture, what: str, options: ModelOptions) -> None:
    """Raise CheckpointError if a Sapiens model is not one of the task. what: the file, for messages."""
    wanted = options.channels
    if architecture.task == options.task and wanted in (None, architecture.channels):
        return
    needs = f"task {options.task}"
    if wanted is not None and architecture.task == options.task:
        needs = f"{wanted} {'keypoints' if options.task == 'pose' else 'channels'}"
    raise CheckpointError(f"{what} is {architecture}, and the job asks for {needs}")
