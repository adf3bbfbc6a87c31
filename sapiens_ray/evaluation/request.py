"""What to evaluate, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sapiens_ray.storage import Folder, StorageOptions

Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Request:
    """ground_truth: a file or folder, local or a URL. mask: which pixels count, for depth and normals. bootstrap: how
    many resamples; None for the default of the task, 0 for no intervals. oks_nms: for keypoints; auto is on if any
    box has a score, as those of detectors have. progress: called with the number of rows read so far."""

    column: str
    ground_truth: str
    mask: Folder | None = None
    bootstrap: int | None = None
    seed: int = 0
    oks_nms: Switch = "auto"
    storage_options: StorageOptions | None = None
    progress: Callable[[int], None] = lambda rows: None

    @property
    def truth_folder(self) -> Folder:
        return Folder(self.ground_truth.rstrip("/") or "/", self.storage_options or {})

    def resamples(self, default: int) -> int:
        return default if self.bootstrap is None else self.bootstrap
