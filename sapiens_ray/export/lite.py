"""Sapiens-Lite's own files, for scripts that were written for its output folders.

Unlike Sapiens-Lite, sub-folders are kept, so that equal names in two folders do not overwrite each other, and
where two images would still share a file name (a.jpg and a.png) their full names are used.
"""

from __future__ import annotations

import io
import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from sapiens_ray.errors import OutputError
from sapiens_ray.images import decode_map, picture_name
from sapiens_ray.plan import list_units
from sapiens_ray.reading import iterate_rows, map_columns
from sapiens_ray.storage import Folder


@dataclass
class Exported:
    """What was written."""

    images: int
    skipped: int
    renamed: int


def export_lite(source: Folder, target: Folder) -> Exported:
    """Write `seg/<stem>.npy` (bool H x W, class > 0) and `seg/<stem>_seg.npy` (int64 H x W classes) for every
    image that has labels. Error rows are counted as skipped. Raises OutputError if there are no labels."""
    units = list_units(source)
    if not units:
        raise OutputError(f"{source.uri} holds no labels: no files in {source.join('data')}")
    columns = map_columns(source, f"data/{units[0].file}")
    done = Exported(0, 0, 0)
    wanted = _wanted_stems(source)
    used: set[str] = set()
    for row in iterate_rows(source, ["image_id", "error_kind", *columns]):
        if row["error_kind"] is not None:
            done.skipped += 1
            continue
        name, renamed = _file_name(row["image_id"], wanted, used)
        for column in columns:
            class_map = decode_map(row[column])
            target.write(f"{column}/{name}.npy", _npy(class_map > 0), durable=False)
            target.write(f"{column}/{name}_seg.npy", _npy(class_map.astype(np.int64)), durable=False)
        done.images += 1
        done.renamed += renamed
    return done


def _wanted_stems(source: Folder) -> Counter[str]:
    """How many images have each stem."""
    rows = iterate_rows(source, ["image_id", "error_kind"])
    return Counter(_stem(row["image_id"]) for row in rows if row["error_kind"] is None)


def _file_name(image_id: str, wanted: Counter[str], used: set[str]) -> tuple[str, bool]:
    """(name without ending, whether it is not the stem). No two images get files of the same name."""
    stem, full = _stem(image_id), _safe(image_id)
    candidates = itertools.chain(
        [stem] if wanted[stem] == 1 else [], [full], (f"{full}-{n}" for n in itertools.count(2))
    )
    name = next(one for one in candidates if not {one, f"{one}_seg"} & used)
    used |= {name, f"{name}_seg"}
    return name, name != stem


def _stem(image_id: str) -> str:
    folder, slash, base = _safe(image_id).rpartition("/")
    return f"{folder}{slash}{base.rsplit('.', 1)[0] or base}"


def _safe(image_id: str) -> str:
    """The id as a relative path that stays inside the folder."""
    return picture_name(image_id, "x").removesuffix(".x")


def _npy(array: np.ndarray[Any, Any]) -> memoryview:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getbuffer()
