"""What every part of the job file and every task option has in common."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic_core import CoreSchema


class Section(BaseModel):
    """Base of every part of the job file: unknown keys are errors, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)


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
    """What every task says about its model and the actors that hold it."""

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

    @property
    def network_size(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        return 1024, 768

    @property
    def channels(self) -> int | None:
        """Channels of the network's output; None: any number."""
        return None

    @property
    def input_bytes(self) -> int:
        """What a network input weighs on its way."""
        return 1024 * 1024 * 3

    def stored_bytes(self, pixels: int) -> int:
        """What the labels of an image of so many pixels weigh, about."""
        raise NotImplementedError

    def weight(self, pixels: int) -> int:
        """What an image of so many pixels weighs on its way to the file, about."""
        return self.input_bytes + self.stored_bytes(pixels)

    def result_settings(self) -> dict[str, Any]:
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
