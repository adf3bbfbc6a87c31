"""Sources: how the bytes of encoded images come out of folders, lists, tars and Parquet files.

Each module holds one format. Its `read` is a generator of `Encoded` images of one shard, in order, that skips
what is done and returns how many images the shard holds. Nothing else is asked of a source.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sapiens_ray.errors import ImageError
from sapiens_ray.uris import shown_in


@dataclass
class Encoded:
    """One image as it lies in its source: encoded bytes, or why there are none."""

    index: int
    image_id: str
    uri: str
    data: bytes | None = None
    error: ImageError | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a folder or list shard, as planned."""

    uri: str
    image_id: str
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """The half-open index ranges of a shard that already have their rows, sorted, and its size if known."""

    ranges: tuple[tuple[int, int], ...] = ()
    total: int | None = None

    def has(self, index: int) -> bool:
        position = bisect_right(self.ranges, index, key=lambda span: span[0]) - 1
        return position >= 0 and index < self.ranges[position][1]

    @property
    def rows(self) -> int:
        """Images with a row. Ranges may overlap where two attempts cut their units at different places."""
        count = reached = 0
        for start, stop in self.ranges:
            count += max(0, stop - max(start, reached))
            reached = max(reached, stop)
        return count

    @property
    def first_missing(self) -> int:
        """The first index without a row."""
        reached = 0
        for start, stop in self.ranges:
            if start > reached:
                break
            reached = max(reached, stop)
        return reached

    @property
    def complete(self) -> bool:
        """Whether every image has its row: the ranges join from 0 to the known end."""
        return self.first_missing == self.total


Images = Generator[Encoded, None, int]


def cut_units(
    images: Images, size: int, max_bytes: int, weigh: Callable[[Encoded], int] = lambda image: len(image.data or b"")
) -> Generator[tuple[list[Encoded], bool], None, None]:
    """Group consecutive images into units of at most `size` images or `max_bytes`, as `weigh` says of each.

    Cuts fall on multiples of `size`, wherever a run begins, so that two attempts at the same images cut alike.
    Yields (images, last). A unit is held back until it is known whether another image follows it. Where a
    shard holds nothing that is not done, one empty unit marks its end.
    """
    held: list[Encoded] = []
    held_bytes = 0
    emitted = False
    while True:
        try:
            image = next(images)
        except StopIteration as end:
            total = end.value
            break
        full = image.index % size == 0 or held_bytes >= max_bytes
        if held and (full or image.index != held[-1].index + 1):
            yield held, False
            emitted, held, held_bytes = True, [], 0
        held.append(image)
        held_bytes += weigh(image)
    if held:
        yield held, held[-1].index + 1 == total
    elif not emitted:
        yield [], True


def reason(error: Exception) -> ImageError:
    """The ImageError for what went wrong while bytes were fetched."""
    if isinstance(error, FileNotFoundError):
        return ImageError("missing", "listed, but not there: moved, deleted, or a dangling link")
    if isinstance(error, IsADirectoryError):
        return ImageError("unreadable", "is a folder, not a file")
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ImageError("unreadable", f"{type(error).__name__}: {shown_in(text)}"[:500])


def matches(name: str, include: Sequence[str]) -> bool:
    """Whether a relative name passes the `include` patterns (shell style, `*` crosses slashes)."""
    from fnmatch import fnmatchcase

    return not include or any(fnmatchcase(name, pattern) for pattern in include)
