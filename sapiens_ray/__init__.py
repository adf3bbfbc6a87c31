"""Label very large image datasets with Meta's Sapiens human models, distributed on Ray.

    Labeler         Labels images in this process, without Ray
    Job             One labelling job
    run             Label all images that have no row yet
    read_labels     Read the labels of an output folder
    class_names     List the classes of a task
    keypoint_names  List the keypoints of a pose model
    keypoint_links  List the links of a skeleton

>>> import sapiens_ray as sr
>>> rows = sr.Labeler(task="seg", checkpoint="seg-1b")(["person.jpg"])
>>> sr.run(sr.Job.load("job.yaml"))
>>> labels = sr.read_labels("runs/demo", decode=True)
>>> [sr.class_names("seg")[number] for number in labels.loc[0, "seg_classes"]]

`help(sr.Labeler)` says more, and so on. Data sets for PyTorch are in `sapiens_ray.torch`. Errors are subclasses of
`sapiens_ray.errors.SapiensRayError`.
"""

from typing import TYPE_CHECKING, Any

from sapiens_ray import errors as errors  # `except sr.errors.SapiensRayError` needs no other import
from sapiens_ray.version import __version__

if TYPE_CHECKING:
    from sapiens_ray.execution.dataset import read_labels
    from sapiens_ray.execution.pipeline import run
    from sapiens_ray.job.config import Job
    from sapiens_ray.labeler import Labeler
    from sapiens_ray.labels import class_names, keypoint_links, keypoint_names

__all__ = [
    "Job",
    "Labeler",
    "__version__",
    "class_names",
    "keypoint_links",
    "keypoint_names",
    "read_labels",
    "run",
]

# Loaded on first use, so that `import sapiens_ray` does not import torch and ray.
_HOMES = {
    "Job": "job.config",
    "Labeler": "labeler",
    "class_names": "labels",
    "keypoint_links": "labels",
    "keypoint_names": "labels",
    "read_labels": "execution.dataset",
    "run": "execution.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"sapiens_ray.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
