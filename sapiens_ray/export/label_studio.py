"""Label Studio: tasks with predictions, and the labelling configuration that they need.

The format is that of https://labelstud.io/guide/predictions: geometry in percent of the photo, brushes as bytes.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from sapiens_ray.errors import ConfigError
from sapiens_ray.export.base import (
    Export,
    Exported,
    Omitted,
    Option,
    Options,
    labelled,
    score_of,
    values_of,
    write_items,
)
from sapiens_ray.export.coco import MIN_SCORE
from sapiens_ray.export.json_text import json_text
from sapiens_ray.export.names import hex_colour, names_of
from sapiens_ray.export.photos import ARCHIVED, PLACE, SIGNED, archives_of, is_signed
from sapiens_ray.export.runs import label_studio_rle
from sapiens_ray.output.reading import labels_of, schema_in
from sapiens_ray.output.schema import JOB_KEY
from sapiens_ray.storage import Folder, is_remote, local_path
from sapiens_ray.tasks.stored import StoredClassMap, StoredPersons
from sapiens_ray.units import Row

CONFIG = "config.xml"
LARGEST_FILE = 100 << 20  # characters of a file of tasks; Label Studio takes uploads of up to 250 MB
PERSON = "person"  # the label of boxes
POINT_WIDTH = 0.5  # percent: how large a keypoint is shown
OUTSIDE = "their photos are not below --root"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


CLASSES = Option(
    "classes", "names of the classes to write, such as Hair,Torso; default: all but the background", None, _names
)
ROOT = Option(
    "root",
    "Label Studio's LOCAL_FILES_DOCUMENT_ROOT, a folder around the photos: they become /data/local-files/?d=...; "
    "default: their URIs",
    None,
)  # fmt: skip
POINTS = Option(MIN_SCORE.name, "keypoints with a lower score are left out; default 0.3", MIN_SCORE.default, score_of)
OPTIONS = (CLASSES, ROOT, POINTS)


def export_label_studio(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write `config.xml` and `tasks-000000.json`, `tasks-000001.json`, ...: lists of tasks with one prediction each.

    Persons are rectangles with keypoints below them, class maps a brush per class. Keypoints with a score below
    `min_score`, or outside the photo, are left out. Raises ConfigError for classes that no class map has, OutputError
    if there are no labels.
    """
    done, omitted = Exported(), Omitted()
    given = values_of(OPTIONS, options)
    included: list[_Persons | _Classes] = []
    every = labels_of(source)
    taken = {labels.column for labels in every}  # names in the configuration
    photo = _free("photo", taken)
    for labels in every:
        if isinstance(labels, StoredPersons):
            points = _free(f"{labels.column}_keypoints", taken)
            included.append(_Persons(labels, given[POINTS.name], photo, points))
        elif isinstance(labels, StoredClassMap):
            included.append(_Classes.of(labels, given[CLASSES.name], schema_in(source).names, photo))
        else:
            done.left_out[labels.column] = f"Label Studio has no {labels.kind}"
    if not included:
        return done
    _refuse_unknown(given[CLASSES.name], included)
    configuration = _configuration(included, photo)
    texts = _tasks(source, included, given[ROOT.name], done, omitted)
    for number, group in itertools.groupby(_numbered(texts), key=lambda one: one[0]):
        with target.replacing(f"tasks-{number:06d}.json") as path, path.open("w", encoding="utf-8") as file:
            file.write("[")
            write_items(file, (text for _, text in group))
            file.write("]\n")
    omitted.report(done, source)
    target.write(CONFIG, configuration)
    return done


EXPORT = Export("tasks with predictions and a labelling configuration for Label Studio", export_label_studio, OPTIONS)


def _free(name: str, taken: set[str]) -> str:
    """A name that no other element of the configuration has. Adds it to those that are taken."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _numbered(texts: Iterator[str]) -> Iterator[tuple[int, str]]:
    """Each text with the number of its file."""
    number = size = 0
    for text in texts:
        if size and size + len(text) > LARGEST_FILE:
            number, size = number + 1, 0
        size += len(text)
        yield number, text


def _tasks(
    source: Folder, included: Sequence[_Persons | _Classes], root: str | None, done: Exported, omitted: Omitted
) -> Iterator[str]:
    """The tasks as JSON, one by one."""
    version = _version(source)
    archives = archives_of(source)
    on_disk = 0  # images that Label Studio would look for on its own machine
    columns = [column for labels in included for column in labels.columns]
    for row in labelled(source, ["uri", *PLACE, *columns], done):
        image = None if row["shard"] in archives else _image(row["uri"], root)
        on_disk += image == row["uri"] and not is_remote(row["uri"])
        if image is None or is_signed(image):
            why = ARCHIVED if row["shard"] in archives else OUTSIDE if image is None else SIGNED
            omitted.drop(why, row["image_id"], done)
            continue
        results = [result for labels in included for result in labels.results(row)]
        scores = [result["score"] for result in results if "score" in result and math.isfinite(result["score"])]
        prediction: Row = {"model_version": version, "result": results}
        if scores:
            prediction["score"] = float(np.mean(scores))
        yield json_text({"data": {"image": image, "image_id": row["image_id"]}, "predictions": [prediction]})
    if on_disk:
        done.notes.append(
            f"{on_disk} images are files, which Label Studio opens only below its document root: give --root"
        )


def _version(source: Folder) -> str:
    """What made the labels: the fingerprint of the job, where the output has one."""
    about = json.loads((schema_in(source).metadata or {}).get(JOB_KEY, b"{}"))
    return f"sapiens_ray {about['fingerprint']}" if about.get("fingerprint") else "sapiens_ray"


def _image(uri: str, root: str | None) -> str | None:
    """What Label Studio loads: a URL, or a path below its document root; None if it is not below it."""
    if is_remote(uri) or root is None:
        return uri
    path, folder = os.path.abspath(local_path(uri)), os.path.abspath(root).rstrip("/") + "/"
    return f"/data/local-files/?d={quote(path.removeprefix(folder))}" if path.startswith(folder) else None


def _result(row: Row, number: str, name: str, photo: str, kind: str, value: Row, score: float | None) -> Row:
    """A region. number: its id, unique in the task. name, photo: of the control and the image in the configuration."""
    found: Row = {
        "id": number, "from_name": name, "to_name": photo, "type": kind, "value": value, "image_rotation": 0,
        "original_width": row["width"], "original_height": row["height"],
    }  # fmt: skip
    return found if score is None else {**found, "score": score}


@dataclass(frozen=True)
class _Persons:
    """Persons as rectangles, with keypoints that name the rectangle as their parent. photo, points: names of the image
    and of the keypoints in the configuration; that of the rectangles is the column."""

    labels: StoredPersons
    least: float
    photo: str
    points: str

    @property
    def columns(self) -> list[str]:
        return [self.labels.column]

    def results(self, row: Row) -> Iterator[Row]:
        percent = np.array([100 / row["width"], 100 / row["height"]])
        boxes = self.labels.column
        for number, person in enumerate(self.labels.persons(row)):
            corners = (np.array(person["box"], float).reshape(2, 2) * percent).clip(0, 100)
            (x, y), (width, height) = corners[0].tolist(), (corners[1] - corners[0]).tolist()
            value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": [PERSON]}
            box = f"{boxes}-{number}"
            yield _result(row, box, boxes, self.photo, "rectanglelabels", value, person["score"])
            places = np.array(person["keypoints"], float).reshape(-1, 2) * percent
            seen = (np.array(person["scores"]) >= self.least) & ((places >= 0) & (places <= 100)).all(1)
            for index in np.flatnonzero(seen).tolist():
                (x, y), name = places[index].tolist(), self.labels.keypoint_names[index]
                value = {"x": x, "y": y, "width": POINT_WIDTH, "keypointlabels": [name]}
                found = f"{box}-{index}"
                point = _result(row, found, self.points, self.photo, "keypointlabels", value, person["scores"][index])
                yield {**point, "parentID": box}

    def configure(self, view: ElementTree.Element) -> None:
        boxes = ElementTree.SubElement(view, "RectangleLabels", name=self.labels.column, toName=self.photo)
        ElementTree.SubElement(boxes, "Label", value=PERSON)
        points = ElementTree.SubElement(view, "KeyPointLabels", name=self.points, toName=self.photo)
        for name, colour in zip(names_of(self.labels), self.labels.table.colours, strict=True):
            ElementTree.SubElement(points, "Label", value=name, background=hex_colour(colour))


@dataclass(frozen=True)
class _Classes:
    """Class maps as a brush per class. ids: the classes to write. cells: the columns with classes and confidences.
    photo: the name of the image in the configuration."""

    labels: StoredClassMap
    ids: frozenset[int]
    cells: tuple[str, ...]
    photo: str

    @classmethod
    def of(cls, labels: StoredClassMap, names: Sequence[str] | None, columns: Sequence[str], photo: str) -> _Classes:
        cells = (f"{labels.column}_classes", f"{labels.column}_class_confidence")
        ids = [
            number for number, name in enumerate(labels.class_names)
            if (name in names if names is not None else number != labels.background)
        ]  # fmt: skip
        return cls(labels, frozenset(ids), cells if set(cells) <= set(columns) else (), photo)

    @property
    def columns(self) -> list[str]:
        return [self.labels.column, *self.cells]

    def results(self, row: Row) -> Iterator[Row]:
        column, class_map = self.labels.column, self.labels.class_map(row)
        known = zip(*(row[cell] or [] for cell in self.cells), strict=True) if self.cells else ()
        sure = dict(known)
        for found in np.flatnonzero(np.bincount(class_map.reshape(-1))).tolist():
            if found in self.ids:
                name = self.labels.class_names[found]
                value = {"format": "rle", "rle": label_studio_rle(class_map == found), "brushlabels": [name]}
                yield _result(row, f"{column}-{found}", column, self.photo, "brushlabels", value, sure.get(found))

    def configure(self, view: ElementTree.Element) -> None:
        brushes = ElementTree.SubElement(view, "BrushLabels", name=self.labels.column, toName=self.photo)
        names = names_of(self.labels)
        for number in sorted(self.ids):
            colour = hex_colour(self.labels.class_colours_rgb[number])
            ElementTree.SubElement(brushes, "Label", value=names[number], background=colour)


def _refuse_unknown(names: Sequence[str] | None, included: Sequence[_Persons | _Classes]) -> None:
    """Raise ConfigError for the name of a class that no class map has."""
    known = [name for one in included if isinstance(one, _Classes) for name in one.labels.class_names]
    for name in names or ():
        if name not in known:
            raise ConfigError(f"--classes: no class {name!r} in the output; it has {', '.join(known) or 'none'}")


def _configuration(included: Sequence[_Persons | _Classes], photo: str) -> bytes:
    """The labelling configuration: a control for each kind of region, with the names of its labels."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=photo, value="$image", zoom="true", zoomControl="true")
    for labels in included:
        labels.configure(view)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode").encode()
