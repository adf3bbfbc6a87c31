"""What all sections of the job file and all options of tasks have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic_core import CoreSchema

from sapiens_ray.tasks.network import NETWORK_HEIGHT, NETWORK_WIDTH

if TYPE_CHECKING:
    from sapiens_ray.tasks.foreground import Mask
    from sapiens_ray.tasks.persons import DetectorOptions

Settings = dict[str, Any]  # options as JSON values


class Section(BaseModel):
    """Base of every part of the job file: unknown keys are errors, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)


class Visualize(Section):
    """The pictures beside the Parquet files."""

    fraction: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the images that get a picture, chosen by "
        "a hash of image_id: the same ones in every run. 0 for none.",
    )
    max_side: int = Field(1280, ge=16, le=16384, description="Longest side of each panel in pixels.")
    format: Literal["jpg", "png"] = Field("jpg", description="File type of the pictures.")
    quality: int = Field(90, ge=1, le=100, description="JPEG quality.")
    opacity: float = Field(0.5, ge=0, le=1, description="Weight of the class colours over the photo.")
    keypoint_score: float = Field(0.3, description="Keypoints with a lower score are not drawn.")


class PoolOptions(Section):
    """The actors that hold a model."""

    actors: int | None = Field(
        None, ge=1, description="Processes that hold the model; default: one a GPU, or one on a CPU machine."
    )
    num_gpus: float | None = Field(
        None, gt=0, description="GPUs an actor takes; default 1. 0.5 puts two actors on one GPU."
    )

    @property
    def column(self) -> str:
        """Name of the model in logs and reports; of a task also its output column."""
        raise NotImplementedError

    @field_validator("num_gpus")
    @classmethod
    def _whole_above_one(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError("above 1 only whole GPUs can be given")
        return value


class ModelOptions(PoolOptions):
    """What every task says about its model and the actors that hold it.

    The class variables and the properties below `column` tell the rest of the package what it must know of a task.
    """

    gives_foreground: ClassVar[bool] = False  # its column is a class map that is above 0 on persons
    draws: ClassVar[bool] = True  # it has pictures
    channel_name: ClassVar[str] = "channels"  # what the channels of its network's output are

    task: str
    name: str | None = Field(
        None, pattern=r"^[A-Za-z][A-Za-z0-9_]*$", description="Name of the output column; default: the task."
    )
    checkpoint: str = Field(
        min_length=1,
        description="Checkpoint: a name such as seg-1b (`sapiens-ray checkpoints list`), a path (relative to the "
        "YAML) or any fsspec URL. TorchScript, torch.export, .pth or .safetensors.",
    )
    sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-fA-F]{64}$",
        description="Refuse any other file than the one with this SHA-256.",
    )
    mode: Literal["torchscript", "bfloat16"] = Field(
        "torchscript",
        description="torchscript: float32, and TorchScript files as they are. bfloat16: faster, half the memory.",
    )
    compile: Literal["none", "default", "max-autotune"] = Field(
        "none",
        description="Compile with torch.compile: default in seconds, max-autotune in minutes, once for a kind of "
        "machine (see `cache`). For native models, that is, all but TorchScript files in mode torchscript.",
    )
    batch_size: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] | None = Field(
        None,
        description="Images (for pose: persons) a forward pass; default: 8 on a GPU, 1 on a CPU. auto: found by "
        "trying, on a GPU.",
    )

    @field_validator("batch_size", mode="before")
    @classmethod
    def _one_message(cls, value: Any) -> Any:
        """A union of types would give a message for each."""
        if value is None or value == "auto" or (type(value) is int and 1 <= value <= 1024):
            return value
        raise ValueError("should be a whole number from 1 to 1024, or auto")

    @property
    def column(self) -> str:
        return self.name or self.task

    def settled(self, tasks: Sequence[ModelOptions], where: str) -> ModelOptions:
        """These options with all that depends on the other tasks of the job filled in.

        where: this entry of the list, for messages. Raises ValueError if the job lacks a task that is asked for.
        """
        return self

    @property
    def input_columns(self) -> list[str]:
        """Columns of the input with boxes, which the task reads."""
        return []

    @property
    def masks(self) -> list[Mask]:
        """Masks that the user brings, which the task reads."""
        return []

    @property
    def detectors(self) -> list[DetectorOptions]:
        """Person detectors whose boxes the task reads."""
        return []

    @property
    def about(self) -> str:
        """What `check` says about the task beside its model."""
        return ""

    @property
    def network_size(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        return NETWORK_HEIGHT, NETWORK_WIDTH

    @property
    def channels(self) -> int | None:
        """Channels of the network's output; None: any number."""
        return None

    @property
    def input_bytes(self) -> int:
        """Bytes of a network input on its way to the model."""
        return 1024 * 1024 * 3

    def stored_bytes(self, pixels: int) -> int:
        """About how many bytes the labels of an image of so many pixels take."""
        raise NotImplementedError

    def estimated_bytes(self, pixels: int) -> int:
        """About how many bytes an image of so many pixels adds to its unit."""
        return self.input_bytes + self.stored_bytes(pixels)

    def result_settings(self) -> Settings:
        """The options that decide the labels: not where the file lies, and not how fast it runs."""
        skipped = {"checkpoint", "sha256", "compile", "batch_size", "actors", "num_gpus"}
        settings = self.model_dump(mode="json", exclude=skipped)
        unnamed = self.model_copy(update={"name": None}).column
        return {**settings, "name": None if self.column == unnamed else self.name}


class Choice(Section):
    """A section that may be written as one of `words`, or with one of `keys` alone; `source` says what is meant."""

    words: ClassVar[tuple[str, ...]]
    keys: ClassVar[tuple[str, ...]]

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        return expand(value, cls.words, cls.keys)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": list(cls.words), "type": "string"}, handler(core)]}


def expand(value: Any, words: tuple[str, ...], keys: tuple[str, ...]) -> Any:
    """The one-word and one-key forms of a section as the whole section with `source`."""
    if value is None:
        return {"source": "none"}
    if isinstance(value, str):
        if value not in words:
            raise ValueError(f"{value!r} is none of {', '.join(words)}, or a mapping with {' or '.join(keys)}")
        return {"source": value}
    if isinstance(value, dict) and "source" not in value:
        given = [key for key in keys if value.get(key) is not None]
        if len(given) == 1:
            return {**value, "source": given[0]}
        if len(given) > 1:
            raise ValueError(f"give only one of {', '.join(given)}")
        if not set(value) - set(keys):  # leaves an unknown key to the usual message
            raise ValueError(f"give one of {', '.join(keys)}")
    source = value.get("source") if isinstance(value, dict) else None
    if source in keys and source not in words and value.get(source) is None:
        raise ValueError(f"{source}: is missing")
    others = [key for key in keys if isinstance(value, dict) and key != source and value.get(key) is not None]
    if source is not None and others:
        raise ValueError(f"source {source} has no {others[0]}")
    return value
