"""The models of a job: what is known of each before it is loaded, and the order in which they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sapiens_ray.engine.assemble import Contents
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.errors import ConfigError
from sapiens_ray.job.config import Job
from sapiens_ray.models.checkpoint import Checkpoint
from sapiens_ray.models.resolving import resolve_detector, resolve_model
from sapiens_ray.tasks import AnyTask, make_task
from sapiens_ray.tasks.options import ModelOptions
from sapiens_ray.tasks.persons import DetectorOptions
from sapiens_ray.units import PHOTO

if TYPE_CHECKING:
    from sapiens_ray.engine.loaded import LoadedModel


@dataclass(frozen=True)
class TaskModel:
    """The model of a task."""

    task: AnyTask
    checkpoint: Checkpoint

    @classmethod
    def of(cls, options: ModelOptions, checkpoint: Checkpoint) -> TaskModel:
        return cls(make_task(options.with_recipe(checkpoint.recipe)), checkpoint)

    @property
    def options(self) -> ModelOptions:
        options: ModelOptions = self.task.options
        return options

    @property
    def column(self) -> str:
        return self.task.column

    @property
    def record_name(self) -> str:
        """Name of the model in the metadata of output files."""
        return self.column

    @property
    def input_kind(self) -> str:
        return self.task.input_kind

    @property
    def needs(self) -> tuple[str, ...]:
        return self.task.needs

    @property
    def makes(self) -> tuple[str, ...]:
        """The columns of the unit that this model adds, which other models may need."""
        return tuple(field.name for field in self.task.fields)

    def load(self, host: ModelHost) -> LoadedModel:
        """Load the model in this process. Raises CheckpointError."""
        from sapiens_ray.engine.loaded import LoadedTask

        return LoadedTask(self.task, self.checkpoint, host)


@dataclass(frozen=True)
class DetectorModel:
    """A person detector."""

    options: DetectorOptions
    checkpoint: Checkpoint

    @property
    def column(self) -> str:
        return self.options.column

    @property
    def record_name(self) -> str:
        """Name of the model in the metadata of output files."""
        return self.options.key

    @property
    def input_kind(self) -> str:
        return PHOTO

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @property
    def makes(self) -> tuple[str, ...]:
        """The columns of the unit that this model adds, which other models may need."""
        return (self.options.carried,)

    def load(self, host: ModelHost) -> LoadedModel:
        """Load the model in this process. Raises CheckpointError."""
        from sapiens_ray.engine.loaded import LoadedDetector

        return LoadedDetector(self.options, self.checkpoint, host)


PreparedModel = TaskModel | DetectorModel


def resolve_models(job: Job, download: bool = True) -> list[PreparedModel]:
    """The models of a job with their checkpoints: the tasks, then the detectors. Raises ConfigError.

    download: if not, checkpoints that are not on this machine stay there, and are not checked.
    """
    options, entries, count = job.input.storage_options, job.entries, len(job.tasks)
    tasks = [
        TaskModel.of(task, resolve_model(task, f"{entry}.checkpoint", options, download))
        for task, entry in zip(job.tasks, entries[:count], strict=True)
    ]
    detectors = [
        DetectorModel(one, resolve_detector(one, entry, options, download))
        for one, entry in zip(job.detectors, entries[count:], strict=True)
    ]
    models: list[PreparedModel] = [*tasks, *detectors]
    refuse_missing_columns(models, Contents.of(job).columns)
    return models


def with_recipes(job: Job, models: Sequence[PreparedModel]) -> Job:
    """The job, whose tasks know what their checkpoints say of themselves."""
    return job.model_copy(update={"tasks": [model.options for model in models if isinstance(model, TaskModel)]})


def in_order(models: Sequence[PreparedModel]) -> list[PreparedModel]:
    """The order in which the models run: every model after those that make the columns it needs.

    If several orders are possible, models that take whole photos and the models they depend on come first: photos are
    the largest part of a unit, and are dropped after the last of these models.
    """
    waiting = list(models)
    ordered: list[PreparedModel] = []
    while waiting:
        ready = _ready(waiting)
        if not ready:
            raise _circle(waiting)
        ordered.append(min(ready, key=lambda model: _rank(model, waiting)))
        waiting.remove(ordered[-1])
    return ordered


def refuse_missing_columns(models: Sequence[PreparedModel], given: Sequence[str]) -> None:
    """Raise ConfigError for a model that needs a column that nothing makes.

    given: the columns that a unit has before it meets a model, beside width and height.
    """
    made = {"width", "height", *given, *(column for model in models for column in model.makes)}
    for model in models:
        for column in model.needs:
            if column not in made:
                raise ConfigError(f"tasks: {model.column} needs column {column!r}, which nothing else in the job makes")


def _rank(model: PreparedModel, waiting: Sequence[PreparedModel]) -> int:
    """0 for a model that takes whole photos, 1 for a model that one of these depends on, 2 for others."""
    if model.input_kind == PHOTO:
        return 0
    others = [other for other in waiting if other is not model]
    return 1 if any({*model.makes} & {*other.needs} and _rank(other, others) < 2 for other in others) else 2


def in_pools(models: Sequence[PreparedModel], apart: bool = False) -> list[list[PreparedModel]]:
    """The models of each actor pool, in the order in which a unit meets them.

    Models share a pool, in one process per actor. A model has its own if its options name actors or GPUs, and all have
    with `apart`. If such a model stands between two that share, because one needs what it makes and it needs what the
    other makes, those two are in different pools.
    """
    waiting = list(models)
    pools: list[list[PreparedModel]] = []
    while waiting:
        shared: list[PreparedModel] = []
        while ready := [one for one in _ready(waiting) if not (apart or one.options.has_own_pool)]:
            shared += ready
            waiting = [one for one in waiting if one not in ready]
        if shared:
            pools.append(in_order(shared))
        elif own := _ready(waiting):
            first = min(own, key=lambda model: _rank(model, waiting))
            pools.append([first])
            waiting.remove(first)
        else:
            raise _circle(waiting)
    return pools


def _ready(waiting: Sequence[PreparedModel]) -> list[PreparedModel]:
    """Those of the models that need nothing that another one makes."""
    missing = {column for model in waiting for column in model.makes}
    return [model for model in waiting if not missing & set(model.needs)]


def _circle(waiting: Sequence[PreparedModel]) -> ConfigError:
    return ConfigError(f"tasks: {', '.join(model.column for model in waiting)} need each other's columns")
