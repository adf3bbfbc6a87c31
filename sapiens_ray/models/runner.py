"""A model on a device: uint8 batches in, network output out. All device-specific code is in here."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from sapiens_ray.errors import CheckpointError
from sapiens_ray.models.checkpoint import seems_to_be

# Sapiens-Lite's constants, on the 0..255 scale, RGB: the ImageNet ones, rounded.
MEAN_RGB = (123.5, 116.5, 103.5)
STD_RGB = (58.5, 57.0, 57.5)

DEFAULT_BATCH = {"cuda": 8, "cpu": 1}  # batches do not help on a CPU, and memory grows


def choose_device(wanted: str) -> torch.device:
    """`auto`: the GPU given to this process if there is one, else the CPU."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("device: cuda was asked for, but torch finds no GPU in this process")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


class Batches(Protocol):
    """Network inputs in order: an array of them, or something that makes them when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice) -> np.ndarray: ...


class Runner:
    """Holds one TorchScript model and feeds it full batches.

    Safe to call from several threads: the model runs one batch at a time, what surrounds it overlaps.
    """

    def __init__(
        self,
        checkpoint: Path,
        device: str,
        batch_size: int | None,
        threads: int | None = None,
        flip_test: Callable[[Any, Any, int], torch.Tensor] | None = None,
    ) -> None:
        """Load the model. Raises CheckpointError.

        threads: CPU threads for torch in this process. flip_test: what the output for a batch and that for the
        mirrored batch make together; without it nothing is mirrored.
        """
        if threads:
            torch.set_num_threads(threads)
        self.flip_test = flip_test
        self.device = choose_device(device)
        self.batch_size = batch_size or DEFAULT_BATCH[self.device.type]
        self.model = load_torchscript(checkpoint, self.device)
        self._mean = torch.tensor(MEAN_RGB, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(STD_RGB, device=self.device).view(1, 3, 1, 1)
        self._lock = threading.Lock()

    def __call__(self, inputs: Batches) -> Iterator[tuple[int, int, Any]]:
        """Run N x H x W x 3 uint8 BGR through the model; `inputs` is sliced a batch at a time.

        Yields (start, stop, output) for consecutive batches; `output` is what the model returns, on the device.
        Out of memory halves the batch and goes on, for the rest of this process.
        """
        start = 0
        while start < len(inputs):
            size = self.batch_size
            batch = inputs[start : start + size]
            try:
                output = self._forward(batch)
            except RuntimeError as error:
                if len(batch) == 1 or not out_of_memory(error):
                    raise
                torch.cuda.empty_cache()
                self.batch_size = min(self.batch_size, max(1, len(batch) // 2))
                continue
            yield start, start + len(batch), output
            start += len(batch)

    def _forward(self, batch: np.ndarray) -> Any:
        with self._lock, torch.inference_mode():
            normal = self._normalize(batch)
            output = self.model(normal)
            return self.flip_test(output, self.model(normal.flip(-1)), len(batch)) if self.flip_test else output

    def _normalize(self, batch: np.ndarray) -> torch.Tensor:
        """B x H x W x 3 uint8 BGR to B x 3 x H x W float32 RGB, (x - mean) / std, on the device.

        uint8 crosses to the device: a quarter of the bytes of float32.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "not writable": it is only read
            pixels = torch.from_numpy(batch)
        pixels = pixels.to(self.device, non_blocking=True)
        rgb = pixels.permute(0, 3, 1, 2).flip(1).to(torch.float32, memory_format=torch.contiguous_format)
        return rgb.sub_(self._mean).div_(self._std)

    def synchronize(self) -> None:
        """Wait for the device, so that times mean something."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def out_of_memory(error: RuntimeError) -> bool:
    """TorchScript throws what its operators throw as plain RuntimeError."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error)


def load_torchscript(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    """A TorchScript file as a module in eval mode on the device.

    Raises CheckpointError for anything else, with what the file seems to be.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit works, and is what Meta released
            warnings.simplefilter("ignore", FutureWarning)
            model = torch.jit.load(str(path), map_location=device)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a TorchScript file: {seems_to_be(path)} ({_first_line(error)})") from None
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise CheckpointError(f"{path}: mode torchscript runs float32 checkpoints; this one holds other types")
    return model.eval()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200]
