"""Keypoints against a COCO JSON file: 17 (COCO), 133 by parts (COCO-WholeBody), 308 by parts (Goliath), or a user's own
by the groups of the job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sapiens_ray.errors import ConfigError
from sapiens_ray.evaluation.bootstrap import intervals
from sapiens_ray.evaluation.coco_scores import NAMES, PartScores, score_part
from sapiens_ray.evaluation.coco_truth import CocoTruth, read_coco
from sapiens_ray.evaluation.detections import MOST_PER_IMAGE, Detection, best, detections_of
from sapiens_ray.evaluation.keypoint_metrics import NMS_OKS
from sapiens_ray.evaluation.published import published_pose
from sapiens_ray.evaluation.request import Request
from sapiens_ray.evaluation.result import Images, Measured, Unit, metrics_of
from sapiens_ray.labels import KeypointTable, known_keypoints
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.confidence import SCORED
from sapiens_ray.tasks.stored import StoredPersons

RESAMPLES = 100  # each takes as long as a hundred of the other tasks
HANDS = ("left_hand", "right_hand")


def evaluate_pose(source: Folder, labels: StoredPersons, request: Request) -> Measured:
    """COCO's AP and AR of every part. Raises ConfigError for a wrong file, or if no image is in it."""
    names = labels.keypoint_names
    count, is_own = len(names), known_keypoints(names) is None
    table = replace(labels.table, sigmas=_sigmas(labels, request))
    truth = read_coco(request.ground_truth, count, request.storage_options, names if is_own else None)
    images, detections = _detections(source, labels, truth, request)
    suppress = request.oks_nms == "on" or (request.oks_nms == "auto" and _have_scores(detections))
    sigmas = np.array(table.sigmas)
    kept = {image: best(found, sigmas, suppress) for image, found in detections.items()}
    parts = _scores(table, truth, kept, request)

    def statistic(weights: np.ndarray) -> np.ndarray:
        return _with_hands({name: scores.resampled(weights) for name, scores in parts.items()})

    times = request.resamples(RESAMPLES)
    values = _with_hands({name: scores.values for name, scores in parts.items()})
    titles: list[tuple[str, str, Unit]] = [(part, name, "share") for part in _order(list(parts)) for name in NAMES]
    metrics = metrics_of(titles, values, intervals(statistic, len(kept), times, request.seed, request.progress))
    protocol: dict[str, Any] = {
        "keypoints": count, "oks_nms": NMS_OKS if suppress else None, "least_keypoint_score": SCORED,
        "detections_per_image": MOST_PER_IMAGE, "bootstrap": times, "seed": request.seed,
    }  # fmt: skip
    if is_own:
        protocol["sigmas"] = "of --sigmas" if request.sigmas else "of the job"
    metrics, notes = published_pose(source, labels, truth, images, suppress, metrics)
    return Measured(images, metrics, protocol, notes)


def _sigmas(labels: StoredPersons, request: Request) -> tuple[float, ...]:
    """COCO's constants for all keypoints. Raises ConfigError if they are not known."""
    count, column = len(labels.keypoint_names), labels.column
    given = request.sigmas
    if given and known_keypoints(labels.keypoint_names) is not None:
        raise ConfigError(f"--sigmas: those of the {count} keypoints of {column} are known; leave the option out")
    if given and len(given) not in (1, count):
        raise ConfigError(f"--sigmas: has {len(given)} numbers; give one for all keypoints of {column}, or {count}")
    sigmas = given * count if given and len(given) == 1 else given or tuple(labels.keypoint_sigmas)
    if not sigmas:
        raise ConfigError(
            f"--task {column}: AP needs the sigmas of its {count} keypoints, and the job gave none; add --sigmas "
            "with one number for all, such as 0.05, or one for each, separated by commas"
        )
    return sigmas


def _detections(
    source: Folder, labels: StoredPersons, truth: CocoTruth, request: Request
) -> tuple[Images, dict[int, list[Detection]]]:
    """The detections of every image that has a row and is in the ground truth; none for error rows."""
    images = Images()
    found: dict[int, list[Detection]] = {}
    for row in request.rows(source, ["image_id", "error_kind", labels.column]):
        images.rows += 1
        images.error_rows += row["error_kind"] is not None
        image = truth.image_of(row["image_id"])
        if image is None:
            images.has_no_truth(row["image_id"])
        else:
            images.error_rows_with_truth += row["error_kind"] is not None
            found[image] = detections_of(labels.persons(row))
    images.evaluated = len(found)
    images.have_no_row(truth.unused)
    if not found:
        theirs = next(iter(truth.images), "(none)")
        ours = (images.without_truth_examples or ["(none)"])[0]
        raise ConfigError(
            f"--ground-truth {truth.uri}: none of its images is in the output: there they are called like {ours}, in "
            f"the file like {theirs}"
        )
    return images, found


def _have_scores(detections: dict[int, list[Detection]]) -> bool:
    return any(one.boxed for found in detections.values() for one in found)


def _scores(
    table: KeypointTable, truth: CocoTruth, kept: dict[int, list[Detection]], request: Request
) -> dict[str, PartScores]:
    """The scores of each part, and of the whole if there are several parts."""
    groups = np.array(table.groups)
    parts: dict[str, slice | np.ndarray] = {name: np.flatnonzero(groups == name) for name in dict.fromkeys(groups)}
    if len(parts) > 1:
        parts["whole"] = slice(None)
    images, sigmas = sorted(kept), np.array(table.sigmas)
    body = np.flatnonzero(groups == "body")
    body = body if body.size else np.arange(len(groups))  # faces or hands alone
    scores = {}
    for number, (name, part) in enumerate(parts.items()):
        request.progress("parts of the body scored", number, len(parts))
        scores[str(name)] = score_part(images, truth.persons, kept, part, body, sigmas)
    return scores


def _order(parts: list[str]) -> list[str]:
    """The parts, with `hands` before `whole` if there are both hands."""
    return [*parts[:-1], "hands", parts[-1]] if set(HANDS) <= set(parts) else parts


def _with_hands(values: dict[str, np.ndarray]) -> np.ndarray:
    """The numbers of all parts in one row. Those of `hands` are the means of both hands: COCO-WholeBody's evaluation
    has none of its own."""
    order = _order(list(values))
    if "hands" in order:
        values = {**values, "hands": (values[HANDS[0]] + values[HANDS[1]]) / 2}
    return np.concatenate([values[part] for part in order])
