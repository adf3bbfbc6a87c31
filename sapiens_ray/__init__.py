"""Label very large image datasets with Meta's Sapiens human models, distributed on Ray.

>>> import sapiens_ray as sr
>>> sr.run(sr.Job.load("job.yaml"))
>>> sr.read_labels("runs/demo", decode=True)
"""

from typing import TYPE_CHECKING, Any

from sapiens_ray.version import __version__

if TYPE_CHECKING:
    from sapiens_ray.execution.dataset import read_labels
    from sapiens_ray.execution.pipeline import run
    from sapiens_ray.job.config import Job
    from sapiens_ray.labeler import Labeler

__all__ = ["Job", "Labeler", "__version__", "read_labels", "run"]

# Loaded on first use, so that `import sapiens_ray` does not import torch and ray.
_HOMES = {"Job": "job.config", "Labeler": "labeler", "run": "execution.pipeline", "read_labels": "execution.dataset"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"sapiens_ray.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
