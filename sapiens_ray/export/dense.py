"""What exports of depth and normals share: at which size maps are written, and where the foreground is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sapiens_ray.errors import ConfigError
from sapiens_ray.export.base import Option, Options, word_of
from sapiens_ray.imaging.maps import decode_npy
from sapiens_ray.tasks.stored import StoredClassMap, StoredLabels
from sapiens_ray.units import Row

SIZE = Option(
    "size",
    "photo (the default): maps are resized to the size of the photo; network: as they are stored",
    "photo",
    word_of("photo", "network"),
)
FOREGROUND = Option(
    "foreground",
    "column with the class map that shows where persons are; default: the first one; none: all of the photo counts",
    None,
)


@dataclass(frozen=True)
class Maps:
    """How the float maps of an output are read. classes: shows the foreground; None if all of the photo counts.
    resized: to the size of the photo."""

    classes: StoredClassMap | None
    resized: bool

    @classmethod
    def of(cls, labels: Sequence[StoredLabels], options: Options) -> Maps:
        """Raises ConfigError for a column of the foreground that holds no class map."""
        maps = {one.column: one for one in labels if isinstance(one, StoredClassMap)}
        named = options[FOREGROUND.name]
        if named not in (None, "none", *maps):
            held = ", ".join(maps) or "none"
            raise ConfigError(f"--foreground {named}: no column with a class map; the output has {held}")
        classes = next(iter(maps.values()), None) if named is None else maps.get(named)
        return cls(classes, options[SIZE.name] == "photo")

    def columns(self, labels: StoredLabels) -> list[str]:
        """The columns to read for a map of these labels."""
        return [labels.column, *([self.classes.column] if self.classes else [])]

    def read(self, labels: StoredLabels, row: Row) -> tuple[np.ndarray, np.ndarray]:
        """The map of a row, h x w or h x w x 3, and where the foreground is, h x w bool."""
        cell = row[labels.column]
        found = (
            labels.maps[labels.column].original(cell, row["width"], row["height"]) if self.resized else decode_npy(cell)
        )
        height, width = found.shape[:2]
        if self.classes is None:
            return found, np.ones((height, width), bool)
        inside = self.classes.foreground(row).view(np.uint8)
        return found, cv2.resize(inside, (width, height), interpolation=cv2.INTER_NEAREST).view(bool)

    def notes(self) -> list[str]:
        column = self.classes.column if self.classes else ""
        where = f"where {column} has the background" if column else "nowhere: all of the photo counts"
        return [f"0 in the pictures is background, {where}"]
