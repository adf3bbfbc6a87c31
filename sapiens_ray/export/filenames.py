"""File names of images in exports.

Unlike in Sapiens-Lite, sub-folders are kept, so that equal names in two folders do not overwrite each other. If two
images would still share a file name (a.jpg and a.png), their full names are used.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from sapiens_ray.export.base import Exported, labelled, place_of
from sapiens_ray.imaging.images import SUFFIXES
from sapiens_ray.imaging.names import file_names
from sapiens_ray.output.reading import labels_of
from sapiens_ray.output.where import ChosenRows
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.stored import Files, StoredLabels
from sapiens_ray.units import Row

ENDINGS = ("", "_seg", "_depth")  # of the files of an image; `lite` and `sapiens2` write two
# Folders that end like a file that an export writes.
_ENDINGS = "|".join(map(re.escape, sorted([*SUFFIXES, ".npy", ".txt", ".json"])))
_LIKE_FILES = re.compile(rf"((?:{_ENDINGS})_*)(?=/)", re.IGNORECASE)


def write_each(source: Folder, columns: list[str], done: Exported, write: Callable[[Row, str], None]) -> None:
    """Call `write(row, file name without ending)` for every image that has labels; count in `done`."""
    names = RowNames(source)
    for row in labelled(source, ["shard", "index", *columns], done):
        name, renamed = names.of(row)
        write(row, name)
        done.renamed += renamed


def write_files(
    source: Folder,
    target: Folder,
    left_out: Callable[[StoredLabels], str],
    files: Callable[[StoredLabels, Row], Files],
) -> Exported:
    """Write a folder per task, with the files of every image that has labels.

    left_out: why a task has no files; empty if it has. files: those of a row. Raises OutputError if there are no
    labels.
    """
    done = Exported()
    included = []
    for labels in labels_of(source):
        reason = left_out(labels)
        if reason:
            done.left_out[labels.column] = reason
        else:
            included.append(labels)

    def write(row: Row, name: str) -> None:
        for labels in included:
            for ending, data in files(labels, row):
                target.write(f"{labels.column}/{name}{ending}", data, durable=False)

    if included:
        write_each(source, [column for labels in included for column in labels.columns], done, write)
    return done


class RowNames:
    """File names of the labelled rows of an output: the same, whichever of the rows a condition chooses. So exports of
    different rows into one folder do not overwrite each other."""

    def __init__(self, source: Folder) -> None:
        every = Folder(source.uri, source.options)  # without the condition of a ChosenRows
        self._names = Names(row["image_id"] for row in labelled(every, []))
        self._rows = labelled(every, ["shard", "index"]) if isinstance(source, ChosenRows) else iter(())
        self._ahead = next(self._rows, None)

    def of(self, row: Row) -> tuple[str, bool]:
        """As `Names.of`. To be called in the order of the rows: those before this one get their names first."""
        while self._ahead is not None and place_of(self._ahead) <= place_of(row):
            if place_of(self._ahead) < place_of(row):
                self._names.of(self._ahead["image_id"])
            self._ahead = next(self._rows, None)
        return self._names.of(row["image_id"])


class Names:
    """Unique file names of images, also for exports that write a second file per image, with ENDINGS after its name.

    An image gets its stem if no other image could want that name, and its full name else; so does an image that was not
    among the first, which a run wrote meanwhile. All that is kept of images without a rival is four hashes of 8 bytes,
    so that millions of images fit into memory. Equal hashes of different names would cost one of them its stem.
    """

    def __init__(self, image_ids: Iterable[str]) -> None:
        claims = np.fromiter(_claims(image_ids), np.dtype((np.uint64, 1 + len(ENDINGS))))
        self._known = np.sort(claims[:, -1])
        self._shared = _repeated(np.sort(claims[:, 0]))  # stems of several images, which none of them gets
        shared = np.array(sorted(self._shared), np.uint64)
        self._claimed = np.sort(claims[~np.isin(claims[:, 0], shared), :-1], axis=None)
        self._contested = self._shared | _repeated(self._claimed)
        self._used: set[str] = set()  # names of images with rivals

    def of(self, image_id: str) -> tuple[str, bool]:
        """(file name without ending, whether it differs from the stem)."""
        stem, full = file_names(image_id)
        known = _holds(self._known, image_id)
        if known and self._contested.isdisjoint(map(_hash, _files_of(stem))):
            return _free(stem), False
        own = [stem] if known and _hash(stem) not in self._shared else []
        others = itertools.chain([full], (f"{full}-{number}" for number in itertools.count(2)))
        # No image that may still get its stem wants these.
        unclaimed = (name for name in others if not any(_holds(self._claimed, one) for one in _files_of(name)))
        name = next(one for one in itertools.chain(own, unclaimed) if self._used.isdisjoint(_files_of(one)))
        self._used.update(_files_of(name))
        return _free(name), name != stem


def _files_of(name: str) -> list[str]:
    """The names that the files of an image may have."""
    return [f"{name}{ending}" for ending in ENDINGS]


def _claims(image_ids: Iterable[str]) -> Iterator[tuple[int, ...]]:
    """Hashes of the names that an image gets if nobody else wants them, and of its id."""
    for image_id in image_ids:
        yield *map(_hash, _files_of(file_names(image_id)[0])), _hash(image_id)


def _holds(hashes: np.ndarray, name: str) -> bool:
    """Whether the hash of a name is among ascending ones."""
    value = np.uint64(_hash(name))
    place = int(np.searchsorted(hashes, value))
    return place < len(hashes) and bool(hashes[place] == value)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _repeated(values: np.ndarray) -> frozenset[int]:
    """What occurs more than once in ascending values."""
    return frozenset(values[1:][values[1:] == values[:-1]].tolist())


def _free(name: str) -> str:
    """The name with `_` after each folder that ends like a file: a.jpg may be written as a.png, which then is no
    folder. As `a.png_` gets one more `_`, too, no two names become one."""
    return _LIKE_FILES.sub(r"\1_", name)
