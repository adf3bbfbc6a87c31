"""Tasks: what the network sees, what becomes of its output, how it looks, and how it is stored. One module per task."""

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
    },
)


def make_task(options: ModelOptions) -> AnyTask:
    """The task of its options."""
    return TASKS[options.task].task(options)


def stored_labels(column: str, about: About) -> StoredLabels:
    """The stored labels of a task. Those of a task that is not installed here have no maps and no files."""
    kind = TASKS.get(about["task"])
    return kind.stored(column, about) if kind else StoredLabels(column, about)
