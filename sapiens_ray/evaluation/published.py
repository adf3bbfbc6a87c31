"""What Meta published for the models of the catalogue, where public data and a known protocol allow a comparison.

Source: github.com/facebookresearch/sapiens, docs/evaluate/POSE_README.md, and the names of the checkpoint files.
Numbers of Humans-5K, Humans-2K and Goliath cannot be compared: these are not public. Those of Hi4D and THuman2.0
(depth, normals) neither: the renderings and the alignment are not published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sapiens_ray.errors import OutputError
from sapiens_ray.evaluation.coco_truth import CocoTruth
from sapiens_ray.evaluation.result import Images, Metric
from sapiens_ray.labels import known_keypoints
from sapiens_ray.models.catalogue import CATALOGUE
from sapiens_ray.output.reading import labels_of
from sapiens_ray.output.record import read_record
from sapiens_ray.output.summary import counted
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.stored import StoredPersons

Scores = Mapping[tuple[str, str], float]  # (part, metric) -> share

VAL2017_IMAGES = 5000
VAL2017_PERSONS = 6352  # of person_keypoints_val2017.json: no crowds, with labelled keypoints
PUBLISHED_MODES = ("float32", "torchscript")
VAL2017_BOXES = "COCO_val2017_detections_AP_H_70_person.json"


def _body(ap: float, ar: float) -> Scores:
    return {("body", "AP"): ap, ("body", "AR"): ar}


def _wholebody(whole: float, recall: float, body: float, feet: float, face: float, hands: float) -> Scores:
    return {
        ("whole", "AP"): whole, ("whole", "AR"): recall, ("body", "AP"): body, ("feet", "AP"): feet,
        ("face", "AP"): face, ("hands", "AP"): hands,
    }  # fmt: skip


PUBLISHED: Mapping[str, Scores] = {
    "pose17-0.3b": _body(0.796, 0.836),
    "pose17-0.6b": _body(0.812, 0.849),
    "pose17-1b": _body(0.821, 0.859),
    "pose17-2b": _body(0.822, 0.860),
    "pose133-0.3b": _wholebody(0.620, 0.694, 0.664, 0.673, 0.871, 0.581),
    "pose133-0.6b": _wholebody(0.695, 0.763, 0.743, 0.794, 0.895, 0.654),
    "pose133-1b": _wholebody(0.727, 0.792, 0.774, 0.830, 0.907, 0.692),
    "pose133-2b": _wholebody(0.744, 0.810, 0.792, 0.841, 0.912, 0.704),
}
NOT_REPRODUCIBLE = "no published number can be reproduced with public data for this task"


def published_pose(
    source: Folder, labels: StoredPersons, truth: CocoTruth, images: Images, suppressed: bool, metrics: Sequence[Metric]
) -> tuple[list[Metric], list[str]]:
    """The metrics with the published numbers beside them where model, data and protocol agree, and notes that say why
    there are none where they do not."""
    if known_keypoints(labels.keypoint_names) is None:
        return list(metrics), ["no number is published for keypoints of your own"]
    if len(labels.keypoint_names) == 308:
        return list(metrics), [f"{NOT_REPRODUCIBLE}: Goliath and Humans-5K are not public"]
    settings = task_settings(source, labels.column)
    model = catalogue_name(settings)
    if model not in PUBLISHED:
        return list(metrics), ["the job does not name a checkpoint of the catalogue: no published number is shown"]
    numbers = PUBLISHED[model]
    reasons = [*_other_data(truth, images), *_other_protocol(settings, suppressed)]
    if reasons:
        shown = ", ".join(f"{part} {name} {value:.3f}" for (part, name), value in numbers.items())
        return list(metrics), [f"published for {model}: {shown}; not comparable: {'; '.join(reasons)}"]
    return [replace(one, published=numbers.get((one.part, one.name))) for one in metrics], []


def task_settings(source: Folder, column: str) -> Mapping[str, Any]:
    """The settings of the task with this column in `job.yaml`; empty if nothing tells them."""
    try:
        record = read_record(source)
    except OutputError:  # a file of something else
        return {}
    tasks = record["job"].get("tasks", []) if record else []
    columns = [labels.column for labels in labels_of(source)]  # in the order of the tasks
    return tasks[columns.index(column)] if len(tasks) == len(columns) else {}


def catalogue_name(settings: Mapping[str, Any]) -> str:
    """The name in the catalogue of the checkpoint of a task, also if the job gives the path of the published file;
    empty if it is not of the catalogue."""
    checkpoint = str(settings.get("checkpoint") or "")
    file = checkpoint.rpartition("/")[2]
    if checkpoint in CATALOGUE:
        return checkpoint
    return next((one.name for one in CATALOGUE.values() if file.startswith(one.stem)), "")


def _other_data(truth: CocoTruth, images: Images) -> list[str]:
    reasons = []
    if (len(truth.images), truth.labelled_persons) != (VAL2017_IMAGES, VAL2017_PERSONS):
        reasons.append(
            f"the ground truth has {len(truth.images)} images and {truth.labelled_persons} persons, val2017 "
            f"{VAL2017_IMAGES} and {VAL2017_PERSONS}"
        )
    if images.truth_without_row:
        reasons.append(f"{images.truth_without_row} images of the ground truth have no row")
    if images.error_rows_with_truth:
        reasons.append(f"{counted(images.error_rows_with_truth, 'error row')}, where nobody is found")
    return reasons


def _other_protocol(settings: Mapping[str, Any], suppressed: bool) -> list[str]:
    reasons = []
    if settings.get("mode") not in PUBLISHED_MODES:
        reasons.append(f"mode is {settings.get('mode')}")
    if str(settings.get("checkpoint")).endswith("_bfloat16.pt2"):
        reasons.append("the weights in the checkpoint are bfloat16")
    if not _are_published(settings.get("boxes")):
        reasons.append(f"the boxes are not all those of {VAL2017_BOXES}")
    if not settings.get("flip_test"):
        reasons.append("flip_test is off")
    if settings.get("crop") != "trained":
        reasons.append("crop is not trained")
    if not suppressed:
        reasons.append("OKS-NMS is off")
    return reasons


def _are_published(boxes: Any) -> bool:
    """Whether the boxes of a task are all those of VAL2017_BOXES. boxes: as in `job.yaml`."""
    coco = boxes.get("coco") if isinstance(boxes, Mapping) else None
    if not isinstance(coco, Mapping):
        coco = {"file": coco}
    file = str(coco.get("file") or coco.get("detections"))
    return file.rpartition("/")[2] == VAL2017_BOXES and not coco.get("min_score")
