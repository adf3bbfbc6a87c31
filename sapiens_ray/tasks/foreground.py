"""Which pixels show a person: the class map of the same job, masks that the user brings, or nothing known."""

from __future__ import annotations

import posixpath
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from sapiens_ray import storage
from sapiens_ray.images import decode_map, picture_name
from sapiens_ray.maps import decode_npy
from sapiens_ray.tasks.options import Section, choice_schema

Source = Literal["auto", "none", "seg", "column", "folder"]


class Mask(Section):
    """`auto`, `none`, `seg`, `{seg: name}`, `{column: name}` or `{folder: uri}`."""

    source: Source = "auto"
    seg: str | None = Field(None, description="Name of the seg task of the same job whose classes above 0 are meant.")
    column: str | None = Field(
        None, description="Input column (Parquet and lists) with mask bytes (.npy, PNG) or paths of mask files."
    )
    folder: str | None = Field(
        None,
        description="Folder of masks named like the images, <image_id without suffix>.npy or .png: what "
        "`sapiens-ray export --format lite` and Sapiens-Lite write.",
    )

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        return expand(value, ("auto", "none", "seg"), ("seg", "column", "folder"))

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return choice_schema(["auto", "none", "seg"], handler(core))

    @property
    def carried(self) -> str | None:
        """The column of a unit that holds the mask bytes, for masks that the user brings."""
        if self.source == "column":
            return f"_mask:column:{self.column}"
        return f"_mask:folder:{self.folder}" if self.source == "folder" else None


def expand(value: Any, words: tuple[str, ...], keys: tuple[str, ...]) -> Any:
    """The one-word and one-key forms of a section as the whole section with `source`."""
    if value is None:
        return {"source": "none"}
    if isinstance(value, str):
        if value not in words:
            raise ValueError(f"{value!r} is none of {', '.join(words)}, or a mapping with {' or '.join(keys)}")
        return {"source": value}
    if isinstance(value, dict) and "source" not in value:
        given = [key for key in keys if value.get(key) is not None]
        if len(given) == 1:
            return {**value, "source": given[0]}
        if not set(value) - set(keys):  # leaves an unknown key to the usual message
            raise ValueError(f"give one of {', '.join(keys)}")
    source = value.get("source") if isinstance(value, dict) else None
    if source in keys and source not in words and value.get(source) is None:
        raise ValueError(f"{source}: is missing")
    return value


def fetch(mask: Mask, image_id: str, value: Any, base: str, options: dict[str, Any]) -> bytes | None:
    """The bytes of an image's mask; None if there is no such mask. `value`: the cell of the column, if one is
    meant, where a path is relative to `base`. Raises OSError if the storage fails."""
    if mask.source == "folder":
        stem = picture_name(posixpath.splitext(image_id)[0], "x").removesuffix(".x")
        full = picture_name(image_id, "x").removesuffix(".x")
        paths = [f"{str(mask.folder).rstrip('/')}/{name}{end}" for name in (stem, full) for end in (".npy", ".png")]
    else:
        cell = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(cell, bytes):
            return cell
        path = value.get("path") if isinstance(value, dict) else value
        if not isinstance(path, str) or not path:
            return None
        paths = [path if "://" in path or path.startswith("/") else f"{base}/{path}"]
    for path in paths:
        try:
            return storage.read_bytes(path, options)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            continue
    return None


def foreground(mask: Mask, row: dict[str, Any]) -> np.ndarray | None:
    """height x width bool, True on persons; None if nothing is known: no mask asked for, none there, or one that
    cannot be read. A mask of another size is resized by nearest neighbour."""
    if mask.source == "seg":
        return decode_map(row[str(mask.seg)]) > 0
    data = row.get(mask.carried) if mask.carried else None
    if data is None:
        return None
    try:
        array = decode_npy(data) if data[:6] == b"\x93NUMPY" else decode_map(data)
    except (ValueError, EOFError, cv2.error):
        return None
    marked = array != 0 if array.ndim == 2 else (array[..., :3] != 0).any(-1)
    if marked.ndim != 2 or 0 in marked.shape:
        return None
    size = (row["width"], row["height"])
    if marked.shape != size[::-1]:
        marked = cv2.resize(marked.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    return marked
