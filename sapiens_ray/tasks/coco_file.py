"""Files in COCO's JSON: reading them, which images they list, and which of their categories are persons."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from sapiens_ray import storage
from sapiens_ray.errors import InputError
from sapiens_ray.imaging.images import has_image_suffix
from sapiens_ray.storage import StorageOptions
from sapiens_ray.storage.uris import redact_uri, without_query

Json = Any  # a value in a JSON file
ImageNumber = int  # the `id` of an image of a COCO file
PERSON = 1  # the category of persons in COCO, for files without categories
_NUMBER = re.compile(r"(?:^|_)([0-9]{1,18})\Z")  # at the end of a stem
_DIGITS = re.compile(r"([0-9]{1,18})\Z")


@dataclass(frozen=True)
class CocoImage:
    """An image of a COCO file. width, height: in pixels; 0 if the file does not say."""

    number: ImageNumber
    file_name: str
    width: int
    height: int


class CocoImages:
    """The images of a COCO file, found by their names."""

    def __init__(self, images: Sequence[CocoImage]) -> None:
        self.images = images
        self._by_name = {image.file_name: image for image in images}
        shared = Counter(_base(image.file_name) for image in images)
        self._by_base = {_base(one.file_name): one for one in images if shared[_base(one.file_name)] == 1}

    def find(self, *names: str) -> CocoImage | None:
        """The image whose `file_name` is one of the names; else the only one that has the base name of one of them, if
        one of the two names ends with the other: `b.jpg` and `x/b.jpg` are one image, `y/b.jpg` is another.

        names: the id of an image and its URI, in the order in which they are tried.
        """
        by_name = (self._by_name.get(name) for name in names)
        by_base = (self._of_base(name) for name in names)
        return next((image for image in (*by_name, *by_base) if image is not None), None)

    def _of_base(self, name: str) -> CocoImage | None:
        image = self._by_base.get(_base(name))
        if image is None:
            return None
        path, listed = (f"/{without_query(one).removeprefix('./')}" for one in (name, image.file_name))
        return image if path.endswith(listed) or listed.endswith(path) else None


def _base(name: str) -> str:
    return without_query(name).rpartition("/")[2]


def number_in(names: Iterable[str]) -> ImageNumber | None:
    """The number of an image in its file name, as COCO names files: 139 for 000000000139.jpg, and for
    COCO_val2014_000000000139.jpg. An id of digits alone is a number, too. None if no name has one."""
    for name in names:
        base = _base(name)
        is_file = has_image_suffix(base)  # the rows of Parquet files have numbers, too, which mean something else
        found = _NUMBER.search(base.rpartition(".")[0]) if is_file else _DIGITS.match(name)
        if found:
            return int(found[1])
    return None


def read_json(uri: str, where: str, options: StorageOptions) -> tuple[Json, str]:
    """The content of a JSON file, local or any fsspec URL, and its SHA-256.

    where: the field that names it, for messages. Raises InputError if it cannot be read, or is no JSON.
    """
    name = redact_uri(uri)
    try:
        with storage.translate_errors(InputError, f"{where}: cannot read {name}"):
            data = storage.read_bytes(uri, options if storage.is_remote(uri) else {})
    except InputError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise InputError(f"{where}: {name} does not exist") from None
        raise
    try:
        return json.loads(data), hashlib.sha256(data).hexdigest()
    except (ValueError, RecursionError) as error:  # not UTF-8 either
        raise InputError(f"{where}: {name} is not JSON: {str(error)[:200]}") from None


def entries(content: Json, key: str, what: str) -> list[dict[str, Json]]:
    """A list of objects in a COCO file. what: the field and the file, for messages. Raises InputError."""
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise InputError(f"{what} has no list of objects {key!r}, as COCO files have")
    return found


def images_of(content: Json, what: str) -> CocoImages:
    """The images that a COCO file lists. Raises InputError."""
    images = []
    for place, entry in enumerate(entries(content, "images", what)):
        number, name = entry.get("id"), entry.get("file_name")
        if not is_whole(number) or not isinstance(name, str):
            raise InputError(f"{what}: images[{place}] needs a number `id` and a text `file_name`")
        size = [entry[key] if is_whole(entry.get(key)) else 0 for key in ("width", "height")]
        images.append(CocoImage(number, name, *size))
    return CocoImages(images)


def categories_of(content: Json) -> list[dict[str, Json]]:
    """The categories of a COCO file that have an id; none if it is a list of results."""
    found = content.get("categories") if isinstance(content, dict) else None
    categories = found if isinstance(found, list) else []
    return [one for one in categories if isinstance(one, dict) and is_whole(one.get("id"))]


def person_category(content: Json) -> int:
    """The id of the category `person`; 1, as in COCO, if the file has none of this name."""
    return next((int(one["id"]) for one in categories_of(content) if one.get("name") == "person"), PERSON)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value of a JSON file is a whole number of 64 bits. JSON's true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
