"""COCO's average precision and recall for images that count several times, as bootstrap resamples need it.

pycocotools matches detections to persons per image (`evalImgs`); only its accumulation over images is repeated here,
in numpy. For the same list of images it equals `COCOeval.accumulate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RECALLS = np.linspace(0, 1, 101)
ImageResult = Mapping[str, Any]  # an element of `COCOeval.evalImgs`


@dataclass(frozen=True)
class Matches:
    """The detections of all images in one range of areas, best first.

    image: N, the position of its image. true, false: T x N bool, whether it is a true or a false positive at each of
    the T thresholds; neither if it is ignored. persons: per image, how many persons there are to be found.
    """

    image: np.ndarray
    true: np.ndarray
    false: np.ndarray
    persons: np.ndarray

    @classmethod
    def of(cls, results: Sequence[ImageResult | None]) -> Matches:
        """From the elements of `evalImgs` in one range of areas, one per image, in the order of the images."""
        known = [(number, one) for number, one in enumerate(results) if one is not None]
        persons = np.zeros(len(results), np.int64)
        for number, one in known:
            persons[number] = np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)
        scores = np.concatenate([np.asarray(one["dtScores"], np.float64) for _, one in known] or [np.empty(0)])
        order = np.argsort(-scores, kind="mergesort")  # stable, as in pycocotools
        image = np.repeat([number for number, _ in known], [len(one["dtScores"]) for _, one in known]).astype(np.int64)
        if not known:
            return cls(image, np.empty((0, 0), bool), np.empty((0, 0), bool), persons)
        matched = np.concatenate([np.asarray(one["dtMatches"]) != 0 for _, one in known], 1)[:, order]
        counted = np.concatenate([~np.asarray(one["dtIgnore"], bool) for _, one in known], 1)[:, order]
        return cls(image[order], matched & counted, ~matched & counted, persons)

    def precision_and_recall(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Average precision over RECALLS and the largest recall, T float64 each, where image i counts weights[i] times.

        NaN if there is nobody to be found.
        """
        thresholds = self.true.shape[0]
        persons = int(weights @ self.persons)
        if persons == 0:
            return np.full(thresholds, np.nan), np.full(thresholds, np.nan)
        times = weights[self.image]
        found = np.cumsum(self.true * times, axis=1, dtype=np.float64)
        wrong = np.cumsum(self.false * times, axis=1, dtype=np.float64)
        recall = found / persons
        precision = found / (found + wrong + np.spacing(1))
        # The precision at a recall is the best one at this recall or a higher one.
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        average = np.zeros(thresholds)
        for number in range(thresholds):
            places = np.searchsorted(recall[number], RECALLS, side="left")
            reached = places[places < recall.shape[1]]  # a recall that is never reached has precision 0
            average[number] = envelope[number, reached].sum() / len(RECALLS)
        return average, recall[:, -1] if recall.shape[1] else np.zeros(thresholds)
