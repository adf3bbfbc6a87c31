"""A first look at an input, for somebody who writes a job for it: what it holds, how many, how large."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from sapiens_ray.errors import ImageError, InputError
from sapiens_ray.imaging.images import header_size
from sapiens_ray.job.config import Input
from sapiens_ray.planning.discovery import Found, find_input
from sapiens_ray.planning.left_out import LeftOut
from sapiens_ray.sources import SOURCES, Encoded, Entry, EntrySource, Reading, ShardSource, folders
from sapiens_ray.tasks import persons
from sapiens_ray.units import Done

LISTED = 100_000  # images or files that are listed; after these the input is "more than"
COUNTED = 20  # tars and Parquet files in which the images are counted
SAMPLE = 20  # images that are read
BOX_COLUMNS = ("boxes", "person_boxes", "bboxes", "person_bboxes")


@dataclass
class Survey:
    """What an input holds.

    images: None if they are not counted. files: tars or Parquet files; 0 for folders and lists. more: whether the
    listing was ended early. sizes: width, height and bytes of the sampled images. failed: why others of the sample
    cannot be used. box_column: a column with boxes, the first of BOX_COLUMNS that has some.
    """

    format: str
    images: int | None = None
    files: int = 0
    more: bool = False
    sizes: list[tuple[int, int, int]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    box_column: str | None = None
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def middle(self) -> tuple[int, int, float] | None:
        """Width and height of the sampled image with the median number of pixels, and the median of the bytes; None
        without a sample."""
        if not self.sizes:
            return None
        width, height, _ = sorted(self.sizes, key=lambda size: size[0] * size[1])[len(self.sizes) // 2]
        return width, height, median(size for _, _, size in self.sizes)


def survey(settings: Input, output: str) -> Survey:
    """Look at an input: list it, up to LISTED images or files, and read a sample. output: where the labels will go.

    Raises InputError for an input that does not exist, holds no images or several kinds of files.
    """
    left_out = LeftOut()
    reading = Reading(storage_options=settings.storage_options, include=tuple(settings.include))
    found = find_input(settings, reading, left_out, output)
    first = next(found, None)
    if first is None:
        raise InputError(left_out.nothing_found(settings))
    source = SOURCES[first.format]
    seen = Survey(first.format, left_out=left_out)
    if isinstance(source, ShardSource):
        files = list(itertools.islice(itertools.chain([first], found), LISTED + 1))
        seen.files, seen.more = min(len(files), LISTED), len(files) > LISTED
        seen.images = _count(source, [one.uri for one in files], reading)
        images: Iterator[Encoded] = source.read(first.uri, first.name, Done(), reading)
    else:
        entries = list(itertools.islice(_entries(itertools.chain([first], found)), LISTED + 1))
        if not entries:
            raise InputError(left_out.nothing_found(settings))
        seen.more = len(entries) > LISTED
        entries = entries[:LISTED]
        seen.images = len(entries)
        images = folders.read(entries[:: max(1, len(entries) // SAMPLE)][:SAMPLE], Done(), settings.storage_options)
    _look_at(itertools.islice(images, SAMPLE), seen)
    seen.box_column = _box_column(first, reading)
    return seen


def _entries(found: Iterator[Found]) -> Iterator[Entry]:
    return itertools.chain.from_iterable(one.entries for one in found)


def _count(source: ShardSource, uris: list[str], reading: Reading) -> int | None:
    """The images of some files; None if there are too many files, or one does not tell it fast."""
    if len(uris) > COUNTED:
        return None
    counts = [source.look(uri, reading).images for uri in uris]
    counts = [source.count(uri, reading) if count is None else count for uri, count in zip(uris, counts, strict=True)]
    return None if None in counts else sum(count for count in counts if count is not None)


def _look_at(images: Iterator[Encoded], seen: Survey) -> None:
    for image in images:
        size = header_size(image.data) if image.data else None
        if size:
            seen.sizes.append((*size, len(image.data or b"")))
        else:
            seen.failed.append(f"{image.image_id}: {image.error.message if image.error else 'not an image'}")


def _box_column(found: Found, reading: Reading) -> str | None:
    """The first of BOX_COLUMNS that has boxes in one of the first records of a file."""
    source = SOURCES[found.format]
    for name in BOX_COLUMNS:
        asked = Reading(labels=(name,), storage_options=reading.storage_options, include=reading.include)
        try:
            if isinstance(source, ShardSource):
                rows = source.first_records(found.uri, asked, SAMPLE)
            elif isinstance(source, EntrySource):
                rows = [entry.extra for entry in itertools.islice(source.entries(found.uri, "", asked), SAMPLE)]
            else:  # a folder of images has no columns
                return None
        except InputError:  # no such column
            continue
        if any(_holds_boxes(row.get(name)) for row in rows):
            return name
    return None


def _holds_boxes(value: object) -> bool:
    try:
        return bool(persons.parse(value))
    except ImageError:
        return False
