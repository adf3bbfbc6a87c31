"""What an evaluation gives: metrics with intervals, how many images they are of, and what to know about them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from sapiens_ray.evaluation.bootstrap import Interval

Unit = Literal["share", "degrees", "as ground truth"]


@dataclass(frozen=True)
class Metric:
    """One number. part: of the body, for keypoints; else empty. low, high: the 95 % interval. published: what the
    authors of the model report for the same data and protocol. None where there is no such number."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    published: float | None = None
    part: str = ""
    unit: Unit = "share"


@dataclass(frozen=True)
class ClassRow:
    """One class of a segmentation. iou and accuracy are None where they are not defined."""

    id: int
    name: str
    iou: float | None
    accuracy: float | None
    truth_pixels: int
    predicted_pixels: int


@dataclass(frozen=True)
class Failed:
    """An image whose ground truth or labels cannot be used, and why."""

    image_id: str
    error: str


@dataclass
class Images:
    """How rows and ground truth fit together.

    rows: of the output. evaluated: images in the metrics. error_rows: rows without labels, whose images have ground
    truth or not; error_rows_with_truth: those that have. without_truth: rows without ground truth. truth_without_row:
    images of the ground truth without a row. The lists hold a few names of each. failed: images whose ground truth
    or labels cannot be used.
    """

    rows: int = 0
    evaluated: int = 0
    error_rows: int = 0
    error_rows_with_truth: int = 0
    without_truth: int = 0
    without_truth_examples: list[str] = field(default_factory=list)
    truth_without_row: int = 0
    truth_without_row_examples: list[str] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)

    def has_no_truth(self, image_id: str) -> None:
        """Count a row without ground truth."""
        self.without_truth += 1
        self.without_truth_examples += [image_id][: EXAMPLES - len(self.without_truth_examples)]

    def have_no_row(self, names: Sequence[str]) -> None:
        """Count images of the ground truth without a row."""
        self.truth_without_row = len(names)
        self.truth_without_row_examples = sorted(names)[:EXAMPLES]


EXAMPLES = 3


@dataclass(frozen=True)
class Evaluation:
    """The result. kind: of the task. protocol: the settings that decide the numbers. notes: in words."""

    output: str
    ground_truth: str
    column: str
    kind: str
    images: Images
    protocol: dict[str, Any]
    metrics: list[Metric]
    classes: list[ClassRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The result as JSON has it; docs/evaluate.md documents the keys."""
        found = asdict(self)
        found["task"] = found.pop("column")
        if self.kind != "seg":
            found.pop("classes")
        return found


@dataclass(frozen=True)
class Measured:
    """What a task computes: its part of an Evaluation. times, seed: of the bootstrap that was used."""

    images: Images
    metrics: list[Metric]
    protocol: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    classes: list[ClassRow] = field(default_factory=list)


def metrics_of(
    names: Sequence[tuple[str, str, Unit]], values: np.ndarray, intervals: Sequence[Interval] | None
) -> list[Metric]:
    """Metrics from their (part, name, unit), values and intervals; NaN becomes None."""
    spans = intervals or [(math.nan, math.nan)] * len(names)
    return [
        Metric(name, defined(value), defined(low), defined(high), None, part, unit)
        for (part, name, unit), value, (low, high) in zip(names, values, spans, strict=True)
    ]


def defined(value: float) -> float | None:
    """The number, or None for NaN, which JSON does not have."""
    return None if math.isnan(value) else float(value)
