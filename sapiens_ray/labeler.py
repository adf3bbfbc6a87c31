"""Labelling in this process, without Ray: for notebooks, previews and fast tests."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sapiens_ray import storage
from sapiens_ray.engine.assemble import Contents, add_masks, make_unit
from sapiens_ray.engine.draw import draw_one, without_half_labels
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.engine.models import TaskModel, in_order, resolve_models
from sapiens_ray.engine.prepare import prepare
from sapiens_ray.errors import ConfigError, ImageError
from sapiens_ray.imaging.images import encode_png
from sapiens_ray.job.config import Job
from sapiens_ray.job.raw import RawJob
from sapiens_ray.output.reading import map_columns
from sapiens_ray.output.schema import about_tasks
from sapiens_ray.sources import Encoded
from sapiens_ray.sources.base import reason
from sapiens_ray.tasks import stored_labels
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.tasks.stored import MapSize
from sapiens_ray.units import Row, Unit

Columns = dict[str, Sequence[Any]]  # an input column -> its value for each image
ImageLike = str | os.PathLike[str] | bytes | np.ndarray


class Labeler:
    """Holds the models of one or more tasks and labels images with the code of the pipeline's stages.

    >>> labeler = Labeler(task="seg", checkpoint="checkpoints/sapiens_1b_seg_torchscript.pt2")
    >>> row = labeler(["person.jpg"])[0]
    >>> row["seg"].shape, row["error_kind"]

    >>> labeler = Labeler(task="pose", keypoints=17, checkpoint="…", boxes={"column": "boxes"})
    >>> labeler(["people.jpg"], columns={"boxes": [[[10, 20, 110, 320], [150, 30, 240, 310]]]})
    """

    def __init__(
        self,
        task: str | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        tasks: Sequence[RawJob] | None = None,
        device: str = "auto",
        batch_size: int | None = None,
        max_pixels: int | None = None,
        unit_size: int = 16,
        **options: Any,
    ) -> None:
        """Load the models. Raises ConfigError for wrong options, CheckpointError for a wrong file.

        tasks: the `tasks` of a job file, for several tasks; for one task give `task`, `checkpoint` and its options.
        """
        if tasks is not None and (task or checkpoint or batch_size or options):
            raise TypeError("Labeler: with `tasks`, give all options in its entries")
        if tasks is None:
            one = {"task": task, "checkpoint": os.fspath(checkpoint or ""), "batch_size": batch_size, **options}
            tasks = [{key: value for key, value in one.items() if value is not None}]
        raw: RawJob = {"input": {"uri": "-"}, "output": {"uri": "-"}, "device": device, "tasks": list(tasks)}
        if max_pixels is not None:
            raw["max_pixels"] = max_pixels
        job = Job.parse(raw, source="Labeler")
        self.job = job
        self.unit_size = unit_size
        self._contents = Contents.of(job)
        models = resolve_models(job, lambda position: "checkpoint")
        self.tasks = [model.task for model in models if isinstance(model, TaskModel)]
        self._stages = [model.load(ModelHost(job.device)) for model in in_order(models)]

    def __call__(
        self,
        images: ImageLike | Iterable[ImageLike],
        decode: bool = True,
        size: MapSize = "stored",
        columns: Columns | None = None,
    ) -> list[Row]:
        """Label images; returns one row (dict) per image, in order, with the columns of the output files that
        concern the image itself.

        images: paths or URLs, encoded bytes, or H x W x 3 uint8 arrays in BGR order, as OpenCV reads them.
        decode, size: maps as arrays, as in `read_labels`; with decode=False, as the bytes that a job writes.
        columns: for each input column that the tasks name (boxes, masks), one value per image.
        A bad image gives a row with `error_kind` and `error`, as in a job.
        """
        self._require(columns or {})
        labels = [stored_labels(column, about) for column, about in about_tasks(self.tasks).items()]
        found = {name: column.decoder(size) for name, column in map_columns(labels).items()} if decode else {}
        rows: list[Row] = []
        for unit in self._units(images, columns or {}):
            finished = self._label(unit)
            carried = [name for name in finished.rows.column_names if name.startswith("_")]
            rows += finished.rows.drop_columns(carried).to_pylist()
        for row in rows:
            for name, decoder in found.items():
                row[name] = None if row[name] is None else decoder(row[name], row["width"], row["height"])
        return rows

    def preview(self, image: ImageLike, visualize: Visualize | None = None, columns: Row | None = None) -> np.ndarray:
        """The picture of one image, of the first task that has one, h x w x 3 uint8 BGR, as a job would write it.

        columns: the value of each input column that the tasks name. Raises ImageError for a bad image.
        """
        self._require(columns or {})
        unit = self._label(next(self._units([image], {name: [value] for name, value in (columns or {}).items()})))
        row = unit.cells(0, ("error_kind", "error"))
        if row["error_kind"] is not None:
            raise ImageError(row["error_kind"], row["error"])
        pictures = draw_one(unit, 0, self.tasks, visualize or Visualize())
        if not pictures:
            raise ImageError("failed", "none of the tasks draws a picture of this image")
        return next(iter(pictures.values()))

    def _require(self, columns: Mapping[str, object]) -> None:
        missing = [name for name in self.job.label_columns if name not in columns]
        if missing:
            raise ConfigError(f"Labeler: the tasks read column {missing[0]!r}; give it in `columns`")

    def _label(self, unit: Unit) -> Unit:
        unit = prepare(unit, self.tasks, self.job.max_pixels)
        for stage in self._stages:
            unit = stage(unit)
        return without_half_labels(unit, self.tasks)

    def _units(self, images: ImageLike | Iterable[ImageLike], columns: Columns) -> Iterator[Unit]:
        if isinstance(images, str | os.PathLike | bytes) or (isinstance(images, np.ndarray) and images.ndim <= 3):
            images = [images]
        held: list[Encoded] = []
        for index, image in enumerate(images):
            held.append(_encoded(index, image))
            for name, values in columns.items():
                if index >= len(values):
                    raise ConfigError(f"Labeler: column {name!r} has {len(values)} values, but there are more images")
                held[-1].extra[name] = values[index]
            if len(held) == self.unit_size:
                yield self._unit(held)
                held = []
        if held:
            yield self._unit(held)

    def _unit(self, encoded: list[Encoded]) -> Unit:
        unit = make_unit(encoded, pa.schema([]), self._contents, start=encoded[0].index)
        return add_masks(unit, encoded, self._contents.masks, os.getcwd(), {})


def _encoded(index: int, image: ImageLike) -> Encoded:
    if isinstance(image, str | os.PathLike):
        uri = os.fspath(image)
        encoded = Encoded(index, uri, uri)
        try:
            encoded.data = storage.read_bytes(uri if "://" in uri else str(Path(uri).expanduser()))
        except Exception as error:
            encoded.error = reason(error)
        return encoded
    if isinstance(image, bytes):
        return Encoded(index, f"image-{index}", "", image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise TypeError(f"image {index}: an array must be H x W x 3 uint8 BGR, not {image.dtype} {image.shape}")
    if 0 in image.shape:
        return Encoded(index, f"image-{index}", "", error=ImageError("zero_size", f"an array of shape {image.shape}"))
    return Encoded(index, f"image-{index}", "", encode_png(np.ascontiguousarray(image)))
