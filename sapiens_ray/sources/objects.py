"""Images that a Python program holds: what a `Labeler` is given."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
from PIL import Image

from sapiens_ray import storage
from sapiens_ray.errors import ConfigError, ImageError
from sapiens_ray.imaging.images import encode_png
from sapiens_ray.imaging.pillow import encode_pillow
from sapiens_ray.sources.base import Encoded, reason
from sapiens_ray.sources.lists import PATH_COLUMNS
from sapiens_ray.storage.uris import redact_uri, user_path
from sapiens_ray.units import Row

# A path or URL, an encoded file, an H x W x 3 uint8 BGR array, a Pillow image, or a row with one of them.
OneImage: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | np.ndarray | Image.Image | Mapping[str, Any]
)
AnyImages: TypeAlias = OneImage | Iterable[OneImage]
Columns: TypeAlias = Mapping[str, Sequence[Any]]  # an input column -> its value for each image

_KINDS = (
    "a path or URL, the bytes of an image file, a binary file, a Pillow image, an H x W x 3 uint8 BGR array, or a row "
    "(dict) with one of them"
)
_NO_ARRAYS = "an array in a row could be RGB or BGR: give BGR arrays themselves, or rows with Pillow images"


def read(images: AnyImages, columns: Columns, wanted: Sequence[str], max_pixels: int) -> Iterator[Encoded]:
    """The images in order, each with its values of the `wanted` columns: from its row, or from `columns`.

    What is wrong with one image goes into its `error`. Raises TypeError for what is no image, and ConfigError for
    values that are missing, given twice, or not as many as there are images.
    """
    for name in columns:
        if name not in wanted:
            listed = f"they read {', '.join(wanted)}" if wanted else "they read none"
            raise ConfigError(f"Labeler: the tasks read no column {name!r}; {listed}")
    values = {name: list(cells) for name, cells in columns.items()}
    many = _several(images)
    if isinstance(many, Sized):  # before any of them is labelled
        _refuse_other_length(values, len(many))
    rows = _Rows()
    count = 0
    for index, image in enumerate(many):
        count += 1
        for name, cells in values.items():
            if index >= len(cells):
                raise ConfigError(f"Labeler: column {name!r} has {_values(len(cells))}, but there are more images")
        row = image if isinstance(image, Mapping) else None
        encoded = _encoded(index, image, max_pixels) if row is None else rows.encoded(index, row, wanted, max_pixels)
        encoded.extra = _extra(index, row, values, wanted)
        yield encoded
    _refuse_other_length(values, count)


def _several(images: AnyImages) -> Iterable[OneImage]:
    """The images, also if there is only one."""
    if isinstance(images, np.ndarray):
        return images if images.ndim > 3 else [images]
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image | Mapping):
        return [images]
    if hasattr(images, "read"):
        return [cast(BinaryIO, images)]
    if hasattr(images, "iterrows"):  # iterating over a DataFrame gives the names of its columns
        raise TypeError("Labeler: a DataFrame is no list of images; give its rows, frame.to_dict('records')")
    if not isinstance(images, Iterable):
        raise TypeError(f"Labeler: cannot read {type(images).__name__}; an image is {_KINDS}")
    return images


def _refuse_other_length(values: Columns, count: int) -> None:
    for name, cells in values.items():
        if len(cells) != count:
            images, hint = ("image", "; for one image, write [value]") if count == 1 else ("images", "")
            raise ConfigError(
                f"Labeler: column {name!r} has {_values(len(cells))} for {count} {images}; give one per image{hint}"
            )


def _values(count: int) -> str:
    return f"{count} value{'s' if count != 1 else ''}"


def _extra(index: int, row: Mapping[str, Any] | None, values: Columns, wanted: Sequence[str]) -> Row:
    """The values of the `wanted` columns for one image."""
    extra = {}
    for name in wanted:
        if row is not None and name in row:
            if name in values:
                raise ConfigError(f"Labeler: image {index} has two values of {name!r}, in its row and in `columns`")
            extra[name] = row[name]
        elif name in values:
            extra[name] = values[name][index]
        else:
            there = "" if row is None else f"; the row of image {index} has only {', '.join(map(str, row))}"
            raise ConfigError(f"Labeler: the tasks read column {name!r}; give it in `columns`, or in rows{there}")
    return extra


class _Rows:
    """Rows, such as those of Hugging Face `datasets`. All have their image in the same column, as in a Parquet file."""

    def __init__(self) -> None:
        self._column: str | None = None

    def encoded(self, index: int, row: Mapping[str, Any], wanted: Sequence[str], max_pixels: int) -> Encoded:
        if self._column is None:
            self._column = _image_column(index, {name: cell for name, cell in row.items() if name not in wanted})
        if self._column not in row:
            raise ConfigError(f"Labeler: the row of image {index} has no column {self._column!r}, as earlier rows have")
        cell = row[self._column]
        if isinstance(cell, Mapping):
            path, data = cell.get("path"), cell.get("bytes")
            cell = data if data is not None else path or None
        else:
            path = None
        if cell is None:
            error = ImageError("missing", f"column {self._column!r} is null")
            return Encoded(index, f"image-{index}", "", error=error)
        if isinstance(cell, np.ndarray):
            raise TypeError(f"Labeler: row {index}: column {self._column!r} is an array; {_NO_ARRAYS}")
        encoded = _encoded(index, cell, max_pixels)
        if path:
            encoded.image_id = redact_uri(path)
        return encoded


def _image_column(index: int, row: Mapping[str, Any]) -> str:
    """The column that holds the image: 'image', else the only one that may; else a column of paths, as in lists.

    Raises TypeError if there is none, or more than one.
    """
    possible = [name for name, cell in row.items() if _holds_image(cell)]
    empty = [name for name, cell in row.items() if cell is None]
    if "image" in possible or (not possible and "image" in empty):
        return "image"
    paths = [name for name in PATH_COLUMNS if isinstance(row.get(name), str | os.PathLike)]
    for found in (possible, paths[:1], empty):
        if len(found) == 1:
            return found[0]
        if found:
            raise TypeError(
                f"Labeler: the image of row {index} could be {' or '.join(map(str, found))}; give the images "
                f"themselves, such as [row[{found[0]!r}] for row in rows]"
            )
    held = ", ".join(f"{name}: {type(cell).__name__}" for name, cell in row.items())
    hint = ""
    if any(isinstance(cell, np.ndarray) for cell in row.values()):
        hint = f"; {_NO_ARRAYS}"
    elif any(isinstance(cell, list) and cell and _holds_image(cell[0]) for cell in row.values()):
        hint = "; this is a dict of columns, as dataset[:9] gives: take dataset.select(range(9))"
    raise TypeError(f"Labeler: row {index} has no image: {held}{hint}")


def _holds_image(cell: object) -> bool:
    if isinstance(cell, Mapping):
        return "bytes" in cell and isinstance(cell.get("path"), str | None)
    return isinstance(cell, bytes | bytearray | memoryview | Image.Image)


def _encoded(index: int, image: Any, max_pixels: int) -> Encoded:
    """One image that is not a row. Raises TypeError for what is no image."""
    encoded = Encoded(index, f"image-{index}", "")
    if isinstance(image, str | os.PathLike):
        encoded.image_id = encoded.uri = redact_uri(os.fspath(image))
        try:
            encoded.data = storage.read_bytes(user_path(image))
        except Exception as error:  # storage libraries raise many types
            encoded.error = reason(error)
        return encoded
    try:
        encoded.data = _file_of(image, max_pixels)
    except ImageError as error:
        encoded.error = error
    except TypeError as error:
        raise TypeError(f"Labeler: image {index}: {error}") from None
    return encoded


def _file_of(image: Any, max_pixels: int) -> bytes:
    """The bytes of an image file with this content."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, Image.Image):
        return encode_pillow(image, max_pixels)
    if isinstance(image, np.ndarray):
        return _file_of_array(image)
    if hasattr(image, "read"):
        with contextlib.suppress(AttributeError, OSError):
            image.seek(0)  # as Pillow does: who wrote into it, left it at its end
        try:
            data = image.read()
        except OSError as error:
            raise reason(error) from None
        if isinstance(data, str):
            raise TypeError("a file that was opened as text; open it with mode 'rb'")
        return bytes(data)
    raise TypeError(f"cannot read {type(image).__name__}; an image is {_KINDS}")


def _file_of_array(array: np.ndarray) -> bytes:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        shape = " x ".join(map(str, array.shape)) or "no shape"
        raise TypeError(f"an array must be H x W x 3 uint8 BGR, as OpenCV reads it; this one is {shape} {array.dtype}")
    if 0 in array.shape:
        raise ImageError("zero_size", f"an array of shape {array.shape}")
    return encode_png(np.ascontiguousarray(array))
