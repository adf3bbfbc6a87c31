"""Models that fail at one image, and devices that fail: one error row, and all other images are labelled."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

import sapiens_ray as sr
from tests.conftest import read_output, write_photos

COUNT, MARKED = 10, 3  # photos, and which of them is white


class Failing(torch.nn.Module):
    """A depth model that fails if a white photo is in its batch. how: with which words; empty for NaN."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        white = images.flatten(1).mean(1) > 2
        depth = images[:, :1, ::2, ::2].contiguous()
        if bool(white.any()) and self.how != "":
            raise RuntimeError(self.how)
        depth[white] = float("nan")
        return depth


@pytest.fixture
def job(write_job, tmp_path):
    """A job with ten photos, one of them white, in units of five."""
    files = write_photos(tmp_path / "photos", COUNT)
    cv2.imwrite(str(files[MARKED]), np.full((96, 128, 3), 255, np.uint8))

    def make(how: str) -> sr.Job:
        torch.jit.script(Failing(how)).save(str(tmp_path / "failing.pt2"))
        task = {"task": "depth", "checkpoint": str(tmp_path / "failing.pt2"), "mask": "none", "batch_size": 4}
        return sr.Job.load(write_job(tmp_path / "photos", tasks=[task], unit_size=5))

    return make


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("", "not_finite", "depth: the model's output holds NaN or infinity"),
        ("wrong shape somewhere", "failed", "wrong shape somewhere"),
        ("CUDA out of memory. Tried to allocate 99 GiB", "out_of_memory", "Tried to allocate 99 GiB"),
    ],
)
def test_a_model_that_fails_at_one_image_costs_one_row(cluster, job, tmp_path, how, kind, message):
    summary = sr.run(job(how))
    table = read_output(tmp_path / "job-out")
    assert dict(enumerate(table["error_kind"].to_pylist())) == {n: kind if n == MARKED else None for n in range(COUNT)}
    assert message in table["error"][MARKED].as_py()
    assert [cell is None for cell in table["depth"].to_pylist()] == [n == MARKED for n in range(COUNT)]
    assert summary.repeated == 0, "no worker died"


@pytest.mark.slow
def test_a_device_that_fails_ends_its_process_and_not_the_job(cluster, job, tmp_path):
    """The unit is done again, image by image; the image at which it fails each time is the cause."""
    summary = sr.run(job("CUDA error: an illegal memory access was encountered"))
    table = read_output(tmp_path / "job-out")
    wanted = {n: "crashed" if n == MARKED else None for n in range(COUNT)}
    assert dict(enumerate(table["error_kind"].to_pylist())) == wanted
    said = "(builtins.RuntimeError: CUDA error: an illegal memory access was encountered)"
    assert table["error"][MARKED].as_py() == f"depth: the worker died 3 times at this image {said}"
    assert summary.repeated >= 3
