"""Where the persons are: boxes of the user, around the foreground of a seg task, or of a detector.

`coco_boxes.py` reads those of COCO files.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Literal, TypeGuard

import cv2
import numpy as np
from pydantic import Field, GetJsonSchemaHandler, PrivateAttr, field_validator, model_validator
from pydantic_core import CoreSchema

from sapiens_ray.errors import ImageError
from sapiens_ray.tasks.coco import CocoOptions
from sapiens_ray.tasks.foreground import background_of, foreground_column, of_class_map
from sapiens_ray.tasks.repositories import DETECTORS, is_folder, is_repository, is_torchvision
from sapiens_ray.tasks.sections import Choice, GivesColumn, PoolOptions, Settings, expand
from sapiens_ray.units import Row

_CARRIED = "_boxes:"  # prefix of the columns of units that hold boxes
FARTHEST = 1e6  # pixels; a larger coordinate cannot be a position in a photo


class DetectorOptions(PoolOptions):
    """A person detector, which has its own actor pool; a name or folder alone stands for `model`."""

    model: str = Field(
        "fasterrcnn_resnet50_fpn_v2",
        description="A torchvision detection model by name, such as ssdlite320_mobilenet_v3_large; `torchscript`; or "
        "an object detector of transformers: one of " + ", ".join(DETECTORS) + ", a repository OWNER/NAME or "
        "OWNER/NAME@REVISION of the Hugging Face hub, or a folder, as ./folder (relative to the YAML), /folder or URL.",
    )
    checkpoint: str | None = Field(
        None,
        min_length=1,
        description="Weights (state dict) of the torchvision model, or the TorchScript file; a path (relative to "
        "the YAML) or URL. Default for torchvision models: its published COCO weights, from the torch hub cache. "
        "Models of transformers have none: their folder holds the weights.",
    )
    sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-fA-F]{64}$",
        description="Refuse any other file, or content of the folder, than the one with this SHA-256.",
    )
    label: int | str = Field(
        1,
        description="Label of persons. Models of transformers: a name out of their `id2label`, by default person, or "
        "its number. Others: a number, by default 1, as in torchvision's COCO models.",
    )
    score: float = Field(0.3, ge=0, le=1, description="Boxes below this score are dropped.")
    nms: float = Field(
        0.3, gt=0, le=1, description="When two boxes overlap by more than this IoU, only the better one is kept."
    )

    @model_validator(mode="before")
    @classmethod
    def _plain_name(cls, value: object) -> object:
        """A name alone as a mapping, and the label that suits the kind of model."""
        value = {"model": value} if isinstance(value, str) else value
        if isinstance(value, dict) and isinstance(model := value.get("model"), str) and not is_torchvision(model):
            return {"label": "person", **value}
        return value

    @field_validator("model")
    @classmethod
    def _known_form(cls, model: str) -> str:
        if not (is_torchvision(model) or is_repository(model) or is_folder(model)):
            raise ValueError(
                f"should be a detection model of torchvision, one of {', '.join(DETECTORS)}, a repository OWNER/NAME "
                "of the Hugging Face hub, or a folder, as ./folder"
            )
        return model

    @field_validator("label", mode="before")
    @classmethod
    def _one_message(cls, label: object) -> object:
        number = isinstance(label, int) and not isinstance(label, bool) and label >= 0
        if number or (isinstance(label, str) and label.strip()):
            return label
        raise ValueError("should be a number from 0 on, or the name of a label")

    @model_validator(mode="after")
    def _fits_the_model(self) -> DetectorOptions:
        if self.model == "torchscript" and self.checkpoint is None:
            raise ValueError("model: torchscript needs a `checkpoint`")
        if self.of_transformers and self.checkpoint is not None:
            raise ValueError("a model of transformers has no `checkpoint`; give its folder as `model`")
        if not self.of_transformers and isinstance(self.label, str):
            raise ValueError(f"label: the labels of {self.model} are numbers")
        return self

    @property
    def of_transformers(self) -> bool:
        """Whether the model is a repository or folder in the layout of transformers."""
        return not is_torchvision(self.model)

    @property
    def column(self) -> str:
        """Name of the stage in logs and reports."""
        return "detector"

    def result_settings(self) -> Settings:
        settings = self.model_dump(mode="json", exclude={"checkpoint", "sha256", "actors", "num_gpus"})
        # The content of a folder counts, and not its place: a copy gives the same boxes.
        return {**settings, "model": "transformers"} if self.of_transformers else settings

    @property
    def carried(self) -> str:
        """The column of a unit that holds what this detector found."""
        return f"{_CARRIED}{self.key}"

    @property
    def key(self) -> str:
        """Identifies this detector among those of the job, also in the metadata of the output files."""
        place = self.model if self.of_transformers else self.checkpoint
        text = json.dumps([self.result_settings(), place, self.sha256], sort_keys=True)
        return f"detector:{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> Settings:
        return {"anyOf": [{"type": "string", "minLength": 1}, handler(core)]}


def carried_boxes(column: str) -> str:
    """The column of a unit that holds the parsed boxes of an input column."""
    return f"{_CARRIED}column:{column}"


def carried_from_file(coco: CocoOptions) -> str:
    """The column of a unit that holds the boxes of a COCO file."""
    return f"{_CARRIED}coco:{coco.key}"


def carried_size(coco: CocoOptions) -> str:
    """The column of a unit with the sizes of photos in a COCO file: width and height; null where it has none."""
    return f"{_CARRIED}size:{coco.key}"


def check_size(listed: Sequence[int] | None, width: int, height: int) -> None:
    """Raise ImageError `bad_boxes` if a COCO file lists another size than the decoded photo has: its boxes are of
    another photo, or of this one before its EXIF orientation turned it.

    listed: width and height in the file; None if it names none.
    """
    if listed is None or tuple(listed) == (width, height):
        return
    turned = "; was it turned by its EXIF orientation?" if tuple(listed) == (height, width) else ""
    size = f"{listed[0]} x {listed[1]}"
    raise ImageError("bad_boxes", f"boxes.coco: the file lists {size} pixels, the photo has {width} x {height}{turned}")


class Boxes(Choice):
    """`none` (the whole image), `seg`, `detector`, `{column: name}`, `{seg: name}`, `{detector: {…}}` or
    `{coco: file}`."""

    words = ("none", "seg", "detector")
    keys = ("column", "seg", "detector", "coco")

    source: Literal["none", "seg", "column", "detector", "coco"] = "none"
    column: str | None = Field(
        None,
        description="Input column with a list of [x1, y1, x2, y2] or [x1, y1, x2, y2, score] in pixels of the decoded "
        "photo: a column of Parquet files and lists (in csv files as JSON text), or a field of the <key>.json members "
        "of tars.",
    )
    seg: str | None = Field(None, description="Name of the seg task of the same job: one box around its foreground.")
    detector: DetectorOptions | None = Field(None, description="Find the persons with a detector.")
    coco: CocoOptions | None = Field(
        None, description="A COCO file, ground truth or detections, whose images have the names of those of the input."
    )
    _background: int = PrivateAttr(0)  # of the seg task; a setting of that task, not of the boxes

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: object) -> object:
        value = expand(value, cls.words, cls.keys)
        if isinstance(value, dict) and value.get("source") == "detector" and value.get("detector") is None:
            return {**value, "detector": {}}
        return value

    @field_validator("column")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        if value == "":
            raise ValueError("name the column")
        return value

    @property
    def carried(self) -> str | None:
        """The column of a unit that holds the boxes; None if they are computed from the row."""
        if self.source == "column":
            return carried_boxes(str(self.column))
        if self.coco:
            return carried_from_file(self.coco)
        return self.detector.carried if self.source == "detector" and self.detector else None

    def settled(self, tasks: Sequence[GivesColumn], where: str) -> Boxes:
        """These boxes, with the name of the seg task that gives them. Raises ValueError if there is no such task."""
        if self.source != "seg":
            return self
        settled = self.model_copy(update={"seg": foreground_column(self.seg, tasks, where)})
        settled._background = background_of(str(settled.seg), tasks)
        return settled

    def result_settings(self) -> Settings:
        detector = self.detector.result_settings() if self.detector else None
        settings = {"source": self.source, "column": self.column, "seg": self.seg, "detector": detector}
        # Only if it is there, so that outputs that were begun before there was this choice are continued.
        return {**settings, "coco": self.coco.result_settings()} if self.coco else settings

    def of(self, row: Row) -> np.ndarray:
        """The boxes of an image, N x 5 float64 (x1, y1, x2, y2, score; NaN without score); N may be 0.

        `row` holds `width`, `height`, and the column of the class map or of the boxes. Raises ImageError `bad_boxes`
        for a box of the user that is a share of the photo.
        """
        if self.source == "none":
            return np.array([[0, 0, row["width"], row["height"], math.nan]], np.float64)
        if self.source == "seg":
            return around(of_class_map(row[str(self.seg)], self._background))
        boxes = np.array(row[str(self.carried)], np.float64).reshape(-1, 5)
        if self.source == "column" and max(row["width"], row["height"]) > 1:
            shares = (boxes[:, :4].min(1) >= 0) & (boxes[:, :4].max(1) <= 1) & (boxes[:, 2:4].max(1) > 0)
            if shares.any():
                first = boxes[shares, :4][0].tolist()
                raise ImageError(
                    "bad_boxes",
                    f"column {self.column!r}: {first} is not larger than a pixel; give pixels, not shares of the photo",
                )
        return boxes


def around(mask: np.ndarray) -> np.ndarray:
    """The box around all True pixels of H x W bools, 1 x 5; 0 x 5 if there are none."""
    if not mask.any():
        return np.empty((0, 5))
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return np.array([[x, y, x + width, y + height, math.nan]], np.float64)


def parse(value: object) -> list[list[float]]:
    """The boxes in a cell of an input column, each x1, y1, x2, y2, score (NaN if missing); an empty list for null.

    Raises ImageError `bad_boxes` with what is wrong.
    """
    if isinstance(value, str):
        text = value
        try:
            value = json.loads(text) if text.strip() else None
        except (ValueError, RecursionError):
            raise ImageError("bad_boxes", f"not JSON: {text[:80]!r}; write [[x1, y1, x2, y2], …]") from None
    try:
        value = _plain(value)
    except RecursionError:
        raise ImageError("bad_boxes", "lists in lists in lists instead of [[x1, y1, x2, y2], …]") from None
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise ImageError("bad_boxes", f"{type(value).__name__} instead of a list of [x1, y1, x2, y2]")
    if value and all(_is_number(item) for item in value):
        value = [value]  # one person, not wrapped
    return [_parse_box(box) for box in value]


def may_be_boxes(value: object) -> bool:
    """Whether a cell holds a list, of whatever, and not something else."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except (ValueError, RecursionError):
            return False
    return value is None or isinstance(value, list | tuple) or hasattr(value, "tolist")


def _plain(value: object) -> object:
    """Nested numpy arrays and numbers, as pandas gives them, as lists and numbers."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _may_be_box(value: object) -> bool:
    return isinstance(value, list) and len(value) in (4, 5)


def _parse_box(box: object) -> list[float]:
    if not isinstance(box, list | tuple) or len(box) not in (4, 5) or not all(map(_is_number, box[:4])):
        deep = "; it is one list too deep" if isinstance(box, list) and box and _may_be_box(box[0]) else ""
        raise ImageError("bad_boxes", f"{str(box)[:80]} is not [x1, y1, x2, y2] or [x1, y1, x2, y2, score]{deep}")
    try:
        x1, y1, x2, y2 = map(float, box[:4])
    except OverflowError:
        raise ImageError("bad_boxes", f"{str(box)[:80]} holds coordinates that are not pixel positions") from None
    if not all(abs(number) <= FARTHEST for number in (x1, y1, x2, y2)):  # not NaN either
        raise ImageError("bad_boxes", f"{str(box)[:80]} holds coordinates that are not pixel positions")
    if x2 < x1 or y2 < y1:
        raise ImageError("bad_boxes", f"{str(box)[:80]}: x2 < x1 or y2 < y1; give two corners, not width and height")
    score: object = box[4] if len(box) == 5 else None
    if score is not None and not _is_number(score):
        raise ImageError("bad_boxes", f"{str(box)[:80]}: the score is not a number")
    try:
        return [x1, y1, x2, y2, math.nan if score is None else float(score)]
    except OverflowError:
        raise ImageError("bad_boxes", f"{str(box)[:80]}: the score is not a number") from None
