"""CVAT for images 1.1: one XML file with skeletons, boxes and masks, and the labels that a task needs for them.

The format is that of https://docs.cvat.ai/docs/manual/advanced/xml_format/. Pixels count from the top left corner.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from xml.sax.saxutils import XMLGenerator, quoteattr

import numpy as np

from sapiens_ray.export.base import Export, Exported, Omitted, Option, Options, labelled, score_of, values_of
from sapiens_ray.export.coco import MIN_SCORE
from sapiens_ray.export.names import NOT_XML, hex_colour, names_of
from sapiens_ray.export.photos import PLACE, archives_of
from sapiens_ray.export.runs import cvat_runs
from sapiens_ray.output.reading import labels_of
from sapiens_ray.sources import VIDEO
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.stored import StoredClassMap, StoredPersons
from sapiens_ray.units import Row

XML_FILE, LABELS_FILE = "annotations.xml", "labels.json"
PERSON, BOX, SCORE = "person", "person box", "score"
UNNAMEABLE = "XML cannot hold the characters of their names"
FRAMES = "they are frames of videos: no photos by these names could be uploaded to CVAT"
SCORES = [{"name": SCORE, "mutable": False, "input_type": "text", "default_value": "", "values": [""]}]
POINTS = Option(
    MIN_SCORE.name,
    "keypoints with a lower score are marked as outside, where CVAT does not show them; default 0.3",
    MIN_SCORE.default,
    score_of,
)
OPTIONS = (POINTS,)

Label = dict[str, Any]  # as CVAT's raw editor of labels takes it
Names = Mapping[tuple[str, str], str]  # (column, name) to the name of the label


def export_cvat(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write `annotations.xml`, and `labels.json` for the raw editor of labels of a new task.

    Persons are a skeleton and a box each, in one group; class maps a mask per class, without the background. Scores are
    attributes. Boxes are cut at the borders of the photo. Raises OutputError if there are no labels, and for names that
    XML cannot hold. Frames of videos are left out.
    """
    done, omitted = Exported(), Omitted()
    least = values_of(OPTIONS, options)[POINTS.name]
    included: list[StoredPersons | StoredClassMap] = []
    for labels in labels_of(source):
        if isinstance(labels, StoredPersons | StoredClassMap):
            included.append(labels)
        else:
            done.left_out[labels.column] = f"CVAT has no {labels.kind}"
    if not included:
        return done
    names = _label_names(included)
    tables = [label for labels in included for label in _labels(labels, names, source)]
    columns = [*PLACE, *(labels.column for labels in included)]
    videos = {number for number, shard in archives_of(source).items() if shard.format == VIDEO}
    with target.replacing(XML_FILE) as path, path.open("wb") as file:
        xml = XMLGenerator(file, "utf-8", short_empty_elements=True)
        xml.startDocument()
        with _inside(xml, "annotations"):
            _text(xml, "version", "1.1")
            _write_meta(xml, tables)
            number = 0
            for row in labelled(source, columns, done):
                if row["shard"] in videos or NOT_XML.search(row["image_id"]):
                    omitted.drop(FRAMES if row["shard"] in videos else UNNAMEABLE, row["image_id"], done)
                    continue
                size = {"width": row["width"], "height": row["height"]}
                groups = itertools.count(1)  # of all tasks: CVAT takes what has one number for one group
                with _inside(xml, "image", id=number, name=row["image_id"], **size):
                    for labels in included:
                        if isinstance(labels, StoredPersons):
                            _write_persons(xml, labels, row, names, least, groups)
                        else:
                            _write_masks(xml, labels, row, names)
                number += 1
        xml.endDocument()
        omitted.report(done, source)
    target.write(LABELS_FILE, json.dumps(tables, indent=2).encode())
    return done


EXPORT = Export("one XML file with skeletons, boxes and masks for CVAT, and its labels", export_cvat, OPTIONS)


def _label_names(included: Sequence[StoredPersons | StoredClassMap]) -> dict[tuple[str, str], str]:
    """The name of each label, by its column and its own name. Names of labels are unique in a task, so one that two
    columns have gets the name of its column before it."""
    wanted = [
        (labels.column, name)
        for labels in included
        for name in ((PERSON, BOX) if isinstance(labels, StoredPersons) else names_of(labels))
    ]
    counts = Counter(name for _, name in wanted)
    return {(column, name): name if counts[name] == 1 else f"{column} {name}" for column, name in wanted}


def _labels(labels: StoredPersons | StoredClassMap, names: Names, source: Folder) -> Iterator[Label]:
    """The labels of a column, as CVAT's raw editor takes them."""
    if isinstance(labels, StoredClassMap):
        for number, name in enumerate(labels.class_names):
            if number != labels.background:
                colour = hex_colour(labels.class_colours_rgb[number])
                label = names[labels.column, name]
                yield {"name": label, "color": colour, "type": "mask", "attributes": []}
        return
    points = zip(names_of(labels), labels.table.colours, strict=True)
    parts = [
        {"name": name, "color": hex_colour(colour), "type": "points", "attributes": SCORES} for name, colour in points
    ]
    skeleton = {"name": names[labels.column, PERSON], "type": "skeleton", "attributes": SCORES}
    yield {**skeleton, "sublabels": parts, "svg": _svg(labels, _template(labels, source))}
    yield {"name": names[labels.column, BOX], "type": "rectangle", "attributes": SCORES}


def _template(labels: StoredPersons, source: Folder) -> np.ndarray:
    """Where the keypoints of a new skeleton are, K x 2 in percent of its box: as in the first person of the output,
    else on a circle."""
    rows = (labels.persons(row) for row in labelled(source, [labels.column]))
    first = next((persons[0] for persons in rows if persons), None)
    angles = np.linspace(0, 2 * np.pi, len(labels.keypoint_names), endpoint=False)
    points = np.stack([np.sin(angles), -np.cos(angles)], 1) if first is None else np.array(first["keypoints"], float)
    extent = np.ptp(points, axis=0).max() or 1.0
    placed: np.ndarray = 10 + 80 * (points - points.min(0)) / extent
    return placed


def _svg(labels: StoredPersons, points: np.ndarray) -> str:
    """The drawing that tells CVAT the links of a skeleton: lines between circles, which are numbered from 1."""
    lines = [
        f'<line x1="{points[start, 0]:.2f}" y1="{points[start, 1]:.2f}" x2="{points[end, 0]:.2f}" '
        f'y2="{points[end, 1]:.2f}" stroke="black" stroke-width="0.5" data-type="edge" data-node-from="{start + 1}" '
        f'data-node-to="{end + 1}"></line>'
        for start, end in labels.keypoint_links
    ]
    circles = [
        f'<circle r="0.75" cx="{x:.2f}" cy="{y:.2f}" stroke="black" stroke-width="0.1" data-type="element node" '
        f'data-element-id="{number}" data-node-id="{number}" data-label-name={quoteattr(name)}></circle>'
        for number, (name, (x, y)) in enumerate(zip(labels.keypoint_names, points.tolist(), strict=True), 1)
    ]
    return "".join([*lines, *circles])


def _write_meta(xml: XMLGenerator, tables: Sequence[Label]) -> None:
    """The definitions of the labels. Keypoints come after their skeleton, and name it as their parent."""
    with _inside(xml, "meta"), _inside(xml, "task"), _inside(xml, "labels"):
        for label in tables:
            _write_label(xml, label)
            for part in label.get("sublabels", ()):
                _write_label(xml, part, parent=label["name"])


def _write_label(xml: XMLGenerator, label: Label, parent: str = "") -> None:
    with _inside(xml, "label"):
        for name in ("name", "color", "type"):
            if name in label:
                _text(xml, name, label[name])
        with _inside(xml, "attributes"):
            for attribute in label["attributes"]:
                with _inside(xml, "attribute"):
                    for name in ("name", "mutable", "input_type", "default_value"):
                        _text(xml, name, attribute[name])
                    _text(xml, "values", "\n".join(attribute["values"]))
        if "svg" in label:
            _text(xml, "svg", label["svg"])
        if parent:
            _text(xml, "parent", parent)


def _write_persons(
    xml: XMLGenerator, labels: StoredPersons, row: Row, names: Names, least: float, groups: Iterator[int]
) -> None:
    """A skeleton and a box for each person. Keypoints below `least` are `outside`: CVAT keeps them, and hides them."""
    for person in labels.persons(row):
        shared = {"source": "auto", "occluded": 0, "z_order": 1, "group_id": next(groups)}
        with _inside(xml, "skeleton", label=names[labels.column, PERSON], **shared):
            _text(xml, "attribute", f"{person['score']:.4f}", name=SCORE)
            points = zip(labels.keypoint_names, person["keypoints"], person["scores"], strict=True)
            for name, (x, y), score in points:
                place = {"outside": int(score < least), "points": f"{x:.2f},{y:.2f}"}
                with _inside(xml, "points", label=name, source="auto", occluded=0, **place):
                    _text(xml, "attribute", f"{score:.4f}", name=SCORE)
        box = np.clip(np.array(person["box"], float), 0, [row["width"], row["height"]] * 2)
        corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), (f"{one:.2f}" for one in box.tolist()), strict=True))
        with _inside(xml, "box", label=names[labels.column, BOX], **shared, **corners):
            _text(xml, "attribute", f"{person['score']:.4f}", name=SCORE)


def _write_masks(xml: XMLGenerator, labels: StoredClassMap, row: Row, names: Names) -> None:
    """A mask for each class: run lengths inside the smallest box around it."""
    class_map = labels.class_map(row)
    for found in np.flatnonzero(np.bincount(class_map.reshape(-1))).tolist():
        if found == labels.background:
            continue
        mask = class_map == found
        (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis))[[0, -1]].tolist() for axis in (1, 0))
        part = mask[top : bottom + 1, left : right + 1]
        with _inside(
            xml, "mask", label=names[labels.column, labels.class_names[found]], source="auto", occluded=0,
            rle=", ".join(map(str, cvat_runs(part))), left=left, top=top, width=part.shape[1], height=part.shape[0],
            z_order=0,
        ):  # fmt: skip
            pass


@contextmanager
def _inside(xml: XMLGenerator, element: str, **attributes: object) -> Iterator[None]:
    """An element, around what is written meanwhile."""
    xml.startElement(element, {key: str(value) for key, value in attributes.items()})  # type: ignore[arg-type]
    yield
    xml.endElement(element)
    if element in ("image", "label"):
        xml.characters("\n")


def _text(xml: XMLGenerator, element: str, content: object, **attributes: object) -> None:
    with _inside(xml, element, **attributes):
        xml.characters(str(content))
