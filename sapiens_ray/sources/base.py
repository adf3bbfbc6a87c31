"""The interface of sources, which read encoded images from folders, lists, tars, Parquet files, videos, other formats.

A new source is a module with a subclass of `ShardSource` or `EntrySource`, and a line in `sources/__init__.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import pyarrow as pa

from sapiens_ray.errors import ImageError
from sapiens_ray.sources.video_options import VideoOptions
from sapiens_ray.storage import StorageOptions
from sapiens_ray.storage.uris import redact_uris_in
from sapiens_ray.units import Done, Row


@dataclass
class Encoded:
    """One image as it is stored in its source: encoded bytes, or why there are none.

    extra: values of the input columns that are passed through or read by tasks. note: for the user, about its source.
    """

    index: int
    image_id: str
    uri: str
    data: bytes | None = None
    error: ImageError | None = None
    extra: Row = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a folder or list shard, as planned."""

    uri: str
    image_id: str
    extra: Row = field(default_factory=dict)


Images = Generator[Encoded, None, int]


def _no_progress() -> None:
    """Nobody waits for a sign of life."""


@dataclass(frozen=True)
class Reading:
    """The settings of the job for reading its input.

    passthrough: columns that are copied into the output. labels: columns with boxes and masks that tasks read.
    include: patterns of names; empty for all images. label_fields: the field of the job file that names each of
    `labels`. video: which frames of videos; None for all. progress: for a source to call now and then while it works
    for long on one image. max_pixels: of images that a source decodes itself; None for any number. kept: for readers
    that read files several times, what a source wants to know of the last one; None for those that do not.
    """

    image_column: str | None = None
    id_column: str | None = None
    passthrough: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    storage_options: StorageOptions = field(default_factory=dict, repr=False)
    label_fields: dict[str, str] = field(default_factory=dict)
    video: VideoOptions | None = None
    progress: Callable[[], None] = _no_progress
    max_pixels: int | None = None
    kept: dict[str, Any] | None = field(default=None, repr=False)

    def field_of(self, column: str) -> str:
        """The field of the job file that names one of the columns to read, for messages."""
        if column in self.passthrough:
            return "input.columns"
        return self.label_fields.get(column, "input.id_column")

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns to read in addition to image and id, each once."""
        return tuple(dict.fromkeys((*self.passthrough, *self.labels)))


@dataclass(frozen=True)
class Look:
    """What is known of a file before it is read: its number of images, if the file states it, and column types.

    types: of the passthrough columns. problem: why the file cannot be read, which its row will say.
    """

    images: int | None = None
    types: dict[str, pa.DataType] = field(default_factory=dict)
    problem: str = ""


# Fields of `input` that not every format can follow. "columns" includes those that tasks read.
READING_SETTINGS = ("columns", "id_column", "image_column")


class Source:
    """An entry of the registry SOURCES: one format of input. Instances hold no state.

    suffixes: those of files in this format. ignored: fields of `input` that it cannot follow, out of READING_SETTINGS.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    ignored: ClassVar[tuple[str, ...]] = ()


class ShardSource(Source, ABC):
    """A format in which every file is a shard: the plan records the file with its stamp, not the images in it.

    states_columns: whether `look` knows the columns of a file, and refuses one that does not exist. If not, they are
    found out from the first records. includes_files: whether `include` chooses among the files, and not among what is
    in them.
    """

    states_columns: ClassVar[bool] = False
    includes_files: ClassVar[bool] = False

    @abstractmethod
    def read(self, uri: str, shard_id: str, done: Done, reading: Reading) -> Images:
        """Generate the images of a file that are not done, in order, and return how many images it holds.

        Damage becomes an error row at its place. Raises OSError if the storage fails: that is not damage, and another
        run may read the rest.
        """

    def look(self, uri: str, reading: Reading) -> Look:
        """Look into a file when it is planned. Raises InputError if it lacks a column that the job names."""
        return Look()

    def first_records(self, uri: str, reading: Reading, count: int) -> list[Row]:
        """The columns of the first images of a file, one dict per image. Damage ends the list."""
        return []

    def read_numbers(self, uri: str, reading: Reading) -> Iterator[int]:
        """The index of each image that `read` generates, damage included, without its bytes where that is faster."""
        return (image.index for image in self.read(uri, "", Done(), reading))

    def count(self, uri: str, reading: Reading) -> int | None:
        """The number of images of a file for which `look` gives none, if it can be counted fast; else None."""
        return None


class EntrySource(Source, ABC):
    """A format that lists images: the plan records every one of them, and the images are fetched one by one."""

    @abstractmethod
    def entries(self, uri: str, id_prefix: str, reading: Reading) -> Iterator[Entry]:
        """The images that a file names, in its order. Raises InputError for an entry that cannot be used.

        id_prefix: the folder of the file below the root of the input, for ids of relative paths.
        """


def cut_units(
    images: Images,
    size: int,
    max_bytes: int,
    estimated_bytes: Callable[[Encoded], int] = lambda image: len(image.data or b""),
) -> Generator[tuple[list[Encoded], bool], None, None]:
    """Group consecutive images into units of at most `size` images or `max_bytes`.

    estimated_bytes: the bytes that an image adds to its unit.
    Units are cut at multiples of `size`, wherever a run starts, so that two attempts at the same images give the same
    units. Yields (images, last). A unit is held back until it is known whether another image follows it. If all
    images of a shard are done, one empty unit marks its end. `images` returns how many the shard holds, or -1 if it
    stopped before its end.
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
        held_bytes += estimated_bytes(image)
    if held:
        yield held, held[-1].index + 1 == total
    elif not emitted and total >= 0:
        yield [], True


def unused(name: str, names: dict[str, int]) -> str:
    """The name, with `#2`, `#3`, … at its end if an earlier one has it. names: those so far, and how often each was
    asked for, so that a name that is repeated many times is not tried from the start each time."""
    number, found = names.get(name, 0), name
    while found in names:
        number += 1
        found = f"{name}#{number}"
    names[name] = max(number, 1)
    names.setdefault(found, 1)
    return found


def reason(error: Exception) -> ImageError:
    """The ImageError for a failure to fetch bytes."""
    if isinstance(error, FileNotFoundError):
        return ImageError("missing", "no such file: moved, deleted, or a dangling link")
    if isinstance(error, IsADirectoryError):
        return ImageError("unreadable", "is a folder, not a file")
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ImageError("unreadable", f"{type(error).__name__}: {redact_uris_in(text)}"[:500])


def matches(name: str, include: Sequence[str]) -> bool:
    """Whether a relative name matches the `include` patterns (shell style, `*` also matches slashes)."""
    return not include or any(fnmatchcase(name, pattern) for pattern in include)
