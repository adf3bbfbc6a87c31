"""Surface normals against normal maps."""

from __future__ import annotations

import numpy as np

from sapiens_ray.evaluation.bootstrap import intervals
from sapiens_ray.evaluation.dense import Masks, finite, measure_images
from sapiens_ray.evaluation.normal_metrics import (
    LIMITS,
    angle_counts,
    angle_scores,
    angular_errors,
    valid_normals,
)
from sapiens_ray.evaluation.request import Request
from sapiens_ray.evaluation.result import Measured, Unit, metrics_of
from sapiens_ray.evaluation.truth_files import TruthError, TruthFolder, check_aspect, float_map
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.normal import StoredNormal, full_normals
from sapiens_ray.units import Row

RESAMPLES = 1000
NAMES: list[tuple[str, str, Unit]] = [
    ("", "mean", "degrees"), ("", "median", "degrees"), *(("", f"below_{limit:g}", "share") for limit in LIMITS),
]  # fmt: skip


def evaluate_normals(source: Folder, labels: StoredNormal, request: Request) -> Measured:
    """Mean and median angle, and shares below LIMITS, over all pixels of all images. Raises ConfigError."""
    truth = TruthFolder(request.truth_folder, (".npy", ".npz"), "--ground-truth")
    masks = Masks.of(request)

    def measure(row: Row, data: bytes, file: str) -> np.ndarray:
        true = float_map(data, file, "normal", 3)
        check_aspect(true, file, row["width"], row["height"])
        height, width = true.shape[:2]
        counted = valid_normals(true) & masks.inside(row, width, height)
        if not counted.any():
            raise TruthError(f"{file} has no normals inside the mask")
        with np.errstate(invalid="ignore"):  # infinity has no unit length; `finite` says so
            predicted = finite(full_normals(row[labels.column], width, height)[counted])
        return angle_counts(angular_errors(predicted, true[counted]))

    table = measure_images(source, labels.column, truth, measure, request)

    def statistic(weights: np.ndarray) -> np.ndarray:
        return angle_scores(weights @ table.values)

    every = np.ones(len(table.values), np.int64)
    times = request.resamples(RESAMPLES)
    spans = intervals(statistic, len(every), times, request.seed, request.progress)
    protocol = {"average": "pixels", "mask": masks.folder is not None, "bootstrap": times, "seed": request.seed}
    return Measured(table.images, metrics_of(NAMES, statistic(every), spans), protocol)
