"""Loads any checkpoint as a model that runs with the installed torch, in either mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.export.passes import move_to_device_pass

from sapiens_ray.errors import CheckpointError
from sapiens_ray.models.architectures import Architecture, NativeModel, Triple, recognise
from sapiens_ray.models.checkpoint import FileFormat, format_of
from sapiens_ray.models.device import arrange_convolutions
from sapiens_ray.models.exported import load_export
from sapiens_ray.models.rope import Precision
from sapiens_ray.models.sapiens import SapiensFamily
from sapiens_ray.models.weights import load_torchscript, read_weights
from sapiens_ray.tasks.base import Output
from sapiens_ray.tasks.network import LITE, Recipe

if TYPE_CHECKING:
    from sapiens_ray.tasks.options import ModelOptions


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device.

    dtype: of the input images. batch: the batch size, if it is fixed. native: the module, if it is of a known family;
    None for a program that runs as it is. mean_rgb, std_rgb: for the normalisation of images.
    """

    module: Callable[[torch.Tensor], Output]
    format: FileFormat
    dtype: torch.dtype
    batch: int | None = None
    native: NativeModel | None = None
    mean_rgb: Triple = SapiensFamily.mean_rgb  # also for programs: Sapiens-Lite's programs expect these constants
    std_rgb: Triple = SapiensFamily.std_rgb

    @property
    def architecture(self) -> Architecture | None:
        return self.native.architecture if self.native else None


def load_model(
    path: Path,
    mode: str,
    device: torch.device,
    matmul: str = "strict",
    task: str = "",
    rope: Precision = "bfloat16",
) -> LoadedModel:
    """A checkpoint of any file format as a model. matmul: how it will be run. task: for which, where the shapes of the
    tensors leave it open. rope: how rotary positions are computed, if it has them. Raises CheckpointError.

    mode float32: a TorchScript program as it is; other files as the native module in float32. mode bfloat16: the
    native module with its large matrix products in bfloat16; TorchScript programs of other models are cast. Exported
    programs of other models run as they are, in the mode that has their dtype.
    """
    file_format = format_of(path)
    if file_format == "torchscript" and mode == "float32":
        module = load_torchscript(path, device)
        if any(parameter.dtype != torch.float32 for parameter in module.parameters()):
            raise CheckpointError(f"{path}: mode float32 runs float32 programs; this one holds other types")
        return LoadedModel(module, file_format, torch.float32)
    dtype = torch.bfloat16 if mode == "bfloat16" else torch.float32
    recognised = recognise(read_weights(path))
    if recognised:
        family, tensors = recognised
        native = family.for_task(task).build(tensors, str(path), dtype, device)
        if family.rotary:
            native.use_rope(rope)
        arrange_convolutions(native, device.type, matmul)
        return LoadedModel(
            native, file_format or "pickle", torch.float32,
            native=native, mean_rgb=family.mean_rgb, std_rgb=family.std_rgb,
        )  # fmt: skip
    if file_format == "torchscript":
        return LoadedModel(load_torchscript(path, device).to(dtype), file_format, dtype)
    if file_format == "export":
        return _exported(path, mode, dtype, device)
    raise not_native(path)


def _exported(path: Path, mode: str, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    program = load_export(path)
    _refuse_other_types((tensor.dtype for tensor in program.state_dict.values()), path, mode, dtype)
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    names = set(program.graph_signature.user_inputs)
    first = next(node.meta["val"] for node in inputs if node.name in names)
    batch = first.shape[0] if isinstance(first.shape[0], int) else None
    return LoadedModel(move_to_device_pass(program, device).module(), "export", dtype, batch)


def recipe_of(path: Path) -> Recipe:
    """What a file says of the images that its model was trained on. Raises CheckpointError if its tensors do not tell
    which model it is."""
    recognised = recognise(read_weights(path))
    if recognised is None:
        return Recipe()
    family, tensors = recognised
    size = None if family.recipe == LITE else family.read(tensors, str(path)).input_size
    return Recipe(family.recipe, size)


def refuse_unfit(path: Path, options: ModelOptions) -> None:
    """Raise CheckpointError if a file other than TorchScript does not fit the task by its tensor names and shapes."""
    entries = read_weights(path)
    recognised = recognise(entries)
    if recognised:
        family, tensors = recognised
        found = family.for_task(options.task).fitting(tensors, str(path))
        if not options.takes_channels(found.channels):
            found = family.fitting(tensors, str(path))  # three channels are classes only where a job asks for three
        refuse_other_task(found, str(path), options)
        if options.rope != "bfloat16" and not family.rotary:
            raise CheckpointError(f"{path} has no rotary positions: `rope` is for models of Sapiens2; leave it out")
    elif format_of(path) == "export":
        dtype = torch.bfloat16 if options.mode == "bfloat16" else torch.float32
        _refuse_other_types((entry.dtype for entry in entries.values()), path, options.mode, dtype)
    else:
        raise not_native(path)


def not_native(path: Path) -> CheckpointError:
    """The error for tensors that do not belong to a known family of models."""
    return CheckpointError(
        f"{path} holds tensors, but not those of a Sapiens model: it has no tensor "
        "backbone.patch_embed.projection.weight. Other models run as TorchScript programs"
    )


def _refuse_other_types(found: Iterable[torch.dtype], path: Path, mode: str, dtype: torch.dtype) -> None:
    floating = {one for one in found if one.is_floating_point}
    if floating - {dtype}:
        held = ", ".join(sorted(str(one).removeprefix("torch.") for one in floating))
        raise CheckpointError(f"{path} is a program with {held} weights and cannot run in mode {mode}")


def refuse_other_task(architecture: Architecture, what: str, options: ModelOptions) -> None:
    """Raise CheckpointError if a model is for another task. what: the file, for messages."""
    if architecture.task == options.task and options.takes_channels(architecture.channels):
        return
    needs = f"task {options.task}"
    if options.channels is not None and architecture.task == options.task:
        needs = f"{options.channels} {options.channel_name}{other_channels(options)}"
    raise CheckpointError(f"{what} is {architecture}, but the job asks for {needs}")


def other_channels(options: ModelOptions) -> str:
    """What to do about a model with another number of channels; empty where nothing can be."""
    if not options.label_files:
        return ""
    return f"; `{options.label_files[0]}:` describes those of a fine-tuned checkpoint (docs/own-labels.md)"
