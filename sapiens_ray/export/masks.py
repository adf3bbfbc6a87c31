"""Class maps as index PNGs with the palette of the classes: what annotation tools and segmentation datasets use."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from sapiens_ray.export import Exported, tasks_of, write_each
from sapiens_ray.images import decode_map
from sapiens_ray.storage import Folder


def export_masks(source: Folder, target: Folder) -> Exported:
    """Write `<column>/<stem>.png` for every image and seg task: 8-bit indices, their colours in the palette.

    Raises OutputError if there are no labels.
    """
    done = Exported()
    palettes: dict[str, bytes] = {}
    for column, about in tasks_of(source).items():
        if about["task"] == "seg":
            palettes[column] = bytes(value for colour in about["class_colours_rgb"] for value in colour)
        else:
            done.left_out[column] = f"{about['task']} has no class map"

    def write(row: dict[str, Any], name: str) -> None:
        for column, palette in palettes.items():
            mask = Image.fromarray(decode_map(row[column]))
            mask.putpalette(palette)
            buffer = io.BytesIO()
            mask.save(buffer, "PNG", compress_level=1)
            target.write(f"{column}/{name}.png", buffer.getvalue(), durable=False)

    if palettes:
        write_each(source, list(palettes), done, write)
    return done
