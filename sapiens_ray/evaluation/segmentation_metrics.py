"""Class maps compared pixel by pixel: confusion counts, IoU and accuracy.

IoU of a class is intersection / (truth + prediction - intersection), its accuracy intersection / truth, both over the
pixels of all images (Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2010; mIoU, mAcc and aAcc
as named by mmseg).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

AT_A_TIME = 1 << 20  # pixels: what is computed of a map stays small
IGNORED = 255  # class id in the ground truth of pixels that do not count


def confusion_counts(truth: np.ndarray, prediction: np.ndarray, classes: int, ignored: int = IGNORED) -> np.ndarray:
    """Count pixels by true class (row) and predicted class (column): classes x classes int64.

    truth, prediction: H x W class ids of any integer dtype. Pixels with truth == ignored do not count.
    Raises ValueError if the sizes differ, or an id is not below `classes`.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"the class maps have the shapes {truth.shape} and {prediction.shape}")
    wide = [ids for ids in (truth, prediction) if ids.dtype != np.uint8]
    if any(ids.size and not 0 <= ids.min() <= ids.max() <= 255 for ids in wide):
        counted = truth != ignored
        truth, prediction = truth[counted], prediction[counted]
        _refuse_unknown(truth, prediction, classes)
    counts = pair_counts(truth.astype(np.uint8, copy=False), prediction.astype(np.uint8, copy=False))
    if 0 <= ignored < len(counts):
        counts[ignored] = 0
    _refuse_unknown(np.flatnonzero(counts.any(1)), np.flatnonzero(counts.any(0)), classes)
    return counts[:classes, :classes]


def _refuse_unknown(truth: np.ndarray, prediction: np.ndarray, classes: int) -> None:
    """Raise ValueError for class ids that are not below `classes`."""
    for name, ids in (("truth", truth), ("prediction", prediction)):
        if ids.size and not 0 <= ids.min() <= ids.max() < classes:
            raise ValueError(f"the {name} has class ids {ids.min()} to {ids.max()}; there are {classes} classes")


def pair_counts(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pixels by the id in one map (row) and in another one (column), both H x W uint8: 256 x 256 int64.

    Pairs of ids are counted before anything is asked of them: that is cheaper than to look at every pixel."""
    counts = np.zeros(1 << 16, np.int64)
    first, second = a.reshape(-1), b.reshape(-1)
    for start in range(0, first.size, AT_A_TIME):
        part = slice(start, start + AT_A_TIME)
        counts += np.bincount((first[part].astype(np.uint16) << 8) | second[part], minlength=1 << 16)
    return counts.reshape(256, 256)


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
