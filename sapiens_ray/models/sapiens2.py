"""Sapiens2 models: the architecture inferred from tensors, and the model built from them."""

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
from sapiens_ray.models.heads2 import MattingHead, PointmapHead, ShuffleHead
from sapiens_ray.models.rope import Precision, default_periods
from sapiens_ray.models.vit import PATCH
from sapiens_ray.models.vit2 import WINDOW, VisionTransformer2
from sapiens_ray.models.weights import Entry
from sapiens_ray.tasks.network import NETWORK_HEIGHT, NETWORK_WIDTH, SAPIENS2

SIZES = {768: "0.1b", 1024: "0.4b", 1280: "0.8b", 1536: "1b", 2432: "5b"}  # width of the encoder -> name
HEAD = "decode_head"
LAST = "conv_"  # the last layer of a head has the name of its task
COUNTED = {"pose": "keypoints", "seg": "classes"}
DECONVOLVED = ("pose", "seg")  # tasks whose heads enlarge with transposed convolutions, as those of Sapiens

# The tensors that are converted to a smaller dtype: nearly all weights and nearly all of the compute. The others
# (patches, tokens, norms, LayerScale, the last layer, the scale of pointmaps) stay float32.
PRODUCTS = re.compile(
    r"\.(attn\.(wq|wk|wv|proj)|ffn\.w12|ffn\.w3|deconv_layers|upsample_blocks|input_conv|conv_layers)\."
)
PERIODS = "backbone.rope_embed.periods"
IGNORED = ("data_preprocessor.", "backbone.mask_token")  # what training leaves in checkpoints


@dataclass(frozen=True)
class Sapiens2Architecture:
    """Everything about a Sapiens2 model except its weights.

    task: pose, seg, normal, pointmap, matting, features, or that of another head. key_heads: of each layer. enlarge:
    channels of the layers of the head that enlarge. tokenizer: layers of the tokenizer; 0 without one. channels: of the
    output; None for an encoder without a head. scale_conv, scale_linear: of the branch that finds a pointmap's scale.
    """

    task: str
    width: int
    heads: int
    key_heads: tuple[int, ...]
    hidden: int
    registers: int
    tokenizer: int = 0
    enlarge: tuple[int, ...] = ()
    conv: tuple[int, ...] = ()
    channels: int | None = None
    scale_conv: tuple[int, ...] = ()
    scale_linear: tuple[int, ...] = ()
    head: str = field(default="", compare=False)  # name of the head's tensors

    @property
    def size(self) -> str:
        """The published name of the size, such as 1b or 1b-4k; width and number of layers for other sizes."""
        if self.width in SIZES:
            return SIZES[self.width] + ("-4k" if self.tokenizer else "")
        return f"{self.width} wide, {len(self.key_heads)} layers{', 4K' if self.tokenizer else ''}"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return NETWORK_HEIGHT // PATCH, NETWORK_WIDTH // PATCH

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        enlarged = WINDOW if self.tokenizer else 1
        return NETWORK_HEIGHT * enlarged, NETWORK_WIDTH * enlarged

    @property
    def last(self) -> str:
        """The name of the head's last layer."""
        return LAST + self.task

    @property
    def details(self) -> list[str]:
        grouped = sum(few != self.heads for few in self.key_heads)
        key_heads = f", {min(self.key_heads)} for keys in {grouped} of them" if grouped else ""
        lines = [f"{self.width} wide, {len(self.key_heads)} layers, {self.heads} heads{key_heads}"]
        if self.tokenizer:
            height, width = self.input_size
            lines.append(f"input {width} x {height}, {self.tokenizer} layers make one token of {WINDOW} x {WINDOW}")
        if self.channels is not None:
            lines.append(f"head: {len(self.enlarge)} + {len(self.conv)} layers, {self.channels} channels out")
        return lines

    def __str__(self) -> str:
        if self.channels is None:
            return f"a Sapiens2 encoder ({self.size})"
        of = COUNTED.get(self.task)
        return f"a Sapiens2 {self.task} model ({self.size}{f', {self.channels} {of}' if of else ''})"


class Sapiens2(NativeModel):
    """Encoder and head."""

    def __init__(self, architecture: Sapiens2Architecture) -> None:
        super().__init__()
        self.architecture: Sapiens2Architecture = architecture
        a = architecture
        self.backbone = VisionTransformer2(a.width, a.heads, a.key_heads, a.hidden, a.registers, a.grid, a.tokenizer)
        if a.channels is not None:
            self.add_module(a.head, _head(a, a.channels))

    def use_rope(self, precision: Precision) -> None:
        self.backbone.rope_embed.prepare(precision)

    def compiled_parts(self) -> list[nn.Module]:
        """The layers of the encoder, of which those of one kind share their compiled code, and the head."""
        head = [self.get_submodule(self.architecture.head)] if self.architecture.head else []
        tokenizer = getattr(self.backbone.tokenizer, "blocks", [])
        return [*tokenizer, *self.backbone.blocks, *head]

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """B x 3 x H x W, RGB, normalised, to the output, float32.

        seg: B x classes x 1024 x 768 logits. pose: B x keypoints x 256 x 192 heatmaps. normal: B x 3 x 1024 x 768.
        pointmap: B x 3 x 1024 x 768, and B x 1 scales. matting: B x 4 x 1024 x 768. features: B x C x 64 x 48, and
        B x C class tokens.
        """
        tokens = self.backbone(images.float())
        patches = tokens[:, 1 + self.architecture.registers :]
        features = patches.transpose(1, 2).unflatten(2, self.architecture.grid)
        if self.architecture.channels is None:
            return features, tokens[:, 0]
        output: torch.Tensor = self.get_submodule(self.architecture.head)(features)
        return output


def _head(a: Sapiens2Architecture, channels: int) -> nn.Module:
    if a.task in DECONVOLVED:
        return Head(a.width, a.enlarge, a.conv, channels, a.last)
    if a.scale_conv:
        halved = 2 ** len(a.scale_conv)
        cells = -(-a.grid[0] // halved) * -(-a.grid[1] // halved)
        return PointmapHead(a.width, a.enlarge, a.conv, channels, a.last, a.scale_conv, a.scale_linear, cells)
    kind = MattingHead if a.task == "matting" else ShuffleHead
    return kind(a.width, a.enlarge, a.conv, channels, a.last)


class Reader:
    """Reads numbers off the shapes of tensors. what: the file, for messages."""

    def __init__(self, tensors: Mapping[str, Entry], what: str) -> None:
        self.tensors, self.what = tensors, what

    def shape(self, name: str, dims: int) -> tuple[int, ...]:
        """Raises CheckpointError if there is no such tensor, or it has another number of dimensions."""
        if name not in self.tensors:
            raise CheckpointError(f"{self.what} looks like a Sapiens2 model, but has no tensor {name}")
        found = self.tensors[name].shape
        if len(found) != dims or 0 in found:
            raise CheckpointError(f"{self.what}: tensor {name} has shape {found}, not {dims} dimensions")
        return found

    def parts(self, number: int, name: str, of: int) -> int:
        """`number / of`. Raises CheckpointError if the tensor cannot be divided so."""
        if of < 1 or number % of:
            shape = self.tensors[name].shape
            raise CheckpointError(f"{self.what}: tensor {name} of shape {shape} cannot be divided into parts of {of}")
        return number // of

    def numbers(self, pattern: str) -> list[int]:
        """The numbers in names. pattern: a name with `#` in place of its number."""
        found = (re.fullmatch(re.escape(pattern).replace(r"\#", r"(\d+)"), name) for name in self.tensors)
        return sorted({int(match[1]) for match in found if match})

    def outputs(self, pattern: str, dims: int = 4, axis: int = 0) -> tuple[int, ...]:
        """The numbers of output channels of the layers whose weights have such names."""
        return tuple(self.shape(pattern.replace("#", str(n)), dims)[axis] for n in self.numbers(pattern))


def read_architecture(tensors: Mapping[str, Entry], what: str) -> Sapiens2Architecture:
    """Infer the architecture from the names and shapes of the tensors. what: the file, for messages. Raises
    CheckpointError."""
    reader = Reader(tensors, what)
    width = reader.shape("backbone.patch_embed.projection.weight", 4)[0]
    first = "backbone.blocks.0.attn"
    head_width = reader.shape(f"{first}.q_norm.weight", 1)[0]
    heads = reader.parts(width, f"{first}.wq.weight", head_width)
    key_heads = []
    for number in range(len(reader.numbers("backbone.blocks.#.ln1.weight"))):
        name = f"backbone.blocks.{number}.attn.wk.weight"
        few = reader.parts(reader.shape(name, 2)[0], name, head_width)
        if heads % few:
            shape = tensors[name].shape
            raise CheckpointError(
                f"{what}: tensor {name} of shape {shape}: its {few} heads do not divide the {heads} of the queries"
            )
        key_heads.append(few)
    gate = "backbone.blocks.0.ffn.w12.weight"
    hidden = reader.parts(reader.shape(gate, 2)[0], gate, 2)
    registers = reader.shape("backbone.storage_tokens", 3)[1]
    tokenizer = len(reader.numbers("backbone.tokenizer.blocks.#.ln1.weight"))
    encoder = Sapiens2Architecture("features", width, heads, tuple(key_heads), hidden, registers, tokenizer)
    task = _task(tensors)
    if task is None:
        return encoder
    channels = reader.shape(f"{HEAD}.{LAST}{task}.weight", 4)[0]
    if task in DECONVOLVED:
        enlarge = reader.outputs(f"{HEAD}.deconv_layers.#.weight", axis=1)
    else:
        shuffled = [
            f"{HEAD}.upsample_blocks.{n}.0.weight" for n in reader.numbers(f"{HEAD}.upsample_blocks.#.0.weight")
        ]
        enlarge = tuple(reader.parts(reader.shape(name, 4)[0], name, 4) for name in shuffled)
    return Sapiens2Architecture(
        task, width, heads, tuple(key_heads), hidden, registers, tokenizer, enlarge,
        reader.outputs(f"{HEAD}.conv_layers.#.weight"), channels,
        reader.outputs(f"{HEAD}.scale_conv_layers.#.weight"),
        reader.outputs(f"{HEAD}.scale_final_layer.#.weight", dims=2), HEAD,
    )  # fmt: skip


def _task(tensors: Mapping[str, Entry]) -> str | None:
    """The task of the head, which its last layer is named after; None without a head."""
    names = (re.fullmatch(rf"{HEAD}\.{LAST}(?!layers\.)(\w+)\.weight", name) for name in tensors)
    return next((match[1] for match in names if match), None)


def fitting_architecture(tensors: Mapping[str, Entry], what: str) -> Sapiens2Architecture:
    """The architecture that has exactly these tensors. Does not read their values.

    Raises CheckpointError with the first tensor that does not fit.
    """
    architecture = read_architecture(tensors, what)
    with torch.device("meta"):
        state = Sapiens2(architecture).state_dict()
    others = f"; judging by its other tensors, it is {architecture}"
    for name, tensor in state.items():
        shape = tuple(tensor.shape)
        if name not in tensors:
            if name == PERIODS:  # they follow from the width of a head
                continue
            raise CheckpointError(f"{what}: tensor {name} of shape {shape} is missing{others}")
        if tensors[name].shape != shape:
            raise CheckpointError(f"{what}: tensor {name} has shape {tensors[name].shape} instead of {shape}{others}")
    for name, entry in tensors.items():
        if name not in state:
            raise CheckpointError(f"{what}: tensor {name} of shape {entry.shape} does not belong to the model{others}")
    return architecture


class Sapiens2Family(Family):
    """Meta's Sapiens2 of 2026, 0.1b to 5b."""

    recipe: ClassVar[str] = SAPIENS2
    # ImageNet's mean and standard deviation, not rounded as in Sapiens-Lite.
    mean_rgb: ClassVar[Triple] = (123.675, 116.28, 103.53)
    std_rgb: ClassVar[Triple] = (58.395, 57.12, 57.375)
    rotary: ClassVar[bool] = True

    def tensors_of(self, state: Mapping[str, Entry]) -> dict[str, Entry]:
        state = {name: entry for name, entry in state.items() if not name.startswith(IGNORED)}
        for prefix in ("backbone.", ""):  # encoders are published without the prefix
            if f"{prefix}storage_tokens" in state or f"{prefix}blocks.0.attn.wq.weight" in state:
                return state if prefix else {f"backbone.{name}": entry for name, entry in state.items()}
        return {}

    def read(self, tensors: Mapping[str, Entry], what: str) -> Sapiens2Architecture:
        return read_architecture(tensors, what)

    def fitting(self, tensors: Mapping[str, Entry], what: str) -> Sapiens2Architecture:
        return fitting_architecture(tensors, what)

    def build(self, tensors: Mapping[str, Entry], what: str, dtype: torch.dtype, device: torch.device) -> Sapiens2:
        """Tensors are read and converted one by one, so that there is never a second copy of the weights."""
        architecture = fitting_architecture(tensors, what)
        with torch.device("meta"):
            model = Sapiens2(architecture)
        ready: dict[str, torch.Tensor] = {}
        for name in model.state_dict():
            if name == PERIODS:
                head_width = architecture.width // architecture.heads
                stored = tensors[name].read() if name in tensors else default_periods(head_width, torch.bfloat16)
                ready[name] = stored.to(device, torch.bfloat16)
            else:
                ready[name] = tensors[name].read().to(device, dtype if PRODUCTS.search(name) else torch.float32)
        model.load_state_dict(ready, assign=True)
        model.use_rope("bfloat16")
        return model.eval().requires_grad_(False)


FAMILY = Sapiens2Family()
