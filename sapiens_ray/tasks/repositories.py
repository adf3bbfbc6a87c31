"""Object detectors in the layout of transformers: their short names, and what `model:` of a detector may be."""

from __future__ import annotations

import re
from dataclasses import dataclass

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_TORCHVISION = re.compile(r"[a-z0-9_]+")  # also `torchscript`


@dataclass(frozen=True)
class Repository:
    """A detector that was published on the Hugging Face hub.

    licence: as its authors state it. megabytes: of the weights, about. accuracy: box AP on COCO val2017, as published.
    """

    name: str
    place: str
    licence: str
    megabytes: float
    accuracy: float


DETECTORS = {
    one.name: one
    for one in (
        Repository("rtdetr_v2_r50vd", "PekingU/rtdetr_v2_r50vd", "Apache-2.0", 172, 53.4),
        Repository("rtdetr_v2_r18vd", "PekingU/rtdetr_v2_r18vd", "Apache-2.0", 81, 48.1),
        Repository("rf-detr-medium", "Roboflow/rf-detr-medium", "Apache-2.0", 135, 54.7),
        Repository("detr-resnet-101-dc5", "facebook/detr-resnet-101-dc5", "Apache-2.0", 243, 44.9),
    )
}


def is_folder(model: str) -> bool:
    """Whether `model` is a path or URL of a folder: a path is absolute, or begins with a dot or a tilde."""
    return model.startswith(("/", ".", "~")) or "://" in model


def is_repository(model: str) -> bool:
    """Whether `model` is a short name, or OWNER/NAME or OWNER/NAME@REVISION of the Hugging Face hub."""
    return model in DETECTORS or _REPOSITORY.fullmatch(model) is not None


def is_torchvision(model: str) -> bool:
    """Whether `model` has the form of a name of torchvision, or is `torchscript`."""
    return model not in DETECTORS and _TORCHVISION.fullmatch(model) is not None


def on_hub(model: str) -> tuple[str, str]:
    """The repository and the revision that a short name or OWNER/NAME@REVISION stands for."""
    place, _, revision = (DETECTORS[model].place if model in DETECTORS else model).partition("@")
    return place, revision or "main"


def detector_licence(checkpoint: str) -> str | None:
    """The licence of a published detector, by its short name or repository; None for any other."""
    found = (one.licence for one in DETECTORS.values() if checkpoint.partition("@")[0] in (one.name, one.place))
    return next(found, None)
