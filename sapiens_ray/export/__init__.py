"""Labels in the formats of other tools: one module a format.

Unlike Sapiens-Lite, sub-folders are kept, so that equal names in two folders do not overwrite each other, and
where two images would still share a file name (a.jpg and a.png) their full names are used.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sapiens_ray.done import list_units
from sapiens_ray.errors import OutputError
from sapiens_ray.images import file_names
from sapiens_ray.reading import iterate_rows, task_table
from sapiens_ray.storage import Folder


@dataclass
class Exported:
    """What was written. `left_out`: columns that the format has no place for, and why."""

    images: int = 0
    skipped: int = 0
    renamed: int = 0
    left_out: dict[str, str] = field(default_factory=dict)


def tasks_of(source: Folder) -> dict[str, dict[str, Any]]:
    """Each task's column and metadata. Raises OutputError if the folder holds no labels."""
    units = list_units(source)
    if not units:
        raise OutputError(f"{source.uri} holds no labels: no files in {source.join('data')}")
    return task_table(source, f"data/{units[0].file}")


def write_each(
    source: Folder, columns: list[str], done: Exported, write: Callable[[dict[str, Any], str], None]
) -> None:
    """Call `write(row, file name without ending)` for every image that has labels; count in `done`."""
    names = Names(row["image_id"] for row in labelled(source, []))
    for row in labelled(source, columns, done):
        name, renamed = names.of(row["image_id"])
        write(row, name)
        done.renamed += renamed


def labelled(source: Folder, columns: list[str], done: Exported | None = None) -> Iterator[dict[str, Any]]:
    """The rows without error, with `image_id`, `width`, `height` and the columns named; counted in `done`."""
    for row in iterate_rows(source, ["image_id", "width", "height", "error_kind", *columns]):
        good = row["error_kind"] is None
        if done:
            done.images += good
            done.skipped += not good
        if good:
            yield row


class Names:
    """File names of images, no two alike."""

    def __init__(self, image_ids: Iterable[str]) -> None:
        self._wanted = Counter(file_names(image_id)[0] for image_id in image_ids)
        self._used: set[str] = set()

    def of(self, image_id: str) -> tuple[str, bool]:
        """(name without ending, whether it is not the stem)."""
        stem, full = file_names(image_id)
        candidates = itertools.chain(
            [stem] if self._wanted[stem] == 1 else [], [full], (f"{full}-{n}" for n in itertools.count(2))
        )
        # Sapiens-Lite writes two files an image, the second with _seg after its name.
        name = next(one for one in candidates if not {one, f"{one}_seg"} & self._used)
        self._used |= {name, f"{name}_seg"}
        return name, name != stem
