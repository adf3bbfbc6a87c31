"""Options that all tasks have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from sapiens_ray.tasks.coco import CocoOptions
from sapiens_ray.tasks.foreground import Mask
from sapiens_ray.tasks.network import NETWORK_HEIGHT, NETWORK_WIDTH, Recipe
from sapiens_ray.tasks.persons import DetectorOptions
from sapiens_ray.tasks.sections import PoolOptions, Settings, whole_number_or_auto


class ModelOptions(PoolOptions):
    """Options of every task: its model and the actors that hold it.

    The class variables and the properties below `column` are what the rest of the package needs to know of a task.
    """

    gives_foreground: ClassVar[bool] = False  # its column is a class map that is above 0 on persons
    draws: ClassVar[bool] = True  # it has pictures
    channel_name: ClassVar[str] = "channels"  # what a channel of the network's output stands for
    label_files: ClassVar[tuple[str, ...]] = ()  # fields that may name a YAML file, whose content then takes its place

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
    mode: Literal["float32", "bfloat16", "torchscript"] = Field(
        "float32",
        description="float32: as Sapiens-Lite's scripts run the models; TorchScript programs run as they are. "
        "bfloat16: faster, half the memory. torchscript: the older name of float32.",
    )
    matmul: Literal["strict", "tf32"] = Field(
        "strict",
        description="How an NVIDIA GPU multiplies float32, in mode float32. strict: in float32. tf32: with factors "
        "rounded to 10 mantissa bits, on tensor cores (Ampere and later). No effect on a CPU.",
    )
    compile: Literal["none", "default", "max-autotune"] = Field(
        "none",
        description="Compile with torch.compile: default takes seconds, max-autotune minutes, once per kind of machine "
        "(see `cache`). For native models: all except TorchScript files in mode float32.",
    )
    batch_size: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] | None = Field(
        None,
        description="Images (for pose: persons) per forward pass; default: 8 on a GPU, 1 on a CPU. auto: found by "
        "trying, on a GPU, once for all actors on GPUs of one kind.",
    )

    rope: Literal["bfloat16", "float32"] = Field(
        "bfloat16",
        description="How Sapiens2 models compute rotary positions. bfloat16: as the original does, for which they are "
        "trained. float32: as `transformers` does.",
    )
    _recipe: Recipe = PrivateAttr(default_factory=Recipe)

    @field_validator("mode")
    @classmethod
    def _one_name(cls, value: str) -> str:
        return "float32" if value == "torchscript" else value

    @field_validator("matmul")
    @classmethod
    def _not_of_bfloat16(cls, value: str, info: ValidationInfo) -> str:
        if value == "tf32" and info.data.get("mode") == "bfloat16":
            raise ValueError("tf32 is for mode float32: in mode bfloat16 the products are rounded more than that")
        return value

    @field_validator("batch_size", mode="before")
    @classmethod
    def _one_message(cls, value: object) -> object:
        return value if value is None else whole_number_or_auto(value, 1024)

    @property
    def column(self) -> str:
        return self.name or self.task

    @property
    def recipe(self) -> Recipe:
        """What the checkpoint says of its inputs; that of Sapiens-Lite until the checkpoint is known."""
        return self._recipe

    def with_recipe(self, recipe: Recipe) -> Self:
        """These options for a checkpoint with this recipe. Raises ValueError for one that does not exist there."""
        changed = self.model_copy()
        changed._recipe = recipe
        return changed

    def settled(self, tasks: Sequence[ModelOptions], where: str) -> ModelOptions:
        """These options, with everything filled in that depends on the other tasks of the job.

        where: this entry of the list, for messages. Raises ValueError if the job lacks a task that is needed.
        """
        return self

    @property
    def box_columns(self) -> list[str]:
        """Input columns with boxes that the task reads."""
        return []

    @property
    def box_files(self) -> list[CocoOptions]:
        """COCO files whose boxes the task reads."""
        return []

    @property
    def masks(self) -> list[Mask]:
        """Masks of the user that the task reads."""
        return []

    @property
    def detectors(self) -> list[DetectorOptions]:
        """Person detectors whose boxes the task reads."""
        return []

    @property
    def description(self) -> str:
        """What `check` prints about the task besides its model."""
        return ""

    @property
    def network_size(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        return self.recipe.size or (NETWORK_HEIGHT, NETWORK_WIDTH)

    @property
    def published_kind(self) -> str | None:
        """Which models of the catalogue fit: their kind, such as seg or pose17; None if this is not known."""
        return None

    @property
    def channels(self) -> int | None:
        """Channels of the network's output; None for any number."""
        return None

    def takes_channels(self, count: int | None) -> bool:
        """Whether a network with so many channels fits. count: None for an encoder without a head."""
        return self.channels in (None, count)

    @property
    def background(self) -> int:
        """The class that is no foreground, for tasks that give one."""
        return 0

    @property
    def input_bytes(self) -> int:
        """Bytes of a network input on its way to the model."""
        height, width = self.recipe.size or (1024, 1024)
        return height * width * 3

    def stored_bytes(self, pixels: int) -> int:
        """Estimated bytes of the labels of an image with this many pixels; 0 for small ones."""
        return 0

    def result_settings(self) -> Settings:
        """The options that decide the labels: not the location of the file, and not how fast the model runs."""
        skipped = {"checkpoint", "sha256", "compile", "batch_size", "actors", "num_gpus"}
        if self.matmul == "strict":
            skipped.add("matmul")  # so that outputs that were begun before there was a choice are continued
        if self.rope == "bfloat16":
            skipped.add("rope")
        settings = self.model_dump(mode="json", exclude=skipped)
        unnamed = self.model_copy(update={"name": None}).column
        # Under its older name, so that outputs that were begun with it are continued.
        mode = "torchscript" if self.mode == "float32" else self.mode
        return {**settings, "mode": mode, "name": None if self.column == unnamed else self.name}
