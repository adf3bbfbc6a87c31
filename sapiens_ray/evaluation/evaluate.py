"""Evaluate one task of an output."""

from __future__ import annotations

from sapiens_ray.errors import ConfigError
from sapiens_ray.evaluation.depth import evaluate_depth
from sapiens_ray.evaluation.normals import evaluate_normals
from sapiens_ray.evaluation.pose import evaluate_pose
from sapiens_ray.evaluation.published import NOT_REPRODUCIBLE
from sapiens_ray.evaluation.request import Request
from sapiens_ray.evaluation.result import Evaluation, Measured
from sapiens_ray.evaluation.segmentation import evaluate_segmentation
from sapiens_ray.output.reading import labels_of
from sapiens_ray.storage import Folder
from sapiens_ray.storage.uris import absolute, redact_uri
from sapiens_ray.tasks.depth import StoredDepth
from sapiens_ray.tasks.normal import StoredNormal
from sapiens_ray.tasks.stored import StoredClassMap, StoredLabels, StoredPersons


def evaluate(source: Folder, request: Request) -> Evaluation:
    """Compare a column of an output folder with ground truth; see docs/evaluate.md for the formulas and rules.

    Reads the rows as a stream, and files of the ground truth one at a time. Raises OutputError if there are no labels,
    ConfigError if there is no such column or the ground truth cannot be used, StorageError if a storage does not
    answer.
    """
    labels = _labels(source, request.column)
    _refuse_other_options(labels, request)
    found = _measure(source, labels, request)
    notes = found.notes if isinstance(labels, StoredPersons) else [*found.notes, NOT_REPRODUCIBLE]
    return Evaluation(
        output=redact_uri(absolute(source.uri)),
        ground_truth=redact_uri(absolute(request.ground_truth)),
        column=labels.column,
        kind=labels.kind,
        images=found.images,
        protocol=found.protocol,
        metrics=found.metrics,
        classes=found.classes,
        notes=notes,
    )


def _measure(source: Folder, labels: StoredLabels, request: Request) -> Measured:
    if isinstance(labels, StoredClassMap):
        return evaluate_segmentation(source, labels, request)
    if isinstance(labels, StoredPersons):
        return evaluate_pose(source, labels, request)
    if isinstance(labels, StoredDepth):
        return evaluate_depth(source, labels, request)
    if isinstance(labels, StoredNormal):
        return evaluate_normals(source, labels, request)
    raise ConfigError(f"--task {labels.column}: {labels.kind} has no ground truth to compare with")


def _labels(source: Folder, column: str) -> StoredLabels:
    """The labels of the column. Raises ConfigError, which lists the columns, if there are none."""
    every = {labels.column: labels for labels in labels_of(source)}
    if column not in every:
        raise ConfigError(f"--task {column}: {source.uri} has no such task; its tasks are {', '.join(every)}")
    return every[column]


def _refuse_other_options(labels: StoredLabels, request: Request) -> None:
    """Raise ConfigError for options that mean nothing for this task."""
    if request.mask is not None and not isinstance(labels, StoredDepth | StoredNormal):
        raise ConfigError(f"--mask: is for depth and normals; {labels.column} is {labels.kind}")
    if request.oks_nms != "auto" and not isinstance(labels, StoredPersons):
        raise ConfigError(f"--oks-nms: is for keypoints; {labels.column} is {labels.kind}")
    if request.sigmas is not None and not isinstance(labels, StoredPersons):
        raise ConfigError(f"--sigmas: is for keypoints; {labels.column} is {labels.kind}")
