"""Sapiens-Lite's own files, for scripts that were written for its output folders.

Unlike Sapiens-Lite, sub-folders are kept, so that equal names in two folders do not overwrite each other, and
where two images would still share a file name (a.jpg and a.png) their full names are used.
"""

from __future__ import annotations

import io
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
    taken = _taken_names(source)
    for row in iterate_rows(source, ["image_id", "error_kind", *columns]):
        if row["error_kind"] is not None:
            done.skipped += 1
            continue
        name, renamed = _file_stem(row["image_id"], taken)
        for column in columns:
            class_map = decode_map(row[column])
            target.write(f"{column}/{name}.npy", _npy(class_map > 0), durable=False)
            target.write(f"{column}/{name}_seg.npy", _npy(class_map.astype(np.int64)), durable=False)
        done.images += 1
        done.renamed += renamed
    return done


def _taken_names(source: Folder) -> Counter[str]:
    """How many images want each file name."""
    rows = iterate_rows(source, ["image_id", "error_kind"])
    stems = [_stem(row["image_id"]) for row in rows if row["error_kind"] is None]
    return Counter(name for stem in stems for name in (stem, f"{stem}_seg"))


def _file_stem(image_id: str, taken: Counter[str]) -> tuple[str, bool]:
    stem = _stem(image_id)
    if taken[stem] > 1 or taken[f"{stem}_seg"] > 1:
        return _safe(image_id), True
    return stem, False


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
