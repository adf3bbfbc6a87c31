"""Segmentation: logits per class become a class map at the size of the photo. The classes are the 28 body parts of
Sapiens, the 29 of Sapiens2, or those that the job describes.

The photo is resized to 768 x 1024 without keeping its aspect, the logits (at stride 2; those of Sapiens2 at stride 1)
are resized bilinearly to the original size, and the class of a pixel is the arg-max there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from sapiens_ray.imaging import annotate, images
from sapiens_ray.imaging.maps import encode_npy
from sapiens_ray.labels import ClassTable, body_parts
from sapiens_ray.tasks import confidence
from sapiens_ray.tasks.base import Output, Size, Task, TaskKind
from sapiens_ray.tasks.network import LITE, SAPIENS2, stretch, stretched_kind
from sapiens_ray.tasks.options import ModelOptions
from sapiens_ray.tasks.outputs import output_maps
from sapiens_ray.tasks.own_labels import OwnClasses
from sapiens_ray.tasks.sections import Settings, Visualize
from sapiens_ray.tasks.stored import About, Files, StoredClassMap, about_classes
from sapiens_ray.units import Row

if TYPE_CHECKING:
    import torch


PARTS = {LITE: 28, SAPIENS2: 29}  # body parts of the models of each recipe


class SegOptions(ModelOptions):
    """Options of `task: seg`."""

    gives_foreground: ClassVar[bool] = True
    channel_name: ClassVar[str] = "classes"
    label_files: ClassVar[tuple[str, ...]] = ("classes",)

    task: Literal["seg"]
    classes: OwnClasses | None = Field(
        None,
        description="Classes of a fine-tuned checkpoint: a YAML file (relative to the job file) or URL, a list of "
        "names, or {names, colours, flip_pairs, background}. Default: the 28 body parts.",
    )

    @property
    def table(self) -> ClassTable:
        return self.classes.table if self.classes else body_parts(PARTS.get(self.recipe.name, 28))

    @property
    def background(self) -> int:
        return self.classes.background if self.classes else 0

    @property
    def published_kind(self) -> str:
        return "seg" if self.channels in PARTS.values() else f"seg with {self.channels} classes"

    @property
    def channels(self) -> int:
        return len(self.table.names)

    def takes_channels(self, count: int | None) -> bool:
        """One channel is enough for two classes."""
        return count == self.channels or (count == 1 and self.channels == 2)

    @property
    def description(self) -> str:
        own = self.classes
        return f"{self.channels} classes of its own, background {own.names[own.background]}" if own else ""

    def result_settings(self) -> Settings:
        """`classes` only if there are some, so that outputs that were begun before there was a choice are continued."""
        settings = super().result_settings()
        settings.pop("classes")
        return {**settings, "classes": self.classes.result_settings()} if self.classes else settings

    def stored_bytes(self, pixels: int) -> int:
        # Order of magnitude, with small stand-in models: photos of 1 to 9 megapixels gave 25 to 90 kB.
        return 60_000


class SegResult(NamedTuple):
    """What is kept of the logits of one image.

    class_map: H x W uint8, at the size of the photo. cells: h x w uint8, at the size of the network. probability: h x w
    float32, the softmax probability of the class of each cell.
    """

    class_map: np.ndarray
    cells: np.ndarray
    probability: np.ndarray


class Seg(Task[SegOptions]):
    """The task seg."""

    @property
    def fields(self) -> list[pa.Field]:
        """Arrow columns: the class map as PNG (uint8, original size), the classes in it, their shares, and how sure the
        model is (`confidence.of_class_map`)."""
        return [
            pa.field(self.column, pa.binary()),
            pa.field(f"{self.column}_classes", pa.list_(id_type(self.options.channels))),
            pa.field(f"{self.column}_area", pa.list_(pa.float32())),
            pa.field(f"{self.column}_confidence", pa.float32()),
            pa.field(f"{self.column}_confidence_p05", pa.float32()),
            pa.field(f"{self.column}_class_confidence", pa.list_(pa.float32())),
        ]

    @property
    def metadata(self) -> About:
        """Class names, colours (RGB), mirror partners and the background, for the metadata of the output files."""
        return about_classes(self.options.table, self.options.background)

    def check_output(self, output: Output, batch: int) -> torch.Tensor:
        """The B x classes x h x w float logits in what the model returned. Raises CheckpointError for anything else.

        One channel is the logit z of the second of two classes: with 0 as that of the first, the largest logit is that
        of the second where sigmoid(z) > 0.5, and softmax gives sigmoid(z) and 1 - sigmoid(z).
        """
        import torch

        logits = output_maps(output, batch, None, self.options, "logits")
        if not self.options.takes_channels(logits.shape[1]):
            output_maps(output, batch, self.options.channels, self.options, "logits")
        return logits if logits.shape[1] > 1 else torch.cat([torch.zeros_like(logits), logits], 1)

    def reduce(self, logits: torch.Tensor, sizes: list[Size]) -> list[SegResult]:
        """B x classes x h x w logits, on the device, to class maps, each at its (width, height)."""
        return [_reduced(one.float(), size) for one, size in zip(logits, sizes, strict=True)]

    def finish(self, results: list[SegResult], row: Row) -> Row:
        """The columns of one row from its class map at original size."""
        class_map, cells, probability = results[0]
        counts = images.histogram(class_map)
        present = np.flatnonzero(counts)
        return {
            self.column: images.encode_png(class_map),
            f"{self.column}_classes": present.tolist(),
            f"{self.column}_area": (counts[present] / class_map.size).astype(np.float32).tolist(),
            **confidence.of_class_map(self.column, probability, cells, present, self.options.background),
        }

    def draw(self, photo: np.ndarray, row: Row, settings: Visualize) -> np.ndarray:
        """The picture [photo | class colours over the photo], h x w x 3 uint8 BGR.

        photo: h x w x 3 uint8 BGR. row: the finished row; its class map is resized to the photo. Style lite: the
        background has its colour, too. Style explained: the photo shows through there, and a legend names the classes
        of the row with their share of the photo, largest first.
        """
        height, width = photo.shape[:2]
        class_map = cv2.resize(images.decode_map(row[self.column]), (width, height), interpolation=cv2.INTER_NEAREST)
        palette = np.array(self.options.table.colours, np.uint8)[:, ::-1]  # RGB to BGR
        overlay = cv2.addWeighted(photo, 1.0 - settings.opacity, palette[class_map], settings.opacity, 0.0)
        if settings.style == "lite":
            return np.hstack([photo, overlay])
        cv2.copyTo(photo, (class_map == self.options.background).view(np.uint8), overlay)
        panels = [("photo", photo), (f"{self.column}: {self._what}", overlay)]
        return annotate.compose(panels, self._key(row, annotate.Layout(width, height, len(panels))))

    @property
    def _what(self) -> str:
        return "classes" if self.options.classes else "body parts"

    def _key(self, row: Row, layout: annotate.Layout) -> list[np.ndarray]:
        table, background = self.options.table, self.options.background
        shares = dict(zip(row[f"{self.column}_classes"], row[f"{self.column}_area"], strict=True))
        parts = sorted(((area, number) for number, area in shares.items() if number != background), reverse=True)
        if not parts:
            return [annotate.words(layout, [f"no {self._what}:", "all background"], annotate.INK)]
        entries = [(table.colours[number][::-1], table.names[number], percent(area)) for area, number in parts]
        rest = annotate.words(layout, [f"background: {percent(shares.get(background, 0))}"])
        return [annotate.words(layout, ["share of the photo"]), annotate.legend(layout, entries), rest]


class Sapiens2Seg(Seg):
    """The task seg with a model of Sapiens2."""

    @property
    def input_kind(self) -> str:
        return stretched_kind(self.options.network_size)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return stretch(image, self.options.network_size)


def id_type(classes: int) -> pa.DataType:
    """The Arrow type of class ids: that of the 28 body parts, unless there are more ids than it has."""
    return pa.int8() if classes <= 128 else pa.int16()


def _reduced(logits: torch.Tensor, size: Size) -> SegResult:
    from sapiens_ray.tasks.argmax import network_argmax, upsampled_argmax

    width, height = size
    logits = logits.contiguous()  # each class by itself: our own models give channels-last
    cells = network_argmax(logits)
    class_map = upsampled_argmax(logits, height, width, cells=cells.classes)
    probability = confidence.largest_probability(logits, cells.largest)
    return SegResult(*(one.cpu().numpy() for one in (class_map, cells.classes, probability)))


def percent(share: float) -> str:
    """A share between 0 and 1 as text."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


class StoredSeg(StoredClassMap):
    """Class maps of a seg task."""

    @property
    def left_out_of_lite(self) -> str:
        return ""

    def lite_files(self, row: Row) -> Files:
        """`.npy` bool H x W, the foreground, and `_seg.npy` int64 H x W."""
        class_map = self.class_map(row)
        inside = class_map != self.background
        return [(".npy", encode_npy(inside)), ("_seg.npy", encode_npy(class_map.astype(np.int64)))]

    @property
    def unknown_to_sapiens2(self) -> str:
        return ""

    def sapiens2_files(self, row: Row) -> Files:
        """`_seg.npy` int64 H x W."""
        return [("_seg.npy", encode_npy(self.class_map(row).astype(np.int64)))]


TASK = TaskKind("seg", SegOptions, Seg, StoredSeg, {SAPIENS2: Sapiens2Seg})
