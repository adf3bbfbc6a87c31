"""Relative depth against depth maps."""

from __future__ import annotations

import numpy as np

from sapiens_ray.evaluation.bootstrap import intervals
from sapiens_ray.evaluation.dense import Masks, finite, measure_images
from sapiens_ray.evaluation.depth_metrics import LEAST_OF_MEDIAN, depth_errors, valid_depth
from sapiens_ray.evaluation.request import Request
from sapiens_ray.evaluation.result import Measured, Unit, metrics_of
from sapiens_ray.evaluation.truth_files import TruthError, TruthFolder, check_aspect, float_map
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.depth import StoredDepth, full_depth
from sapiens_ray.units import Row

RESAMPLES = 1000
NAMES: list[tuple[str, str, Unit]] = [
    ("", "RMSE", "as ground truth"), ("", "AbsRel", "share"), ("", "delta1", "share"), ("", "delta2", "share"),
    ("", "delta3", "share"),
]  # fmt: skip


def evaluate_depth(source: Folder, labels: StoredDepth, request: Request) -> Measured:
    """RMSE, AbsRel and delta 1 to 3 after a fit of scale and shift per image: means over images. Raises ConfigError."""
    truth = TruthFolder(request.truth_folder, (".npy", ".npz", ".png"), "--ground-truth")
    masks = Masks.of(request)

    def measure(row: Row, data: bytes, file: str) -> np.ndarray:
        true = float_map(data, file, "depth", 1)
        check_aspect(true, file, row["width"], row["height"])
        height, width = true.shape
        counted = valid_depth(true) & masks.inside(row, width, height)
        if not counted.any():
            raise TruthError(f"{file} has no depth inside the mask")
        predicted = finite(full_depth(row[labels.column], width, height)[counted])
        errors = depth_errors(predicted, true[counted])
        return np.array([errors.rmse, errors.abs_rel, *errors.deltas, errors.scale < 0, errors.raised])

    table = measure_images(source, labels.column, truth, measure, request)
    metrics = table.values[:, : len(NAMES)]

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.asarray(weights @ metrics / weights.sum())

    every = np.ones(len(metrics), np.int64)
    times = request.resamples(RESAMPLES)
    spans = intervals(statistic, len(every), times, request.seed, request.progress)
    protocol = {
        "alignment": "scale and shift by least squares, per image", "average": "images",
        "mask": masks.folder is not None, "least_of_median": LEAST_OF_MEDIAN,
        "raised": float(table.values[:, -1].mean()), "bootstrap": times, "seed": request.seed,
    }  # fmt: skip
    return Measured(table.images, metrics_of(NAMES, statistic(every), spans), protocol, _notes(table.values))


def _notes(values: np.ndarray) -> list[str]:
    """What the reader should know of the fits. values: a row per image, of `measure`."""
    turned, raised = int(values[:, -2].sum()), float(values[:, -1].mean())
    notes = []
    if turned:
        notes.append(
            f"{turned} of {len(values)} images have a negative scale: their depth grows where the true one falls"
        )
    if raised:
        notes.append(
            f"{100 * raised:.2g} % of the pixels were raised to {LEAST_OF_MEDIAN:g} of the median depth of their "
            "image, since AbsRel and delta are ratios; a true depth near zero counts much there"
        )
    return notes
