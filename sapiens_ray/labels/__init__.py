"""Class tables as data files, and how to read them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class ClassTable:
    """Classes of a segmentation model, in the order of its logits.

    `colours` are RGB, 0 to 255. `swap_pairs` are the class ids that trade places in a mirrored image.
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    swap_pairs: tuple[tuple[int, int], ...]


@cache
def body_parts() -> ClassTable:
    """The 28 body-part classes of Sapiens segmentation; class 0 is the background."""
    table = json.loads((files(__package__) / "body_parts_28.json").read_text(encoding="utf-8"))
    return ClassTable(
        names=tuple(entry["name"] for entry in table["classes"]),
        colours=tuple(_rgb(entry["colour"]) for entry in table["classes"]),
        swap_pairs=tuple((left, right) for left, right in table["swap_pairs"]),
    )


def _rgb(colour: str) -> tuple[int, int, int]:
    """#rrggbb to (r, g, b)."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
