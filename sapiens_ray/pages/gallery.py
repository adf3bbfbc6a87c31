"""The data of the gallery: columns of arrays, as JSON that is safe inside a page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_ROWS = 100_000
CLASS_BITS = 53  # JavaScript has whole numbers of so many bits


@dataclass(frozen=True)
class Vocabulary:
    """The classes of a layer: names and colours (RGB), and per row the number whose bit k is set if class k occurs.

    Classes from 53 on have no bit.
    """

    names: Sequence[str]
    colours: Sequence[Sequence[int]]
    masks: Sequence[int]


@dataclass(frozen=True)
class Measure:
    """A number per row that is shown, and by which rows can be sorted. None or NaN where it is unknown.

    digits: behind the point.
    """

    name: str
    values: Sequence[float | None]
    digits: int = 0


@dataclass(frozen=True)
class Layer:
    """Labels of one kind that are laid over photos, such as those of a task.

    All rows without an error have labels. pictures: by number of the thumbnail, data URIs; empty where there is none.
    confidence: per row, larger where the labels are surer, on any scale (probabilities end at 1, lengths of normals do
    not), NaN where it is unknown; None if this layer has no confidence. others: as `pictures`, of the second side of a
    gallery with two.
    """

    name: str
    pictures: Sequence[str]
    confidence: Sequence[float] | None = None
    confidence_name: str = "confidence"
    classes: Vocabulary | None = None
    measures: Sequence[Measure] = ()
    others: Sequence[str] = ()


@dataclass(frozen=True)
class Gallery:
    """All rows of the gallery, at most 100,000.

    thumbnails: per row the number of its thumbnail, -1 for none. photos: the photos by that number, as data URIs, empty
    where the photo could not be read. errors: per row the error kind, empty for labels. messages: the messages of
    error rows, by row. note: what the rows are, such as a sample. sides: the names of `pictures` and, where layers have
    them, of `others`; a switch goes through them, and then to the photo.
    """

    ids: Sequence[str]
    errors: Sequence[str]
    widths: Sequence[int | None]
    heights: Sequence[int | None]
    thumbnails: Sequence[int]
    photos: Sequence[str]
    layers: Sequence[Layer]
    messages: Mapping[int, str] = field(default_factory=dict)
    places: Mapping[int, str] = field(default_factory=dict)
    note: str = ""
    sides: Sequence[str] = ("Overlay",)

    def __post_init__(self) -> None:
        if len(self.ids) > MOST_ROWS:
            raise ValueError(f"a gallery holds at most {MOST_ROWS} rows, not {len(self.ids)}: give it a sample")

    def to_json(self) -> str:
        """The data as JSON without `<`, `>` and `&`, so that no text in it ends the script block that holds it."""
        kinds = sorted({kind for kind in self.errors if kind})
        numbers = {kind: number for number, kind in enumerate(kinds)}
        data = {
            "ids": list(self.ids),
            "kinds": kinds,
            "errors": [numbers.get(kind, -1) for kind in self.errors],
            "widths": list(self.widths),
            "heights": list(self.heights),
            "thumbnails": list(self.thumbnails),
            "photos": list(self.photos),
            "messages": {str(row): text for row, text in self.messages.items()},
            "places": {str(row): text for row, text in self.places.items()},
            "layers": [_layer(layer) for layer in self.layers],
            "sides": list(self.sides),
        }
        return safe_json(data)


def _layer(layer: Layer) -> dict[str, Any]:
    classes = layer.classes
    return {
        "name": layer.name,
        "pictures": list(layer.pictures),
        "others": list(layer.others),
        "confidence": None if layer.confidence is None else [_rounded(value, 4) for value in layer.confidence],
        "confidenceName": layer.confidence_name,
        "classes": None if classes is None else list(classes.names),
        "colours": None if classes is None else [list(colour) for colour in classes.colours],
        "masks": None if classes is None else list(classes.masks),
        "measures": [
            {"name": one.name, "digits": one.digits, "values": [_rounded(value, one.digits) for value in one.values]}
            for one in layer.measures
        ],
    }


def _rounded(value: float | None, digits: int) -> float | int | None:
    """A number as JSON can hold it, without digits that nobody sees; None for NaN and infinity."""
    if value is None or not math.isfinite(value):
        return None
    return round(value, digits) if digits else round(value)


def safe_json(data: object) -> str:
    """JSON that can stand inside a script block: `<`, `>`, `&` and the line ends of JavaScript are escaped."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate of a file name
