"""From what the job says about a model to its checkpoint: found, hashed, and seen to fit. Imports torch if it must."""

from __future__ import annotations

from sapiens_ray.models.checkpoint import Checkpoint, field_named, format_of, resolve, resolve_hub, resolve_weights
from sapiens_ray.storage import StorageOptions
from sapiens_ray.tasks.options import ModelOptions
from sapiens_ray.tasks.persons import DetectorOptions


def resolve_model(options: ModelOptions, where: str, storage_options: StorageOptions) -> Checkpoint:
    """Find the checkpoint of a task, and see from the names in it that it fits. Raises CheckpointError."""
    checkpoint, path = resolve(options.checkpoint, options.sha256, where, storage_options, options.mode)
    if format_of(path) != "torchscript":  # its names cannot be read without loading it
        from sapiens_ray.models.loading import refuse_unfit  # torch

        with field_named(where):
            refuse_unfit(path, options)
    return checkpoint


def resolve_detector(options: DetectorOptions, storage_options: StorageOptions) -> Checkpoint:
    """Find a detector's weights. Raises CheckpointError."""
    where = "tasks[].boxes.detector"
    if options.model == "torchscript":
        return resolve_weights(str(options.checkpoint), options.sha256, f"{where}.checkpoint", storage_options, True)
    from sapiens_ray.models.detectors import check_name, weights_url  # torch, only where a detector is wanted

    with field_named(f"{where}.model"):
        check_name(options.model)
    if options.checkpoint is not None:
        return resolve_weights(options.checkpoint, options.sha256, f"{where}.checkpoint", storage_options, False)
    with field_named(f"{where}.checkpoint"):
        return resolve_hub(weights_url(options.model), options.sha256, where)
