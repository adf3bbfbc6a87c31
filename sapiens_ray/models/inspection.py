"""Information about a checkpoint file: `sapiens-ray checkpoints inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from sapiens_ray.errors import CheckpointError
from sapiens_ray.models.architectures import Architecture, recognise
from sapiens_ray.models.checkpoint import FileFormat, file_sha256, format_of, seems_to_be
from sapiens_ray.models.weights import read_weights


@dataclass(frozen=True)
class Inspected:
    """Information about a checkpoint. modes: how it runs in each mode. problem: why it cannot be used, if so."""

    path: Path
    bytes: int
    sha256: str
    format: FileFormat
    tensors: int
    parameters: int
    dtypes: dict[str, int]
    architecture: Architecture | None
    modes: dict[str, str]
    problem: str = ""


def inspect(path: Path) -> Inspected:
    """Read a file, without running code in it, and find how it would run. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
    file_format = format_of(path)
    if file_format is None:
        raise CheckpointError(f"{path} is not a checkpoint: {seems_to_be(path)}")
    entries = read_weights(path)
    dtypes = Counter(str(entry.dtype).removeprefix("torch.") for entry in entries.values())
    parameters = sum(torch.Size(entry.shape).numel() for entry in entries.values())
    architecture, problem = None, ""
    recognised = recognise(entries)
    if recognised:
        family, tensors = recognised
        try:
            architecture = family.read(tensors, str(path))
            family.fitting(tensors, str(path))
        except CheckpointError as error:
            problem = str(error)
    modes = {mode: _how(file_format, architecture, dtypes, problem, mode) for mode in ("float32", "bfloat16")}
    return Inspected(
        path, path.stat().st_size, file_sha256(path), file_format, len(entries), parameters, dict(dtypes),
        architecture, modes, problem,
    )  # fmt: skip


def _how(
    file_format: FileFormat, architecture: Architecture | None, dtypes: Collection[str], problem: str, mode: str
) -> str:
    """How a file runs in a mode, or why it does not. Programs are not loaded for this."""
    floating = [dtype for dtype in dtypes if "float" in dtype]
    if file_format == "torchscript" and mode == "float32":
        return "as it is" if set(floating) <= {"float32"} else f"no: a program with {' and '.join(floating)} weights"
    if problem:
        return "no"
    if architecture is not None:
        return "native module"
    if file_format == "torchscript":
        return "as it is, cast"
    if file_format != "export":
        return "no: neither a Sapiens model nor a program"
    return "as it is" if set(floating) <= {mode} else f"no: a program with {' and '.join(floating)} weights"
