"""How sure a model is: numbers by which labels can be ranked and filtered.

They rank images and persons; they are no probabilities that a label is right. Softmax is over-confident, and the peaks
of heatmaps are not scaled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sapiens_ray.units import Row

if TYPE_CHECKING:
    import torch

LOW_QUANTILE = 0.05  # means hide a small part of a person that is wrong
SCORED = 0.2  # a person's score is the mean of the keypoints above it, as where pose models are evaluated
VISIBLE = 0.3  # Sapiens-Lite draws keypoints from here on


def largest_probability(logits: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """The softmax probability of the most likely class of each cell, h x w float32.

    logits: C x h x w float32. largest: their maximum over the classes, h x w. It is 1 / sum over c of
    exp(logit c - largest logit).
    """
    if not logits.is_cpu:
        return (logits - largest).exp_().sum(0).reciprocal_()
    # One class at a time stays in the cache. In numpy: torch would share each short step among all cores.
    import torch

    highest = largest.numpy()
    total, share = np.zeros_like(highest), np.empty_like(highest)
    for plane in logits.numpy():
        np.subtract(plane, highest, out=share)
        np.exp(share, out=share)
        total += share
    return torch.from_numpy(np.reciprocal(total, out=total))


def of_class_map(
    column: str, probability: np.ndarray, cells: np.ndarray, present: np.ndarray, background: int = 0
) -> Row:
    """The columns of a class map, taken over the cells of the network.

    probability: h x w float32, of the class of each cell. cells: h x w uint8, that class; all but `background` are
    foreground.
    present: the classes of the map at the size of the photo. Between cells a class may win that wins in none of them:
    its mean is None.

    `<column>_confidence`: mean over the foreground; `<column>_confidence_p05`: its 5 % quantile; both None without
    foreground. `<column>_class_confidence`: mean over the cells of each present class.
    """
    flat, classes = probability.reshape(-1), cells.reshape(-1)
    counts = np.bincount(classes, minlength=256)
    sums = np.bincount(classes, weights=flat, minlength=256)
    of_foreground = flat[classes != background]
    found = of_foreground.size > 0
    return {
        f"{column}_confidence": float(np.delete(sums, background).sum() / of_foreground.size) if found else None,
        f"{column}_confidence_p05": float(np.quantile(of_foreground, LOW_QUANTILE)) if found else None,
        f"{column}_class_confidence": [
            float(sums[number] / counts[number]) if counts[number] else None for number in present
        ],
    }


def of_person(scores: np.ndarray, box_score: float | None) -> Row:
    """`score` and `visible` of a person.

    scores: of the K keypoints, float32. box_score: None if the box has none. `score` is the mean of the keypoint scores
    above 0.2, times the score of the box, by which the evaluation of pose models ranks persons; 0 if no keypoint has
    so much. `visible` counts the keypoints with a score of 0.3 or more.
    """
    counted = scores[scores > np.float32(SCORED)]
    mean = float(counted.mean(dtype=np.float64)) if counted.size else 0.0
    return {
        "score": mean * (1.0 if box_score is None else box_score),
        "visible": int((scores >= np.float32(VISIBLE)).sum()),
    }


def mean_length(vectors: np.ndarray, foreground: np.ndarray | None) -> float | None:
    """The mean length of h x w x 3 float32 vectors over the foreground, h x w bool (None: everywhere). None if there is
    no foreground. The network is trained on vectors of length 1, and gives short ones where it is not sure."""
    lengths = np.sqrt(np.einsum("ijk,ijk->ij", vectors, vectors))
    chosen = lengths if foreground is None else lengths[foreground]
    return float(chosen.mean(dtype=np.float64)) if chosen.size else None
