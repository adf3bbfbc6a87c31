"""Which pixels of a class map show which person, for exports: as stored, or made from class map and persons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sapiens_ray.export.base import Option, one_of
from sapiens_ray.imaging.images import decode_map
from sapiens_ray.tasks import instances
from sapiens_ray.tasks.stored import StoredClassMap, StoredLabels, StoredPersons, instances_column
from sapiens_ray.units import Row

SEG = Option(
    "seg", "the task whose class maps are split by persons; default: that of `instances`, else the first", None
)
POSE = Option("pose", "the task whose persons are taken; default: the first", None)


@dataclass(frozen=True)
class PersonMasks:
    """The persons of an output, and the class maps in which they are."""

    persons: StoredPersons
    classes: StoredClassMap

    @property
    def _are_stored(self) -> bool:
        return self.persons.instances_of == self.classes.column

    @property
    def columns(self) -> list[str]:
        """What `instances` reads of a row, and the persons."""
        read = instances_column(self.persons.column) if self._are_stored else self.classes.column
        return [self.persons.column, read]

    def instances(self, row: Row) -> np.ndarray:
        """The instance map of a row without error: H x W, 0 for nobody, i for person i - 1."""
        if self._are_stored:
            return decode_map(row[instances_column(self.persons.column)])
        foreground = self.classes.class_map(row) != self.classes.background
        return instances.split(foreground, self.persons.persons(row), self.persons.keypoint_links)


def person_masks(labels: Sequence[StoredLabels], persons: StoredPersons, seg: str | None) -> PersonMasks | None:
    """The masks of persons; None if the output has no class maps. seg: the column of `--seg`. Raises ConfigError if
    that has no class maps."""
    classes = one_of(labels, StoredClassMap, seg or persons.instances_of, SEG)
    return PersonMasks(persons, classes) if classes else None
