"""From the options of a model to its checkpoint: find it, hash it, check that it fits. Imports torch only if needed."""

from __future__ import annotations

from dataclasses import replace

from sapiens_ray.errors import CheckpointError
from sapiens_ray.models.catalogue import file_mode, is_name, refuse_other_kind
from sapiens_ray.models.checkpoint import Checkpoint, field_named, format_of, resolve, resolve_hub, resolve_weights
from sapiens_ray.models.repositories import resolve_folder
from sapiens_ray.storage import StorageOptions
from sapiens_ray.tasks.options import ModelOptions
from sapiens_ray.tasks.persons import DetectorOptions


def resolve_model(
    options: ModelOptions, where: str, storage_options: StorageOptions, download: bool = True
) -> Checkpoint:
    """Find the checkpoint of a task, and check from its tensor names that it fits. Raises CheckpointError.

    download: if not, a file that is not on this machine is not checked (see `Checkpoint.is_here`).
    """
    if is_name(options.checkpoint) and options.published_kind is not None:
        with field_named(where):
            refuse_other_kind(options.checkpoint, options.published_kind)
    mode = file_mode(options.mode)
    checkpoint, path = resolve(options.checkpoint, options.sha256, where, storage_options, mode, download)
    if path is not None and format_of(path) != "torchscript":  # TorchScript is checked when it is loaded
        from sapiens_ray.models.loading import recipe_of, refuse_unfit  # torch

        with field_named(where):
            try:
                options = options.with_recipe(recipe_of(path))
            except ValueError as error:
                raise CheckpointError(f"{path}: {error}") from None
            refuse_unfit(path, options)
        return replace(checkpoint, recipe=options.recipe)
    return checkpoint


def resolve_detector(
    options: DetectorOptions, where: str, storage_options: StorageOptions, download: bool = True
) -> Checkpoint:
    """Find a detector's weights, see `resolve_model`. where: its section of the job file, for messages."""
    if options.of_transformers:
        return resolve_folder(options, where, storage_options, download)
    if options.model == "torchscript":
        return resolve_weights(
            str(options.checkpoint), options.sha256, f"{where}.checkpoint", storage_options, True, download
        )
    from sapiens_ray.models.detectors import check_name, weights_url  # torch, only if there is a detector

    with field_named(f"{where}.model"):
        check_name(options.model)
    if options.checkpoint is not None:
        return resolve_weights(
            options.checkpoint, options.sha256, f"{where}.checkpoint", storage_options, False, download
        )
    return resolve_hub(weights_url(options.model), options.sha256, f"{where}.checkpoint", download)
