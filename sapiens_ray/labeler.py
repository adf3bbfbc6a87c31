"""Labels in this process, without Ray: for notebooks, previews and fast tests."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sapiens_ray import stages, storage
from sapiens_ray.config import Job, Visualize
from sapiens_ray.errors import ImageError
from sapiens_ray.images import decode_map, encode_png
from sapiens_ray.models.checkpoint import resolve
from sapiens_ray.sources import Encoded, reason
from sapiens_ray.tasks.seg import Seg
from sapiens_ray.units import Unit

ImageLike = str | os.PathLike[str] | bytes | np.ndarray


class Labeler:
    """Holds one model and labels images with the very code of the pipeline's stages.

    >>> labeler = Labeler(task="seg", checkpoint="checkpoints/sapiens_1b_seg_torchscript.pt2")
    >>> row = labeler(["person.jpg"])[0]
    >>> row["seg"].shape, row["error_kind"]
    """

    def __init__(
        self,
        task: str,
        checkpoint: str | os.PathLike[str],
        *,
        device: str = "auto",
        batch_size: int | None = None,
        max_pixels: int | None = None,
        unit_size: int = 16,
        **options: Any,
    ) -> None:
        """Load the model. Raises ConfigError for wrong options, CheckpointError for a wrong file."""
        raw: dict[str, Any] = {
            "input": {"uri": "-"},
            "output": {"uri": "-"},
            "device": device,
            "tasks": [{"task": task, "checkpoint": os.fspath(checkpoint), "batch_size": batch_size, **options}],
        }
        if max_pixels is not None:
            raw["max_pixels"] = max_pixels
        job = Job.parse(raw, source="Labeler")
        self.task = Seg(job.tasks[0])
        self.max_pixels = job.max_pixels
        self.unit_size = unit_size
        found = resolve(job.tasks[0], "checkpoint", {})
        self.infer = stages.Infer(self.task, found, job.device, None, True)

    def __call__(self, images: ImageLike | Iterable[ImageLike], decode: bool = True) -> list[dict[str, Any]]:
        """Label images; returns one row (dict) an image, in order, with the columns of the output files that
        concern the image itself.

        images: paths or URLs, encoded bytes, or H x W x 3 uint8 arrays in BGR order, as OpenCV reads them.
        decode: label maps as H x W uint8 arrays; False leaves them PNG bytes as in the Parquet files.
        A bad image gives a row with `error_kind` and `error`, like in a job.
        """
        rows: list[dict[str, Any]] = []
        for unit in self._units(images):
            finished = self.infer(stages.prepare(unit, [self.task], self.max_pixels))
            rows += finished.rows.drop_columns([stages.DATA]).to_pylist()
        for row in rows if decode else ():
            for name in self.task.image_columns:
                row[name] = None if row[name] is None else decode_map(row[name])
        return rows

    def preview(self, image: ImageLike, visualize: Visualize | None = None) -> np.ndarray:
        """The picture `[photo | overlay]` of one image, h x w x 3 uint8 BGR. Raises ImageError for a bad one."""
        unit = next(self._units([image]))
        finished = self.infer(stages.prepare(unit, [self.task], self.max_pixels))
        row = finished.rows.to_pylist()[0]
        if row["error_kind"] is not None:
            raise ImageError(row["error_kind"], row["error"])
        return stages.draw_one(row[stages.DATA], row, [self.task], visualize or Visualize())

    def _units(self, images: ImageLike | Iterable[ImageLike]) -> Iterator[Unit]:
        if isinstance(images, str | os.PathLike | bytes) or (isinstance(images, np.ndarray) and images.ndim <= 3):
            images = [images]
        held: list[Encoded] = []
        for index, image in enumerate(images):
            held.append(_encoded(index, image))
            if len(held) == self.unit_size:
                yield stages.make_unit(held, pa.schema([]), start=held[0].index)
                held = []
        if held:
            yield stages.make_unit(held, pa.schema([]), start=held[0].index)


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
