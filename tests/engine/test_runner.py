"""The model runner: normalisation, batches, out of memory, files that are not models."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from sapiens_ray.engine.runner import Runner
from sapiens_ray.errors import CheckpointError
from sapiens_ray.models.device import float32_products
from sapiens_ray.models.loading import load_model
from sapiens_ray.models.weights import load_torchscript


def normalized(runner: Runner, photos: torch.Tensor) -> torch.Tensor:
    return runner.lane.normalize(photos, runner._mean, runner._std).clone()


def test_every_value_is_normalised_as_torch_does(model):
    """On a CPU by tables; on a GPU by these operations. To the last bit the same."""
    runner = Runner(model, "cpu", 2)
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3).contiguous()
    others = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 7, 5, 3), np.uint8))
    for photos in (every, others, every, others[:1]):
        rgb = photos.permute(0, 3, 1, 2).flip(1).to(torch.float32)
        assert torch.equal(normalized(runner, photos), rgb.sub_(runner._mean).div_(runner._std))


def test_outputs_do_not_change_when_the_next_batch_runs(model):
    """Of a model that gives back its input, or a part of it: the next batch is put into the same memory."""
    runner = Runner(model, "cpu", 1)
    runner.module = lambda batch: (batch, [batch[:, :1], batch * 2])
    photos = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8))
    (_, _, first), (_, _, second) = runner(photos)
    for output, photo in ((first, photos[:1]), (second, photos[1:])):
        wanted = normalized(runner, photo)
        assert torch.equal(output[0], wanted)
        assert torch.equal(output[1][0], wanted[:, :1]) and torch.equal(output[1][1], wanted * 2)


def test_normalisation_is_as_documented(model):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)
    normal = normalized(Runner(model, "cpu", 2), torch.from_numpy(pixels))
    expected = (pixels[..., ::-1].astype(np.float32) - np.float32([123.5, 116.5, 103.5])) / np.float32(
        [58.5, 57.0, 57.5]
    )
    assert normal.dtype == torch.float32 and normal.is_contiguous()
    assert np.array_equal(normal.numpy(), expected.transpose(0, 3, 1, 2))


def test_batches_are_full_and_cover_everything(model):
    runner = Runner(model, "cpu", 3)
    sizes: list[int] = []
    runner.module = lambda batch: sizes.append(len(batch)) or batch.sum()
    spans = [(start, stop) for start, stop, _ in runner(torch.zeros((8, 4, 4, 3), dtype=torch.uint8))]
    assert spans == [(0, 3), (3, 6), (6, 8)] and sizes == [3, 3, 2]
    assert list(runner(torch.empty(0))) == []


def test_out_of_memory_halves_the_batch_and_the_run_continues(model):
    runner = Runner(model, "cpu", 8)
    tried: list[int] = []

    def hungry(batch: torch.Tensor) -> torch.Tensor:
        tried.append(len(batch))
        if len(batch) > 2:
            if len(tried) == 1:  # as TorchScript throws it
                raise RuntimeError("The following operation failed in the TorchScript interpreter: CUDA out of memory.")
            raise torch.cuda.OutOfMemoryError("too much")
        return batch

    runner.module = hungry
    spans = [(start, stop) for start, stop, _ in runner(torch.zeros((5, 4, 4, 3), dtype=torch.uint8))]
    assert spans == [(0, 2), (2, 4), (4, 5)] and tried == [5, 2, 2, 1]
    assert runner.batch_size == 2, "the large batch is not tried again"


def test_messages_say_what_a_file_is_that_is_not_torchscript(tmp_path, model):
    cases = {"it is empty": b"", "no known file format": b"hello"}
    for message, data in cases.items():
        path = tmp_path / "x.pt2"
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=message):
            load_torchscript(path, torch.device("cpu"))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"torch\.save"):
        load_torchscript(tmp_path / "weights.pth", torch.device("cpu"))
    half = torch.jit.script(torch.nn.Linear(2, 2).to(torch.bfloat16))
    half.save(str(tmp_path / "half.pt2"))
    with pytest.raises(CheckpointError, match="float32"):
        load_model(tmp_path / "half.pt2", "float32", torch.device("cpu"))


def test_out_of_memory_in_a_padded_batch(model):
    """Compiled code always runs full batches, so the full size is halved, not the number of images."""
    runner = Runner(model, "cpu", 8)
    runner.fixed = True
    ran: list[int] = []

    def hungry(batch: torch.Tensor) -> torch.Tensor:
        ran.append(len(batch))
        if len(batch) > 4:
            raise torch.cuda.OutOfMemoryError("too much")
        return batch

    runner.module = hungry
    photos = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8))
    ((start, stop, output),) = runner(photos)
    assert (start, stop, len(output), ran, runner.batch_size) == (0, 3, 3, [8, 4], 4)
    assert torch.equal(output, normalized(runner, photos))
    assert runner.take_notes() == ["out of memory: batches of 4 from now on"] and runner.take_notes() == []
    runner.batch_size, runner.module = 1, lambda batch: hungry(torch.cat([batch] * 5))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(runner(photos))


def precisions() -> tuple[str, str]:
    """How CUDA would multiply float32 matrices and maps now."""
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision


class Watching(torch.nn.Module):
    """Notes the settings that a model runs under."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen.append(precisions())
        if len(batch) > 2:
            raise ValueError("three images")
        return batch


def test_each_model_multiplies_as_its_task_says(model):
    """Two models of one process, in turns; what other code of the process has set comes back, also after an error."""
    before = precisions()
    strict, tf32 = Runner(model, "cpu", 4), Runner(model, "cpu", 4, matmul="tf32")
    strict.module, tf32.module = Watching(), Watching()
    photo = torch.zeros((1, 4, 4, 3), dtype=torch.uint8)
    for runner in (strict, tf32, strict, tf32):
        list(runner(photo))
        assert precisions() == before
    assert strict.module.seen == [("ieee", "ieee")] * 2 and tf32.module.seen == [("tf32", "tf32")] * 2
    with pytest.raises(ValueError, match="three images"):
        list(tf32(photo.expand(3, -1, -1, -1)))
    assert precisions() == before


def test_models_of_several_threads_do_not_change_each_others_products():
    before = precisions()
    inside = threading.Barrier(2)

    def run(matmul: str, precision: str) -> bool:
        inside.wait()
        good = True
        for _ in range(200):
            with float32_products(matmul):
                good &= precisions() == (precision, precision)
        return good

    with ThreadPoolExecutor(2) as threads:
        assert all(threads.map(run, ("strict", "tf32"), ("ieee", "tf32")))
    assert precisions() == before


def test_a_model_on_a_cpu_says_that_it_has_no_tf32(model):
    assert Runner(model, "cpu", 1, matmul="tf32").take_notes() == [
        "matmul: tf32 has no effect: the model runs on a CPU"
    ]
    assert Runner(model, "cpu", 1).take_notes() == []
