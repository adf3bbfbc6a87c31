"""The device that models run on. All code specific to CUDA is here."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from sapiens_ray.errors import ClusterError


class NoDeviceError(ClusterError):
    """A process that was given a GPU finds none."""


def choose_device(wanted: str) -> torch.device:
    """`auto`: the GPU given to this process if there is one, else the CPU. Raises NoDeviceError."""
    if wanted == "cuda" and not torch.cuda.is_available():
        given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        which = f"GPU {given} of {socket.gethostname()}" if given else f"a GPU on {socket.gethostname()}"
        raise NoDeviceError(
            f"device: this process is to use {which}, but torch {torch.__version__} finds none: a torch without CUDA, "
            "or a driver that does not work. `device: cpu` runs the models on the CPU"
        )
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


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. TorchScript raises all errors of its operators as plain RuntimeError, and those that a
    program raises itself as torch.jit.Error."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "_ALLOC_FAILED")
    )


# What CUDA, its libraries and its driver say when they fail. Not "cuda" alone: "tensors on cuda:0 and cpu" is an error
# of the model.
_OF_THE_DEVICE = re.compile(
    r"CUDA error|CUDA driver|CUDA unknown|CUDA-capable device|TORCH_USE_CUDA_DSA|CUBLAS_STATUS|cuBLAS error|"
    r"CUDNN_STATUS|cuDNN error|CUSOLVER_STATUS|CUFFT_|"
    r"NCCL|NVML|NVRTC|NVIDIA driver|\bECC\b|\bXid\b|\b[Dd]evice .*\b(lost|gone)\b"
)


def device_failed(error: Exception) -> bool:
    """Whether the device failed, and not the model or its input: after such an error CUDA needs a new process."""
    return _OF_THE_DEVICE.search(str(error)) is not None and not out_of_memory(error)


_products = threading.RLock()
# What `matmul` means in the words of torch. "none" is not used: it takes TF32 from a setting of the whole process.
_PRECISIONS = {"strict": "ieee", "tf32": "tf32"}


@contextlib.contextmanager
def float32_products(matmul: str) -> Iterator[None]:
    """Inside the block, CUDA multiplies float32 matrices, and float32 maps with cuDNN, as `matmul` says.

    strict: in float32. tf32: factors may be rounded to the 10 mantissa bits of TF32. The setting belongs to the process
    and decides which kernels are started, so blocks of several threads wait for each other. It has no effect on a CPU.
    """
    places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    with _products:
        before = [place.fp32_precision for place in places]
        try:
            for place in places:
                place.fp32_precision = _PRECISIONS[matmul]
            yield
        finally:
            for place, precision in zip(places, before, strict=True):
                place.fp32_precision = precision


def no_tf32(device: torch.device) -> str | None:
    """The reason why a device has no TF32; None if it has it."""
    if device.type != "cuda":
        return "the model runs on a CPU"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is older than Ampere"
    return None


def channels_last(kind: str, dtype: torch.dtype, matmul: str) -> bool:
    """Whether convolutions with weights of this dtype run in channels-last order. kind: of the device, cpu or cuda.

    On a CPU all do (oneDNN). On CUDA those do that run on tensor cores, which want this order: cuDNN would transpose
    their maps back and forth. Strict float32 does not run there, and stays as it is.
    """
    return kind == "cpu" or (kind == "cuda" and (dtype == torch.bfloat16 or matmul == "tf32"))


def arrange_convolutions(module: torch.nn.Module, kind: str, matmul: str) -> None:
    """Put the weights of convolutions into the order that is best for a device; their maps follow it."""
    for weights in module.parameters():
        if weights.ndim == 4 and channels_last(kind, weights.dtype, matmul):
            weights.data = weights.data.to(memory_format=torch.channels_last)


Moment = float | torch.cuda.Event  # when the device gets there


class Lane:
    """The way to a device and back: copies to it while it computes, times of its work, and work beside its models.

    On a CPU all of it is done at once, by the thread that asks for it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pinned: torch.Tensor | None = None
        self._images: torch.Tensor | None = None
        if device.type == "cuda":
            self._copies = torch.cuda.Stream(device)
            self._beside = torch.cuda.Stream(device, priority=-1)  # short kernels: before those of the models

    def upload(self, arrays: Sequence[np.ndarray]) -> torch.Tensor:
        """Arrays of one shape, uint8, as one tensor on the device. Call it from one thread.

        Bytes go through pinned memory: from other memory CUDA would copy them twice, and wait for the models.
        """
        if self.device.type != "cuda":
            batch = arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # "not writable": the array is only read
                return torch.from_numpy(batch)
        shape = (len(arrays), *arrays[0].shape)
        pinned = self._pinned
        if pinned is None or pinned.shape[1:] != shape[1:] or len(pinned) < len(arrays):
            pinned = self._pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        np.stack(arrays, out=pinned.numpy()[: len(arrays)])
        with torch.cuda.stream(self._copies):
            copied = pinned[: len(arrays)].to(self.device, non_blocking=True)
        self._copies.synchronize()  # this thread has nothing else to do, and the pinned memory is free again
        return copied

    def use(self, batch: torch.Tensor) -> torch.Tensor:
        """A batch that `upload` copied, for the thread that runs models: its memory is not used again before."""
        if batch.is_cuda:
            batch.record_stream(torch.cuda.current_stream(self.device))
        return batch

    def normalize(self, batch: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
        """B x H x W x 3 uint8 BGR to B x 3 x H x W float32 RGB, (x - mean) / std. mean, std: 1 x 3 x 1 x 1 RGB.

        Batches are copied to the device as uint8: a quarter of the bytes of float32. On a CPU the next call uses the
        memory of the result again, and each of the 256 values is computed once: ten times faster, of which half is
        that the system need not clear new pages.
        """
        if self.device.type != "cpu":
            rgb = self.use(batch).permute(0, 3, 1, 2).flip(1)
            return rgb.to(torch.float32, memory_format=torch.contiguous_format).sub_(mean).div_(std)
        count, height, width, _ = batch.shape
        if self._images is None or self._images.shape[2:] != (height, width) or len(self._images) < count:
            self._images = torch.empty((count, 3, height, width))
        images = self._images[:count]
        tables = (torch.arange(256.0).expand(3, -1) - mean.view(3, 1)) / std.view(3, 1)
        for photo, planes in zip(batch.numpy(), images.numpy(), strict=True):
            for channel, table in enumerate(tables.numpy()):
                cv2.LUT(cv2.extractChannel(photo, 2 - channel), table, dst=planes[channel])
        return images

    def moment(self) -> Moment:
        """When the device is through with what this thread has given it so far."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Moment, end: Moment) -> float:
        """The time between two moments; waits for the second one."""
        if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
            end.synchronize()
            return float(start.elapsed_time(end)) / 1000
        assert isinstance(start, float) and isinstance(end, float)
        return end - start

    @contextlib.contextmanager
    def beside(self, moment: Moment, output: object) -> Iterator[None]:
        """Inside the block, work on the output of a model that was complete at this moment is done beside the models
        that run meanwhile."""
        if not isinstance(moment, torch.cuda.Event):
            yield
            return
        with torch.cuda.stream(self._beside):
            self._beside.wait_event(moment)
            for tensor in _tensors(output):
                tensor.record_stream(self._beside)
            yield


def _tensors(output: object) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor) and output.is_cuda:
        yield output
    elif isinstance(output, list | tuple):
        for one in output:
            yield from _tensors(one)
