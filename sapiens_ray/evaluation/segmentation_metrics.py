"""Class maps compared pixel by pixel: confusion counts, IoU and accuracy.

IoU of a class is intersection / (truth + prediction - intersection), its accuracy intersection / truth, both over the
pixels of all images (Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2010; mIoU, mAcc and aAcc
as named by mmseg).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IGNORED = 255  # class id in the ground truth of pixels that do not count


def confusion_counts(truth: np.ndarray, prediction: np.ndarray, classes: int, ignored: int = IGNORED) -> np.ndarray:
    """Count pixels by true class (row) and predicted class (column): classes x classes int64.

    truth, prediction: H x W class ids of any integer dtype. Pixels with truth == ignored do not count.
    Raises ValueError if the sizes differ, or an id is not below `classes`.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"the class maps have the shapes {truth.shape} and {prediction.shape}")
    counted = truth != ignored
    true, predicted = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
    for name, ids in (("truth", true), ("prediction", predicted)):
        if ids.size and not 0 <= ids.min() <= ids.max() < classes:
            raise ValueError(f"the {name} has class ids {ids.min()} to {ids.max()}; there are {classes} classes")
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def class_counts(confusion: np.ndarray) -> np.ndarray:
    """From K x K confusion counts to 3 x K int64: pixels where both agree, of the truth, and of the prediction."""
    return np.stack([np.diagonal(confusion), confusion.sum(1), confusion.sum(0)])


@dataclass(frozen=True)
class ClassScores:
    """iou, accuracy: K float64. NaN where they are not defined; a NaN is left out of the means.

    A class that is in neither map has no IoU. A class that is only predicted has IoU 0 and no accuracy.
    """

    iou: np.ndarray
    accuracy: np.ndarray
    mean_iou: float
    mean_accuracy: float
    pixel_accuracy: float


def class_scores(counts: np.ndarray) -> ClassScores:
    """Scores from 3 x K counts, as `class_counts` gives them, summed over all images."""
    both, true, predicted = np.asarray(counts, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is NaN: not defined
        iou, accuracy = both / (true + predicted - both), both / true
        pixel_accuracy = float(both.sum() / true.sum())
    return ClassScores(iou, accuracy, _mean_of_defined(iou), _mean_of_defined(accuracy), pixel_accuracy)


def _mean_of_defined(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
