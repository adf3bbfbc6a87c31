"""A model on a device: uint8 batches in, network output out."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from sapiens_ray.engine.batch_size import around, chosen, timed
from sapiens_ray.engine.host import DEFAULT_BATCH, Settled, settled_alone
from sapiens_ray.errors import first_line
from sapiens_ray.models.compiling import CompileCache, compile_native, no_compiler, run_eagerly
from sapiens_ray.models.device import (
    Lane,
    capability,
    choose_device,
    empty_cache,
    float32_products,
    no_tf32,
    out_of_memory,
    synchronize,
)
from sapiens_ray.models.loading import LoadedModel, load_model
from sapiens_ray.models.rope import Precision
from sapiens_ray.tasks.base import Average, Output


class Runner:
    """Holds one model and runs batches. Only one thread may call it at a time.

    loaded: the model. batch_size: the current batch size. clock: gives seconds.
    """

    def __init__(
        self,
        checkpoint: Path,
        device: str,
        batch_size: int | Literal["auto"] | None,
        threads: int | None = None,
        flip_average: Average | None = None,
        mode: str = "float32",
        matmul: str = "strict",
        task: str = "",
        rope: Precision = "bfloat16",
    ) -> None:
        """Load the model, without running it: `warm_up` does that. Raises CheckpointError.

        threads: CPU threads of torch in this process. flip_average: combines the outputs for a batch and for the
        mirrored batch; None if no mirrored batch is run. matmul: how CUDA multiplies float32, strict or tf32.
        task, rope: see `load_model`.
        """
        if threads:
            torch.set_num_threads(threads)
        self.flip_average = flip_average
        self.device = choose_device(device)
        self.mode, self.matmul, self.rope = mode, matmul, rope
        self._notes: collections.deque[str] = collections.deque()
        without = no_tf32(self.device) if matmul == "tf32" else None
        if without:
            self.note(f"matmul: tf32 has no effect: {without}")
        self.loaded: LoadedModel = load_model(checkpoint, mode, self.device, matmul, task, rope)
        self.auto = batch_size == "auto" and self.device.type != "cpu"
        self.batch_size = batch_size if isinstance(batch_size, int) else DEFAULT_BATCH[self.device.type]
        self.fixed = self.loaded.batch is not None  # every batch has the same shape: short ones are padded
        if self.loaded.batch is not None:
            self.batch_size, self.auto = self.loaded.batch, False
        self.module: Callable[[torch.Tensor], Output] = self.loaded.module
        self._mean = torch.tensor(self.loaded.mean_rgb, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(self.loaded.std_rgb, device=self.device).view(1, 3, 1, 1)
        self.lane = Lane(self.device)
        self.clock = time.perf_counter
        self._lines: dict[int, str] = {}  # what is to be said of the code that was compiled, by batch size
        self._failed = ""  # why nothing is compiled any more

    def warm_up(
        self,
        height: int,
        width: int,
        compiling: str = "none",
        cache: CompileCache | None = None,
        settled: Settled = settled_alone,
    ) -> tuple[Output, int]:
        """Choose the batch size, compile, then run once on black images of the size of the real inputs.

        compiling: none, default or max-autotune. cache: where compiled code is kept; without it nothing is compiled.
        settled: gives the batch size that another process has found for the same model, mode and kind of device.
        Returns the output and the batch size it is for.
        """
        black = np.zeros((height, width, 3), np.uint8)
        compiled = None
        if compiling != "none" and cache is not None and self._can_compile():
            compiled = partial(self._compiled, compiling, cache, black)
        if self.auto:
            kind = [cache.model if cache else "", *self._kind(compiling if compiled else "none"), f"{height} x {width}"]
            kind.append("alone" if self.flip_average is None else "and mirrored")
            self.batch_size = settled(", ".join(kind), lambda: self._fitting(black, compiled))
            self.note(f"batch size {self.batch_size}, found by trying")
        if compiled:
            try:
                self.note(compiled())
            except Exception as error:
                if not out_of_memory(error):
                    raise  # else __call__ will find a batch that fits, and compile for it
        (_, stop, output), *_ = self(self.lane.upload([black] * self.batch_size))
        return output, stop

    def _kind(self, compiling: str) -> list[str]:
        """What the speed of this model depends on, and code that is compiled for it, beside shapes."""
        mode = self.mode if self.matmul == "strict" else f"{self.mode} {self.matmul}"
        positions = [] if self.rope == "bfloat16" else [f"rope {self.rope}"]
        return [mode, *positions, compiling, self.device.type, capability(self.device)]

    def _can_compile(self) -> bool:
        if self.loaded.native is None:
            self.note(f"not compiled: a {self.loaded.format} program runs as it is in mode {self.mode}")
            return False
        missing = no_compiler(self.device)
        if missing:
            self.note(f"not compiled, runs eagerly: {missing}")
        return not missing

    def _compiled(self, compiling: str, cache: CompileCache, black: np.ndarray) -> str:
        """Compile for the batch size of now, unless that was done. Returns a line about it. Raises if memory runs out;
        after any other error the model runs eagerly."""
        line = self._failed or self._lines.get(self.batch_size)
        if line:
            return line
        native = self.loaded.native
        assert native is not None
        self.fixed = True
        compile_native(native, compiling)
        try:
            with cache.entered([*self._kind(compiling), f"batch {self.batch_size}"]) as start:
                self._forward(self.lane.upload([black] * self.batch_size))
                synchronize(self.device)
        except Exception as error:  # of any kind: from torch and from compilers
            if out_of_memory(error):
                raise
            run_eagerly(native)
            self.fixed = False
            self._failed = f"compiling failed, runs eagerly: {type(error).__name__}: {first_line(error)}"
            return self._failed
        self._lines[self.batch_size] = start.line
        return start.line

    def _fitting(self, black: np.ndarray, compiled: Callable[[], str] | None) -> int:
        """The batch size to use, found by running batches of black images. compiled: compiles for the batch size of
        now."""
        medians = timed(lambda size: self._timed(black, size))
        empty_cache(self.device)  # of the batch that was too large
        size = chosen(medians)
        if compiled is None:
            return size

        def compiled_and_timed(size: int) -> float:
            self.batch_size = size
            compiled()
            return self._timed(black, size)

        near = around(size, medians)
        try:
            medians = timed(compiled_and_timed, near)
        except Exception as error:
            if not out_of_memory(error):
                raise
            medians = {}
        empty_cache(self.device)
        if self._failed:
            return size
        return chosen(medians) if medians else max(1, near[0] // 2)

    def _timed(self, black: np.ndarray, size: int) -> float:
        self.batch_size = size  # compiled code is always given so many
        batch = self.lane.upload([black] * size)
        started = self.clock()
        self._forward(batch)
        synchronize(self.device)
        return self.clock() - started

    def __call__(self, inputs: torch.Tensor) -> Iterator[tuple[int, int, Output]]:
        """Run N x H x W x 3 uint8 BGR, on the device, through the model, in batches.

        Yields (start, stop, output) for consecutive batches; `output` is what the model returns, float32, on the
        device. When memory runs out, the batch size is halved for the rest of this process, and the run continues.
        """
        start = 0
        while start < len(inputs):
            batch = inputs[start : start + self.batch_size]
            try:
                output = self._forward(batch)
            except Exception as error:
                ran = self.batch_size if self.fixed else len(batch)
                if ran == 1 or self.loaded.batch is not None or not out_of_memory(error):
                    raise
                smaller = ran // 2
            else:
                yield start, start + len(batch), output
                start += len(batch)
                continue
            # Outside `except`: its traceback keeps the tensors of the batch that was too large alive.
            empty_cache(self.device)
            self.batch_size = smaller
            self.note(f"out of memory: batches of {smaller} from now on")

    def note(self, text: str) -> None:
        """Add a note for the user. `take_notes` returns each note once, in any thread."""
        self._notes.append(text)

    def take_notes(self) -> list[str]:
        """The notes since the last call."""
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._notes.popleft())
        return taken

    def _forward(self, batch: torch.Tensor) -> Output:
        with torch.inference_mode(), float32_products(self.matmul):
            images = self.lane.normalize(batch, self._mean, self._std).to(self.loaded.dtype)
            filled = self.batch_size - len(batch) if self.fixed else 0
            if filled > 0:  # compiled code and some programs take only one shape
                images = torch.cat([images, images[-1:].expand(filled, -1, -1, -1)])
            output = _float32(_apart_from(images, self.module(images)), filled)
            if self.flip_average is None:
                return output
            return self.flip_average(output, _float32(self.module(images.flip(-1)), filled), len(batch))


def _apart_from(images: torch.Tensor, output: Output) -> Output:
    """A model's output in memory of its own: it may return the images, which the next batch overwrites on a CPU."""
    if isinstance(output, torch.Tensor):
        place = output.untyped_storage().data_ptr()
        is_input = output.is_cpu and place == images.untyped_storage().data_ptr()
        return output.clone() if is_input else output
    return tuple(_apart_from(images, one) for one in output) if isinstance(output, list | tuple) else output


def _float32(output: Output, filled: int) -> Output:
    """A model's output, a tensor or a sequence of tensors, as float32, without the last `filled` items of the batch."""
    if isinstance(output, torch.Tensor):
        return (output[:-filled] if filled > 0 else output).float()
    return tuple(_float32(one, filled) for one in output) if isinstance(output, list | tuple) else output
