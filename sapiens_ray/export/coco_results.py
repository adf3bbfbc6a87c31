"""COCO's results format, which pycocotools scores against a ground truth: keypoints of persons, masks of classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from sapiens_ray.errors import ConfigError, OutputError
from sapiens_ray.export.base import Export, Exported, Omitted, Option, Options, labelled
from sapiens_ray.output.reading import labels_of
from sapiens_ray.storage import Folder, StorageOptions
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.tasks.coco_file import (
    PERSON,
    CocoImage,
    CocoImages,
    ImageNumber,
    categories_of,
    images_of,
    read_json,
)
from sapiens_ray.tasks.stored import StoredClassMap, StoredLabels, StoredPersons
from sapiens_ray.units import Row

GROUND_TRUTH = Option(
    "ground_truth",
    "the COCO file, local or a URL, whose image ids and categories the results have; needed",
    None,
)

ResultsOf = Callable[[Row, ImageNumber], Iterable[Row]]  # the results of one image


@dataclass(frozen=True)
class GroundTruth:
    """What results need of a ground-truth file. categories: with their `id`, and `name` where they have one."""

    name: str
    images: CocoImages
    categories: list[Row]

    @classmethod
    def read(cls, uri: str, options: StorageOptions) -> GroundTruth:
        """Raises InputError if the file cannot be read, or lists no images."""
        content, _ = read_json(uri, "--ground-truth", options)
        name = redact_uri(uri)
        return cls(name, images_of(content, f"--ground-truth: {name}"), categories_of(content))

    @property
    def persons(self) -> Row:
        """The category of persons."""
        return next((one for one in self.categories if one.get("name") == "person"), {"id": PERSON})

    @property
    def ids(self) -> dict[str, int]:
        """The ids of the categories by name."""
        return {str(one["name"]): int(one["id"]) for one in self.categories if "name" in one}


def export_coco_results(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write `<column>.json` for every task with persons or class maps, as `COCO.loadRes` takes it.

    Persons have `keypoints` (x, y in pixels and score of each) and `score`; no `bbox`, so that pycocotools takes the
    area from the keypoints. Class maps give a run-length mask for every class of an image that has a category of the
    same name. Images of the ground truth are found by their names (`CocoImages.find`); others are left out, and named
    in the notes. So are files without any result, which `loadRes` cannot read.

    Raises ConfigError without a ground truth, and OutputError if there are no labels, or none of its images.
    """
    uri = (options or {}).get(GROUND_TRUTH.name)
    if not uri:
        raise ConfigError("--format coco-results needs --ground-truth FILE, whose image ids the results have")
    truth = GroundTruth.read(str(uri), source.options)
    done = Exported()
    included: list[StoredLabels] = []
    for labels in labels_of(source):
        reason = _why_not(labels, truth)
        if reason:
            done.left_out[labels.column] = reason
        else:
            included.append(labels)
    if not included:
        return done
    matching = Matching(truth.images)
    for row in labelled(source, ["uri"], done):
        matching.find(row)
    done.notes, done.unmatched = matching.notes(truth.name), matching.unmatched
    done.images -= done.unmatched
    if not done.images:
        raise OutputError(
            "; ".join([f"{redact_uri(source.uri)} has no labels of the images of {truth.name}", *done.notes])
        )
    for labels in included:
        with target.replacing(f"{labels.column}.json") as path, path.open("w", encoding="utf-8") as file:
            file.write("[")
            count = 0
            for result in _results(source, labels, truth):
                file.write((",\n" if count else "\n") + json.dumps(result))
                count += 1
            file.write("]\n")
        if not count:
            done.notes.append(f"{labels.column}.json has no results: COCO.loadRes raises IndexError for such a file")
    return done


EXPORT = Export("results of keypoints and class masks that pycocotools scores", export_coco_results, (GROUND_TRUTH,))


class Matching:
    """Finds the images of an output in a ground truth, and counts those that it does not find. For one pass over the
    rows."""

    def __init__(self, images: CocoImages) -> None:
        self._images = images
        self._taken: set[ImageNumber] = set()
        self._omitted = Omitted()

    def find(self, row: Row) -> CocoImage | None:
        """The image of a row with `image_id`, `uri`, `width` and `height`; None if its labels cannot be scored."""
        image = self._images.find(row["image_id"], row["uri"])
        if image is None:
            why = "not listed in"
        elif image.number in self._taken:
            why = "more than one has the same name in"
        elif image.width and image.height and (image.width, image.height) != (row["width"], row["height"]):
            why = "of another size than in"
        else:
            self._taken.add(image.number)
            return image
        self._omitted.add(why, row["image_id"])
        return None

    @property
    def unmatched(self) -> int:
        """How many images were not found."""
        return self._omitted.total

    def notes(self, truth: str) -> list[str]:
        """One line per reason, with the number of images and the first of them. truth: the file, for the text."""
        return self._omitted.notes(f" {truth}")


def _why_not(labels: StoredLabels, truth: GroundTruth) -> str:
    """Why a column has no results; empty if it has."""
    if isinstance(labels, StoredPersons):
        expected, count = truth.persons.get("keypoints"), len(labels.keypoint_names)
        if truth.ids and "person" not in truth.ids:  # its category 1 is something else
            return f"{truth.name} has no category of persons"
        other = isinstance(expected, list) and len(expected) != count
        return f"it has {count} keypoints, persons of {truth.name} have {len(expected or [])}" if other else ""
    if isinstance(labels, StoredClassMap):
        known = set(truth.ids) & {name for at, name in enumerate(labels.class_names) if at != labels.background}
        return "" if known else f"{truth.name} has no category with the name of one of its classes"
    return f"COCO has no {labels.kind}"


def _results(source: Folder, labels: StoredLabels, truth: GroundTruth) -> Iterator[Row]:
    """The results of one column, image by image."""
    columns, results_of = _persons(labels, truth) if isinstance(labels, StoredPersons) else _masks(labels, truth)
    matching = Matching(truth.images)
    for row in labelled(source, ["uri", *columns]):
        image = matching.find(row)
        if image is not None:
            yield from results_of(row, image.number)


def _persons(labels: StoredPersons, truth: GroundTruth) -> tuple[list[str], ResultsOf]:
    """The columns to read of persons, and what makes results of them."""
    category = truth.persons["id"]

    def results(row: Row, number: ImageNumber) -> Iterator[Row]:
        for person in labels.persons(row):
            points = zip(person["keypoints"], person["scores"], strict=True)
            yield {
                "image_id": number,
                "category_id": category,
                "keypoints": [value for place, score in points for value in (*place, score)],
                "score": person["score"],
            }

    return [labels.column], results


def _masks(labels: StoredLabels, truth: GroundTruth) -> tuple[list[str], ResultsOf]:
    """The columns to read of class maps, and what makes results of them."""
    from pycocotools import mask as coco_mask

    assert isinstance(labels, StoredClassMap)
    present, confidence = f"{labels.column}_classes", f"{labels.column}_class_confidence"
    ids = truth.ids

    def results(row: Row, number: ImageNumber) -> Iterator[Row]:
        class_map = labels.class_map(row)
        scores = _class_scores(row[present], row.get(confidence))
        for found in np.flatnonzero(np.bincount(class_map.reshape(-1))).tolist():
            category = ids.get(labels.class_names[found]) if found != labels.background else None
            if category is not None:
                encoded = coco_mask.encode(np.asfortranarray(class_map == found).view(np.uint8))
                yield {
                    "image_id": number,
                    "category_id": category,
                    "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")},
                    "score": scores[found],
                }

    return [labels.column, present, confidence], results


def _class_scores(present: list[int], confidence: list[float | None] | None) -> dict[int, float]:
    """The score of each class of an image: its confidence, 0 where it is null; 1 in outputs without confidences."""
    if confidence is None:
        return dict.fromkeys(present, 1.0)
    return {number: 0.0 if one is None else float(one) for number, one in zip(present, confidence, strict=True)}
