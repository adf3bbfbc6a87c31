"""Pointmaps as clouds of points, one PLY file per photo, for MeshLab, Open3D, CloudCompare and Blender."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from sapiens_ray.export.base import Export, Exported, Omitted, Option, Options, values_of, word_of
from sapiens_ray.export.dense import FOREGROUND, Maps
from sapiens_ray.export.filenames import write_each
from sapiens_ray.export.photos import Photos
from sapiens_ray.imaging import images
from sapiens_ray.output.reading import labels_of
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.pointmap import StoredPointmap
from sapiens_ray.units import Row

SIZE = Option(
    "size",
    "network (the default): the points as they are stored; photo: a point for every pixel of the photo",
    "network",
    word_of("network", "photo"),
)
COLOURS = Option(
    "colours",
    "photo (the default): points have the colours of the photo, read again from where the job read it; none: they have "
    "none",
    "photo",
    word_of("photo", "none"),
)
SIGNS = {"published": (1, 1, 1), "opengl": (1, -1, -1)}  # of x, y, z as the model gives them
AXES = Option(
    "axes",
    "published (the default): x right, y down, z forward, as OpenCV and Open3D have cameras; opengl: y up, z to the "
    "viewer, so that viewers show persons upright",
    "published",
    word_of(*SIGNS),
)
OPTIONS = (COLOURS, AXES, SIZE, FOREGROUND)

PLACE = ["x", "y", "z"]
COLOUR = ["red", "green", "blue"]
HEADER = """ply
format binary_little_endian 1.0
comment sapiens_ray: metres, axes {axes}
element vertex {count}
{properties}
end_header
"""


def export_ply(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write `<column>/<name>.ply` for every pointmap task: the points of the foreground in metres, with the colours of
    the photo. A photo that cannot be read again has a cloud without colours.

    Raises OutputError if there are no labels.
    """
    done, uncoloured = Exported(), Omitted()
    given = values_of(OPTIONS, options)
    stored = labels_of(source)
    maps = Maps.of(stored, given)
    included = [labels for labels in stored if isinstance(labels, StoredPointmap)]
    for labels in stored:
        if labels not in included and labels is not maps.classes:
            done.left_out[labels.column] = f"{labels.kind} is no pointmap"
    photos = Photos(source) if included and given[COLOURS.name] == "photo" else None
    axes = given[AXES.name]

    def write(row: Row, name: str) -> None:
        photo = _photo(photos, row, uncoloured) if photos else None
        for labels in included:
            points, inside = maps.read(labels, row)
            height, width = points.shape[:2]
            colours = None if photo is None else cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
            chosen = None if colours is None else colours[inside][:, ::-1]
            target.write(f"{labels.column}/{name}.ply", ply(points[inside] * SIGNS[axes], chosen, axes), durable=False)

    if included:
        write_each(source, [name for labels in included for name in maps.columns(labels)], done, write)
        where = f"where {maps.classes.column} is no background" if maps.classes else "of the whole photo"
        done.notes += [f"points are those {where}", *(f"without colours: {note}" for note in uncoloured.notes())]
    return done


EXPORT = Export("pointmaps as PLY files, clouds of points in metres", export_ply, OPTIONS, of_one_kind=True)


def ply(points: np.ndarray, colours: np.ndarray | None, axes: str = "published") -> bytes:
    """A binary PLY file (Turk, "The PLY Polygon File Format", 1994) of N points.

    points: N x 3, x, y, z. colours: N x 3 uint8, red, green, blue. axes: for the comment in its header.
    """
    fields = [(name, "<f4") for name in PLACE] + [(name, "u1") for name in COLOUR if colours is not None]
    vertices = np.empty(len(points), fields)
    _fill(vertices, PLACE, points)
    if colours is not None:
        _fill(vertices, COLOUR, colours)
    kinds = {"<f4": "float", "u1": "uchar"}
    properties = "\n".join(f"property {kinds[kind]} {name}" for name, kind in fields)
    return HEADER.format(axes=axes, count=len(points), properties=properties).encode() + vertices.tobytes()


def _fill(vertices: np.ndarray, names: Sequence[str], values: np.ndarray) -> None:
    for number, name in enumerate(names):
        vertices[name] = values[:, number]


def _photo(photos: Photos, row: Row, missing: Omitted) -> np.ndarray | None:
    """The photo of a row, H x W x 3 uint8 BGR; None, and counted in `missing`, if it cannot be read again."""
    data, why = photos.read(row)
    if data is None:
        missing.add(why, row["image_id"])
        return None
    return images.decode(data, row["width"] * row["height"])
