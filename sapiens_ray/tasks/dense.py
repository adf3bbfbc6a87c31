"""What depth, normal and pointmap share: options, the stored float map, the foreground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, TypeVar

import numpy as np
from pydantic import Field

from sapiens_ray.imaging import maps
from sapiens_ray.tasks.base import Task
from sapiens_ray.tasks.foreground import Mask
from sapiens_ray.tasks.network import NETWORK_HEIGHT, NETWORK_WIDTH, SAPIENS2
from sapiens_ray.tasks.options import ModelOptions
from sapiens_ray.tasks.sections import Settings
from sapiens_ray.tasks.stored import Files, StoredLabels
from sapiens_ray.units import Row


class FloatMapOptions(ModelOptions):
    """Options of depth, normal and pointmap."""

    mask: Mask = Field(
        Mask(source="auto"),
        description="Where the persons are: auto (the seg task of the same job, if there is one), none, seg, "
        "{seg: name}, {column: name} or {folder: uri}.",
    )
    resolution: Literal["network", "original"] = Field(
        "network",
        description="Size at which the map is stored. network: the size of the model's output, which keeps all "
        "information and is 10 to 40 times smaller; read_labels(size='original') and export resize it.",
    )
    dtype: Literal["float16", "float32"] = Field("float16", description="Type in which the map is stored.")

    map_channels: ClassVar[int] = 1

    def settled(self, tasks: Sequence[ModelOptions], where: str) -> ModelOptions:
        return self.model_copy(update={"mask": self.mask.settled(tasks, f"{where}.mask")})

    @property
    def channels(self) -> int:
        return self.map_channels

    @property
    def masks(self) -> list[Mask]:
        return [self.mask] if self.mask.carried else []

    @property
    def description(self) -> str:
        where = self.mask.seg or self.mask.column or self.mask.folder
        return f"foreground: {self.mask.source}" + (f" ({where})" if where else "")

    def result_settings(self) -> Settings:
        settings = super().result_settings()
        folder = self.mask.folder
        return {**settings, "mask": {**settings["mask"], "folder": folder and folder.rstrip("/")}}

    def stored_bytes(self, pixels: int) -> int:
        values = NETWORK_WIDTH * NETWORK_HEIGHT  # normals of Sapiens: three values at a quarter of the pixels
        if self.recipe.name == SAPIENS2:
            values *= self.map_channels
        if self.resolution == "original":
            values = pixels * self.map_channels
        return values * np.dtype(self.dtype).itemsize


MapOptions = TypeVar("MapOptions", bound=FloatMapOptions)


class FloatMapTask(Task[MapOptions]):
    """A task with one float map per image."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The column that shows the foreground."""
        mask = self.options.mask
        column = mask.seg if mask.source == "seg" else mask.carried
        return (column,) if column else ()


class StoredFloatMap(StoredLabels):
    """A float map as `.npy`. Sapiens-Lite stores it at the size of the photo."""

    @property
    def left_out_of_lite(self) -> str:
        return ""

    def lite_files(self, row: Row) -> Files:
        """`.npy` float32 at the size of the photo."""
        full = self.maps[self.column].original(row[self.column], row["width"], row["height"])
        return [(".npy", maps.encode_npy(full))]


def stored(array: np.ndarray, options: FloatMapOptions) -> bytes:
    """The bytes of a map for its column, in the dtype of the options."""
    if options.dtype == "float32":
        return maps.encode_npy(array.astype(np.float32, copy=False))
    limit = float(np.finfo(np.float16).max)  # larger values would become infinite
    return maps.encode_npy(as_float16(np.clip(array, -limit, limit)))


def as_float16(array: np.ndarray) -> np.ndarray:
    """float32 rounded to float16, as `astype` does, 20 times faster: by torch, which is there where labels are made."""
    import torch

    half: np.ndarray = torch.from_numpy(np.ascontiguousarray(array, np.float32)).half().numpy()
    return half
