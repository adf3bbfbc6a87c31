"""The device that models run on. All code specific to CUDA is here."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from sapiens_ray.errors import CheckpointError


def choose_device(wanted: str) -> torch.device:
    """`auto`: the GPU given to this process if there is one, else the CPU."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("device: cuda was asked for, but torch finds no GPU in this process")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def capability(device: torch.device) -> str:
    """The properties that compiled code depends on. Machines of the same kind give the same text."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)}, sm_{major}{minor}, CUDA {torch.version.cuda}"
    threads = f"{torch.get_num_threads()} threads"  # compiled code contains it too
    try:  # inductor compiles for the instruction set of this CPU
        text = Path("/proc/cpuinfo").read_text()
        flags = next(line for line in text.splitlines() if line.startswith(("flags", "Features")))
        return f"{threads}, {' '.join(sorted(flags.partition(':')[2].split()))}"
    except (OSError, StopIteration):
        return f"{threads}, {platform.machine()} {platform.processor()}"


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that measured times are correct."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def empty_cache(device: torch.device) -> None:
    """Free cached memory that no tensor uses any more."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out. TorchScript raises all errors of its operators as plain RuntimeError."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error)
