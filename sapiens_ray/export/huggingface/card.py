"""README.md of a dataset: YAML that the hub reads, and what people must know before they use the labels.

The fields of the YAML: https://github.com/huggingface/hub-docs/blob/main/datasetcard.md
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from sapiens_ray.export.huggingface.features import Column, Feature, yaml_features
from sapiens_ray.export.huggingface.markdown import code, fenced, folded, inline, table
from sapiens_ray.export.huggingface.shards import Written
from sapiens_ray.models.catalogue import CATALOGUE, LICENCE, licence_of
from sapiens_ray.output.record import Record
from sapiens_ray.output.summary import counted
from sapiens_ray.tasks.repositories import detector_licence
from sapiens_ray.tasks.stored import StoredClassMap, StoredLabels, StoredPersons
from sapiens_ray.version import __version__

CARD = "README.md"
MARK = "<!-- sapiens-ray export --format huggingface {} -->"
_MARKED = re.compile(re.escape(MARK).replace(re.escape("{}"), r"(\{.*?\})"))
IDENTIFIERS = {LICENCE: "cc-by-nc-4.0"}  # of licences on the hub
SIZES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"), (10**12, "100B<n<1T"),
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A model of the job, as `job.yaml` records it. licence: None if it is not known."""

    column: str
    checkpoint: str
    mode: str
    sha256: str
    licence: str | None


@dataclass(frozen=True)
class Card:
    """What the card tells. record: `job.yaml`; empty if the output has none. errors: error rows by kind. photo:
    the column with the photos; None if they are not in the dataset. wanted: the licence that the user chose. state: see
    `read_mark`."""

    record: Record
    labels: Sequence[StoredLabels]
    columns: Sequence[Column]
    written: Written
    errors: Mapping[str, int]
    photo: str | None
    wanted: str | None
    state: str

    @property
    def models(self) -> list[Model]:
        """Those of the tasks, then person detectors."""
        tasks: list[dict[str, Any]] = self.record.get("job", {}).get("tasks", [])
        files: list[dict[str, Any]] = self.record.get("models", [])
        found = []
        for number, file in enumerate(files):
            task = tasks[number] if number < len(tasks) else {}
            written, uri = str(task.get("checkpoint") or ""), str(file.get("checkpoint") or "")
            name = written if written in CATALOGUE else _last_part(uri)
            column = self.labels[number].column if number < len(self.labels) else "boxes of persons"
            licence = licence_of(written) or licence_of(uri) or detector_licence(uri)
            found.append(Model(column, name, str(task.get("mode") or ""), str(file.get("sha256") or ""), licence))
        return found

    @property
    def licence(self) -> str | None:
        """The identifier of the licence of the labels; None if that of a model is not known."""
        if self.wanted is not None:
            return self.wanted
        licences = {model.licence for model in self.models[: len(self.labels)]}
        return IDENTIFIERS.get(licences.pop() or "") if len(licences) == 1 else None

    def head(self) -> dict[str, Any]:
        """The YAML."""
        images = self.written.rows
        files = {"split": "train", "path": "data/train-*.parquet"}
        split = {"name": "train", "num_bytes": self.written.bytes, "num_examples": images}
        return {
            "license": self.licence or "unknown",
            "annotations_creators": ["machine-generated"],
            "pretty_name": self._name,
            "size_categories": [next((size for limit, size in SIZES if images < limit), "n>1T")],
            "task_categories": list(dict.fromkeys(filter(None, map(_category, self.labels)))),
            "tags": list(dict.fromkeys(["sapiens", "sapiens-ray", "human", *(one.kind for one in self.labels)])),
            "configs": [{"config_name": "default", "data_files": [files]}],
            "dataset_info": {
                "features": yaml_features(self.columns),
                "splits": [split],
                "download_size": self.written.file_bytes,
                "dataset_size": self.written.bytes,
            },
        }

    def text(self) -> str:
        """The whole file."""
        head = yaml.safe_dump(self.head(), sort_keys=False, allow_unicode=True, width=10_000)
        parts = [
            self._about(), self._loading(), self._models(), self._columns(), *map(_table_of, self.labels),
            self._errors(), self._limits(), self._making(),
        ]  # fmt: skip
        told = {"state": self.state, "images": self.written.rows, "error_rows": sum(self.errors.values())}
        before, after = f"---\n{head}---\n\n", "\n\n" + "\n\n".join(filter(None, parts)) + "\n"
        mark = MARK.format(json.dumps({**told, "text": _hash(before + after)}))
        return before + mark + after

    @property
    def _name(self) -> str:
        return str(self.record.get("job", {}).get("name") or "Labels of people")

    def _about(self) -> str:
        kinds = ", ".join(f"{one.kind} ({code(one.column)})" for one in self.labels)
        images = counted(self.written.rows, "photo")
        included = "The photos are included." if self.photo else "The photos are not included: `image_id` names them."
        return (
            f"# {inline(self._name)}\n\n"
            f"Labels of {images} of people: {kinds}. They were made by Meta's Sapiens models, or models of their kind, "
            f"with sapiens_ray {__version__}. **No human has checked them.** {included}"
        )

    def _loading(self) -> str:
        maps = [name for one in self.labels for name in one.maps if name not in one.pictures]
        images = [(one, name) for one in self.labels for name in one.pictures]
        lines = [
            *(["import io", "", "import numpy as np"] if maps else []),
            "from datasets import load_dataset",
            "",
            'labels = load_dataset("user/name", split="train")  # or the path of this folder',
            "row = labels[0]",
            *(f"row[{name!r}]  # a PIL image: {_shown(one, name)}" for one, name in images),
            *(f"np.load(io.BytesIO(row[{name!r}]))" for name in maps),
        ]
        text = "\n".join(lines)
        return f"## Loading\n\n{fenced(text, 'python')}"

    def _models(self) -> str:
        rows = [
            [code(one.column), code(one.checkpoint), one.mode, code(one.sha256), one.licence or "not known"]
            for one in self.models
        ]
        if self.wanted is not None:
            said = "The licence of the labels was chosen by their publisher."
        elif self.licence is not None:
            said = (
                "The models are licensed for non-commercial use only. Whether the licence of a model extends to what "
                "it makes is not settled; this card takes the cautious view."
            )
        else:
            said = "**The licence of these labels is not known**, since that of a model is not. Ask their publisher."
        models = table(["column", "checkpoint", "mode", "SHA-256", "licence of the model"], rows)
        return f"## Models and licence\n\n{models}\n\n{said} Photos have licences of their own."

    def _columns(self) -> str:
        rows = [[code(one.name), inline(_kind(one)), inline(self._meaning(one))] for one in self.columns]
        return f"## Columns\n\n{table(['column', 'type', ''], rows)}"

    def _meaning(self, column: Column) -> str:
        if column.name == self.photo:
            return "the original photo; null where it could not be read again"
        for one in self.labels:
            if column.name == one.column and isinstance(one, StoredClassMap):
                return "grey PNG at the size of the photo: the class id of every pixel"
            if column.name in one.pictures:
                return f"PNG: {_shown(one, column.name)}"
            if column.name == one.column and isinstance(one, StoredPersons):
                return "boxes x1, y1, x2, y2 and keypoints x, y in pixels of the photo; scores are peaks of heatmaps"
            suffix = column.name.removeprefix(f"{one.column}_")
            if column.name.startswith(f"{one.column}_") and suffix in SUFFIXES:
                return SUFFIXES[suffix]
            if column.name in one.maps:
                return f"bytes of a .npy file: {MAPS.get(one.kind, one.kind)}"
        return MEANINGS.get(column.name, "")

    def _errors(self) -> str:
        if not self.errors:
            return "## Failed images\n\nEvery image has labels."
        rows = [[code(kind), str(count)] for kind, count in sorted(self.errors.items())]
        failed = table(["kind of error", "images"], rows)
        return f"## Failed images\n\nThese images could not be read or labelled. They have no row.\n\n{failed}"

    def _limits(self) -> str:
        lines = [PEOPLE, PREDICTED, *(LIMITS[one.kind] for one in self.labels if one.kind in LIMITS)]
        return "## Limits, and people in photos\n\n" + "\n".join(f"- {line}" for line in dict.fromkeys(lines))

    def _making(self) -> str:
        job = self.record.get("job")
        if not job:
            return ""
        text = yaml.safe_dump(_without_places(job), sort_keys=False, allow_unicode=True, width=10_000)
        versions = ", ".join(f"{name} {version}" for name, version in (self.record.get("versions") or {}).items())
        return (
            "## How it was made\n\nThe job, without credentials and without the folders of the machine that ran it "
            f"({inline(versions)}):\n\n{fenced(text, 'yaml')}"
        )


PEOPLE = (
    "The photos show people, who were not asked about this dataset. Mind their rights and the law of your country. Do "
    "not use the labels to identify or to judge persons."
)
PREDICTED = (
    "The labels are predictions. They are worse for poses, clothes, cameras and people that were rare in the training "
    "of the models; for whom, was not measured here."
)
LIMITS = {
    "depth": "Depth is relative: larger is farther, without unit. Values of two photos cannot be compared, and outside "
    "of persons they mean nothing.",
    "normal": "Normals are x, y, z in camera coordinates. Meta does not document the directions of the axes, and "
    "nothing here flips them.",
    "pose": "Scores of keypoints are no probabilities and may exceed 1. Points that cannot be seen have a place, too: "
    "look at their score.",
}
MAPS = {
    "depth": "h x w as the network gave it; larger is farther",
    "normal": "h x w x 3, x, y, z as the network gave it; scale them to unit length",
    "features": "C x h x w",
    "pointmap": "h x w x 3, x (right), y (down), z (forward) from the camera, in metres",
}
PICTURES = {  # maps that are PNGs, by their usual columns
    "matting": "alpha, black is 0 and white is 1",
    "matting_foreground": "the colours of the persons times alpha",
}
SUFFIXES = {  # of columns beside a task's own
    "classes": "ids of the classes that occur, ascending",
    "area": "their shares of the photo",
    "confidence": "mean over the foreground of the largest probability of a class",
    "confidence_p05": "its 5 % quantile",
    "class_confidence": "that mean for each class of the list of ids",
    "min": "smallest depth over the foreground",
    "max": "largest depth over the foreground",
    "share": "share of the photo that persons cover: the mean of alpha",
    "depth_m": "median distance z of the foreground in metres",
    "min_m": "smallest distance z of the foreground in metres",
    "max_m": "largest distance z of the foreground in metres",
    "focal_px": "focal length in pixels of the photo, fitted to the points",
    "scale": "what the points of the network were divided by to become metres",
    "length": "mean length of the vectors over the foreground, as the network gave them",
}
MEANINGS = {
    "image_id": "name of the photo in its source",
    "uri": "URL of the photo; null for a file of the machine that made the labels",
    "width": "of the photo, after its EXIF rotation",
    "height": "of the photo, after its EXIF rotation",
    "key": "WebDataset key of a photo from a tar",
}


def read_mark(card: bytes) -> dict[str, Any] | None:
    """What an export wrote into a README.md for itself: `state` of the labels, `images` and `error_rows`, and the hash
    of its `text`; None if it is not the card of an export, or if the mark is damaged."""
    found = _MARKED.search(card.decode(errors="replace"))
    try:
        mark = json.loads(found[1]) if found else {}
    except ValueError:
        return None
    return mark if {"state", "images", "error_rows", "text"} <= set(mark) else None


def is_edited(card: bytes) -> bool:
    """Whether the text of a card with a mark is another one than the export wrote."""
    mark, text = read_mark(card), card.decode(errors="replace")
    return mark is not None and mark["text"] != _hash(_MARKED.sub("", text, count=1))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _shown(labels: StoredLabels, column: str) -> str:
    """What a column of PNGs shows."""
    if isinstance(labels, StoredClassMap):
        return "the class id of every pixel"
    if isinstance(labels, StoredPersons):
        return "number of the person, 0 for nobody"
    return PICTURES.get(column.replace(labels.column, labels.kind, 1), labels.kind)


def _category(labels: StoredLabels) -> str:
    """The task of the hub; empty for what it has no name for, such as normals."""
    if isinstance(labels, StoredClassMap):
        return "image-segmentation"
    if isinstance(labels, StoredPersons):
        return "keypoint-detection"
    return {"depth": "depth-estimation", "features": "image-feature-extraction"}.get(labels.kind, "")


def _kind(column: Column) -> str:
    return "list of class ids" if column.names else _in_words(column.feature)


def _in_words(feature: Feature) -> str:
    """A feature in a few words."""
    if isinstance(feature, list):
        return f"list of {_in_words(feature[0])}"
    if feature.get("_type") == "Sequence":
        return f"list of {_in_words(feature['feature'])}"
    kind = feature.get("_type")
    return "image" if kind == "Image" else str(feature["dtype"]) if kind == "Value" else "struct"


def _table_of(labels: StoredLabels) -> str:
    """The classes or keypoints of a task."""
    if isinstance(labels, StoredClassMap):
        rows = [
            [str(number), inline(name), "#{:02x}{:02x}{:02x}".format(*colour)]
            for number, (name, colour) in enumerate(zip(labels.class_names, labels.class_colours_rgb, strict=True))
        ]
        return folded(f"Classes of {code(labels.column)}", table(["id", "class", "colour"], rows))
    if isinstance(labels, StoredPersons):
        rows = [[str(number), inline(name)] for number, name in enumerate(labels.keypoint_names)]
        links = ", ".join(f"{start}-{end}" for start, end in labels.keypoint_links)
        points = table(["index", "keypoint"], rows)
        return folded(f"Keypoints of {code(labels.column)}", f"{points}\n\nLinks of the skeleton: {links}")
    return ""


def _last_part(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[2]


def _without_places(value: Any) -> Any:
    """The same without nulls, and without the folders of absolute local paths: they tell user names, and nothing to
    others."""
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    if isinstance(value, str) and value.startswith(("/", "file://")):
        return f".../{_last_part(value)}"
    return value
