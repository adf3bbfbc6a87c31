"""The interface of an export. To add one, write a module with an `Export` and a line in `export/__init__.py`."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, TypeVar

from sapiens_ray.errors import ConfigError, OutputError
from sapiens_ray.output.reading import iterate_rows
from sapiens_ray.storage import Folder
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.tasks.stored import StoredLabels
from sapiens_ray.units import Row

Kind = TypeVar("Kind", bound=StoredLabels)
Options = Mapping[str, Any]  # values by the names of options
_NOT_UTF8 = re.compile(r"\\x[89a-f][0-9a-f]")


class Omitted:
    """Counts images that an export leaves out, by the reason, and keeps the names of the first of each."""

    NAMED = 3  # images that a note names

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._first: dict[str, list[str]] = {}

    def add(self, why: str, image_id: str) -> None:
        self._counts[why] += 1
        self._first[why] = [*self._first.get(why, []), image_id][: self.NAMED]

    def drop(self, why: str, image_id: str, done: Exported) -> None:
        """Leave out an image that `labelled` has counted as exported."""
        self.add(why, image_id)
        done.images -= 1

    @property
    def total(self) -> int:
        return self._counts.total()

    def report(self, done: Exported, source: Folder) -> None:
        """Note what was left out. Raises OutputError if that is every image."""
        if self.total and not done.images:
            raise OutputError("; ".join([f"no image of {redact_uri(source.uri)} can be exported", *self.notes()]))
        done.notes += self.notes()

    def notes(self, where: str = "", what: str = "images left out") -> list[str]:
        """One line per reason. where: what ends the reason. what: what there is a reason for."""
        return [
            f"{what}, {why}{where}: {count}, such as {', '.join(self._first[why])}"
            for why, count in self._counts.items()
        ]


@dataclass
class Exported:
    """The result of an export. left_out: columns that the format cannot hold, and why. unmatched: images that a ground
    truth does not have. notes: what else to tell. unreadable: images whose names hold bytes that are not UTF-8."""

    images: int = 0
    skipped: int = 0
    renamed: int = 0
    unmatched: int = 0
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    unreadable: Omitted = field(default_factory=Omitted)

    def all_notes(self) -> list[str]:
        """The notes, and one on names that are not UTF-8."""
        return [*self.notes, *self.unreadable.notes(what="image names with \\xNN for bytes that are not UTF-8")]


@dataclass(frozen=True)
class Option:
    """An option of one format, as `--name` on the command line.

    parse: converts the text on the command line to the value; raises ValueError. flag: it has no value there, and is
    True where it is given.
    """

    name: str
    help: str
    default: Any
    parse: Callable[[str], Any] = str
    flag: bool = False


def score_of(text: str) -> float:
    """What parses a least score. Scores are maxima of heatmaps, which may be above 1."""
    score = float(text)
    if not 0 <= score < math.inf:
        raise ValueError("should be a number from 0 on; most scores are between 0 and 1")
    return score


def value_of(options: Options | None, option: Option) -> Any:
    """The value of an option; its default where none are given."""
    return (options or {}).get(option.name, option.default)


@dataclass(frozen=True)
class Export:
    """An entry of the registry EXPORTS.

    help: what it writes, in a few words. write: reads labels from an output folder and writes them to another folder.
    Its third argument is the values of the options by name. Raises OutputError if there are no labels. of_one_kind:
    it holds one kind of labels by its definition, so that nobody has to be told that the others are left out.
    """

    help: str
    write: Callable[[Folder, Folder, Options], Exported]
    options: tuple[Option, ...] = ()
    of_one_kind: bool = False


def values_of(format_options: Sequence[Option], options: Options | None) -> Options:
    """The value of each option of a format: the given one, or its default."""
    return {one.name: (options or {}).get(one.name, one.default) for one in format_options}


def word_of(*names: str) -> Callable[[str], str]:
    """What parses an option that is one of some words."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"should be one of {', '.join(names)}")
        return text

    return parse


def write_items(file: IO[str], items: Iterable[str]) -> None:
    """Write the items of a JSON list, one per line, without keeping them."""
    for number, item in enumerate(items):
        file.write((",\n" if number else "\n") + item)


def one_of(labels: Iterable[StoredLabels], kind: type[Kind], column: str | None, option: Option) -> Kind | None:
    """The labels of a kind in this column, or the first ones; None if there are none. Raises ConfigError for a column
    that the option names and that is not of this kind."""
    found = [one for one in labels if isinstance(one, kind)]
    if column is None:
        return found[0] if found else None
    named = next((one for one in found if one.column == column), None)
    if named is None:
        listed = ", ".join(one.column for one in found) or "none"
        raise ConfigError(f"--{option.name.replace('_', '-')} {column}: no such task; it could be one of: {listed}")
    return named


def labelled(source: Folder, columns: list[str], done: Exported | None = None) -> Iterator[Row]:
    """The rows without error, with `image_id`, `width`, `height` and the columns named; counted in `done`."""
    for row in iterate_rows(source, ["image_id", "width", "height", "error_kind", *columns]):
        good = row["error_kind"] is None
        if done:
            done.images += good
            done.skipped += not good
            if good and is_unreadable(row["image_id"]):
                done.unreadable.add("by which tools may not find the photos", row["image_id"])
        if good:
            yield row


def is_unreadable(name: str) -> bool:
    """Whether a name holds a byte that is not UTF-8, as `storage.uris.readable` writes it."""
    return _NOT_UTF8.search(name) is not None


def place_of(row: Row) -> tuple[int, int]:
    """Where a row with `shard` and `index` is in the order of an output."""
    return row["shard"], row["index"]
