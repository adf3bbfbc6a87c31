"""Ground truth of keypoints: a JSON file of COCO, COCO-WholeBody, or of COCO's form with other keypoints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sapiens_ray.errors import ConfigError, StorageError, first_line
from sapiens_ray.storage import StorageOptions, read_bytes, translate_errors

# The fields of COCO-WholeBody, in the order of the 133 keypoints, and what says whether each is annotated
# (github.com/jin-s13/COCO-WholeBody, data format).
WHOLEBODY = (
    ("keypoints", None), ("foot_kpts", "foot_valid"), ("face_kpts", "face_valid"),
    ("lefthand_kpts", "lefthand_valid"), ("righthand_kpts", "righthand_valid"),
)  # fmt: skip


@dataclass(frozen=True)
class Person:
    """One annotated person. keypoints: K x 3 float64 (x, y in pixels, visibility; 0 is not labelled). box: x, y, width,
    height. area: of the person's mask, as COCO gives it, in square pixels."""

    image: int
    keypoints: np.ndarray
    box: list[float]
    area: float
    crowd: bool


@dataclass
class CocoTruth:
    """images: file name -> image id of the ground truth. The names of images are matched whole, else by what follows
    the last slash, if this is unique in the file."""

    uri: str
    images: dict[str, int]
    persons: list[Person]
    _bases: dict[str, str] = field(init=False)
    _owner: dict[int, str] = field(init=False, default_factory=dict)  # image id -> the row it was given to

    def __post_init__(self) -> None:
        counts = Counter(map(_base, self.images))
        self._bases = {_base(name): name for name in self.images if counts[_base(name)] == 1}

    def image_of(self, image_id: str) -> int | None:
        """The id of an image of the output in the ground truth; None if it has none.

        To be asked once for each row. Raises ConfigError if two rows have the same one.
        """
        name = image_id if image_id in self.images else self._bases.get(_base(image_id))
        if name is None:
            return None
        image = self.images[name]
        if image in self._owner:
            raise ConfigError(
                f"--ground-truth {self.uri}: {self._owner[image]} and {image_id} are both {name}; evaluate an output "
                "with one row for each image"
            )
        self._owner[image] = image_id
        return image

    @property
    def unused(self) -> list[str]:
        """The names of the images that no row was given to."""
        return [name for name, image in self.images.items() if image not in self._owner]

    @property
    def labelled_persons(self) -> int:
        """Persons that count in COCO: no crowds, at least one labelled keypoint of COCO's 17. These come first in
        COCO-WholeBody, too."""
        return sum(not person.crowd and bool((person.keypoints[:17, 2] > 0).any()) for person in self.persons)


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def read_coco(
    uri: str, keypoints: int, options: StorageOptions | None = None, own: Sequence[str] | None = None
) -> CocoTruth:
    """The persons of a COCO JSON file, with 17, 133 or 308 keypoints, or with those of a user's own.

    own: the names of the latter. A category that lists these names may have them in any order, and may stand beside
    others. Raises ConfigError, with the file and what is wrong in it.
    """
    with translate_errors(StorageError, f"cannot read {uri}"):
        try:
            data = read_bytes(uri, options)
        except FileNotFoundError:
            raise ConfigError(f"--ground-truth {uri}: there is no such file") from None
        except (IsADirectoryError, PermissionError) as error:
            raise ConfigError(
                f"--ground-truth {uri}: keypoints need a COCO JSON file ({type(error).__name__})"
            ) from None
    try:
        content = json.loads(data)
    except ValueError as error:
        raise ConfigError(f"--ground-truth {uri}: not a JSON file: {first_line(error)}") from None
    try:
        return _parse(uri, content, keypoints, own)
    except _WrongFile as error:
        raise ConfigError(f"--ground-truth {uri}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"--ground-truth {uri}: not COCO's format ({type(error).__name__}: {first_line(error)})"
        ) from None


class _WrongFile(Exception):
    """What is wrong in the file, in words."""


def _parse(uri: str, content: Any, keypoints: int, own: Sequence[str] | None) -> CocoTruth:
    missing = [key for key in ("images", "annotations") if not isinstance(content, dict) or key not in content]
    if missing:
        raise _WrongFile(f"has no {' and no '.join(missing)}: a COCO JSON file of keypoints is needed")
    images = {str(image["file_name"]): int(image["id"]) for image in content["images"]}
    if len(images) != len(content["images"]) or len(set(images.values())) != len(images):
        raise _WrongFile("two of its images have the same file_name or id")
    category, order = _person_category(content, own or ()), _order(content, own or ())
    known = set(images.values())
    persons = []
    for annotation in content["annotations"]:
        if category is not None and annotation["category_id"] != category:
            continue
        if annotation["image_id"] not in known:
            raise _WrongFile(f"annotation {annotation.get('id')} is of image {annotation['image_id']}, which it lacks")
        try:
            persons.append(_person(annotation, keypoints, WHOLEBODY if keypoints == 133 and not own else WHOLEBODY[:1]))
        except KeyError as error:
            raise _WrongFile(f"annotation {annotation.get('id')} has no {error}") from None
        except (TypeError, ValueError) as error:
            raise _WrongFile(f"annotation {annotation.get('id')} cannot be read: {first_line(error)}") from None
    if order is not None:
        persons = [replace(person, keypoints=person.keypoints[order]) for person in persons]
    return CocoTruth(uri, images, persons)


def _person_category(content: Mapping[str, Any], own: Sequence[str]) -> int | None:
    """The category id of persons; None if the file does not tell several categories apart."""
    categories = content.get("categories") or []
    if len(categories) < 2:
        return None
    persons = [one["id"] for one in categories if own and _listed(one) == set(own)]
    persons = persons or [one["id"] for one in categories if one.get("name") == "person"]
    if len(persons) != 1:
        raise _WrongFile("has several categories, and not exactly one of the name 'person'" + (
            ", nor one with the keypoints of the labels" if own else ""))  # fmt: skip
    return int(persons[0])


def _listed(category: Mapping[str, Any]) -> set[str]:
    """The names of keypoints that a category lists."""
    return set(map(str, category.get("keypoints") or ()))


def _order(content: Mapping[str, Any], own: Sequence[str]) -> np.ndarray | None:
    """The places of the keypoints of the labels among those of the file; None for the same order, or if the file does
    not name them."""
    number = _person_category(content, own)
    categories = [one for one in content.get("categories") or [] if number is None or one["id"] == number]
    theirs = [str(name) for one in categories for name in one.get("keypoints") or ()]
    if not own or not theirs or theirs == list(own):
        return None
    if set(theirs) != set(own) or len(theirs) != len(own):
        missing, other = ([name for name in a if name not in b][:3] for a, b in ((own, theirs), (theirs, own)))
        raise _WrongFile(f"has other keypoints than the labels: it lacks {', '.join(missing) or 'none'}, and has "
                         f"{', '.join(other) or 'some twice'}")  # fmt: skip
    return np.array([theirs.index(name) for name in own])


def _person(annotation: Mapping[str, Any], keypoints: int, fields: Sequence[tuple[str, str | None]]) -> Person:
    parts = []
    for name, valid in fields:
        if name not in annotation:
            kind = "a COCO-WholeBody file" if len(fields) > 1 else "a file of keypoints"
            raise _WrongFile(f"annotation {annotation.get('id')} has no {name!r}: {kind} is needed")
        part = np.array(annotation[name], np.float64).reshape(-1, 3)
        if valid is not None and not annotation.get(valid, True):
            part[:, 2] = 0
        parts.append(part)
    found = np.concatenate(parts)
    if len(found) != keypoints:
        raise _WrongFile(f"annotation {annotation.get('id')} has {len(found)} keypoints, the labels have {keypoints}")
    box = [float(value) for value in annotation["bbox"]]
    if len(box) != 4:
        raise ValueError(f"its bbox {box} is not x, y, width, height")
    crowd = bool(annotation.get("iscrowd", 0))
    return Person(int(annotation["image_id"]), found, box, float(annotation["area"]), crowd)
