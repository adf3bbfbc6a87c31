"""Models on whole units: every row gets the result of its own image, whatever happens to its neighbours.

The network is a stub that returns the first pixel of its input, and every image has its own colour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.engine import runner as running
from sapiens_ray.engine.assemble import BOX_LIST, make_unit
from sapiens_ray.engine.engine import Engine
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.engine.models import DetectorModel, TaskModel
from sapiens_ray.engine.prepare import prepare
from sapiens_ray.errors import CheckpointError, ImageError, JobError
from sapiens_ray.models import detectors
from sapiens_ray.models.device import Lane
from sapiens_ray.sources import Encoded
from sapiens_ray.tasks.base import CropTask, Size, Task
from sapiens_ray.tasks.network import NETWORK_HEIGHT, NETWORK_WIDTH, RESIZED
from sapiens_ray.tasks.persons import DetectorOptions, carried_boxes
from sapiens_ray.tasks.seg import Seg, SegOptions
from sapiens_ray.units import PHOTO, Row, Unit, set_column, set_errors

OPTIONS = SegOptions(task="seg", name="number", checkpoint="x")
BOXES = carried_boxes("people")
NOT_FINITE, UNLUCKY, REFUSED = 250, 251, 252  # colours


class FirstPixel(running.Runner):
    """A runner without a model."""

    def __init__(self, *arguments: Any) -> None:
        self.device = torch.device("cpu")
        self.lane = Lane(self.device)
        self.batch_size = 3
        self.loaded = SimpleNamespace(architecture=None)  # type: ignore[assignment]
        self.sizes: list[int] = []
        self.notes: list[str] = []

    def warm_up(self, *arguments: Any) -> tuple[Any, int]:  # type: ignore[override]
        return torch.zeros(1, 1, 1, 1), 1

    def take_notes(self) -> list[str]:
        taken, self.notes = self.notes, []
        return taken

    def __call__(self, inputs: Any) -> Iterator[tuple[int, int, Any]]:
        for start in range(0, len(inputs), self.batch_size):
            batch = inputs[start : start + self.batch_size]
            self.sizes.append(len(batch))
            output = batch[:, 0, 0, 0].float().reshape(-1, 1, 1, 1)
            output[output == NOT_FINITE] = float("nan")
            yield start, start + len(batch), output


class Number(Task[Any]):
    """The colour of an image, and the size of its photo."""

    @property
    def fields(self) -> list[pa.Field]:
        return [pa.field("number", pa.list_(pa.int64())), pa.field("size", pa.list_(pa.int64()))]

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return image[:2, :2]

    def check_output(self, output: Any, batch: int) -> torch.Tensor:
        assert len(output) == batch
        return output

    def reduce(self, outputs: torch.Tensor, sizes: list[Size]) -> list[Any]:
        assert outputs.isfinite().all()
        return list(zip(outputs.flatten().int().tolist(), sizes, strict=True))

    def finish(self, results: list[Any], row: Row) -> Row:
        numbers = [number for number, _ in results]
        if UNLUCKY in numbers:
            raise ValueError("unlucky")
        if REFUSED in numbers:
            raise ImageError("refused", "by the task")
        assert all(size == (row["width"], row["height"]) for _, size in results)
        return {"number": numbers, "size": [row["width"], row["height"]]}


class People(CropTask[Any]):
    """The colours of the persons of an image, each the first number of its box."""

    needs = (BOXES,)  # type: ignore[assignment]
    fields = Number.fields
    check_output, reduce, finish = Number.check_output, Number.reduce, Number.finish  # type: ignore[assignment]

    def boxes(self, row: Row) -> np.ndarray:
        if row[BOXES] == [[0, 0, 0, 0, 0]]:
            raise ImageError("bad_boxes", "of no use")
        return np.array(row[BOXES], np.float64).reshape(-1, 5)

    def crop(self, photo: np.ndarray, box: np.ndarray) -> np.ndarray:
        if box[0] == 249:
            raise cv2.error("too wide")
        assert photo[0, 0, 0] == box[1], "a person is cropped from its own photo"
        return np.full((NETWORK_HEIGHT, NETWORK_WIDTH, 3), box[0], np.uint8)


FILE: Any = SimpleNamespace(local_file=lambda: Path("model.pt2"), sha256="0" * 64, uri="model.pt2")


def infer(task: Task[Any], batch_size: int = 3, kept: frozenset[str] = frozenset()) -> tuple[Engine, FirstPixel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "Runner", FirstPixel)
        engine = Engine([TaskModel(task, FILE)], ModelHost("cpu", kept_inputs=kept))
    runner = engine._models[0].runner  # type: ignore[attr-defined]
    runner.batch_size = batch_size
    return engine, runner


def png(colour: int, width: int = 4, height: int = 3) -> bytes:
    return cv2.imencode(".png", np.full((height, width, 3), colour, np.uint8))[1].tobytes()


def unit_of(colours: Sequence[int | None], *tasks: Task[Any]) -> Unit:
    """A prepared unit; None is an image that cannot be decoded. The photos grow to the right."""
    encoded = [
        Encoded(number, f"{number}.png", "", b"no image" if colour is None else png(colour, 4 + number))
        for number, colour in enumerate(colours)
    ]
    return prepare(make_unit(encoded, pa.schema([])), tasks or [Number(OPTIONS)], 10_000)


def with_boxes(unit: Unit, boxes: Sequence[list[list[float]] | None]) -> Unit:
    unit.rows = set_column(unit.rows, BOXES, pa.array(boxes, BOX_LIST))
    return unit


def cells(unit: Unit, name: str) -> list[Any]:
    return unit.rows[name].to_pylist()


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
    assert task.tried == [2, 2, 1], "the next batch is tried on the device again"


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


class Found(detectors.Detector):
    """A detector that finds a box of the photo's colour; what it raises is told by the colour."""

    def __init__(self, *arguments: Any) -> None:
        self.seen: list[int] = []
        self.device = torch.device("cpu")
        self.lane = Lane(self.device)
        self.batch_size = 1

    def forward(self, photos: Sequence[torch.Tensor]) -> Any:
        return [self.found(photo) for photo in photos], [None] * len(photos), [None] * len(photos)

    def persons(self, boxes: Any, labels: Any, scores: Any, size: Any) -> np.ndarray:
        return boxes

    def found(self, photo: torch.Tensor) -> np.ndarray:
        colour = int(photo[0, 0, 0])
        self.seen.append(colour)
        if colour == 0:  # the warm-up
            raise RuntimeError("nothing works on black")
        if colour in ERRORS:
            raise ERRORS[colour]
        return np.array([[colour, *photo.shape[:2], 9, 0.5]] * (colour - 10), np.float64).reshape(-1, 5)


ERRORS: dict[int, Exception] = {
    200: ValueError("odd photo"),
    201: CheckpointError("the detector returns nonsense"),
    202: RuntimeError("CUDA error: an illegal memory access was encountered"),
}


def detect(monkeypatch: pytest.MonkeyPatch, *scores: float) -> tuple[Engine, list[str], list[list[int]]]:
    """An engine with detectors; their columns, and the photos that each has seen."""
    monkeypatch.setattr(detectors, "Detector", Found)
    models = [DetectorModel(DetectorOptions(score=score), FILE) for score in scores or (0.5,)]
    engine = Engine(models, ModelHost("cpu"))
    return engine, [one.options.carried for one in models], [one.detector.seen for one in engine._models]  # type: ignore[attr-defined]


def test_a_detector_gives_every_photo_its_boxes(monkeypatch):
    engine, (column,), (seen,) = detect(monkeypatch)
    unit = unit_of([12, None, 10, 14, 11], People(OPTIONS))
    unit.rows = set_errors(unit.rows, {3: ("late", "why")})
    done = engine(unit)
    assert cells(done, column) == [[[12, 3, 4, 9, 0.5]] * 2, None, [], None, [[11, 3, 8, 9, 0.5]]]
    assert cells(done, "error_kind") == [None, "not_an_image", None, "late", None]
    assert seen == [0, 12, 10, 11]


def test_a_photo_on_which_the_detector_fails_costs_one_row(monkeypatch):
    engine, (column,), _ = detect(monkeypatch)
    done = engine(unit_of([11, 200, 10], People(OPTIONS)))
    assert cells(done, column) == [[[11, 3, 4, 9, 0.5]], None, []]
    assert cells(done, "error_kind") == [None, "failed", None]
    assert cells(done, "error")[1] == "detector: ValueError: odd photo"


@pytest.mark.parametrize("colour", [201, 202])
def test_what_no_photo_has_caused_ends_the_job(monkeypatch, colour):
    with pytest.raises(type(ERRORS[colour]), match=str(ERRORS[colour])):
        detect(monkeypatch)[0](unit_of([11, colour], People(OPTIONS)))


def test_two_detectors_have_a_column_each_and_one_time(monkeypatch):
    engine, columns, _ = detect(monkeypatch, 0.5, 0.7)
    unit = unit_of([11], People(OPTIONS), Number(OPTIONS))
    unit.seconds = {"detector": 100.0}
    done = engine(unit)
    first, second = columns
    assert first != second and cells(done, first) == cells(done, second) == [[[11, 3, 4, 9, 0.5]]]
    assert done.seconds["detector"] >= 100


@pytest.mark.parametrize("colours", [[], [None]])
def test_a_detector_leaves_a_unit_without_good_photos_alone(monkeypatch, colours):
    engine, (column,), (seen,) = detect(monkeypatch)
    done = engine(unit_of(colours, People(OPTIONS)))
    assert cells(done, column) == [None] * len(colours) and seen == [0]
