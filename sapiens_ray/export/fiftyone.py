"""FiftyOne: a folder that `fiftyone.Dataset.from_dir` opens, of the type FiftyOneDataset.

It is the older of the two layouts that this type has: `metadata.json` without the key `version`, and `samples.json`.
It is plain JSON, and FiftyOne finds out the types of the fields itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from sapiens_ray.export.base import (
    Export,
    Exported,
    Omitted,
    Option,
    Options,
    labelled,
    values_of,
    write_items,
)
from sapiens_ray.export.dense import Maps
from sapiens_ray.export.depth16 import LARGEST, depth_png, quantized
from sapiens_ray.export.filenames import RowNames
from sapiens_ray.export.photos import ARCHIVED, PLACE, SIGNED, Photos, archives_of, is_signed, suffix_of
from sapiens_ray.imaging.images import encode_png
from sapiens_ray.output.reading import labels_of, schema_in
from sapiens_ray.storage import Folder, is_remote, local_path
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.tasks.depth import StoredDepth
from sapiens_ray.tasks.stored import StoredClassMap, StoredLabels, StoredPersons
from sapiens_ray.units import Row

PHOTOS = Option("photos", "also write the photos, read again from where the job read them", False, flag=True)
OPTIONS = (PHOTOS,)
OWN = ("shard", "index", "image_id", "uri", "width", "height", "error_kind", "error", "visualization")
RESERVED = ("id", "filepath", "tags", "metadata", "created_at", "last_modified_at", "media_type")  # by FiftyOne
LARGEST_INTEGER = "whole numbers above 2^63 do not fit into FiftyOne: they are text"


def export_fiftyone(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write `metadata.json`, `samples.json`, and `fields/<column>/<name>.png` for class maps and depth.

    Persons are Keypoints and, in `<column>_boxes`, Detections; class maps are Segmentations, depth Heatmaps of 0 to
    65535. Numbers, texts and mean features are fields of their own; columns whose names FiftyOne refuses get others. To
    FiftyOne, 0 is the background: another class that is the background changes places with class 0. A photo is named
    by its path, or written to `data/` with `photos`. Raises OutputError if there are no labels.
    """
    done, omitted = Exported(), Omitted()
    stored = labels_of(source)
    included = [labels for labels in stored if isinstance(labels, StoredPersons | StoredClassMap | StoredDepth)]
    maps = Maps(next((one for one in stored if isinstance(one, StoredClassMap)), None), resized=False)
    schema = schema_in(source)
    shown = {labels.column for labels in included}
    rest = [one for one in schema if one.name not in OWN and one.name not in shown]
    kinds = {labels.column: labels.kind for labels in stored}
    plain = [one.name for one in rest if _is_plain(one.type)]
    for one in rest:
        if one.name not in plain:
            done.left_out[one.name] = f"FiftyOne has no field for {kinds.get(one.name, one.type)}"
    fields = _field_names(plain, included)
    for column, field in fields.items():
        if column != field:
            done.notes.append(f"column {column!r} is the field {field}: FiftyOne does not take its name")
    large = {name for name in plain if _holds_uint64(schema.field(name).type)}
    done.notes += [f"{name}: {LARGEST_INTEGER}" for name in sorted(large)]
    for labels in included:
        if isinstance(labels, StoredClassMap) and labels.background:
            done.notes.append(f"{labels.column}: FiftyOne's background is 0, so classes 0 and {labels.background} have "
                              "changed places")  # fmt: skip
    places = _Places(source, target, photos=values_of(OPTIONS, options)[PHOTOS.name])

    def samples() -> Iterator[str]:
        for row in labelled(source, ["uri", *PLACE, *plain, *(labels.column for labels in included)], done):
            name, renamed = places.names.of(row)
            place, why = places.of(row, name)
            if place is None:
                omitted.drop(why, row["image_id"], done)
                continue
            done.renamed += renamed
            sample = {"filepath": place, "tags": [], "image_id": row["image_id"], "metadata": _size(row)}
            for column, field in fields.items():
                if row[column] is not None:
                    sample[field] = _as_text(row[column]) if column in large else row[column]
            for labels in included:
                if isinstance(labels, StoredClassMap) and (
                    present := sample.get(fields.get(f"{labels.column}_classes", ""))
                ):
                    sample[fields[f"{labels.column}_classes"]] = _swapped(labels)[present].tolist()
                sample |= _fields(labels, maps, row, name, target)
            yield json.dumps(sample)

    with target.replacing("samples.json") as path, path.open("w", encoding="utf-8") as file:
        file.write('{"samples": [')
        write_items(file, samples())
        file.write("]}\n")
        omitted.report(done, source)
    target.write("metadata.json", json.dumps(_about(source, included)).encode())
    return done


EXPORT = Export("a dataset folder that FiftyOne opens", export_fiftyone, OPTIONS)


class _Places:
    """Where FiftyOne finds photos. names: of the files of each image."""

    def __init__(self, source: Folder, target: Folder, photos: bool) -> None:
        self.names = RowNames(source)
        self._target = target
        self._photos = Photos(source) if photos else None
        self._archives = archives_of(source)

    def of(self, row: Row, name: str) -> tuple[str | None, str]:
        """The `filepath` of a sample, relative to the dataset for a photo that is written; None and why, if it has
        none."""
        if self._photos is None:
            if row["shard"] in self._archives:
                return None, f"{ARCHIVED}: give --photos"
            if is_signed(row["uri"]):
                return None, f"{SIGNED}: give --photos"
            return row["uri"] if is_remote(row["uri"]) else local_path(row["uri"]), ""
        data, why = self._photos.read(row)
        if data is None:
            return None, why
        file = f"data/{name}.{suffix_of(row['image_id'], data)}"
        self._target.write(file, data, durable=False)
        return file, ""


def _about(source: Folder, included: Sequence[StoredLabels]) -> Row:
    """The content of `metadata.json`: names of classes and keypoints, and links of skeletons, by field."""
    classes = {
        one.column: {str(number): one.class_names[_swapped(one)[number]] for number in range(len(one.class_names))}
        for one in included
        if isinstance(one, StoredClassMap)
    }
    skeletons = {
        one.column: {"labels": one.keypoint_names, "edges": one.keypoint_links}
        for one in included
        if isinstance(one, StoredPersons)
    }
    info = {"made_by": "sapiens_ray", "labels": redact_uri(source.uri), "mask_targets": classes, "skeletons": skeletons}
    return {"media_type": "image", "info": {name: value for name, value in info.items() if value}}


def _swapped(labels: StoredClassMap) -> np.ndarray:
    """The number that FiftyOne is given for each class id, 256 uint8. It is its own inverse."""
    numbers = np.arange(256, dtype=np.uint8)
    numbers[[0, labels.background]] = [labels.background, 0]
    return numbers


def _size(row: Row) -> Row:
    return {"_cls": "ImageMetadata", "width": row["width"], "height": row["height"]}


def _fields(labels: StoredLabels, maps: Maps, row: Row, name: str, target: Folder) -> Row:
    """The fields of one task for one image. Writes its map, if it has one."""
    file = f"fields/{labels.column}/{name}.png"
    if isinstance(labels, StoredPersons):
        return _persons(labels, row)
    if isinstance(labels, StoredClassMap):
        swapped = encode_png(_swapped(labels)[labels.class_map(row)]) if labels.background else row[labels.column]
        target.write(file, swapped, durable=False)
        return {labels.column: {"_cls": "Segmentation", "mask_path": file}}
    values, scale = quantized(*maps.read(labels, row))
    target.write(file, depth_png(values, scale), durable=False)
    return {labels.column: {"_cls": "Heatmap", "map_path": file, "range": [0, LARGEST], **scale}}


def _persons(labels: StoredPersons, row: Row) -> Row:
    """Keypoints and boxes, relative to the size of the photo. `index` says which belong together."""
    size = np.array([row["width"], row["height"]], float)
    points, boxes = [], []
    for index, person in enumerate(labels.persons(row)):
        shared = {"label": "person", "index": index}
        places = (np.array(person["keypoints"], float).reshape(-1, 2) / size).tolist()
        points.append({"_cls": "Keypoint", **shared, "points": places, "confidence": person["scores"]})
        first, last = np.array(person["box"], float).reshape(2, 2) / size
        box = [*first.tolist(), *(last - first).tolist()]
        boxes.append({"_cls": "Detection", **shared, "bounding_box": box, "confidence": person["score"]})
    return {
        labels.column: {"_cls": "Keypoints", "keypoints": points},
        _boxes(labels): {"_cls": "Detections", "detections": boxes},
    }


def _boxes(labels: StoredPersons) -> str:
    """The field with the boxes of persons."""
    return f"{labels.column}_boxes"


def _is_plain(kind: pa.DataType) -> bool:
    """Whether a column holds numbers, texts or lists of them."""
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type) and not pa.types.is_nested(kind.value_type)
    single = (
        pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string,
        pa.types.is_string_view,
    )  # fmt: skip
    return any(test(kind) for test in single)


def _holds_uint64(kind: pa.DataType) -> bool:
    """Whether the numbers of a plain column may be larger than those of MongoDB."""
    return bool(kind == pa.uint64() or (hasattr(kind, "value_type") and kind.value_type == pa.uint64()))


def _as_text(cell: Any) -> Any:
    """A number as text; a list of them as a list of texts."""
    return list(map(_as_text, cell)) if isinstance(cell, list) else None if cell is None else str(cell)


def _field_names(columns: Sequence[str], included: Sequence[StoredLabels]) -> dict[str, str]:
    """The field of each column. FiftyOne has fields of its own, refuses names that begin with `_`, and keeps `.` and
    `$` for MongoDB. No two columns become one field."""
    boxes = [_boxes(labels) for labels in included if isinstance(labels, StoredPersons)]
    taken = {*RESERVED, "image_id", *(labels.column for labels in included), *boxes}
    good = {name: re.sub(r"[.$\0]", "_", name).lstrip("_") or "column" for name in columns}
    fields: dict[str, str] = {}
    for column in sorted(columns, key=lambda name: good[name] != name or name in taken):  # those that stay come first
        field = good[column]
        while field in taken:
            field += "_"
        taken.add(field)
        fields[column] = field
    return {column: fields[column] for column in columns}
