"""Stand-ins for tests of the engine: the network returns the first pixel, and every image has its own colour."""

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

from sapiens_ray.engine import runner as running
from sapiens_ray.engine.assemble import BOX_LIST, make_unit
from sapiens_ray.engine.engine import Engine
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.engine.models import TaskModel
from sapiens_ray.engine.prepare import prepare
from sapiens_ray.errors import ImageError
from sapiens_ray.models.device import Lane
from sapiens_ray.sources import Encoded
from sapiens_ray.tasks.base import CropTask, Size, Task
from sapiens_ray.tasks.network import NETWORK_HEIGHT, NETWORK_WIDTH
from sapiens_ray.tasks.persons import carried_boxes
from sapiens_ray.tasks.seg import SegOptions
from sapiens_ray.units import Row, Unit, set_column

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
