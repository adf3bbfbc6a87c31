"""What to evaluate, and how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sapiens_ray.output.done import list_units
from sapiens_ray.output.reading import iterate_rows
from sapiens_ray.storage import Folder, StorageOptions
from sapiens_ray.units import Row, Tell

Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Request:
    """ground_truth: a file or folder, local or a URL. mask: which pixels count, for depth and normals. bootstrap: how
    many resamples; None for the default of the task, 0 for no intervals. oks_nms: for keypoints; auto is on if any
    box has a score, as those of detectors have. sigmas: for keypoints that are not published, one for all or for each.
    progress: called with what is being counted, how far it is, and of how
    many, such as ("rows compared", 3, 100)."""

    column: str
    ground_truth: str
    mask: Folder | None = None
    bootstrap: int | None = None
    seed: int = 0
    oks_nms: Switch = "auto"
    sigmas: tuple[float, ...] | None = None
    storage_options: StorageOptions | None = None
    progress: Tell = lambda what, done, total: None

    @property
    def truth_folder(self) -> Folder:
        return Folder(self.ground_truth.rstrip("/") or "/", self.storage_options or {})

    def rows(self, source: Folder, columns: list[str]) -> Iterator[Row]:
        """All rows of an output, in order, with `progress` called before each."""
        total = sum(unit.stop - unit.start for unit in list_units(source))
        for number, row in enumerate(iterate_rows(source, columns)):
            self.progress("rows compared", number, total)
            yield row

    def resamples(self, default: int) -> int:
        return default if self.bootstrap is None else self.bootstrap
