"""Image features of the pretrained encoder: patch tokens on a grid of 64 x 64 (Sapiens2: 64 x 48), or their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from sapiens_ray.imaging import maps
from sapiens_ray.tasks.base import Output, Size, Task, TaskKind
from sapiens_ray.tasks.dense import as_float16
from sapiens_ray.tasks.network import (
    ENCODER_SIDE,
    RESIZED_SQUARE,
    SAPIENS2,
    resize_to_network,
    stretch,
    stretched_kind,
)
from sapiens_ray.tasks.options import ModelOptions
from sapiens_ray.tasks.outputs import output_maps
from sapiens_ray.tasks.stored import About, Files, MapColumn, StoredLabels, stored_map
from sapiens_ray.units import Row

if TYPE_CHECKING:
    import torch

GRID = 64  # patches of 16 pixels
SAPIENS2_GRID = (64, 48)  # rows and columns


class FeaturesOptions(ModelOptions):
    """Options of `task: features`."""

    draws: ClassVar[bool] = False

    task: Literal["features"]
    save: Literal["mean", "map", "both"] = Field(
        "mean",
        description="mean: one vector of length C per image, the mean over the grid. map: C x 64 x 64 (Sapiens2: "
        "C x 64 x 48), megabytes per image.",
    )
    dtype: Literal["float16", "float32"] = Field(
        "float32", description="Type in which features are stored. float16 halves the size of maps, and rounds to 1e-3."
    )

    @property
    def network_size(self) -> tuple[int, int]:
        return self.recipe.size or (ENCODER_SIDE, ENCODER_SIDE)

    def stored_bytes(self, pixels: int) -> int:
        width = 1536  # C of the 1B model
        return width * np.dtype(self.dtype).itemsize * (1 if self.save == "mean" else 64 * 64)


class Features(Task[FeaturesOptions]):
    """The task features. It has no picture."""

    @property
    def input_kind(self) -> str:
        return RESIZED_SQUARE

    @property
    def fields(self) -> list[pa.Field]:
        """Arrow columns: the mean vector as a list, the map as `.npy` (C x h x w)."""
        kind = pa.float16() if self.options.dtype == "float16" else pa.float32()
        fields = [pa.field(self.column, pa.list_(kind)), pa.field(f"{self.column}_map", pa.binary())]
        return {"mean": fields[:1], "map": fields[1:], "both": fields}[self.options.save]

    @property
    def metadata(self) -> About:
        return {"save": self.options.save, "dtype": self.options.dtype}

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """H x W x 3 uint8 BGR to the network's 1024 x 1024 x 3 uint8 BGR, bilinear, aspect not kept."""
        return resize_to_network(image, ENCODER_SIDE, ENCODER_SIDE)

    def check_output(self, output: Output, batch: int) -> torch.Tensor:
        """The B x C x h x w features in what the model returned. Raises CheckpointError for anything else."""
        return output_maps(output, batch, None, self.options, "features", (GRID, GRID))

    def reduce(self, features: torch.Tensor, sizes: list[Size]) -> list[dict[str, np.ndarray]]:
        """B x C x h x w to what is saved per image: `mean`, C float32; `map`, C x h x w float32."""
        found = {}
        if self.options.save != "map":
            found["mean"] = features.float().mean((2, 3)).cpu().numpy()
        if self.options.save != "mean":
            found["map"] = features.float().cpu().numpy()
        return [{name: several[number] for name, several in found.items()} for number in range(len(features))]

    def finish(self, features: list[dict[str, np.ndarray]], row: Row) -> Row:
        """The columns of one row."""
        kind = np.dtype(self.options.dtype)
        columns: Row = {}
        if self.options.save != "map":
            columns[self.column] = features[0]["mean"].astype(kind)
        if self.options.save != "mean":
            tokens = features[0]["map"]
            columns[f"{self.column}_map"] = maps.encode_npy(as_float16(tokens) if kind == np.float16 else tokens)
        return columns


class Sapiens2Features(Features):
    """The task features with an encoder of Sapiens2, whose input has the shape of those of its tasks."""

    @property
    def input_kind(self) -> str:
        return stretched_kind(self.options.network_size)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """H x W x 3 uint8 BGR to the network's 1024 x 768 (4K: 4096 x 3072) x 3 uint8 BGR, as for seg: no program of
        Sapiens2 says how photos become inputs of the encoder."""
        return stretch(image, self.options.network_size)

    def check_output(self, output: Output, batch: int) -> torch.Tensor:
        """The B x C x 64 x 48 features in what the model returned, without the class tokens behind them."""
        features = output[0] if isinstance(output, tuple) and len(output) == 2 else output
        return output_maps(features, batch, None, self.options, "features", SAPIENS2_GRID)


class StoredFeatures(StoredLabels):
    """Vectors, or maps C x h x w in a separate column, or both."""

    @property
    def has_mean(self) -> bool:
        return bool(self.about["save"] != "map")

    @property
    def has_map(self) -> bool:
        return bool(self.about["save"] != "mean")

    @property
    def map_column(self) -> str:
        return f"{self.column}_map"

    @property
    def columns(self) -> list[str]:
        return [self.map_column] if self.has_map else [self.column]

    @property
    def maps(self) -> dict[str, MapColumn]:
        if not self.has_map:
            return {}
        return {self.map_column: MapColumn(stored_map, full_features, self.about["dtype"], "float32", 3)}

    @property
    def compressed(self) -> list[str]:
        """Maps: zstd would take 60 ms for one of 1024 channels, and make it a twelfth smaller."""
        return [self.map_column] if self.has_map else []

    @property
    def left_out_of_lite(self) -> str:
        return "" if self.has_map else "only mean features were saved; Sapiens-Lite's files hold the map (`save: map`)"

    def lite_files(self, row: Row) -> Files:
        """`.npy` float32 C x 64 x 64."""
        return [(".npy", maps.encode_npy(maps.decode_npy(row[self.map_column]).astype(np.float32)))]

    @property
    def unknown_to_sapiens2(self) -> str:
        return "" if self.has_map else "only mean features were saved; the files hold the map (`save: map`)"

    def sapiens2_files(self, row: Row) -> Files:
        """`.npy` float32 C x 64 x 48. Sapiens2 has no program that writes features; this is how Sapiens-Lite does."""
        return self.lite_files(row)


def full_features(cell: bytes, width: int, height: int) -> np.ndarray:
    """C x height x width float32."""
    return maps.resize_channels(maps.decode_npy(cell), width, height)


TASK = TaskKind("features", FeaturesOptions, Features, StoredFeatures, {SAPIENS2: Sapiens2Features})
