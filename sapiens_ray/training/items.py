"""Rows as dicts of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
import torch

from sapiens_ray.errors import ConfigError
from sapiens_ray.imaging import images
from sapiens_ray.tasks.features import StoredFeatures
from sapiens_ray.tasks.stored import StoredClassMap, StoredLabels, StoredPersons, persons_as_arrays
from sapiens_ray.units import Row

Item = dict[str, Any]
Size = Literal["original"] | tuple[int, int] | None  # height and width
Decode = Callable[[Any, Row], Any]  # a cell and its row -> what the item holds
LARGEST_INTEGER = torch.iinfo(torch.int64).max
ALWAYS = ("image_id", "width", "height")


@dataclass(frozen=True)
class ItemMaker:
    """Makes items of rows. columns: besides those in ALWAYS. size: see `LabelDataset`."""

    labels: tuple[StoredLabels, ...]
    columns: tuple[str, ...]
    schema: pa.Schema
    size: Size

    @classmethod
    def of(
        cls, schema: pa.Schema, labels: Sequence[StoredLabels], columns: Sequence[str] | None, size: Size
    ) -> ItemMaker:
        """columns: None for the labels of all tasks. Raises ConfigError for a column that there is not."""
        labelled = [name for one in labels for name in dict.fromkeys((one.column, *one.maps)) if name in schema.names]
        for name in columns or ():
            if name not in schema.names:
                raise ConfigError(f"columns: no column {name!r}; the columns are {', '.join(schema.names)}")
        chosen = labelled if columns is None else columns
        return cls(tuple(labels), tuple(name for name in chosen if name not in ALWAYS), schema, size)

    @property
    def read_columns(self) -> list[str]:
        return [*ALWAYS, *self.columns]

    def item(self, row: Row, photo: bytes | None = None) -> Item:
        """The item of a row. photo: its encoded photo, which becomes `photo`."""
        found: Item = {name: row[name] for name in ALWAYS}
        if photo is not None:
            found["photo"] = self._photo(photo, row)
        for name in self.columns:
            found[name] = self._decoded(name, row)
        return found

    def _decoded(self, name: str, row: Row) -> Any:
        cell = row[name]
        for labels in self.labels:
            if name in labels.maps:
                return None if cell is None else torch.from_numpy(self._map(labels, name, row))
            if name == labels.column and isinstance(labels, StoredPersons):
                return self._persons(labels, row)
        return _plain(cell, self.schema.field(name).type)

    def _map(self, labels: StoredLabels, name: str, row: Row) -> np.ndarray:
        column, cell = labels.maps[name], row[name]
        height, width = self._target(row)
        if isinstance(labels, StoredClassMap | StoredPersons):
            ids = column.stored(cell, row["width"], row["height"])
            if ids.shape != (height, width):
                ids = cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
            # Maps of more than 255 persons have 16 bits, and those of one batch need one dtype.
            return ids.astype(np.int32) if isinstance(labels, StoredPersons) else ids
        if self.size is None or isinstance(labels, StoredFeatures):  # features keep their grid: they are wide
            array = column.stored(cell, row["width"], row["height"])
        else:
            array = column.original(cell, width, height)
        array = array.astype(np.float32, copy=False)
        channels_last = array.ndim == 3 and not isinstance(labels, StoredFeatures)
        return np.ascontiguousarray(array.transpose(2, 0, 1)) if channels_last else array

    def _persons(self, labels: StoredPersons, row: Row) -> Item:
        persons = persons_as_arrays(labels.persons(row))
        count, points = len(persons), len(labels.keypoint_names)
        boxes = np.array([one["box"] for one in persons], np.float32).reshape(count, 4)
        places = np.array([one["keypoints"] for one in persons], np.float32).reshape(count, points, 2)
        scores = np.array([one["scores"] for one in persons], np.float32).reshape(count, points, 1)
        height, width = self._target(row)
        scale = np.array([width / row["width"], height / row["height"]], np.float32)
        # The centre of a pixel stays on what it shows, as in resized photos and maps. Boxes are edges.
        places = (places + np.float32(0.5)) * scale - np.float32(0.5)
        certain = [math.nan if one["box_score"] is None else one["box_score"] for one in persons]
        return {
            "boxes": torch.from_numpy(boxes * np.tile(scale, 2)),
            "box_scores": torch.tensor(certain, dtype=torch.float32),
            "keypoints": torch.from_numpy(np.concatenate([places, scores], 2)),
        }

    def _photo(self, data: bytes, row: Row) -> torch.Tensor:
        photo = images.decode(data, row["width"] * row["height"])
        height, width = self._target(row)
        if photo.shape[:2] != (height, width):
            smaller = width * height < photo.shape[0] * photo.shape[1]
            photo = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
        return torch.from_numpy(np.ascontiguousarray(photo[:, :, ::-1].transpose(2, 0, 1)))

    def _target(self, row: Row) -> tuple[int, int]:
        """Height and width of photo, class map and coordinates."""
        return self.size if isinstance(self.size, tuple) else (row["height"], row["width"])


def _plain(cell: Any, kind: pa.DataType) -> Any:
    """A value of a column that is neither a map nor persons. Floats that are null are NaN, which can be batched. Lists
    of integers with a null, or with one that is too large for int64, stay lists."""
    if pa.types.is_floating(kind):
        return math.nan if cell is None else cell
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if is_list and pa.types.is_floating(kind.value_type) and cell is not None:
        return torch.tensor([math.nan if one is None else one for one in cell], dtype=torch.float32)
    if is_list and pa.types.is_integer(kind.value_type) and cell is not None:
        fits = all(one is not None and one <= LARGEST_INTEGER for one in cell)
        return torch.tensor(cell, dtype=torch.int64) if fits else cell
    return cell


def collate(items: Sequence[Any]) -> Any:
    """A batch of items: tensors of one shape are stacked, numbers become a tensor, dicts are collated by key. All else,
    such as the persons of several photos and maps of several sizes, is a list, which the default of DataLoader refuses.
    """
    first = items[0]
    if isinstance(first, dict):
        return {key: collate([item[key] for item in items]) for key in first}
    if all(isinstance(item, torch.Tensor) for item in items):
        same = len({item.shape for item in items}) == 1
        return torch.stack(list(items)) if same else list(items)
    if all(isinstance(item, int | float) for item in items):
        return torch.tensor(items)
    return list(items)
