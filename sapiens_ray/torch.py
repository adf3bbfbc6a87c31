"""Labels as data sets of PyTorch.

    LabelDataset          Rows of an output by number
    IterableLabelDataset  Rows one after the other, shuffled, divided among processes
    collate               Batches of rows that have different numbers of persons

>>> from sapiens_ray.torch import LabelDataset
>>> labels = LabelDataset("runs/people", columns=["seg"], photos=True, size=(512, 384))
>>> loader = DataLoader(labels.iterable(shuffle=True), batch_size=16, num_workers=8)

docs/training.md has a training loop, and says what each tensor is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.utils.data

from sapiens_ray.errors import InputError
from sapiens_ray.output.reading import chosen_rows, schema_in
from sapiens_ray.output.schema import labels_in
from sapiens_ray.planning.photos import PlannedPhotos, is_photo_of
from sapiens_ray.sources import Encoded
from sapiens_ray.storage import Folder, StorageOptions
from sapiens_ray.storage.uris import user_path
from sapiens_ray.training.index import index_rows
from sapiens_ray.training.items import Item, ItemMaker, Size, collate
from sapiens_ray.training.reading import GroupReader
from sapiens_ray.training.split import Reader, pieces, shuffled
from sapiens_ray.units import Row

__all__ = ["IterableLabelDataset", "LabelDataset", "collate"]

Transform = Callable[[Item], Any]
BUFFER = 128  # rows, encoded
BUFFER_BYTES = 512 << 20  # of the rows in a buffer: frames of videos are not compressed


class LabelDataset(torch.utils.data.Dataset[Any]):
    """Rows of an output by number: those that had labels when the data set was made, in the order of the output.

    output: the `output.uri` of the job, a path or a URL. The job may still run; rows that it writes later are left out.
    columns: which columns of the output the items have; by default the labels of all tasks.
    where: only rows that meet a condition in SQL, such as "seg_confidence > 0.8" (docs/query.md).
    size: (height, width) to which photos, maps and coordinates are resized, so that they can be batched; "original" for
        the size of each photo; None for maps as they are stored: classes at the size of the photo, depth and normals at
        that of the network.
    photos: also the photos, read again from the input of the job.
    transform: called with each item; its answer is used instead. Must be picklable for workers that are spawned.
    storage_options: passed to fsspec, for the output and for photos.

    Items are dicts: `image_id`, `width` and `height` of the photo, and

    - photo: 3 x H x W uint8, RGB
    - class maps: H x W uint8 class ids, resized by nearest neighbour
    - maps of persons (`persons_instances`): H x W int32, 0 for nobody, i for persons[i - 1]; resized in the same way
    - depth: H x W float32, resized bilinearly, as stored: larger is farther
    - normals: 3 x H x W float32: x, y, z; resized bilinearly, then of unit length; as stored with size=None
    - features: C float32; their map C x 64 x 64 float32, never resized
    - persons: a dict of `boxes` (P x 4: x1, y1, x2, y2), `box_scores` (P, NaN if there is none) and `keypoints`
      (P x K x 3: x, y, score), float32, in pixels of `size` or of the photo. Batches of them need `collate`.
    - other columns: numbers (NaN for a null float), text; lists of numbers as tensors

    A row group of the output, some 64 to 1000 rows, is read whole for one row. So read in order, or shuffle with
    `iterable`. Raises OutputError if there are no rows, ConfigError for wrong columns and conditions. Items raise
    InputError for a photo that is gone, or of another size than was labelled.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        columns: Sequence[str] | None = None,
        where: str | None = None,
        size: Size = None,
        photos: bool = False,
        transform: Transform | None = None,
        storage_options: StorageOptions | None = None,
    ) -> None:
        if isinstance(columns, str):
            raise TypeError(f"columns={columns!r}: give a list of names")
        whole = Folder(user_path(output).rstrip("/"), storage_options or {})
        schema = schema_in(whole)
        self._maker = ItemMaker.of(schema, labels_in(schema), columns, _checked(size))
        self._photos = PlannedPhotos(whole) if photos else None
        self._transform = transform
        self._index = index_rows(chosen_rows(whole, where))
        self._reader = GroupReader(whole, [*self._maker.read_columns, "index"])

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, number: int) -> Any:
        """The item of a row; negative numbers count from the end."""
        row = number + len(self) if number < 0 else number
        if not 0 <= row < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        group, place = self._index.locate(row)
        (item,) = self._items(self._rows(group, place, place + 1))
        return item

    def iterable(
        self,
        shuffle: bool = False,
        seed: int = 0,
        buffer: int = BUFFER,
        even: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> IterableLabelDataset:
        """The same rows one after the other; see `IterableLabelDataset`."""
        return IterableLabelDataset(self, shuffle, seed, buffer, even, rank, world_size)

    def _rows(self, number: int, first: int, after: int) -> Iterator[tuple[Row, bytes | None]]:
        """Rows of a group, with their encoded photos if they were asked for."""
        group = self._index.group(number)
        rows: list[Row] = self._reader.read(group).slice(first, after - first).to_pylist()
        if self._photos is None:
            yield from ((row, None) for row in rows)
            return
        photos = self._photos.of_shard(group.shard, [row["index"] for row in rows])
        for row in rows:
            yield row, _photo_of(row, next(photos, None))

    def _items(self, rows: Iterator[tuple[Row, bytes | None]]) -> Iterator[Any]:
        for row, photo in rows:
            item = self._maker.item(row, photo)
            yield item if self._transform is None else self._transform(item)


class IterableLabelDataset(torch.utils.data.IterableDataset[Any]):
    """The rows of a `LabelDataset` one after the other: each is read once by all workers of all ranks together.

    shuffle: row groups come in random order, and rows leave a buffer at random. seed: of the order; with `set_epoch`
        every epoch has another one. buffer: rows that each worker holds, encoded, but not more than 512 MB; it also
        holds one row group.
    even: all ranks get the same number of rows, as DistributedDataParallel needs; up to world_size - 1 rows are left
        out of an epoch, other ones in each if they are shuffled.
    rank, world_size: by default those of torch.distributed, if it is initialised.

    Every process reads a range of its own, and numbers of rows differ by one at most.
    """

    def __init__(
        self,
        labels: LabelDataset,
        shuffle: bool = False,
        seed: int = 0,
        buffer: int = BUFFER,
        even: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if (rank is None) != (world_size is None):
            raise TypeError("give both rank and world_size, or neither")
        if rank is not None and world_size is not None and not 0 <= rank < world_size:
            raise ValueError(f"rank={rank}, world_size={world_size}: ranks are counted from 0 to world_size - 1")
        if seed < 0:
            raise ValueError(f"seed={seed}: should be 0 or more")
        if buffer < 1:
            raise ValueError(f"buffer={buffer}: should be 1 or more rows")
        self._labels = labels
        self._shuffle, self._seed, self._buffer, self._even = shuffle, seed, buffer, even
        self._given = None if rank is None or world_size is None else (rank, world_size)
        # Shared with the workers of a DataLoader, which live on with persistent_workers=True.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Shuffle differently from the next iteration on, in all workers."""
        self._epoch[0] = epoch

    def __getstate__(self) -> dict[str, Any]:
        """For workers that are spawned: they do not know the rank of their process."""
        return {**self.__dict__, "_given": self._rank()}

    def __iter__(self) -> Iterator[Any]:
        index, reader = self._labels._index, self._place()
        order = np.arange(index.groups)
        key = [self._seed, int(self._epoch[0])]
        if self._shuffle:
            order = np.random.default_rng(key).permutation(order)
        parts = pieces(index.sizes, order, *reader.share(len(index), self._even))
        rows: Iterator[tuple[Row, bytes | None]] = (row for part in parts for row in self._labels._rows(*part))
        if self._shuffle:
            number = reader.rank * reader.workers + reader.worker
            rows = shuffled(rows, self._buffer, np.random.default_rng([*key, number]), _bytes_of, BUFFER_BYTES)
        return self._labels._items(rows)

    def _rank(self) -> tuple[int, int]:
        if self._given is not None:
            return self._given
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def _place(self) -> Reader:
        rank, ranks = self._rank()
        worker = torch.utils.data.get_worker_info()
        return Reader(rank, ranks) if worker is None else Reader(rank, ranks, worker.id, worker.num_workers)


def _checked(size: Size) -> Size:
    if size is None or size == "original":
        return size
    if isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(one, int) and one > 0 for one in size):
        return int(size[0]), int(size[1])
    raise ValueError(f"size={size!r}: should be (height, width), 'original' or None")


def _bytes_of(item: tuple[Row, bytes | None]) -> int:
    """The bytes of a row with its photo: those of its maps, and of what else is text or bytes."""
    row, photo = item
    return len(photo or b"") + sum(_size_of(cell) for cell in row.values())


def _size_of(cell: Any) -> int:
    if isinstance(cell, dict):
        return sum(map(_size_of, cell.values()))
    return len(cell) if isinstance(cell, bytes | str) else 8 * len(cell) if isinstance(cell, list) else 8


def _photo_of(row: Row, image: Encoded | None) -> bytes:
    """The bytes of the photo of a row. Raises InputError if it cannot be read again, or has another size."""
    if image is not None and image.data is not None and is_photo_of(image.data, row["width"], row["height"]):
        return image.data
    why = "is another one than was labelled" if image is not None and image.error is None else "cannot be read again"
    detail = f": {image.error.message}" if image is not None and image.error is not None else ""
    raise InputError(f"{row['image_id']}: its photo {why}{detail}; leave it out with `where`, or restore it")
