"""Sapiens models: the architecture inferred from tensors, and the model built from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from sapiens_ray.errors import CheckpointError
from sapiens_ray.models.architectures import Family, NativeModel, Triple
from sapiens_ray.models.heads import Head
from sapiens_ray.models.vit import PATCH, VisionTransformer, interpolate_pos_embed
from sapiens_ray.models.weights import Entry
from sapiens_ray.tasks.network import ENCODER_SIDE, NETWORK_HEIGHT, NETWORK_WIDTH

# Width of the encoder: name, and number of attention heads, which cannot be inferred from the tensors.
SIZES = {1024: ("0.3b", 16), 1280: ("0.6b", 16), 1536: ("1b", 24), 1920: ("2b", 32)}
OTHER_HEAD_WIDTH = 16  # for models of other sizes, which are not published ones
SHIFTED = ("pose", "normal")  # tasks whose patches start two pixels outside the image

# The tensors that are converted to a smaller dtype: nearly all weights and nearly all of the compute. The others
# (patches, positions, norms, the last layer) stay float32: they cost little, and their errors would affect all layers.
PRODUCTS = (".attn.", ".ffn.", ".deconv_layers.", ".conv_layers.")

# Other content of checkpoints: the decoder of the pretraining, and the constants of the preprocessor.
IGNORED = ("neck.", "data_preprocessor.")


@dataclass(frozen=True)
class SapiensArchitecture:
    """Everything about a Sapiens model except its weights.

    task: pose, seg, depth, normal or features. channels: of the output; None for an encoder without a head.
    """

    task: str
    width: int
    layers: int
    heads: int
    hidden: int
    deconv: tuple[int, ...] = ()
    conv: tuple[int, ...] = ()
    channels: int | None = None
    head: str = field(default="", compare=False)  # name of the head's tensors
    last: str = field(default="", compare=False)  # name of its last layer

    @property
    def size(self) -> str:
        """The published name of the size, such as 1b; width and number of layers for other sizes."""
        name = SIZES.get(self.width, ("", 0))[0]
        return name or f"{self.width} wide, {self.layers} layers"

    @property
    def padding(self) -> int:
        """Zero padding around the input in pixels; also for seg models trained on the 20 classes of CIHP and LIP."""
        return 2 if self.task in SHIFTED or (self.task == "seg" and self.channels == 20) else 0

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (ENCODER_SIDE, ENCODER_SIDE) if self.task == "features" else (NETWORK_HEIGHT, NETWORK_WIDTH)

    @property
    def grid(self) -> tuple[int, int]:
        return self.input_size[0] // PATCH, self.input_size[1] // PATCH

    @property
    def details(self) -> list[str]:
        lines = [f"{self.width} wide, {self.layers} layers, {self.heads} heads, padding {self.padding}"]
        if self.channels is not None:
            lines.append(f"head: {len(self.deconv)} + {len(self.conv)} layers, {self.channels} channels out")
        return lines

    def __str__(self) -> str:
        if self.task == "features":
            return f"a Sapiens encoder ({self.size})"
        of = {"pose": "keypoints", "seg": "classes"}.get(self.task)
        return f"a Sapiens {self.task} model ({self.size}{f', {self.channels} {of}' if of else ''})"


class Sapiens(NativeModel):
    """Encoder and head. Without a head, the output is a tuple of one tensor, as with Sapiens-Lite's encoders."""

    def __init__(self, architecture: SapiensArchitecture) -> None:
        super().__init__()
        self.architecture: SapiensArchitecture = architecture
        a = architecture
        self.backbone = VisionTransformer(
            a.width, a.layers, a.heads, a.hidden, a.padding, a.grid, class_token=a.task == "features"
        )
        if a.channels is not None:
            self.add_module(a.head, Head(a.width, a.deconv, a.conv, a.channels, a.last))

    def compiled_parts(self) -> list[nn.Module]:
        """The layers of the encoder, which share their compiled code, and the head."""
        head = [self.get_submodule(self.architecture.head)] if self.architecture.head else []
        return [*self.backbone.layers, *head]

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor]:
        """B x 3 x H x W, RGB, normalised, to the output, float32.

        seg: B x classes x 512 x 384 logits. normal: B x 3 x 512 x 384. depth: B x 1 x 1024 x 768.
        pose: B x keypoints x 256 x 192 heatmaps. features: a tuple of B x C x 64 x 64.
        """
        features = self.backbone(images.float())
        if self.architecture.channels is None:
            return (features,)
        output: torch.Tensor = self.get_submodule(self.architecture.head)(features)
        return output


def tensors_of(state: Mapping[str, Entry]) -> dict[str, Entry]:
    """The tensors of the model by name, without other content of checkpoints; empty if it is not a Sapiens model."""
    state = {name: entry for name, entry in state.items() if not name.startswith(IGNORED)}
    for prefix in ("backbone.", ""):  # encoders are also saved without the prefix
        if f"{prefix}patch_embed.projection.weight" in state:
            return state if prefix else {f"backbone.{name}": entry for name, entry in state.items()}
    return {}


def read_architecture(tensors: Mapping[str, Entry], what: str, wanted: str = "") -> SapiensArchitecture:
    """Infer the architecture from the shapes of the tensors. what: the file, for messages. wanted: the task of the job:
    three channels are normals or, for seg, three classes. Raises CheckpointError."""

    def shape(name: str, dims: int) -> tuple[int, ...]:
        if name not in tensors:
            raise CheckpointError(f"{what} looks like a Sapiens model, but has no tensor {name}")
        if len(tensors[name].shape) != dims:
            raise CheckpointError(f"{what}: tensor {name} has shape {tensors[name].shape}, not {dims} dimensions")
        return tensors[name].shape

    def numbers(pattern: str) -> list[int]:
        found = (re.fullmatch(pattern, name) for name in tensors)
        return sorted({int(match[1]) for match in found if match})

    width = shape("backbone.patch_embed.projection.weight", 4)[0]
    layers = len(numbers(r"backbone\.layers\.(\d+)\.ln1\.weight"))
    hidden = shape("backbone.layers.0.ffn.layers.0.0.weight", 2)[0]
    heads = SIZES[width][1] if width in SIZES else max(1, width // OTHER_HEAD_WIDTH)
    if width % heads:
        raise CheckpointError(f"{what}: a Sapiens encoder of width {width} is not supported")
    head, last = "", ""
    if any(name.startswith("head.") for name in tensors):
        head, last = "head", "final_layer"
    elif any(name.startswith("decode_head.") for name in tensors):
        head, last = "decode_head", "conv_seg"
    else:
        return SapiensArchitecture("features", width, layers, heads, hidden)
    deconv = [
        shape(f"{head}.deconv_layers.{n}.weight", 4)[1] for n in numbers(rf"{head}\.deconv_layers\.(\d+)\.weight")
    ]
    conv = [shape(f"{head}.conv_layers.{n}.weight", 4)[0] for n in numbers(rf"{head}\.conv_layers\.(\d+)\.weight")]
    channels = shape(f"{head}.{last}.weight", 4)[0]
    if head == "head":
        task = "pose"
    elif len(deconv) == 4:  # enlarges to the size of the input
        task = "depth"
    else:
        task = "normal" if channels == 3 and wanted != "seg" else "seg"
    return SapiensArchitecture(task, width, layers, heads, hidden, tuple(deconv), tuple(conv), channels, head, last)


def build(tensors: Mapping[str, Entry], what: str, dtype: torch.dtype, device: torch.device, task: str = "") -> Sapiens:
    """The model with these tensors, in eval mode. what: the file, for messages. dtype: of the large matrix products.
    task: of the job, see `read_architecture`.

    Tensors are read and converted one by one, so that there is never a second copy of the weights. Raises
    CheckpointError for missing, extra or wrongly shaped tensors.
    """
    architecture = fitting_architecture(tensors, what, task)
    with torch.device("meta"):
        model = Sapiens(architecture)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    ready: dict[str, torch.Tensor] = {}
    for name in wanted:
        tensor = tensors[name].read()
        if tuple(tensor.shape) != wanted[name]:
            tensor = interpolate_pos_embed(tensor, architecture.grid, architecture.task == "features")
        ready[name] = tensor.to(device, dtype if any(part in name for part in PRODUCTS) else torch.float32)
    model.load_state_dict(ready, assign=True)
    return model.eval().requires_grad_(False)


def fitting_architecture(tensors: Mapping[str, Entry], what: str, wanted: str = "") -> SapiensArchitecture:
    """The architecture that has exactly these tensors. Does not read their values. wanted: see `read_architecture`.

    Raises CheckpointError with the first tensor that does not fit.
    """
    architecture = read_architecture(tensors, what, wanted)
    with torch.device("meta"):
        state = Sapiens(architecture).state_dict()
    others = f"; judging by its other tensors, it is {architecture}"
    for name, tensor in state.items():
        shape = tuple(tensor.shape)
        if name not in tensors:
            raise CheckpointError(f"{what}: tensor {name} of shape {shape} is missing{others}")
        found = tensors[name].shape
        if name == "backbone.pos_embed" and len(found) == 3 and found[::2] == shape[::2]:
            try:  # positions of another grid can be interpolated
                has_class_token = architecture.task == "features"
                interpolate_pos_embed(torch.empty(found, device="meta"), architecture.grid, has_class_token)
            except ValueError as error:
                raise CheckpointError(f"{what}: tensor {name} of shape {found}: {error}") from None
        elif found != shape:
            raise CheckpointError(f"{what}: tensor {name} has shape {found} instead of {shape}{others}")
    for name, entry in tensors.items():
        # A pretrained encoder has a class token; the encoders of tasks do not, and drop its position.
        if name not in state and name != "backbone.cls_token":
            raise CheckpointError(f"{what}: tensor {name} of shape {entry.shape} does not belong to the model{others}")
    return architecture


class SapiensFamily(Family):
    """Meta's Sapiens of 2024, 0.3b to 2b. wanted: the task of the job, if there is one."""

    # Sapiens-Lite's constants: the rounded values of ImageNet.
    mean_rgb: ClassVar[Triple] = (123.5, 116.5, 103.5)
    std_rgb: ClassVar[Triple] = (58.5, 57.0, 57.5)

    def __init__(self, wanted: str = "") -> None:
        self.wanted = wanted

    def for_task(self, task: str) -> SapiensFamily:
        return SapiensFamily(task)

    def tensors_of(self, state: Mapping[str, Entry]) -> dict[str, Entry]:
        return tensors_of(state)

    def read(self, tensors: Mapping[str, Entry], what: str) -> SapiensArchitecture:
        return read_architecture(tensors, what, self.wanted)

    def fitting(self, tensors: Mapping[str, Entry], what: str) -> SapiensArchitecture:
        return fitting_architecture(tensors, what, self.wanted)

    def build(self, tensors: Mapping[str, Entry], what: str, dtype: torch.dtype, device: torch.device) -> Sapiens:
        return build(tensors, what, dtype, device, self.wanted)


FAMILY = SapiensFamily()
