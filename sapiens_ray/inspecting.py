"""What a checkpoint file is: `sapiens-ray checkpoints inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from sapiens_ray.errors import CheckpointError
from sapiens_ray.models.checkpoint import Container, container_of, file_sha256, seems_to_be
from sapiens_ray.models.sapiens import Architecture, fitting_architecture, read_architecture, tensors_of
from sapiens_ray.models.weights import read_weights


@dataclass(frozen=True)
class Inspected:
    """What is known of a checkpoint. problem: why it cannot be used, if so. modes: in which it runs here."""

    path: Path
    bytes: int
    sha256: str
    container: Container
    tensors: int
    parameters: int
    dtypes: dict[str, int]
    architecture: Architecture | None
    modes: dict[str, str]
    problem: str = ""


def inspect(path: Path) -> Inspected:
    """Read a file without running what is in it, and tell how it would run. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not {'a file' if path.exists() else 'there'}")
    container = container_of(path)
    if container is None:
        raise CheckpointError(f"{path} is no checkpoint: {seems_to_be(path)}")
    entries = read_weights(path)
    dtypes = Counter(str(entry.dtype).removeprefix("torch.") for entry in entries.values())
    parameters = sum(torch.Size(entry.shape).numel() for entry in entries.values())
    architecture, problem = None, ""
    tensors = tensors_of(entries)
    if tensors:
        try:
            architecture = read_architecture(tensors, str(path))
            fitting_architecture(tensors, str(path))
        except CheckpointError as error:
            problem = str(error)
    modes = {mode: _how(container, architecture, dtypes, problem, mode) for mode in ("torchscript", "bfloat16")}
    return Inspected(
        path, path.stat().st_size, file_sha256(path), container, len(entries), parameters, dict(dtypes),
        architecture, modes, problem,
    )  # fmt: skip


def _how(
    container: Container, architecture: Architecture | None, dtypes: Collection[str], problem: str, mode: str
) -> str:
    """How a file runs in a mode; why it does not. Told without loading a program."""
    floating = [dtype for dtype in dtypes if "float" in dtype]
    if container == "torchscript" and mode == "torchscript":
        return "as it is" if set(floating) <= {"float32"} else f"no: a program with {' and '.join(floating)} weights"
    if problem:
        return "no"
    if architecture is not None:
        return "native module, float32" if mode == "torchscript" else "native module"
    if container == "torchscript":
        return "as it is, cast"
    if container != "export":
        return "no: not a Sapiens model, and no program"
    wanted = "float32" if mode == "torchscript" else "bfloat16"
    return "as it is" if set(floating) <= {wanted} else f"no: a program with {' and '.join(floating)} weights"
