"""Building blocks for sections of the job file. Imports neither ray nor torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

Settings = dict[str, Any]  # options as JSON values
LEAST_SIDE = 480  # of explained pictures: below, titles and legends would be larger than the photo


def whole_number_or_auto(value: object, most: int) -> object:
    """The value, if it is auto or a number from 1 to `most`; a union of types would give one message per type."""
    if value == "auto" or (type(value) is int and 1 <= value <= most):
        return value
    raise ValueError(f"should be a whole number from 1 to {most}, or auto")


LEAST_GPU = 0.05


def whole_above_one(gpus: float) -> float:
    """The value, if an actor can have so many GPUs."""
    if 0 < gpus < LEAST_GPU:
        raise ValueError(f"should be at least {LEAST_GPU:g}: every actor is a process that holds its models")
    if gpus > 1 and gpus != int(gpus):
        raise ValueError("above 1 it must be a whole number of GPUs")
    return gpus


GpuShare = Annotated[float, Field(gt=0), AfterValidator(whole_above_one)]  # of one process


class Section(BaseModel):
    """Base of every part of the job file: unknown keys are errors, and objects are immutable."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)


class Visualize(Section):
    """The pictures that are written besides the Parquet files."""

    fraction: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = Field(
        "auto",
        description="Share of the images that get a picture, chosen by a hash of image_id: the same images in every "
        "run. 0 for none. auto: 1 in a job of up to 1,000 images, else 0.01; the first run of an output settles it.",
    )
    style: Literal["explained", "lite"] = Field(
        "explained",
        description="explained: panels with titles, legends, scale bars, boxes and scores; panels of photos below 480 "
        "pixels are enlarged. lite: exactly the pictures of Sapiens-Lite.",
    )
    max_side: int = Field(1280, ge=16, le=16384, description="Longest side of each panel in pixels.")
    format: Literal["jpg", "png"] = Field("jpg", description="File type of the pictures.")
    quality: int = Field(90, ge=1, le=100, description="JPEG quality.")
    opacity: float = Field(0.5, ge=0, le=1, description="Opacity of the class colours over the photo.")
    keypoint_score: float = Field(0.3, description="Keypoints with a lower score are not drawn.")

    @field_validator("fraction", mode="before")
    @classmethod
    def _one_message(cls, value: object) -> object:
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
        if value == "auto" or number:
            return value
        raise ValueError("should be a number from 0 to 1, or auto")

    @property
    def share(self) -> float:
        """The fraction as a number: `auto` counts as 1 until it is settled."""
        return 1.0 if self.fraction == "auto" else self.fraction

    @property
    def min_side(self) -> int:
        """Panels are enlarged until their longest side has so many pixels."""
        return 0 if self.style == "lite" else min(LEAST_SIDE, self.max_side)


class PoolSize(Section):
    """How many actors a pool has; a plain number stands for both ends. max: None for as many as the cluster allows."""

    min: int = Field(1, ge=1, description="Actors that the job waits for.")
    max: int | None = Field(None, ge=1, description="Default: as many as the cluster allows.")

    @model_validator(mode="before")
    @classmethod
    def _plain_number(cls, value: object) -> object:
        if isinstance(value, dict | PoolSize):
            return value
        if type(value) is int and value >= 1:
            return {"min": value, "max": value}
        raise ValueError("should be a whole number from 1 on, or {min: 1, max: 8}")

    @model_validator(mode="after")
    def _in_order(self) -> PoolSize:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max {self.max} is less than min {self.min}")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> Settings:
        return {"anyOf": [{"type": "integer", "minimum": 1}, handler(core)]}


class PoolOptions(Section):
    """The actors that hold a model, if it is to have its own: by default, all models of a job share theirs."""

    actors: PoolSize | None = Field(
        None,
        description="Processes of its own that hold this model, a number or {min: 1, max: 8}; default: those of the "
        "job.",
    )
    num_gpus: GpuShare | None = Field(
        None, description="GPUs of each process of its own. 0.5 puts two of them on one GPU."
    )

    @property
    def column(self) -> str:
        """Name of the model in logs and reports; for a task also the name of its output column."""
        raise NotImplementedError

    @property
    def has_own_pool(self) -> bool:
        """Whether the model does not share actors with others."""
        return self.actors is not None or self.num_gpus is not None


class GivesColumn(Protocol):
    """What masks and boxes need to know of the tasks of their job."""

    gives_foreground: ClassVar[bool]

    @property
    def column(self) -> str: ...

    @property
    def background(self) -> int: ...


class Choice(Section):
    """A section that may be written as one of `words` or with only one of `keys`; `source` says which it is."""

    words: ClassVar[tuple[str, ...]]
    keys: ClassVar[tuple[str, ...]]

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: object) -> object:
        return expand(value, cls.words, cls.keys)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> Settings:
        return {"anyOf": [{"enum": list(cls.words), "type": "string"}, handler(core)]}


def expand(value: object, words: tuple[str, ...], keys: tuple[str, ...]) -> object:
    """The full form of a section, with `source`, from its one-word or one-key form."""
    if value is None:
        return {"source": "none"}
    if isinstance(value, str):
        if value not in words:
            raise ValueError(f"should be one of {', '.join(words)}, or a mapping with {' or '.join(keys)}")
        return {"source": value}
    if not isinstance(value, dict):
        return value  # the usual message
    if "source" not in value:
        given = [key for key in keys if value.get(key) is not None]
        if len(given) == 1:
            return {**value, "source": given[0]}
        if len(given) > 1:
            raise ValueError(f"give only one of {', '.join(given)}")
        if not set(value) - set(keys):  # an unknown key gets the usual message
            raise ValueError(f"give one of {', '.join(keys)}")
    source = value.get("source")
    if source in keys and source not in words and value.get(source) is None:
        raise ValueError(f"{source}: is missing")
    others = [key for key in keys if key != source and value.get(key) is not None]
    if source is not None and others:
        raise ValueError(f"source {source} has no {others[0]}")
    return value
