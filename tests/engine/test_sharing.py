"""Units that share an engine: whatever is under way beside an image, its row is the same, and batches are full."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapiens_ray.engine import device_loop
from sapiens_ray.engine import runner as running
from sapiens_ray.engine.assemble import BOX_LIST
from sapiens_ray.engine.engine import Engine
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.engine.models import TaskModel
from sapiens_ray.errors import CheckpointError, ClusterError, ImageError, JobError
from sapiens_ray.models.device import Lane, device_failed
from sapiens_ray.tasks.base import CropTask, Size, Task
from sapiens_ray.tasks.network import NETWORK_HEIGHT, NETWORK_WIDTH, RESIZED
from sapiens_ray.tasks.seg import SegOptions
from sapiens_ray.units import PHOTO, Row, Unit
from tests.conftest import PATIENCE_S

BOXES = "_boxes:found"
# What happens to an image, by its second number: where it fails.
FINE, NAN_IN_FIRST, RAISES_IN_FIRST, FAILS_IN_MIDDLE, RAISES_IN_MIDDLE, NO_BOXES, NAN_IN_CROWD = range(7)
KINDS = [None, "not_finite", "failed", "refused", "failed", "bad_boxes", "not_finite"]


class Stub(running.Runner):
    """A runner whose model gives the first two numbers of each input, after a moment."""

    delay: Any = staticmethod(lambda: 0.0)
    raises_at: ClassVar = {"first": RAISES_IN_FIRST, "middle": RAISES_IN_MIDDLE}

    def __init__(self, path: Path, *arguments: Any) -> None:
        self.name = path.name
        self.device = torch.device("cpu")
        self.lane = Lane(self.device)
        self.batch_size = 4
        self.loaded = SimpleNamespace(architecture=None)  # type: ignore[assignment]
        self.sizes: list[int] = []

    def warm_up(self, *arguments: Any) -> tuple[Any, int]:  # type: ignore[override]
        return torch.zeros(1, 2), 1

    def take_notes(self) -> list[str]:
        return []

    def __call__(self, inputs: torch.Tensor) -> Iterator[tuple[int, int, Any]]:
        self.sizes.append(len(inputs))
        time.sleep(self.delay())
        numbers = inputs[:, 0, :2, 0].float()
        if (numbers[:, 1] == self.raises_at.get(self.name, -1)).any():
            raise ValueError("not with this image")
        nan = {"first": NAN_IN_FIRST, "crowd": NAN_IN_CROWD}.get(self.name, -1)
        numbers[numbers[:, 1] == nan] = float("nan")
        yield 0, len(inputs), numbers


class Numbers(Task[Any]):
    """The numbers of an image: `<name>` is a list of them, each plus one."""

    @property
    def fields(self) -> list[pa.Field]:
        return [pa.field(self.column, pa.list_(pa.int64()))]

    def check_output(self, output: Any, batch: int) -> torch.Tensor:
        assert output.shape == (batch, 2)
        return output

    def reduce(self, outputs: torch.Tensor, sizes: list[Size]) -> list[Any]:
        return [(*one, *size) for one, size in zip(outputs.int().tolist(), sizes, strict=True)]

    def finish(self, results: list[Any], row: Row) -> Row:
        ((number, _, *size),) = results
        assert size == [row["width"], row["height"]]
        return {self.column: [number + 1]}


class Middle(Numbers):
    """Needs a column of the first model to finish, and makes the boxes of the crowd."""

    needs = ("first",)  # type: ignore[assignment]

    @property
    def fields(self) -> list[pa.Field]:
        return [*super().fields, pa.field(BOXES, BOX_LIST)]

    def finish(self, results: list[Any], row: Row) -> Row:
        ((number, how, *_),) = results
        assert row["first"] == [number + 1]
        if how == FAILS_IN_MIDDLE:
            raise ImageError("refused", "by the task")
        return {self.column: [number + 2], BOXES: [[number, how, 0, 0, place] for place in range(number % 5)]}


class Crowd(CropTask[Any]):
    """One number per box."""

    needs = (BOXES,)  # type: ignore[assignment]
    fields, check_output, reduce = Numbers.fields, Numbers.check_output, Numbers.reduce  # type: ignore[assignment]

    def boxes(self, row: Row) -> np.ndarray:
        boxes = np.array(row[BOXES], np.float64).reshape(-1, 5)
        if (boxes[:, 1] == NO_BOXES).any():
            raise ImageError("bad_boxes", "of no use")
        return boxes

    def crop(self, photo: np.ndarray, box: np.ndarray) -> np.ndarray:
        assert photo[0, 0, 0] == box[0], "a person is cropped from its own photo"
        made = np.zeros((NETWORK_HEIGHT, NETWORK_WIDTH, 3), np.uint8)[:2, :2]
        made[0, :, 0] = box[0] + 10 * box[4], box[1]
        return made

    def finish(self, results: list[Any], row: Row) -> Row:
        return {self.column: [number for number, *_ in results]}


def model(kind: type[Task[Any]], name: str) -> TaskModel:
    file: Any = SimpleNamespace(local_file=lambda: Path(name), sha256="0" * 64, uri=name, size=1_200_000_000)
    return TaskModel(kind(SegOptions(task="seg", name=name, checkpoint="x")), file)


def engine_of(*models: TaskModel) -> tuple[Engine, dict[str, Stub]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "Runner", Stub)
        engine = Engine(models, ModelHost("cpu"))
    return engine, {one.column: one.runner for one in engine._models}  # type: ignore[attr-defined]


def unit_of(shard: int, images: list[tuple[int, int]]) -> Unit:
    """A prepared unit with images of these two numbers; an image with number 0 could not be decoded."""
    good = [number > 0 for number, _ in images]
    sizes = [5 + number if sound else None for sound, (number, _) in zip(good, images, strict=True)]
    rows = pa.table({
        "image_id": pa.array([f"{shard}/{place}" for place in range(len(images))]),
        "width": pa.array(sizes, pa.int32()), "height": pa.array([size and 7 for size in sizes], pa.int32()),
        "error_kind": pa.array([None if sound else "corrupt" for sound in good], pa.string()),
        "error": pa.array([None if sound else "broken" for sound in good], pa.string()),
    })  # fmt: skip
    inputs, photos = [], []
    for number, how in images:
        if number:
            one = np.zeros((2, 2, 3), np.uint8)
            one[0, :, 0] = number, how
            inputs.append(one)
            photos.append(np.full((7, 5 + number, 3), number, np.uint8).reshape(-1))
    kinds = {RESIZED: np.stack(inputs), PHOTO: np.concatenate(photos)} if inputs else {}
    return Unit(shard, 0, True, rows, kinds)


def check(unit: Unit, done: Unit, images: list[tuple[int, int]]) -> None:
    assert done.rows["image_id"].equals(unit.rows["image_id"])
    for place, (number, how) in enumerate(images):
        row = {name: done.rows[name][place].as_py() for name in done.rows.column_names}
        how = FINE if how in (NO_BOXES, NAN_IN_CROWD) and number % 5 == 0 else how  # nobody is in the photo
        assert row["error_kind"] == (KINDS[how] if number else "corrupt"), row
        if number and how == FINE:
            people = [number + 10 * person for person in range(number % 5)]
            assert (row["first"], row["middle"], row["crowd"]) == ([number + 1], [number + 2], people)


IMAGES = st.lists(st.tuples(st.integers(0, 20), st.sampled_from([FINE] * 6 + list(range(7)))), max_size=9)


@settings(max_examples=60, deadline=None)
@given(st.lists(IMAGES, min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**32))
def test_every_row_is_that_of_its_image(units, threads, batch_size, seed):
    """Units of any size come at any time, with errors of every kind, any number of persons, and a device that takes any
    time."""
    chance = random.Random(seed)
    engine, runners = ENGINE
    for runner in runners.values():
        runner.batch_size = batch_size
        runner.delay = lambda: chance.choice([0, 0, 0.001])

    def label(shard: int) -> tuple[Unit, Unit]:
        time.sleep(chance.choice([0, 0.001]))
        unit = unit_of(shard, units[shard])
        return unit, engine(unit)

    with ThreadPoolExecutor(threads) as pool:
        for shard, (unit, done) in enumerate(pool.map(label, range(len(units)), timeout=PATIENCE_S)):
            check(unit, done, units[shard])
    assert not any(engine._queues._coming) and not any(engine._queues._waiting)


ENGINE = engine_of(model(Numbers, "first"), model(Middle, "middle"), model(Crowd, "crowd"))


def test_batches_are_filled_across_units():
    """Eight units of 7 sound images and 0 to 4 persons each, four under way: one batch of each model is not full."""
    engine, runners = engine_of(model(Numbers, "first"), model(Middle, "middle"), model(Crowd, "crowd"))
    for runner in runners.values():
        runner.delay = lambda: 0.002  # a unit is there before the device is through with the others
    units = [unit_of(shard, [(1 + (shard + place) % 20, FINE) for place in range(7)] + [(0, 0)]) for shard in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(engine, units, timeout=PATIENCE_S))
    for name, runner in runners.items():
        images = sum(runner.sizes)
        assert len(runner.sizes) <= -(-images // 4) + 1, (name, Counter(runner.sizes))


def test_an_error_that_no_image_causes_reaches_the_units_under_way_and_the_engine_goes_on(monkeypatch):
    engine, _ = engine_of(model(Numbers, "first"))
    wrong = threading.Event()
    wrong.set()

    def run(self: Stub, inputs: torch.Tensor) -> Iterator[tuple[int, int, Any]]:
        if wrong.is_set():
            raise CheckpointError("another model")
        yield 0, len(inputs), inputs[:, 0, :2, 0].float()

    monkeypatch.setattr(Stub, "__call__", run)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(engine, unit_of(shard, [(5, FINE)] * 6)) for shard in range(3)]
        for call in calls:
            with pytest.raises(CheckpointError, match="another model"):
                call.result(PATIENCE_S)
    wrong.clear()
    assert engine(unit_of(0, [(5, FINE)] * 6)).rows["first"].to_pylist() == [[6]] * 6


def test_an_error_of_the_device_is_told_and_not_blamed_on_an_image(monkeypatch):
    told: list[Exception] = []
    with monkeypatch.context() as patch:
        patch.setattr(running, "Runner", Stub)
        engine = Engine([model(Numbers, "first")], ModelHost("cpu"), told.append)

    def run(self: Stub, inputs: torch.Tensor) -> Iterator[tuple[int, int, Any]]:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        yield

    monkeypatch.setattr(Stub, "__call__", run)
    with pytest.raises(RuntimeError, match="ECC"):
        engine(unit_of(0, [(5, FINE)] * 6))
    assert {str(error) for error in told} == {"CUDA error: uncorrectable ECC error encountered"}


@pytest.mark.parametrize(
    ("said", "failed"),
    [
        ("CUDA error: uncorrectable ECC error encountered\nCompile with `TORCH_USE_CUDA_DSA` to enable", True),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", True),
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has", False),
        ("CUDA error: out of memory", False),
        ("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!", False),
        ("mat1 and mat2 shapes cannot be multiplied (1x3 and 4x5)", False),
    ],
)
def test_which_errors_are_those_of_the_device(said, failed):
    assert device_failed(RuntimeError(said)) == failed


def test_an_error_of_one_image_after_all_does_not_shift_the_results_of_others(monkeypatch):
    """The batch cannot be reduced as a whole; alone, one image shows an error that ends the job."""

    def reduce(self: Numbers, outputs: torch.Tensor, sizes: list[Size]) -> list[Any]:
        if len(outputs) > 1:
            raise ValueError("not together")
        if outputs[0, 0] == 7:
            raise CheckpointError("another model")
        return [(*one, *size) for one, size in zip(outputs.int().tolist(), sizes, strict=True)]

    monkeypatch.setattr(Numbers, "reduce", reduce)
    engine, _ = engine_of(model(Numbers, "first"))
    for _ in range(5):
        with ThreadPoolExecutor(3) as pool:
            calls = [pool.submit(engine, unit_of(n, [(number, FINE)] * 2)) for n, number in enumerate((5, 7, 9))]
            for number, call in zip((5, 7, 9), calls, strict=True):
                try:
                    assert call.result(PATIENCE_S).rows["first"].to_pylist() == [[number + 1]] * 2
                except CheckpointError:
                    continue  # it was in a batch with the image
                assert number != 7


def test_a_model_that_raises_on_every_image_ends_the_job(monkeypatch):
    def run(self: Stub, inputs: torch.Tensor) -> Iterator[tuple[int, int, Any]]:
        raise ValueError("nothing works")
        yield

    monkeypatch.setattr(Stub, "__call__", run)
    engine, _ = engine_of(model(Numbers, "first"))
    with pytest.raises(JobError, match="first: the model raises on every image, 50 in a row: nothing works"):
        engine(unit_of(0, [(5, FINE)] * 60))


def test_memory_that_runs_out_where_a_batch_is_copied_halves_it(monkeypatch):
    engine, runners = engine_of(model(Numbers, "first"))
    plain = Lane.upload

    def upload(self: Lane, arrays: Any) -> torch.Tensor:
        if len(arrays) > 1 or arrays[0][0, 0, 0] == 9:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return plain(self, arrays)

    monkeypatch.setattr(Lane, "upload", upload)
    done = engine(unit_of(0, [(5, FINE), (9, FINE), (6, FINE)]))
    assert done.rows["first"].to_pylist() == [[6], None, [7]] and runners["first"].sizes == [1, 1]
    assert done.rows["error_kind"].to_pylist() == [None, "out_of_memory", None]


def test_an_image_waits_for_memory_that_is_in_use_where_it_is_copied(monkeypatch):
    engine, _ = engine_of(model(Numbers, "first"))
    plain, left = Lane.upload, [2]

    def upload(self: Lane, arrays: Any) -> torch.Tensor:
        if arrays[0][0, 0, 0] == 9 and left[0]:
            left[0] -= 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return plain(self, arrays)

    monkeypatch.setattr(Lane, "upload", upload)
    monkeypatch.setattr(device_loop, "STAGE_AGAIN_S", 0.01)
    done = engine(unit_of(0, [(9, FINE)]))
    assert done.rows["error_kind"].to_pylist() == [None] and done.rows["first"].to_pylist() == [[10]]


@pytest.mark.parametrize("step", ["_inputs", "_run", "_share"])
def test_a_bug_in_a_thread_of_the_device_ends_the_units_instead_of_hanging(monkeypatch, step):
    """`_share` is called where errors are handled: the unit ends with it. The others end their thread."""

    def bug(*arguments: Any) -> Any:
        raise SystemError("a bug")

    engine, _ = engine_of(model(Numbers, "first"))
    if step == "_share":
        monkeypatch.setattr(device_loop, step, bug)
    else:
        monkeypatch.setattr(engine._loop, step, bug)
    for number in range(2):
        with pytest.raises(SystemError, match="a bug"):
            engine(unit_of(number, [(5, FINE)] * 3))


def test_models_that_do_not_fit_say_what_to_do(monkeypatch):
    def warm_up(self: Stub, *arguments: Any) -> tuple[Any, int]:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(Stub, "warm_up", warm_up)
    with pytest.raises(ClusterError, match=r"first 1\.2 GB, middle 1\.2 GB do not fit .* together; `placement"):
        engine_of(model(Numbers, "first"), model(Middle, "middle"))
