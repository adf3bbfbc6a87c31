"""Models on whole units: every row gets the result of its own image, whatever happens to its neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.engine.loaded import are_finite
from sapiens_ray.errors import CheckpointError, JobError
from sapiens_ray.tasks.base import Size
from sapiens_ray.tasks.network import RESIZED
from sapiens_ray.tasks.seg import Seg, SegOptions
from sapiens_ray.units import PHOTO, Row, set_errors
from tests.engine.colours import (
    NOT_FINITE,
    OPTIONS,
    REFUSED,
    UNLUCKY,
    FirstPixel,
    Number,
    People,
    cells,
    infer,
    unit_of,
    with_boxes,
)


def test_every_row_gets_the_result_of_its_image():
    stage, runner = infer(Number(OPTIONS))
    unit = unit_of([5, 6, 7, 8])
    unit.seconds, unit.notes = {"read": 1.0}, ("said before",)
    runner.notes = ["batches of 3"]
    done = stage(unit)
    assert cells(done, "number") == [[5], [6], [7], [8]]
    assert cells(done, "size") == [[4, 3], [5, 3], [6, 3], [7, 3]]
    assert runner.sizes == [3, 1]
    assert done.notes == ("said before", "number: batches of 3") and stage(unit).notes == ("said before",)
    assert done.seconds.keys() == {"read", "number"}
    assert cells(done, "error_kind") == [None] * 4 and done.name == unit.name
    assert done.rows["number"].type == pa.list_(pa.int64())


def test_rows_with_errors_keep_their_places():
    stage, runner = infer(Number(OPTIONS), batch_size=2)
    unit = unit_of([5, None, 6, 7, 8])
    unit.rows = set_errors(unit.rows, {3: ("failed", "by the model before")})
    assert len(unit.inputs[RESIZED]) == 4, "images with a late error still have an input"
    done = stage(unit)
    assert cells(done, "number") == [[5], None, [6], None, [8]]
    assert cells(done, "error_kind") == [None, "not_an_image", None, "failed", None]
    assert cells(done, "error")[3] == "by the model before"
    assert runner.sizes == [2, 1]


@pytest.mark.parametrize("colours", [[], [None], [None, None]])
@pytest.mark.parametrize("task", [Number(OPTIONS), People(OPTIONS)], ids=["number", "people"])
def test_a_unit_without_good_images_is_not_shown_to_the_model(colours, task):
    stage, runner = infer(task)
    unit = with_boxes(unit_of(colours, task), [[]] * len(colours))
    done = stage(unit)
    assert cells(done, "number") == cells(done, "size") == [None] * len(colours)
    assert cells(done, "error_kind") == ["not_an_image"] * len(colours)
    assert runner.sizes == []


def test_output_that_is_not_finite_costs_one_row():
    done = infer(Number(OPTIONS))[0](unit_of([5, NOT_FINITE, 6, NOT_FINITE]))
    assert cells(done, "number") == [[5], None, [6], None]
    assert cells(done, "error_kind") == [None, "not_finite", None, "not_finite"]
    assert cells(done, "error")[1] == "number: the model's output holds NaN or infinity"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_finite_outputs_are_told_from_others_even_if_their_sum_is_not(dtype):
    most = torch.finfo(dtype).max
    values = [[1.0, 2], [most, most], [-most, -most], [most, float("inf")], [float("inf"), -float("inf")], [0, np.nan]]
    outputs = torch.tensor(values).to(dtype).reshape(6, 1, 1, 2)
    assert are_finite(outputs) == [True, True, True, False, False, False]
    assert are_finite(outputs[:1]) == [True] and are_finite(outputs[3:4]) == [False]


def test_results_that_cannot_be_finished_cost_one_row():
    done = infer(Number(OPTIONS))[0](unit_of([5, UNLUCKY, REFUSED, 6]))
    assert cells(done, "number") == [[5], None, None, [6]]
    assert cells(done, "error_kind") == [None, "failed", "refused", None]
    assert cells(done, "error") == [None, "number: ValueError: unlucky", "by the task", None]


STATES = {"good": None, "broken": "not_an_image", "late": "late", "nan": "not_finite", "unlucky": "failed"}


@given(st.lists(st.sampled_from(list(STATES)), max_size=8), st.integers(1, 4))
def test_no_row_takes_the_place_of_another(states, batch_size):
    colours = {"broken": None, "nan": NOT_FINITE, "unlucky": UNLUCKY}
    unit = unit_of([colours.get(state, 10 + number) for number, state in enumerate(states)])
    late = {number: ("late", "") for number, state in enumerate(states) if state == "late"}
    unit.rows = set_errors(unit.rows, late)
    RUNNER.batch_size = batch_size
    done = ENGINE(unit)
    assert cells(done, "error_kind") == [STATES[state] for state in states]
    assert cells(done, "number") == [[10 + n] if state == "good" else None for n, state in enumerate(states)]


ENGINE, RUNNER = infer(Number(OPTIONS))


def crowd(counts: Sequence[int]) -> tuple[list[int], list[list[list[float]]]]:
    """Photos of so many persons: their colours, and the boxes."""
    colours = [100 + number for number in range(len(counts))]
    names = iter(range(1, 99))
    boxes = [
        [[next(names), colour, 9, 9, 0.5] for _ in range(count)] for colour, count in zip(colours, counts, strict=True)
    ]
    return colours, boxes  # type: ignore[return-value]


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("counts", [[0, 1, 2, 3, 4, 5, 6, 7], [7, 0, 0, 1], [0, 0], [4, 4]])
def test_persons_of_several_photos_share_full_batches(counts, batch_size):
    colours, boxes = crowd(counts)
    task = People(OPTIONS)
    stage, runner = infer(task, batch_size)
    done = stage(with_boxes(unit_of(colours, task), boxes))
    assert cells(done, "number") == [[box[0] for box in one] for one in boxes], "nobody is an empty list"
    assert cells(done, "error_kind") == [None] * len(counts)
    full, rest = divmod(sum(counts), batch_size)
    assert runner.sizes == [batch_size] * full + [rest] * (rest > 0)


def test_photos_with_errors_keep_their_places_among_persons():
    colours, boxes = crowd([2, 1, 3, 1])
    task = People(OPTIONS)
    unit = with_boxes(unit_of([colours[0], None, *colours[2:]], task), boxes)
    unit.rows = set_errors(unit.rows, {2: ("late", "why")})
    stage, runner = infer(task, 2)
    done = stage(unit)
    assert cells(done, "number") == [[1, 2], None, None, [7]]
    assert cells(done, "error_kind") == [None, "not_an_image", "late", None]
    assert runner.sizes == [2, 1]


def test_a_person_that_cannot_be_cropped_costs_its_photo():
    """Also where the other persons of the photo are in other batches."""
    colours, boxes = crowd([1, 3, 2])
    boxes[1][1][0] = 249
    task = People(OPTIONS)
    stage, runner = infer(task, 2)
    done = stage(with_boxes(unit_of(colours, task), boxes))
    assert cells(done, "number") == [[1], None, [5, 6]]
    assert cells(done, "error_kind") == [None, "failed", None]
    assert cells(done, "error")[1] == "number: error: too wide"
    assert runner.sizes == [2, 1, 2], "in the second batch"


def test_a_person_without_finite_output_costs_its_photo():
    colours, boxes = crowd([2, 3, 1])
    boxes[1][0][0] = NOT_FINITE
    task = People(OPTIONS)
    done = infer(task, 2)[0](with_boxes(unit_of(colours, task), boxes))
    assert cells(done, "number") == [[1, 2], None, [6]]
    assert cells(done, "error_kind") == [None, "not_finite", None]


def test_boxes_that_cannot_be_found_cost_their_photo():
    colours, boxes = crowd([1, 0, 2])
    boxes[1] = [[0, 0, 0, 0, 0]]
    task = People(OPTIONS)
    stage, runner = infer(task)
    done = stage(with_boxes(unit_of(colours, task), boxes))
    assert cells(done, "number") == [[1], None, [2, 3]]
    assert cells(done, "error") == [None, "of no use", None]
    assert runner.sizes == [3]


class Wordy(Number):
    """Gives text where the column holds numbers, for one colour."""

    def finish(self, results: list[Any], row: Row) -> Row:
        finished = super().finish(results, row)
        return {**finished, "number": ["seven"]} if finished["number"] == [7] else finished


def test_a_value_of_another_type_than_its_column_costs_one_row():
    stage, _ = infer(Wordy(OPTIONS))
    unit = stage(unit_of([5, 7, 9], Wordy(OPTIONS)))
    assert cells(unit, "number") == [[5], None, [9]]
    assert cells(unit, "error_kind") == [None, "failed", None]
    assert cells(unit, "error")[1].startswith("column number: ArrowInvalid: Could not convert 'seven'")


class Forgetful(Number):
    def reduce(self, outputs: torch.Tensor, sizes: list[Size]) -> list[Any]:
        return super().reduce(outputs, sizes)[1:]


def test_a_task_that_loses_results_ends_the_job():
    stage, _ = infer(Forgetful(OPTIONS))
    with pytest.raises(JobError, match="number: reduce gives 2 results for 3 outputs"):
        stage(unit_of([5, 7, 9], Forgetful(OPTIONS)))


class Hungry(Number):
    """Memory runs out where it reduces, so many times."""

    def __init__(self, left: int) -> None:
        super().__init__(OPTIONS)
        self.left = left
        self.tried: list[int] = []

    def reduce(self, outputs: torch.Tensor, sizes: list[Size]) -> list[Any]:
        self.tried.append(len(outputs))
        if self.left:
            self.left -= 1
            raise torch.cuda.OutOfMemoryError("too much")
        assert outputs.device.type == "cpu"
        return super().reduce(outputs, sizes)


def test_results_that_do_not_fit_on_the_gpu_are_reduced_on_the_cpu():
    task = Hungry(1)
    done = infer(task)[0](unit_of([5, NOT_FINITE, 6, 7], task))
    assert cells(done, "number") == [[5], None, [6], [7]]
    assert cells(done, "error_kind") == [None, "not_finite", None, None]
    assert sorted(task.tried) in ([1, 2, 2], [1, 1, 2]), "the first of two batches, in any order, is tried again"


def test_an_image_for_which_there_is_no_memory_anywhere_is_an_error_row():
    """Two attempts at the batch fail, on the device and on the CPU; then each image is tried alone."""
    task = Hungry(4)
    done = infer(task)[0](unit_of([5, 6, 7], task))
    assert cells(done, "number") == [None, [6], [7]] and task.tried == [3, 3, 1, 1, 1, 1]
    assert cells(done, "error_kind") == ["out_of_memory", None, None]
    assert cells(done, "error")[0] == "number: too much"


def test_a_model_of_another_kind_ends_the_job():
    task = Seg(SegOptions(task="seg", checkpoint="x"))
    with pytest.raises(CheckpointError, match=r"^seg: the model returns 1 x 1 x 1 x 1 for .* It is model.pt2$"):
        infer(task)


def test_a_real_task_on_the_output_of_the_stub(monkeypatch):
    task = Seg(SegOptions(task="seg", checkpoint="x"))
    monkeypatch.setattr(FirstPixel, "warm_up", lambda self, *arguments: (torch.zeros(1, 28, 8, 6), 1))
    stage, runner = infer(task, 2)

    def one_class(inputs: torch.Tensor) -> Iterator[tuple[int, int, Any]]:
        for start in range(len(inputs)):
            logits = torch.zeros(1, 28, 8, 6)
            logits[:, int(inputs[start, 0, 0, 0])] = 1
            yield start, start + 1, logits

    monkeypatch.setattr(FirstPixel, "__call__", lambda self, inputs: one_class(inputs))
    done = stage(unit_of([0, None, 27, 3], task))
    assert cells(done, "seg_classes") == [[0], None, [27], [3]] and cells(done, "seg_area") == [[1], None, [1], [1]]
    shapes = [None if data is None else cv2.imdecode(np.frombuffer(data, np.uint8), -1) for data in cells(done, "seg")]
    assert [None if one is None else (one.shape, int(one.max())) for one in shapes] == [
        ((3, 4), 0), None, ((3, 6), 27), ((3, 7), 3),
    ]  # fmt: skip
    assert runner.device.type == "cpu"


@pytest.mark.parametrize("kept", [set(), {RESIZED}, {PHOTO}, {RESIZED, PHOTO}])
@pytest.mark.parametrize("task", [Number(OPTIONS), People(OPTIONS)], ids=["number", "people"])
def test_only_inputs_that_later_stages_need_are_kept(task, kept):
    unit = with_boxes(unit_of([5], Number(OPTIONS), People(OPTIONS)), [[]])
    done = infer(task, kept=frozenset(kept))[0](unit)
    assert set(done.inputs) == kept
    assert set(unit.inputs) == {RESIZED, PHOTO}, "the unit that came in is as it was, should it be tried again"
