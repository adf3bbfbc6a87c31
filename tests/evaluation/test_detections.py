"""Persons of a row as detections."""

from __future__ import annotations

import numpy as np
import pytest

from sapiens_ray.evaluation.detections import Detection, best, detections_of
from sapiens_ray.labels import keypoints

SIGMAS = np.array(keypoints(17).sigmas)


def test_score_and_area_by_hand():
    row = {
        "box": [10.0, 20, 40, 100], "box_score": 0.5, "keypoints": [[1.0, 2]] * 17, "scores": [0.9, 0.5] + [0.1] * 15,
        "score": 0.35,
    }  # fmt: skip
    (found,) = detections_of([row])
    assert found.score == pytest.approx(0.35) and found.boxed
    # 30 x 80, padded to 37.5 x 100, grown to 75 x 100.
    assert found.crop_area == pytest.approx(7500)
    assert found.keypoints.tolist() == [[1, 2]] * 17
    assert not detections_of([{**row, "box_score": None}])[0].boxed


def test_the_padded_area_decides_what_is_a_double():
    """Moved by d, every keypoint has exp(-d^2 / (8 sigma^2 area)): the area at which the mean is 0.9 lies between."""
    moved = np.tile([55.0, 50], (17, 1))

    def kept(area: float) -> int:
        pair = [Detection(np.full((17, 2), 50.0), 0.9, area, True), Detection(moved, 0.8, area, True)]
        return len(best(pair, SIGMAS, suppress=True))

    def similarity(area: float) -> float:
        return float(np.mean(np.exp(-25 / (8 * SIGMAS**2 * area))))

    assert similarity(7500) < 0.9 < similarity(30000)
    assert (kept(7500), kept(30000)) == (2, 1)


def test_the_best_twenty_are_kept_in_order():
    scores = np.random.default_rng(0).permutation(30) / 30
    found = [Detection(np.full((17, 2), 1000.0 * place), score, 100, False) for place, score in enumerate(scores)]
    for suppress in (False, True):
        assert [one.score for one in best(found, SIGMAS, suppress)] == sorted(scores, reverse=True)[:20]
    assert best([], SIGMAS, suppress=True) == []
