"""Names and colours of labels in the forms of annotation tools."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sapiens_ray.errors import OutputError
from sapiens_ray.tasks.stored import StoredClassMap, StoredPersons

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


def hex_colour(rgb: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def names_of(labels: StoredPersons | StoredClassMap) -> list[str]:
    """The names of the keypoints or classes. Raises OutputError for one that XML cannot hold."""
    names = labels.keypoint_names if isinstance(labels, StoredPersons) else labels.class_names
    for name in names:
        if NOT_XML.search(name):
            raise OutputError(f"column {labels.column}: XML cannot hold the characters of the name {name!r}")
    return names
