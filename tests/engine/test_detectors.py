"""Detectors of persons in the engine: every photo gets its own boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from sapiens_ray.engine.engine import Engine
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.engine.models import DetectorModel
from sapiens_ray.errors import CheckpointError
from sapiens_ray.models import detectors
from sapiens_ray.models.device import Lane
from sapiens_ray.tasks.persons import DetectorOptions
from sapiens_ray.units import set_errors
from tests.engine.colours import (
    FILE,
    OPTIONS,
    Number,
    People,
    cells,
    unit_of,
)


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
