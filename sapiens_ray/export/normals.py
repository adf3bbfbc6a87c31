"""Normals as RGB PNGs, in the colours of normal maps that renderers and engines read."""

from __future__ import annotations

import cv2
import numpy as np

from sapiens_ray.errors import OutputError
from sapiens_ray.export.base import Export, Exported, Option, Options, values_of, word_of
from sapiens_ray.export.dense import FOREGROUND, SIZE, Maps
from sapiens_ray.export.filenames import write_each
from sapiens_ray.imaging.maps import unit_length
from sapiens_ray.output.reading import labels_of
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.normal import StoredNormal
from sapiens_ray.units import Row

SIGNS = {"published": (1, 1, 1), "opengl": (1, 1, 1), "directx": (1, -1, 1)}  # of x, y, z as the model gives them
AXES = Option(
    "axes",
    "published (the default): x, y, z as the model gives them; opengl: x right, y up, z to the viewer; directx: y "
    "down. The last two take the published axes as x right, y up, z to the viewer",
    "published",
    word_of(*SIGNS),
)
BITS = Option("bits", "of each channel: 8 (the default) or 16", "8", word_of("8", "16"))
OPTIONS = (AXES, BITS, SIZE, FOREGROUND)


def export_normals(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write `<column>/<name>.png` for every normal task: red, green, blue are (n + 1) / 2 of x, y, z, scaled to the
    largest value and rounded. The background is black, which stands for no vector of unit length.

    Raises OutputError if there are no labels.
    """
    done = Exported()
    given = values_of(OPTIONS, options)
    stored = labels_of(source)
    maps = Maps.of(stored, given)
    included = [labels for labels in stored if isinstance(labels, StoredNormal)]
    for labels in stored:
        if labels not in included and labels is not maps.classes:
            done.left_out[labels.column] = f"{labels.kind} has no normals"
    away = total = 0  # images whose normals point away from the viewer, if z is to the viewer

    def write(row: Row, name: str) -> None:
        nonlocal away, total
        for labels in included:
            vectors, inside = maps.read(labels, row)
            total += bool(inside.any())
            away += bool(inside.any() and vectors[inside, 2].mean() < 0)
            picture = coloured(vectors, inside, SIGNS[given[AXES.name]], int(given[BITS.name]))
            target.write(f"{labels.column}/{name}.png", _png(picture), durable=False)

    if included:
        columns = dict.fromkeys(column for labels in included for column in maps.columns(labels))
        write_each(source, list(columns), done, write)
        done.notes += maps.notes()
    if given[AXES.name] != "published" and 2 * away > total:
        done.notes.append(
            f"in {away} of {total} images the mean z is negative: visible surfaces would face away from the viewer, so "
            f"the axes of this model are not those that --axes {given[AXES.name]} takes for granted"
        )
    return done


EXPORT = Export("normals as RGB PNGs, for renderers and engines", export_normals, OPTIONS, of_one_kind=True)


def coloured(vectors: np.ndarray, inside: np.ndarray, signs: tuple[int, int, int], bits: int) -> np.ndarray:
    """h x w x 3 uint8 or uint16 RGB. vectors: h x w x 3, of any length above 0. inside: h x w bool; black elsewhere."""
    largest = (1 << bits) - 1
    unit = unit_length(vectors) * np.array(signs, np.float32)
    colours = np.rint((np.clip(unit, -1, 1) + 1) / 2 * largest)
    colours[~inside] = 0
    found: np.ndarray = colours.astype(np.uint8 if bits == 8 else np.uint16)
    return found


def _png(rgb: np.ndarray) -> bytes:
    made, encoded = cv2.imencode(".png", rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not made:
        raise OutputError(f"OpenCV could not encode normals of shape {rgb.shape} as PNG")
    return bytes(encoded.data)
