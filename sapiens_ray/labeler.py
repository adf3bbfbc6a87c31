"""Labelling in this process, without Ray: for notebooks, previews and fast tests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import pyarrow as pa

from sapiens_ray.engine.assemble import Contents, add_masks, make_unit, resolve_box_files
from sapiens_ray.engine.draw import draw_one, without_half_labels
from sapiens_ray.engine.engine import Engine
from sapiens_ray.engine.host import ModelHost
from sapiens_ray.engine.models import TaskModel, resolve_models, with_recipes
from sapiens_ray.engine.prepare import prepare
from sapiens_ray.errors import ConfigError, ImageError
from sapiens_ray.imaging.shown import ShownPicture
from sapiens_ray.job.config import Job
from sapiens_ray.job.raw import RawJob
from sapiens_ray.output.reading import list_columns, map_columns
from sapiens_ray.output.schema import about_tasks
from sapiens_ray.sources import Encoded, objects
from sapiens_ray.sources.objects import AnyImages, Columns, OneImage
from sapiens_ray.tasks import stored_labels
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.tasks.stored import MapSize
from sapiens_ray.units import Row, Unit


class Labeler:
    """Labels images in this process, without Ray, with the code of a job's stages.

    It holds the models of one task or of several:

    >>> labeler = Labeler(task="seg", checkpoint="seg-1b", mode="bfloat16")
    >>> row = labeler("person.jpg")[0]
    >>> row["seg"].shape, row["error_kind"]

    >>> labeler = Labeler(tasks=[{"task": "seg", "checkpoint": "seg-1b"}, {"task": "depth", "checkpoint": "depth-1b"}])
    >>> rows = labeler(load_dataset("imagefolder", data_dir="photos", split="train"))

    >>> labeler = Labeler(task="seg", checkpoint="garments.pth", classes=["background", "shirt", "trousers"])

    >>> labeler = Labeler(task="pose", keypoints=17, checkpoint="pose17-1b", boxes={"column": "boxes"})
    >>> labeler("people.jpg", columns={"boxes": [[[10, 20, 110, 320], [150, 30, 240, 310]]]})
    >>> labeler({"image": PIL.Image.open("people.jpg"), "boxes": [[10, 20, 110, 320], [150, 30, 240, 310]]})
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

        task, checkpoint: seg, depth, normal, pose or features, and a catalogue name, a path or a URL.
        options: of the task, as in a job file (README, `sapiens-ray schema`): mode, boxes, mask, keypoints, ...
        tasks: in place of these, the `tasks` of a job file.
        device: "auto" (a GPU if there is one), "cpu" or "cuda". batch_size: images (for pose: persons) per forward
        pass; by default 8 on a GPU and 1 on a CPU. max_pixels: larger images get an error row.
        unit_size: images that are held in memory at a time.
        """
        if tasks is not None and (task or checkpoint or batch_size or options):
            raise TypeError("Labeler: with `tasks`, give all options in its entries")
        several = tasks is not None
        if tasks is None:
            file = None if checkpoint is None else os.fspath(checkpoint)
            one = {"task": task, "checkpoint": file, "batch_size": batch_size, **options}
            given = {key: value for key, value in one.items() if value is not None}
            paths = {key: os.fspath(value) for key, value in given.items() if isinstance(value, os.PathLike)}
            tasks = [{**given, **paths}]
        raw: RawJob = {"input": {"uri": "-"}, "output": {"uri": "-"}, "device": device, "tasks": list(tasks)}
        if max_pixels is not None:
            raw["max_pixels"] = max_pixels
        try:
            job = Job.parse(raw, source="Labeler")
            box_files = resolve_box_files(job)
            models = resolve_models(job)
        except ConfigError as error:
            if several:
                raise
            raise type(error)(str(error).replace("tasks[0].", "")) from None
        job = with_recipes(job, models)
        self.job = job
        self.unit_size = unit_size
        self._contents = Contents.of(job, box_files)
        self.tasks = [model.task for model in models if isinstance(model, TaskModel)]
        self._engine = Engine(models, ModelHost(job.device))

    def __call__(
        self,
        images: AnyImages,
        decode: bool = True,
        size: MapSize = "stored",
        columns: Columns | None = None,
    ) -> list[Row]:
        """Label images; returns one row (dict) per image, in order, with the columns of the output files that
        concern the image itself.

        images: one image, or any iterable of images. An image is
            a path or URL (str or Path), the bytes of an image file, or a file that is open for reading bytes,
            an H x W x 3 uint8 array in BGR order, as OpenCV reads it,
            a Pillow image of any mode, treated like the file that it could be saved as (EXIF orientation applied),
            or a row, a dict with one of these, such as the rows of a Hugging Face dataset. The image is its column
            "image", else the only one with images. Arrays are not taken from rows: they could be RGB.
        decode, size: maps as arrays, as in `read_labels`; with decode=False, as the bytes that a job writes.
        columns: for each input column that the tasks name (boxes, masks), one value per image. Rows that have the
            column need none.
        A bad image gives a row with `error_kind` and `error`, as in a job. Raises TypeError for what is no image, and
        ConfigError for values that are missing, too many, or given twice.
        """
        if size not in get_args(MapSize):
            raise ValueError(f"Labeler: size must be {' or '.join(map(repr, get_args(MapSize)))}, not {size!r}")
        labels = [stored_labels(column, about) for column, about in about_tasks(self.tasks).items()]
        found = {name: column.decoder(size) for name, column in map_columns(labels).items()} if decode else {}
        nested = list_columns(labels) if decode else {}
        rows: list[Row] = []
        for unit in self._units(images, columns or {}):
            finished = self._label(unit)
            carried = [name for name in finished.rows.column_names if name.startswith("_")]
            rows += finished.rows.drop_columns(carried).to_pylist()
        for row in rows:
            for name, decoder in found.items():
                row[name] = None if row[name] is None else decoder(row[name], row["width"], row["height"])
            for name, as_arrays in nested.items():
                row[name] = None if row[name] is None else as_arrays(row[name])
        return rows

    def preview(
        self,
        image: OneImage,
        visualize: Visualize | Mapping[str, Any] | None = None,
        columns: Mapping[str, Any] | None = None,
    ) -> ShownPicture:
        """The picture of one image, of the first task that has one, h x w x 3 uint8 BGR, as a job would write it. A
        notebook shows it.

        image: as in a call. visualize: as `output.visualize` in a job file, such as {"style": "lite"}. columns: the
        value of each input column that the tasks name, unless the image is a row that has it. Raises ImageError for a
        bad image, and ConfigError for wrong settings.
        """
        settings = self._visualize(visualize)
        unit = self._label(next(self._units([image], {name: [value] for name, value in (columns or {}).items()})))
        row = unit.cells(0, ("image_id", "error_kind", "error"))
        if row["error_kind"] is not None:
            raise ImageError(row["error_kind"], f"{row['image_id']}: {row['error']}")
        pictures = draw_one(unit, 0, self.tasks, settings)
        if not pictures:
            raise ImageError("failed", f"{row['image_id']}: none of the tasks draws a picture of this image")
        return next(iter(pictures.values())).view(ShownPicture)

    def _visualize(self, visualize: Visualize | Mapping[str, Any] | None) -> Visualize:
        """Settings of pictures, checked as those of a job file are."""
        if visualize is None or isinstance(visualize, Visualize):
            return visualize or Visualize()
        if not isinstance(visualize, Mapping):
            raise TypeError(f"Labeler.preview: visualize is a mapping, such as {{'style': 'lite'}}, not {visualize!r}")
        raw = self.job.model_dump(mode="json")
        raw["output"]["visualize"] = dict(visualize)
        return Job.parse(raw, source="Labeler.preview").output.visualize

    def _label(self, unit: Unit) -> Unit:
        unit = self._engine(prepare(unit, self.tasks, self.job.max_pixels))
        return without_half_labels(unit, self.tasks)

    def _units(self, images: AnyImages, columns: Columns) -> Iterator[Unit]:
        held: list[Encoded] = []
        for encoded in objects.read(images, columns, list(self.job.label_fields), self.job.max_pixels):
            held.append(encoded)
            if len(held) == self.unit_size:
                yield self._unit(held)
                held = []
        if held:
            yield self._unit(held)

    def _unit(self, encoded: list[Encoded]) -> Unit:
        unit = make_unit(encoded, pa.schema([]), self._contents, start=encoded[0].index)
        return add_masks(unit, encoded, self._contents.masks, os.getcwd(), {})
