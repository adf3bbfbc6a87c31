"""Class maps as index PNGs with the colours of the classes as palette, as used by annotation tools and datasets."""

from __future__ import annotations

import io

from PIL import Image

from sapiens_ray.export.base import Export, Exported, Options, write_each
from sapiens_ray.output.reading import labels_of
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.stored import StoredClassMap
from sapiens_ray.units import Row


def export_masks(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write `<column>/<stem>.png` for every image and task with class maps: 8-bit indices, colours in the palette.

    Raises OutputError if there are no labels.
    """
    done = Exported()
    included: list[StoredClassMap] = []
    for labels in labels_of(source):
        if isinstance(labels, StoredClassMap):
            included.append(labels)
        else:
            done.left_out[labels.column] = f"{labels.kind} has no class map"

    def write(row: Row, name: str) -> None:
        for labels in included:
            mask = Image.fromarray(labels.class_map(row))
            mask.putpalette([value for colour in labels.class_colours_rgb for value in colour])
            buffer = io.BytesIO()
            mask.save(buffer, "PNG", compress_level=1)
            target.write(f"{labels.column}/{name}.png", buffer.getvalue(), durable=False)

    if included:
        write_each(source, [labels.column for labels in included], done, write)
    return done


EXPORT = Export("class maps as index PNGs with palette", export_masks)
