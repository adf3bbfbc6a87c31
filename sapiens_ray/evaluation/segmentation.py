"""Class maps against index PNGs."""

from __future__ import annotations

import numpy as np

from sapiens_ray.evaluation.bootstrap import intervals
from sapiens_ray.evaluation.dense import measure_images
from sapiens_ray.evaluation.request import Request
from sapiens_ray.evaluation.result import ClassRow, Measured, Unit, defined, metrics_of
from sapiens_ray.evaluation.segmentation_metrics import IGNORED, class_counts, class_scores, confusion_counts
from sapiens_ray.evaluation.truth_files import TruthError, TruthFolder, index_map
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.stored import StoredClassMap
from sapiens_ray.units import Row

RESAMPLES = 1000
NAMES: list[tuple[str, str, Unit]] = [("", name, "share") for name in ("mIoU", "mAcc", "aAcc")]


def evaluate_segmentation(source: Folder, labels: StoredClassMap, request: Request) -> Measured:
    """mIoU, mAcc and aAcc over all pixels of all images, and the scores of each class. Raises ConfigError."""
    truth = TruthFolder(request.truth_folder, (".png",), "--ground-truth")
    classes = len(labels.class_names)

    def measure(row: Row, data: bytes, file: str) -> np.ndarray:
        ids = index_map(data, file, row["width"], row["height"])
        other = ids[(ids != IGNORED) & (ids >= classes)]
        if other.size:
            raise TruthError(f"{file} has class {other[0]}; the labels have the classes 0 to {classes - 1}, and "
                             f"{IGNORED} means ignored")  # fmt: skip
        return class_counts(confusion_counts(ids, labels.class_map(row), classes)).reshape(-1)

    table = measure_images(source, labels.column, truth, measure, request)

    def statistic(weights: np.ndarray) -> np.ndarray:
        scores = class_scores((weights @ table.values).reshape(3, classes))
        return np.array([scores.mean_iou, scores.mean_accuracy, scores.pixel_accuracy])

    every = np.ones(len(table.values), np.int64)
    times = request.resamples(RESAMPLES)
    spans = intervals(statistic, len(every), times, request.seed, request.progress)
    counts = table.values.sum(0).reshape(3, classes)
    protocol = {"ignored": IGNORED, "bootstrap": times, "seed": request.seed}
    return Measured(
        table.images, metrics_of(NAMES, statistic(every), spans), protocol, classes=_class_rows(labels, counts)
    )


def _class_rows(labels: StoredClassMap, counts: np.ndarray) -> list[ClassRow]:
    scores = class_scores(counts)
    _, true, predicted = counts.astype(np.int64)
    return [
        ClassRow(number, name, defined(scores.iou[number]), defined(scores.accuracy[number]), int(true[number]),
                 int(predicted[number]))
        for number, name in enumerate(labels.class_names)
    ]  # fmt: skip
