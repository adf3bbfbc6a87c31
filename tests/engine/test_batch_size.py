"""`batch_size: auto`: which sizes are tried, and which one is used, with stand-ins whose time per batch is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.engine import runner as running
from sapiens_ray.engine.batch_size import AS_GOOD, LONGEST_S, RUNS, SIZES, around, chosen, timed
from sapiens_ray.engine.runner import Runner
from sapiens_ray.models.compiling import CompileCache

TIMES = st.lists(st.floats(1e-4, 4.0), min_size=len(SIZES), max_size=len(SIZES)).map(
    lambda times: dict(zip(SIZES, times, strict=True))
)


def device(times: Mapping[int, float], fits: int = 1000, tried: list[int] | None = None) -> Callable[[int], float]:
    """Batches of each size take the given time; more images than `fits` do not fit into memory."""

    def seconds(size: int) -> float:
        if tried is not None:
            tried.append(size)
        if size > fits:
            raise torch.cuda.OutOfMemoryError("too much")
        return times[size]

    return seconds


def linear(first: float, more: float) -> dict[int, float]:
    return {size: first + more * size for size in SIZES}


@given(TIMES, st.sampled_from([*SIZES, 1000]))
def test_the_smallest_size_within_two_percent_of_the_best_is_chosen(times, fits):
    medians = timed(device(times, fits))
    assert set(medians) <= {size for size in SIZES if size <= fits} and medians.items() <= times.items()
    assert list(medians) == list(SIZES)[: len(medians)], "no size is left out"
    size = chosen(medians)
    best = max(one / medians[one] for one in medians)
    assert size / medians[size] * AS_GOOD >= best
    assert not any(one / medians[one] * AS_GOOD >= best for one in medians if one < size)


def test_sizes_are_tried_up_to_the_first_that_does_not_fit_whatever_the_plateau():
    tried: list[int] = []
    flat = dict.fromkeys(SIZES, 0.1)
    times = {**flat, 4: 0.2, 8: 0.4, 16: 0.8, 32: 0.8, 64: 0.8}  # a plateau from 2 to 16, then better again
    assert chosen(timed(device(times, tried=tried))) == 64
    assert Counter(tried) == dict.fromkeys(SIZES, RUNS + 1)
    tried.clear()
    assert chosen(timed(device(flat, fits=20, tried=tried))) == 16 and max(tried) == 32 and tried.count(32) == 1
    assert chosen(timed(device(flat, fits=1))) == 1
    assert chosen(timed(device(linear(0.0, 0.01)))) == 1, "larger batches gain nothing"
    with pytest.raises(torch.cuda.OutOfMemoryError):
        timed(device(flat, fits=0))


def test_a_slow_run_decides_nothing_and_memory_may_run_out_late():
    runs: Counter[int] = Counter()

    def seconds(size: int) -> float:
        runs[size] += 1
        if size == 16 and runs[size] == RUNS:
            raise RuntimeError("CUDA out of memory.")  # as TorchScript throws it
        return 5.0 if runs[size] in (1, 3) else 0.1

    assert timed(seconds) == dict.fromkeys((1, 2, 4, 8), 0.1)


def test_sizes_whose_runs_would_take_too_long_are_not_tried():
    second = LONGEST_S / (RUNS + 1)
    times = {1: second, 2: second, 4: second, 8: second, 16: second, 32: second, 64: second}
    assert list(timed(device(times))) == [1]
    assert list(timed(device(linear(0.0, second / 8)))) == [1, 2, 4, 8]


def test_an_error_of_the_model_is_raised():
    def broken(size: int) -> float:
        raise RuntimeError("shapes do not fit") if size == 4 else ValueError("odd") if size == 0 else KeyError(size)

    with pytest.raises(KeyError):
        timed(broken)
    with pytest.raises(RuntimeError, match="shapes"):
        timed(lambda size: 0.1 if size < 4 else broken(size))


@given(TIMES, st.sampled_from(SIZES))
def test_code_is_compiled_for_three_sizes_at_most(times, size):
    near = around(size, times)
    assert size in near and near == sorted(near) and len(near) <= 3 and set(near) <= {size // 2, size, size * 2}


class Simulated:
    """A model, and a clock that stands still but for its batches."""

    def __init__(self, path: Any, times: Mapping[int, float], fits: int = 1000) -> None:
        self.runner = Runner(path, "cpu", 2)
        self.runner.auto = True  # as on a GPU
        self.runner.clock = lambda: self.now
        self.runner.module = self.run
        self.now, self.times, self.fits = 0.0, dict(times), fits
        self.ran: list[int] = []

    def run(self, batch: torch.Tensor) -> torch.Tensor:
        self.ran.append(len(batch))
        if len(batch) > self.fits:
            raise torch.cuda.OutOfMemoryError("too much")
        self.now += self.times[len(batch)]
        return batch


def test_a_runner_uses_the_size_that_it_finds_and_says_so(model):
    simulated = Simulated(model, {**linear(0.1, 0.01), 64: 5.0})
    output, stop = simulated.runner.warm_up(8, 6)
    assert isinstance(output, torch.Tensor) and (stop, len(output)) == (32, 32)
    assert simulated.runner.take_notes() == ["batch size 32, found by trying"]


def test_a_runner_asks_others_for_the_size_of_its_kind_and_halves_it_if_need_be(model):
    asked: list[str] = []

    def settled(what: str, find: Callable[[], int]) -> int:
        asked.append(what)
        return 16

    simulated = Simulated(model, linear(0.1, 0.01), fits=4)
    assert simulated.runner.warm_up(8, 6, settled=settled)[1] == 4
    assert simulated.ran == [16, 8, 4, 4, 4, 4], "nothing is tried"
    assert simulated.runner.take_notes() == [
        "batch size 16, found by trying", "out of memory: batches of 8 from now on",
        "out of memory: batches of 4 from now on",
    ]  # fmt: skip
    Simulated(model, linear(0.1, 0.01)).runner.warm_up(8, 6, "none", CompileCache("one", None), settled)
    Simulated(model, linear(0.1, 0.01)).runner.warm_up(8, 6, "none", CompileCache("two", None), settled)
    Simulated(model, linear(0.1, 0.01)).runner.warm_up(6, 8, "none", CompileCache("two", None), settled)
    flipped = Simulated(model, linear(0.1, 0.01)).runner
    flipped.flip_average = lambda output, mirrored, batch: output
    flipped.warm_up(6, 8, "none", CompileCache("two", None), settled)
    assert len(set(asked)) == 5, "each model, size of the input, and mirrored batch by itself"


def compiling(
    simulated: Simulated, monkeypatch: pytest.MonkeyPatch, times: Mapping[int, float], cache: Any
) -> list[int]:
    """Let the runner compile: batches then take other times. Returns the sizes that are compiled."""
    compiled: list[int] = []

    def compile_native(native: object, how: str) -> None:
        compiled.append(simulated.runner.batch_size)
        simulated.times.update(times)

    monkeypatch.setenv("SAPIENS_RAY_CACHE", str(cache))
    monkeypatch.setattr(running, "compile_native", compile_native)
    monkeypatch.setattr(running, "run_eagerly", lambda native: None)
    monkeypatch.setattr(running, "no_compiler", lambda device: None)
    simulated.runner.loaded = replace(simulated.runner.loaded, native=torch.nn.Identity())  # type: ignore[arg-type]
    return compiled


def test_the_size_is_chosen_among_compiled_ones(model, tmp_path, monkeypatch):
    simulated = Simulated(model, {**linear(1.0, 0.0), 32: 2.0, 64: 4.0})  # eagerly 16 is best
    compiled = compiling(simulated, monkeypatch, {8: 0.25, 16: 0.5, 32: 1.0}, tmp_path)  # compiled, 8 is as good
    _, stop = simulated.runner.warm_up(8, 6, "default", CompileCache("model", None))
    assert compiled == [8, 16, 32] and stop == 8
    chosen_note, line = simulated.runner.take_notes()
    assert chosen_note == "batch size 8, found by trying" and line.startswith("compiled ")
    spans = [(start, stop, len(output)) for start, stop, output in simulated.runner(torch.zeros(9, 8, 6, 3).byte())]
    assert spans == [(0, 8, 8), (8, 9, 1)] and simulated.ran[-1] == 8, "one shape: short batches are filled up"


def test_compiled_code_that_needs_more_memory_gets_smaller_batches(model, tmp_path, monkeypatch):
    simulated = Simulated(model, linear(1.0, 0.0))
    compiled = compiling(simulated, monkeypatch, {}, tmp_path)
    plain = running.compile_native

    def hungry(native: Any, how: str) -> None:
        plain(native, how)
        simulated.fits = 9

    monkeypatch.setattr(running, "compile_native", hungry)
    assert simulated.runner.warm_up(8, 6, "default", CompileCache("model", None))[1] == 8
    assert compiled == [32, 16] and simulated.ran[-3:] == [16, 8, 8]


def test_a_compiler_that_fails_leaves_the_size_of_the_eager_model(model, tmp_path, monkeypatch):
    simulated = Simulated(model, {**linear(1.0, 0.0), 32: 2.0, 64: 4.0})
    compiled = compiling(simulated, monkeypatch, {}, tmp_path)

    def broken(native: Any, how: str) -> None:
        compiled.append(simulated.runner.batch_size)
        simulated.runner.module = failing

    def failing(batch: torch.Tensor) -> torch.Tensor:
        simulated.runner.module = simulated.run  # as it was before it was compiled
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(running, "compile_native", broken)
    assert simulated.runner.warm_up(8, 6, "default", CompileCache("model", None))[1] == 16
    assert compiled == [8] and not simulated.runner.fixed
    assert simulated.runner.take_notes() == [
        "batch size 16, found by trying", "compiling failed, runs eagerly: RuntimeError: no such instruction",
    ]  # fmt: skip


def test_on_a_cpu_nothing_is_tried(model):
    runner = Runner(model, "cpu", "auto")
    sizes: list[int] = []
    runner.module = lambda batch: sizes.append(len(batch)) or batch
    runner.warm_up(8, 6)
    assert sizes == [1] and runner.batch_size == 1 and runner.take_notes() == []
    assert np.array_equal(SIZES, 2 ** np.arange(7))
