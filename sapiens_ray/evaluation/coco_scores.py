"""COCO's keypoint scores, by pycocotools, for all keypoints or some of them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sapiens_ray.evaluation.average_precision import Matches
from sapiens_ray.evaluation.coco_truth import Person
from sapiens_ray.evaluation.detections import Detection

NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")  # as COCO prints them
ALL, MEDIUM, LARGE = range(3)  # areas: all, 32^2 to 96^2, from 96^2 on
AT_50, AT_75 = 0, 5  # of the thresholds 0.5, 0.55, ... 0.95


@dataclass(frozen=True)
class PartScores:
    """The scores of one part. values: one for each of NAMES, float64, NaN where nobody is to be found. matches: per
    range of areas, for resampling."""

    values: np.ndarray
    matches: list[Matches]

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        """`values` if image i of the evaluation counts weights[i] times."""
        tables = [matches.precision_and_recall(weights) for matches in self.matches]
        return np.concatenate([_of_areas([table[kind] for table in tables]) for kind in (0, 1)])


def _of_areas(by_area: Sequence[np.ndarray]) -> np.ndarray:
    every, medium, large = by_area
    if not every.size:
        return np.full(5, np.nan)
    return np.array([every.mean(), every[AT_50], every[AT_75], _mean(medium), _mean(large)])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def score_part(
    images: Sequence[int],
    persons: Sequence[Person],
    detections: Mapping[int, Sequence[Detection]],
    part: slice | np.ndarray,
    body: np.ndarray,
    sigmas: np.ndarray,
) -> PartScores:
    """Evaluate some of the keypoints.

    images: their ids in the ground truth; `resampled` has their order sorted by id. part: which keypoints count.
    body: those whose extent is the area of a detection, which decides only whether a false positive is medium or large.
    sigmas: of all keypoints.
    """
    from pycocotools.cocoeval import COCOeval

    chosen = set(images)
    truth = [_annotation(number, one, part) for number, one in enumerate(
        (person for person in persons if person.image in chosen), 1)]  # fmt: skip
    found = [_result(image, one, part, body) for image in images for one in detections.get(image, ())]
    for number, result in enumerate(found, 1):
        result["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports by printing
        evaluation = COCOeval(_dataset(images, truth), _dataset(images, found), "keypoints")
        evaluation.params.kpt_oks_sigmas = sigmas[part]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = np.array(evaluation.stats, np.float64)
    values[values < 0] = np.nan
    by_area = np.array(evaluation.evalImgs, object).reshape(3, len(images))
    return PartScores(values, [Matches.of(list(row)) for row in by_area])


def _dataset(images: Sequence[int], annotations: list[dict[str, Any]]) -> Any:
    """A pycocotools COCO object."""
    from pycocotools.coco import COCO

    dataset = COCO()
    dataset.dataset = {
        "images": [{"id": image} for image in images], "categories": [{"id": 1, "name": "person"}],
        "annotations": annotations,
    }  # fmt: skip
    dataset.createIndex()
    return dataset


def _annotation(number: int, person: Person, part: slice | np.ndarray) -> dict[str, Any]:
    keypoints = person.keypoints[part]
    return {
        "id": number,
        "image_id": person.image,
        "category_id": 1,
        "iscrowd": int(person.crowd),
        "bbox": person.box,
        "area": person.area,
        "keypoints": keypoints.reshape(-1),
        "num_keypoints": int(np.count_nonzero(keypoints[:, 2] > 0)),  # with 0, the person is ignored in this part
    }


def _result(image: int, detection: Detection, part: slice | np.ndarray, body: np.ndarray) -> dict[str, Any]:
    keypoints = np.ones((len(detection.keypoints[part]), 3))
    keypoints[:, :2] = detection.keypoints[part]
    extent = np.ptp(detection.keypoints[body], axis=0)
    return {
        "image_id": image,
        "category_id": 1,
        "keypoints": keypoints.reshape(-1),
        "score": detection.score,
        "area": float(extent[0] * extent[1]),
    }
