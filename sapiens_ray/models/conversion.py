"""Conversion of checkpoints to other file formats: `sapiens-ray convert`."""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from sapiens_ray.errors import CheckpointError, OutputError
from sapiens_ray.models.architectures import Architecture, NativeModel, recognise
from sapiens_ray.models.checkpoint import file_sha256, format_of
from sapiens_ray.models.exported import load_export
from sapiens_ray.models.loading import load_model, not_native
from sapiens_ray.models.weights import Entry, load_torchscript, read_weights
from sapiens_ray.storage import TEMPORARY
from sapiens_ray.tasks.base import Output
from sapiens_ray.tasks.network import LITE

Target = Literal["torchscript", "bfloat16", "safetensors"]
SUFFIX: dict[Target, str] = {
    "torchscript": "_torchscript.pt2",
    "bfloat16": "_bfloat16.pt2",
    "safetensors": ".safetensors",
}
LARGEST_BATCH = 1024  # of an exported program
# The largest difference, relative to the largest value, and the root mean square difference, relative to the standard
# deviation. In bfloat16, other kernels or another batch size round differently, and every layer adds to the difference.
TOLERANCE: dict[Target, tuple[float, float]] = {
    "torchscript": (1e-4, 1e-5), "bfloat16": (0.2, 0.05), "safetensors": (1e-4, 1e-5),
}  # fmt: skip


@dataclass(frozen=True)
class Converted:
    """A file that was written, loaded again, and compared.

    largest, rms: difference of the outputs from those of the source in the same mode, relative to the largest value
    and to the standard deviation.
    """

    path: Path
    architecture: Architecture
    largest: float
    rms: float


def default_target(source: Path, to: Target) -> Path:
    """The path of the new file: next to the source, with the name that Sapiens-Lite would give it."""
    stem = source.name
    for suffix in (".pth", ".safetensors", ".pt2", "_torchscript", "_bfloat16", "_clean"):
        stem = stem.removesuffix(suffix)
    return source.with_name(stem + SUFFIX[to])


def convert(source: Path, to: Target, target: Path) -> Converted:
    """Write a checkpoint in another file format, load the new file, and compare its outputs.

    torchscript: float32, traced; batches of any size. bfloat16: exported by the running torch; batches of 1 to 1024.
    safetensors: the tensors in their dtypes. The file gets its final name only after it was verified. Raises
    CheckpointError, also if the outputs differ.
    """
    if target.exists() and os.path.samefile(source, target):
        raise OutputError(f"--out {target}: is the source file itself")
    recognised = recognise(read_weights(source))
    if not recognised:
        raise not_native(source)
    family, entries = recognised
    if to == "torchscript" and family.recipe != LITE:
        raise CheckpointError(
            f"{source} is {family.read(entries, str(source))}: a TorchScript program would not say that its inputs are "
            "not those of Sapiens-Lite's programs. Convert it to safetensors or bfloat16"
        )
    temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}")  # keeps the suffix, which torch checks
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        if to == "safetensors":
            _save_safetensors(entries, family.fitting(entries, str(source)).task, source, temporary)
        dtype = torch.bfloat16 if to == "bfloat16" else torch.float32
        model = family.build(entries, str(source), dtype, torch.device("cpu"))
        if to != "safetensors":
            (_save_torchscript if to == "torchscript" else _save_export)(model, temporary)
        converted = _verified(source, to, temporary, target, model)
        temporary.replace(target)
    except OSError as error:
        raise OutputError(f"--out {target}: cannot write it: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return converted


def _images(architecture: Architecture, batch: int) -> torch.Tensor:
    """Smooth random images, normalised; B x 3 x H x W float32."""
    height, width = architecture.input_size
    coarse = torch.randn(batch, 3, height // 32, width // 32, generator=torch.Generator().manual_seed(batch))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


def _save_torchscript(model: NativeModel, path: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, _images(model.architecture, 2), check_trace=False)
        traced.save(str(path))


def _save_export(model: NativeModel, path: Path) -> None:
    # Sapiens-Lite feeds bfloat16 images.
    images = _images(model.architecture, 2).bfloat16()
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(model, (images,), dynamic_shapes=({0: batch},)), path)


def _save_safetensors(entries: Mapping[str, Entry], task: str, source: Path, path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: entry.read() for name, entry in entries.items()}
    save_file(tensors, path, {"format": "pt", "task": task, "source_sha256": file_sha256(source)})
    shutil.copymode(source, path)  # safetensors makes the file readable for its owner only


def _verified(source: Path, to: Target, written: Path, target: Path, model: NativeModel) -> Converted:
    """Compare the outputs of the new file with those of the model, or of the source program if it is TorchScript."""
    cpu = torch.device("cpu")
    run: Callable[[torch.Tensor], Output]
    if to == "torchscript":
        run = load_torchscript(written, cpu)
    elif to == "bfloat16":
        run = load_export(written).module()
    else:
        run = load_model(written, "float32", cpu).module
    reference: Callable[[torch.Tensor], Output] = model
    if format_of(source) == "torchscript" and to != "bfloat16":
        reference = load_torchscript(source, cpu)
    images = _images(model.architecture, 2)
    images = images.bfloat16() if to == "bfloat16" else images
    largest, rms = 0.0, 0.0
    for batch in (images[:1], images):  # a program may have been saved for a single batch size
        with torch.inference_mode():
            found, wanted = _tensor(run(batch)).float(), _tensor(reference(batch)).float()
        if found.shape != wanted.shape:
            raise CheckpointError(
                f"not written: the output has shape {tuple(found.shape)}, that of {source} {tuple(wanted.shape)}"
            )
        if not (found.isfinite().all() and wanted.isfinite().all() and wanted.std() > 0):
            raise CheckpointError(f"not written: outputs of {source} are not finite, or are constant")
        largest = max(largest, float((found - wanted).abs().max() / wanted.abs().max()))
        rms = max(rms, float((found - wanted).square().mean().sqrt() / wanted.std()))
    if not (largest <= TOLERANCE[to][0] and rms <= TOLERANCE[to][1]):
        raise CheckpointError(
            f"not written: the outputs of {source} as {to} differ from its own by {largest:.2g} of the largest value, "
            f"rms {rms:.2g} of the standard deviation"
        )
    return Converted(target, model.architecture, largest, rms)


def _tensor(output: Output) -> torch.Tensor:
    tensor: torch.Tensor = output[0] if isinstance(output, list | tuple) else output
    return tensor
