"""Boxes of persons out of a COCO file: ground truth, or a list of detections."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeGuard

import numpy as np

from sapiens_ray.errors import ImageError, InputError, StorageError
from sapiens_ray.storage import StorageOptions
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.tasks.coco import CocoOptions
from sapiens_ray.tasks.coco_file import (
    PERSON,
    CocoImages,
    ImageNumber,
    Json,
    entries,
    images_of,
    is_whole,
    number_in,
    person_category,
    read_json,
)
from sapiens_ray.tasks.persons import FARTHEST, carried_from_file

FILES_HELD = 4  # that a process keeps, and more if its job has more
_held: dict[tuple[str, str], CocoBoxes] = {}  # by the key of the options and the digest
_reading = threading.Lock()


@dataclass(frozen=True)
class BoxFile:
    """A COCO file of the job, identified by its content. Processes get this object, and read the file themselves.

    where: the field of the job file that names it. sha256: of the file; of the digests of both, if `images` is given.
    of_job: how many such files the job has.
    """

    options: CocoOptions
    where: str
    sha256: str
    storage_options: StorageOptions = field(default_factory=dict, repr=False, compare=False)
    of_job: int = field(default=1, compare=False)

    @classmethod
    def resolve(cls, options: CocoOptions, where: str, storage_options: StorageOptions, of_job: int = 1) -> BoxFile:
        """Read and check the file. Raises InputError if it is missing, damaged, or has no boxes of persons."""
        file = cls(options, where, "", storage_options, of_job)
        with _reading:
            return replace(file, sha256=_hold(file, _read(file)).sha256)

    @property
    def carried(self) -> str:
        """The column of a unit that holds the boxes."""
        return carried_from_file(self.options)

    @property
    def name(self) -> str:
        """The file in messages and in `job.yaml`."""
        images = f" with the images of {redact_uri(self.options.images)}" if self.options.images else ""
        return f"{redact_uri(self.options.uri)}{images}"

    @property
    def boxes(self) -> CocoBoxes:
        """The content, read once per process. Raises InputError if it is not the one that the job started with, and
        StorageError if this process cannot read it."""
        with _reading:
            held = _held.pop((self.options.key, self.sha256), None)
            if held is not None:
                return _hold(self, held)
            try:
                found = _read(self)
            except InputError as error:  # the driver could read it
                raise StorageError(f"{error}; all nodes must be able to read it") from None
            if found.sha256 != self.sha256:
                raise InputError(
                    f"{self.where}: {self.name} is not the file this job was started with (its SHA-256 differs)"
                )
            return _hold(self, found)

    def of(self, image_id: str, uri: str) -> list[list[float]]:
        """The boxes of an image, see `CocoBoxes.of`."""
        return self.boxes.of(image_id, uri)


def _hold(file: BoxFile, boxes: CocoBoxes) -> CocoBoxes:
    """Keep the content of a file for other units and tasks of this process, in place of the one that was not used for
    the longest time."""
    while len(_held) >= max(FILES_HELD, file.of_job):
        del _held[next(iter(_held))]
    _held[file.options.key, boxes.sha256] = boxes
    return boxes


def _read(file: BoxFile) -> CocoBoxes:
    """The content of a file of the job. Raises InputError."""
    options, where = file.options, file.where
    field_of_file = f"{where}.detections" if options.detections else where
    content, digest = read_json(options.uri, field_of_file, file.storage_options)
    what = f"{field_of_file}: {redact_uri(options.uri)}"
    if isinstance(content, list):
        images: CocoImages | None = None
        category = PERSON
        if options.images:
            listed, images_digest = read_json(options.images, f"{where}.images", file.storage_options)
            images = images_of(listed, f"{where}.images: {redact_uri(options.images)}")
            category = person_category(listed)
            digest = hashlib.sha256(f"{digest} {images_digest}".encode()).hexdigest()
        collected = _detections(content, category, options.min_score, what)
        named_by = options.images or options.uri
    elif options.detections:
        raise InputError(f"{what} is no list of detections; name a ground-truth file as `coco: file.json`")
    else:
        if options.min_score:
            raise InputError(f"{where}.min_score: the boxes of a ground-truth file have no scores; leave it out")
        images, named_by = images_of(content, what), options.uri
        collected = _annotations(entries(content, "annotations", what), person_category(content), what)
    collected.refuse_useless(what)
    return CocoBoxes(digest, _base(named_by), images, collected)


def _base(uri: str) -> str:
    return redact_uri(uri).rpartition("/")[2]


class _Collected:
    """The boxes of persons of a file, in its order, while they are read.

    boxes: x1, y1, x2, y2, score by the number of the image. wrong: why the boxes of an image are not valid. left_out:
    annotations of zero width or height.
    """

    def __init__(self) -> None:
        self.boxes: dict[ImageNumber, list[list[float]]] = {}
        self.wrong: dict[ImageNumber, str] = {}
        self.left_out = 0

    def add(self, number: ImageNumber, box: list[float] | str) -> None:
        """Add a box, or what is wrong with it."""
        if isinstance(box, str):
            self.wrong.setdefault(number, box)
        else:
            self.boxes.setdefault(number, []).append(box)

    def refuse_useless(self, what: str) -> None:
        """Raise InputError if there are no boxes, or if they are shares of the photo and not pixels."""
        if not self.boxes:
            wrong = f"; the first that is wrong: {next(iter(self.wrong.values()))}" if self.wrong else ""
            raise InputError(f"{what} has no boxes of persons (`bbox`){wrong}")
        if max(max(box[:4]) for boxes in self.boxes.values() for box in boxes) <= 1:
            raise InputError(f"{what}: no box reaches beyond the first pixel; give pixels, not shares of the photo")


def _annotations(found: Sequence[dict[str, Json]], category: int, what: str) -> _Collected:
    """Boxes of ground truth, without crowds. Annotations whose box has no width or height are left out: published
    files have some, and nobody can be seen in them. Raises InputError for an annotation of no image."""
    collected = _Collected()
    for place, entry in enumerate(found):
        if entry.get("category_id", category) != category or entry.get("iscrowd"):
            continue
        if not is_whole(entry.get("image_id")):
            raise InputError(f"{what}: annotations[{place}] has no number `image_id`")
        box = _corners(entry.get("bbox"), None, f"annotations[{place}]")
        if not isinstance(box, str) and (box[0] == box[2] or box[1] == box[3]):
            collected.left_out += 1
        else:
            collected.add(entry["image_id"], box)
    return collected


def _detections(found: Sequence[Json], category: int, least: float, what: str) -> _Collected:
    """Boxes of a list of detections. Raises InputError for entries that are no detections."""
    collected = _Collected()
    for place, entry in enumerate(found):
        score = entry.get("score") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not is_whole(entry.get("image_id")) or not _is_number(score):
            raise InputError(f"{what}: [{place}] is no detection, {{image_id, category_id, bbox, score}} with numbers")
        if entry.get("category_id", category) == category and not score < least:
            collected.add(entry["image_id"], _corners(entry.get("bbox"), score, f"[{place}]"))
    return collected


def _corners(box: Json, score: float | None, entry: str) -> list[float] | str:
    """x1, y1, x2, y2, score (NaN if None) of COCO's x, y, width, height, in float64; or what is wrong with it."""
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f"{entry}: bbox {str(box)[:80]} is not [x, y, width, height]"
    try:
        x, y, width, height = map(float, box)
        rated = math.nan if score is None else float(score)
    except OverflowError:
        return f"{entry}: bbox {str(box)[:80]} holds numbers that are not pixel positions"
    corners = [x, y, x + width, y + height]
    if not all(abs(number) <= FARTHEST for number in corners):  # not NaN either
        return f"{entry}: bbox {str(box)[:80]} holds numbers that are not pixel positions"
    if width < 0 or height < 0:
        return f"{entry}: bbox {str(box)[:80]} has a negative width or height"
    return [*corners, rated]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


class CocoBoxes:
    """The boxes of a COCO file, found by the names of images.

    sha256: see `BoxFile`. named_by: the name of the file that lists the images, for messages. left_out: how many
    annotations have a box without width or height.
    """

    def __init__(self, sha256: str, named_by: str, images: CocoImages | None, collected: _Collected) -> None:
        self.sha256, self.left_out = sha256, collected.left_out
        self._named_by, self._images, self._wrong = named_by, images, collected.wrong
        # One array: lists, and an array for each image, would take many times the memory.
        numbers = sorted(collected.boxes)
        self._numbers = np.array(numbers, np.int64)
        self._stops = np.cumsum([len(collected.boxes[number]) for number in numbers])
        self._boxes = np.array([box for number in numbers for box in collected.boxes[number]], np.float64)

    @property
    def lists_images(self) -> bool:
        """Whether the file says which images it covers; a list of detections names only those where it found any."""
        return self._images is not None

    def number_of(self, image_id: str, uri: str) -> ImageNumber | None:
        """The number of an image in the file; None if its name is not there. See `CocoImages.find`, `number_in`."""
        if self._images is None:
            return number_in((image_id, uri))
        image = self._images.find(image_id, uri)
        return None if image is None else image.number

    def size_of(self, image_id: str, uri: str) -> list[int] | None:
        """Width and height of an image in pixels; None if the file does not list the image, or not its size."""
        image = self._images.find(image_id, uri) if self._images is not None else None
        return [image.width, image.height] if image is not None and image.width and image.height else None

    def of(self, image_id: str, uri: str) -> list[list[float]]:
        """The boxes of an image in the order of the file: x1, y1, x2, y2 in pixels and score (NaN in ground truth).

        Empty for an image without persons. Raises ImageError `bad_boxes` for an image that the file does not list, or
        with a wrong box.
        """
        number = self.number_of(image_id, uri)
        if number is None and self.lists_images:
            raise ImageError("bad_boxes", f"not listed in {self._named_by}")
        if number is None:
            raise ImageError(
                "bad_boxes",
                f"its file name has no number that {self._named_by} could mean, as 000000000139.jpg has; name a file "
                "that lists the images, as {detections: …, images: …}",
            )
        if number in self._wrong:
            raise ImageError("bad_boxes", self._wrong[number])
        return self._boxes_of(number)

    def _boxes_of(self, number: ImageNumber) -> list[list[float]]:
        """The boxes of the image with this number; an empty list if there are none."""
        place = int(np.searchsorted(self._numbers, number))
        if place == len(self._numbers) or self._numbers[place] != number:
            return []
        found: list[list[float]] = self._boxes[self._stops[place - 1] if place else 0 : self._stops[place]].tolist()
        return found

    def matches(self, image_id: str, uri: str) -> bool:
        """Whether the file says something of an image."""
        number = self.number_of(image_id, uri)
        return number is not None and (self.lists_images or number in self._wrong or bool(self._boxes_of(number)))


def notes_of(file: BoxFile, names: Iterable[tuple[str, str]], is_all: bool) -> list[str]:
    """What to tell before any work: which boxes are left out, which images the file does not know, and which ones it
    cannot tell apart. Raises InputError if it knows none of all images.

    names: id and URI of the images that are known by now. is_all: whether there are no others.
    """
    left_out = file.boxes.left_out
    notes = [f"{file.where}: boxes of {file.name} without width or height are left out: {left_out}"]
    known = list(names)
    return [*(notes if left_out else []), *_unmatched(file, known, is_all), *_shared(file, known)]


def _shared(file: BoxFile, names: Iterable[tuple[str, str]]) -> list[str]:
    """Images that take the boxes of one image of the file, in words: a unit sees a few images alone, so that no error
    row can tell them apart."""
    first: dict[ImageNumber, str] = {}
    shared: list[str] = []
    for image_id, uri in names:
        number = file.boxes.number_of(image_id, uri)
        if number is not None and first.setdefault(number, image_id) != image_id:
            shared.append(f"{first[number]} and {image_id}")
    if not shared:
        return []
    return [
        f"{file.where}: {len(shared)} images take the boxes of another image, since {file.name} has one name for both, "
        f"such as {shared[0]}"
    ]


def _unmatched(file: BoxFile, names: Iterable[tuple[str, str]], is_all: bool) -> list[str]:
    """See `notes_of`."""
    known = Counter[bool]()
    unknown = ""
    for image_id, uri in names:
        found = file.boxes.matches(image_id, uri)
        known[found] += 1
        unknown = unknown or ("" if found else image_id)
    count = known.total()
    if not known[False]:
        return []
    listed = "is listed in" if file.boxes.lists_images else "has a detection in"
    if not known[True]:
        scope = f"of the {count} images" if is_all else f"of the first {count} images"
        said = f"{file.where}: none {scope}, such as {unknown}, {listed} {file.name}"
        if is_all:
            raise InputError(f"{said}; its names are matched with the file names, docs/outputs.md says how")
        return [said]
    if not file.boxes.lists_images:
        return []  # nobody was found in them
    scope = f"the {count} images" if is_all else f"the first {count} images"
    return [
        f"{file.where}: {file.name} does not list {known[False]} of {scope}, such as {unknown}; they become error rows"
    ]
