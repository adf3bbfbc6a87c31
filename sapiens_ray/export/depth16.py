"""Depth as 16-bit PNGs, for tools that read no `.npy`, with the scale of each in the PNG and in one index."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from typing import IO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sapiens_ray.export.base import Export, Exported, Options, values_of
from sapiens_ray.export.dense import FOREGROUND, SIZE, Maps
from sapiens_ray.export.filenames import write_each
from sapiens_ray.output.reading import labels_of
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.depth import StoredDepth
from sapiens_ray.tasks.pointmap import StoredPointmap
from sapiens_ray.units import Row

LARGEST = 65535
STEPS = LARGEST - 1  # from the nearest point, 1, to the farthest
TEXT = "sapiens_ray"  # the tEXt chunk of each PNG
FORMULA = f"depth = near + (value - 1) / {STEPS} * (far - near); value 0 is background; larger is farther"
MILLIMETRES = "depth in metres = value / 1000; value 0 is background; larger is farther"
OPTIONS = (SIZE, FOREGROUND)


def export_depth16(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write `<column>/<name>.png` for every depth and pointmap task: 16-bit grey, and `<column>.jsonl` with a line per
    image.

    Of pointmaps, values are millimetres. Of depth, 1 is the nearest point of the foreground (`near`), 65535 the
    farthest (`far`). 0 is the background. `near` and `far` are in metres, or in the unit of the depth, which is
    relative to the photo, and null where there is no foreground. They are in a tEXt chunk of the PNG as well. Raises
    OutputError if there are no labels.
    """
    done = Exported()
    stored = labels_of(source)
    maps = Maps.of(stored, values_of(OPTIONS, options))
    included = [labels for labels in stored if isinstance(labels, StoredDepth | StoredPointmap)]
    for labels in stored:
        if labels not in included and labels is not maps.classes:
            done.left_out[labels.column] = f"{labels.kind} is no depth"
    with contextlib.ExitStack() as files:
        paths = {one.column: files.enter_context(target.replacing(f"{one.column}.jsonl")) for one in included}
        indices = {name: files.enter_context(path.open("w", encoding="utf-8")) for name, path in paths.items()}

        def write(row: Row, name: str) -> None:
            for labels in included:
                file = f"{labels.column}/{name}.png"
                found, inside = maps.read(labels, row)
                if isinstance(labels, StoredPointmap):
                    values, scale = in_millimetres(found[..., 2], inside)
                    formula = MILLIMETRES
                else:
                    values, scale = quantized(found, inside)
                    formula = FORMULA
                target.write(file, depth_png(values, scale, formula), durable=False)
                _add(indices[labels.column], {"image_id": row["image_id"], "file": file, **scale})

        if included:
            columns = dict.fromkeys(column for labels in included for column in maps.columns(labels))
            write_each(source, list(columns), done, write)
            done.notes += maps.notes()
    return done


EXPORT = Export(
    "depth as 16-bit PNGs, larger is farther, with an index of their scales", export_depth16, OPTIONS, of_one_kind=True
)


def quantized(depth: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, dict[str, float | None]]:
    """h x w uint16, and `near` and `far`: the depths that 1 and 65535 stand for. depth: h x w. inside: h x w bool, the
    foreground, which is nowhere 0. Off by at most (far - near) / 131068."""
    values = np.zeros(depth.shape, np.uint16)
    found = depth[inside].astype(np.float64)
    if not found.size:
        return values, {"near": None, "far": None}
    near, far = float(found.min()), float(found.max())
    share = (found - near) / (far - near) if far > near else np.zeros(found.shape)
    values[inside] = 1 + np.rint(share * STEPS)
    return values, {"near": near, "far": far}


def in_millimetres(z: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, dict[str, float | None]]:
    """h x w uint16, from 1 to 65535 in the foreground, and `near` and `far`: its smallest and largest distance in
    metres. z: h x w, in metres; what is nearer than 1 mm or farther than 65.535 m is cut to that. inside: h x w
    bool."""
    values = np.zeros(z.shape, np.uint16)
    found = z[inside].astype(np.float64)
    if not found.size:
        return values, {"near": None, "far": None}
    values[inside] = np.clip(np.rint(found * 1000), 1, LARGEST)
    return values, {"near": float(found.min()), "far": float(found.max())}


def depth_png(values: np.ndarray, scale: Mapping[str, float | None], formula: str = FORMULA) -> bytes:
    """h x w uint16 as a PNG that says what its values stand for."""
    text = PngInfo()
    text.add_text(TEXT, json.dumps({**scale, "formula": formula}))
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", pnginfo=text, compress_level=1)
    return buffer.getvalue()


def _add(file: IO[str], line: Mapping[str, object]) -> None:
    file.write(json.dumps(line) + "\n")
