"""Class maps as index PNGs with the colours of the classes as palette, as used by annotation tools and datasets; or one
black and white PNG per class."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image

from sapiens_ray.export.base import Export, Exported, Option, Options, value_of
from sapiens_ray.export.filenames import write_each
from sapiens_ray.imaging.images import encode_png, histogram
from sapiens_ray.output.reading import labels_of
from sapiens_ray.storage import Folder
from sapiens_ray.tasks.stored import StoredClassMap
from sapiens_ray.units import Row

PER_CLASS = Option(
    "per_class",
    "a folder per image with a PNG for each class in it, 255 on the class and 0 elsewhere",
    False,
    flag=True,
)


def export_masks(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write `<column>/<stem>.png` for every image and task with class maps: 8-bit indices, colours in the palette.

    With `per_class`, write `<column>/<stem>/<class>.png` for each class of the image, background included: 8 bits, 255
    on the class and 0 elsewhere.

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
            if value_of(options, PER_CLASS):
                _write_classes(target, labels, row, name)
                continue
            mask = Image.fromarray(labels.class_map(row))
            mask.putpalette([value for colour in labels.class_colours_rgb for value in colour])
            buffer = io.BytesIO()
            mask.save(buffer, "PNG", compress_level=1)
            target.write(f"{labels.column}/{name}.png", buffer.getvalue(), durable=False)

    if included:
        write_each(source, [labels.column for labels in included], done, write)
    return done


EXPORT = Export("class maps as index PNGs with palette", export_masks, (PER_CLASS,), of_one_kind=True)


def _write_classes(target: Folder, labels: StoredClassMap, row: Row, name: str) -> None:
    class_map = labels.class_map(row)
    files = class_files(labels.class_names)
    # The folder of x/Hair.png.jpg is not the picture of hair of x.jpg, nor of another name that ends so.
    folder = re.sub(r"(\.png_*)\Z", r"\1_", name, flags=re.IGNORECASE)
    for number in np.flatnonzero(histogram(class_map)).tolist():
        mask = (class_map == number).view(np.uint8) * np.uint8(255)
        target.write(f"{labels.column}/{folder}/{files[number]}", encode_png(mask), durable=False)


def class_files(class_names: list[str]) -> list[str]:
    """File names of classes: the name of the class, with `_` for what is unsafe in a file name; with its id where two
    classes would have the same."""
    safe = [re.sub(r"[^\w .()+-]", "_", name).strip(" .") or "_" for name in class_names]
    folded = [name.casefold() for name in safe]  # some file systems do not tell upper from lower case
    return [
        f"{name}-{number}.png" if folded.count(fold) > 1 else f"{name}.png"
        for number, (name, fold) in enumerate(zip(safe, folded, strict=True))
    ]
