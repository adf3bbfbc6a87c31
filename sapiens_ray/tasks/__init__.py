"""Tasks: the input of each network, and how its output is reduced, drawn and stored. One module per task."""

from __future__ import annotations

from sapiens_ray.registry import Registry
from sapiens_ray.tasks.base import AnyTask, CropTask, Task, TaskKind
from sapiens_ray.tasks.options import ModelOptions
from sapiens_ray.tasks.stored import About, StoredLabels

__all__ = ["TASKS", "AnyTask", "CropTask", "StoredLabels", "Task", "TaskKind", "make_task", "stored_labels"]

TASKS: Registry[TaskKind] = Registry(
    "sapiens_ray.tasks",
    TaskKind,
    {
        "seg": "sapiens_ray.tasks.seg:TASK",
        "depth": "sapiens_ray.tasks.depth:TASK",
        "normal": "sapiens_ray.tasks.normal:TASK",
        "pose": "sapiens_ray.tasks.pose:TASK",
        "features": "sapiens_ray.tasks.features:TASK",
        "pointmap": "sapiens_ray.tasks.pointmap:TASK",
        "matting": "sapiens_ray.tasks.matting:TASK",
    },
)


def make_task(options: ModelOptions) -> AnyTask:
    """The task that these options configure, for the recipe of their checkpoint."""
    kind = TASKS[options.task]
    return kind.recipes.get(options.recipe.name, kind.task)(options)


def stored_labels(column: str, about: About) -> StoredLabels:
    """The stored labels of a task. If the task is not installed here, they have no maps and no files."""
    kind = TASKS.get(about["task"])
    return kind.stored(column, about) if kind else StoredLabels(column, about)
