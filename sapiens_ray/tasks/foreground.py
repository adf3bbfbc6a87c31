"""Which pixels show a person: from the class map of the same job, from masks of the user, or unknown."""

from __future__ import annotations

import errno
import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from PIL import Image
from pydantic import Field, PrivateAttr

from sapiens_ray import storage
from sapiens_ray.imaging.images import decode_map, encode_png, header_size
from sapiens_ray.imaging.maps import decode_npy, encode_npy
from sapiens_ray.imaging.names import file_names
from sapiens_ray.storage import StorageOptions
from sapiens_ray.storage.uris import relative_to
from sapiens_ray.tasks.sections import Choice, GivesColumn
from sapiens_ray.units import Row

ENDINGS = (".npy", ".png")
MAX_PIXELS = 1 << 28
Source = Literal["auto", "none", "seg", "column", "folder"]


class Mask(Choice):
    """`auto`, `none`, `seg`, `{seg: name}`, `{column: name}` or `{folder: uri}`."""

    words = ("auto", "none", "seg")
    keys = ("seg", "column", "folder")

    source: Source = "auto"
    seg: str | None = Field(None, description="Name of the seg task of the same job whose foreground is persons.")
    column: str | None = Field(
        None,
        description="Input column with mask bytes (.npy, PNG) or paths of mask files: a column of Parquet files and "
        "lists, or a field of the <key>.json members of tars.",
    )
    folder: str | None = Field(
        None,
        description="Folder of masks named like the images, <image_id without suffix>.npy or .png, as written by "
        "`sapiens-ray export --format lite` and Sapiens-Lite.",
    )
    _background: int = PrivateAttr(0)  # of the seg task; a setting of that task, not of the mask

    @property
    def carried(self) -> str | None:
        """The column of a unit that holds the bytes of a mask of the user; None for other sources."""
        if self.source == "column":
            return f"_mask:column:{self.column}"
        return f"_mask:folder:{self.folder}" if self.source == "folder" else None

    def settled(self, tasks: Sequence[GivesColumn], where: str) -> Mask:
        """This mask, with the name of the task that gives it filled in. Raises ValueError if there is no such task."""
        if self.source == "auto" and not any(task.gives_foreground for task in tasks):
            return self.model_copy(update={"source": "none"})
        if self.source in ("auto", "seg"):
            column = foreground_column(self.seg, tasks, where)
            settled = self.model_copy(update={"source": "seg", "seg": column})
            settled._background = background_of(column, tasks)
            return settled
        return self


def foreground_column(name: str | None, tasks: Sequence[GivesColumn], where: str) -> str:
    """The column of the task that gives the foreground: the task of this name, or the first one if None.

    Raises ValueError, with `where` in its message, if there is none.
    """
    columns = [task.column for task in tasks if task.gives_foreground]
    if name is None and columns:
        return columns[0]
    if name in columns:
        return str(name)
    hint = f"its seg tasks are {', '.join(columns)}" if columns else "add one to `tasks`"
    raise ValueError(f"{where}: the job has no seg task{f' named {name!r}' if name else ''}; {hint}")


def background_of(column: str, tasks: Sequence[GivesColumn]) -> int:
    """The background of the task that gives this column."""
    return next(task.background for task in tasks if task.column == column)


def fetch(mask: Mask, image_id: str, value: object, base: str, options: StorageOptions) -> bytes | None:
    """The mask of an image as PNG (uint8, 1 on persons); None if it is missing or cannot be read.

    value: the cell of the column, for `mask.column`; a path in it is relative to `base`. Errors of the storage are
    raised as they are: the next attempt may find the mask.
    """
    if mask.source == "folder":
        paths = [f"{str(mask.folder).rstrip('/')}/{name}{end}" for name in file_names(image_id) for end in ENDINGS]
    else:
        if isinstance(value, Image.Image):  # from a Labeler's caller, as arrays are
            value = np.array(value.convert("L") if value.mode == "LA" else value)
        if isinstance(value, np.ndarray):
            return normalized(encode_npy(value))
        cell = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(cell, bytes):
            return normalized(cell)
        path = value.get("path") if isinstance(value, dict) else value
        if not isinstance(path, str) or not path:
            return None
        paths = [relative_to(base, path)]
    for path in paths:
        try:
            return normalized(storage.read_bytes(path, options))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            continue
        except Exception as error:
            not_a_path = isinstance(error, ValueError) or type(error).__name__ == "ParamValidationError"
            if not_a_path or (isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG):
                continue  # the text in the column is not a path
            raise
    return None


def normalized(data: bytes) -> bytes | None:
    """A mask in `.npy` or any image format, with 0 as background, to a PNG of 0 and 1; None if it cannot be read.

    Of a palette PNG the indices are used, not the colours: the colour of index 0 need not be black.
    """
    try:
        if data[:6] == b"\x93NUMPY":
            array = decode_npy(data)
        else:
            size = header_size(data)
            if size is None or size[0] * size[1] > MAX_PIXELS:
                return None
            with Image.open(io.BytesIO(data)) as image:
                array = np.array(image) if image.mode == "P" else decode_map(data)
        marked: np.ndarray = np.asarray(array[..., :3].any(-1) if array.ndim == 3 else array != 0)
        return encode_png(np.uint8(1) * marked) if marked.ndim == 2 and marked.size else None
    except Exception:  # arbitrary bytes: numpy and Pillow raise many kinds of errors
        return None


@lru_cache(maxsize=8)  # several tasks need the foreground of an image, at about the same time
def of_class_map(png: bytes, background: int = 0) -> np.ndarray:
    """H x W bool, True where the class is not the background; read-only."""
    marked: np.ndarray = decode_map(png) != background
    marked.flags.writeable = False
    return marked


def foreground(mask: Mask, row: Row) -> np.ndarray | None:
    """height x width bool, True on persons; None if unknown: no mask is configured, or it is missing or cannot be
    read. A mask of another size is resized by nearest neighbour."""
    if mask.source == "seg":
        return of_class_map(row[str(mask.seg)], mask._background)
    data = row.get(mask.carried) if mask.carried else None
    if data is None:
        return None
    marked = decode_map(data)
    size = (row["width"], row["height"])
    if marked.shape != size[::-1]:
        marked = cv2.resize(marked, size, interpolation=cv2.INTER_NEAREST)
    return marked > 0


def foreground_at(mask: Mask, row: Row, width: int, height: int) -> np.ndarray | None:
    """`foreground` at the size of a picture, by nearest neighbour."""
    marked = foreground(mask, row)
    if marked is None:
        return None
    return cv2.resize(marked.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
