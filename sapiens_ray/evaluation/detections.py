"""The persons of an output as detections: scored, and without those that are similar to better ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sapiens_ray.evaluation.keypoint_metrics import oks_nms
from sapiens_ray.tasks.crops import trained_geometry
from sapiens_ray.units import Row

MOST_PER_IMAGE = 20  # COCO counts only the best twenty of each image


@dataclass(frozen=True)
class Detection:
    """One person. keypoints: K x 2 float64, pixels. score: of the person. boxed: whether its box had a score."""

    keypoints: np.ndarray
    score: float
    crop_area: float
    boxed: bool


def detections_of(persons: Sequence[Row]) -> list[Detection]:
    """The persons of a row (`StoredPersons.persons`), in its order.

    The area is that of the crop: in OKS-NMS, the published evaluation measures distances by the box after padding.
    """
    found = []
    for person in persons:
        crop = trained_geometry(np.array(person["box"], np.float64))
        keypoints = np.array(person["keypoints"], np.float64).reshape(-1, 2)
        found.append(
            Detection(keypoints, person["score"], float(crop.width * crop.height), person["box_score"] is not None)
        )
    return found


def best(found: Sequence[Detection], sigmas: np.ndarray, suppress: bool) -> list[Detection]:
    """The best MOST_PER_IMAGE detections of an image, best first. suppress: whether OKS-NMS comes before."""
    if not found:
        return []
    scores = np.array([one.score for one in found])
    if suppress:
        areas = np.array([one.crop_area for one in found])
        order = oks_nms(np.stack([one.keypoints for one in found]), scores, areas, sigmas)
    else:
        order = [int(place) for place in np.argsort(-scores, kind="stable")]
    return [found[place] for place in order[:MOST_PER_IMAGE]]
