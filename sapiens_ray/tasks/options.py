"""What all options of tasks have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from sapiens_ray.tasks.foreground import Mask
from sapiens_ray.tasks.network import NETWORK_HEIGHT, NETWORK_WIDTH
from sapiens_ray.tasks.persons import DetectorOptions
from sapiens_ray.tasks.sections import PoolOptions, Settings


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
    def _one_message(cls, value: object) -> object:
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
