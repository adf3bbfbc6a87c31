"""Small Sapiens models with seeded random weights: real input sizes, outputs and tensor names, but narrow layers."""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from pathlib import Path

import torch

from sapiens_ray.models.rope import default_periods
from sapiens_ray.models.sapiens import Sapiens, SapiensArchitecture
from sapiens_ray.models.sapiens2 import Sapiens2, Sapiens2Architecture

TASKS = ("seg", "depth", "normal", "pose17", "features")
HEADS = {
    "seg": ((16, 16, 16), (16, 16, 16), 28, "decode_head", "conv_seg"),
    "depth": ((8, 8, 8, 8), (8, 8), 1, "decode_head", "conv_seg"),
    "normal": ((16, 16, 16), (16, 16, 16), 3, "decode_head", "conv_seg"),
    "pose17": ((16, 16), (16, 16), 17, "head", "final_layer"),
    "features": ((), (), None, "", ""),
}


def small(task: str, seed: int = 0, layers: int = 2, channels: int | None = None) -> Sapiens:
    """A model of width 32 with 2 heads; weights are large enough for attention and norms to matter.

    channels: of the output, for fine-tuned models; by default those of the published ones."""
    deconv, conv, published, head, last = HEADS[task]
    channels = channels or published
    kind = "pose" if task == "pose17" else task
    torch.manual_seed(seed)
    model = Sapiens(SapiensArchitecture(kind, 32, layers, 2, 128, deconv, conv, channels, head, last))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        elif "ln" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            torch.nn.init.normal_(parameter, std=0.15 if parameter.ndim > 1 else 0.5)
    return model.eval().requires_grad_(False)


def images(model: Sapiens | Sapiens2, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Smooth random images with detail, normalised."""
    height, width = model.architecture.input_size
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 3, height // 64, width // 64, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return smooth + 0.1 * torch.randn(batch, 3, height, width, generator=generator)


def output(model: object, batch: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found = model(batch)  # type: ignore[operator]
    return (found[0] if isinstance(found, tuple | list) else found).float()


class Foreign:
    """Stands for the objects that training frameworks leave in a checkpoint and whose class the reader lacks."""

    def __init__(self, value: object = 1) -> None:
        self.value = value


def write(path: Path, model: Sapiens | Sapiens2, file_format: str) -> Path:
    """Save a model in one of `FILE_FORMATS`."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = images(model, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if file_format == "flat pth":
            torch.save(state, path)
        elif file_format == "pth":
            torch.save({"state_dict": state, "meta": {"epoch": 3, "config": Foreign()}, "optimizer": {}}, path)
        elif file_format == "old pth":
            torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=False)
        elif file_format == "safetensors":
            from safetensors.torch import save_file

            save_file(state, path)
        elif file_format == "torchscript":
            torch.jit.trace(model, batch, check_trace=False).save(str(path))
        elif file_format == "export":
            dim = torch.export.Dim("batch", min=1, max=64)
            torch.export.save(torch.export.export(model, (batch,), dynamic_shapes=({0: dim},)), path)
        elif file_format == "old export":  # as torch 2.3 wrote them
            buffer = io.BytesIO()
            torch.save(state, buffer)
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("serialized_exported_program.json", json.dumps({"schema_version": {"major": 5}}))
                archive.writestr("serialized_state_dict.pt", buffer.getvalue())
                archive.writestr("version", "5.1")
        else:
            raise ValueError(file_format)
    return path


FILE_FORMATS = {
    "flat pth": "model.pth", "pth": "model.pth", "old pth": "model.pth", "safetensors": "model.safetensors",
    "torchscript": "model.pt2", "export": "model.pt2", "old export": "model.pt2",
}  # fmt: skip


TASKS2 = ("seg", "pose", "normal", "pointmap", "matting", "features")
HEADS2 = {
    "seg": {"enlarge": (16, 16, 16, 16), "conv": (16, 16), "channels": 29},
    "pose": {"enlarge": (16, 16), "conv": (16, 16), "channels": 308},
    "normal": {"enlarge": (16, 12, 8, 8), "conv": (8, 8), "channels": 3},
    "pointmap": {"enlarge": (16, 12, 8, 8), "conv": (8, 8), "channels": 3, "scale_conv": (16, 8, 4),
                 "scale_linear": (16, 8, 1)},
    "matting": {"enlarge": (16, 12, 8, 8), "conv": (8, 8), "channels": 4},
    "features": {},
}  # fmt: skip


def small2(
    task: str, seed: int = 0, key_heads: tuple[int, ...] = (4, 2), tokenizer: int = 0, **head: object
) -> Sapiens2:
    """A Sapiens2 model of width 32 with 4 heads, whose last layer has grouped queries."""
    parts: dict[str, object] = {**HEADS2[task], "head": "decode_head" if HEADS2[task] else "", **head}
    torch.manual_seed(seed)
    model = Sapiens2(Sapiens2Architecture(task, 32, 4, key_heads, 128, 8, tokenizer, **parts))  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        elif re.search(r"(ln\d|_norm|gamma)\.weight", name):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            torch.nn.init.normal_(parameter, std=0.15 if parameter.ndim > 1 else 0.5)
    model.backbone.rope_embed.periods.copy_(default_periods(8, torch.bfloat16))
    model.use_rope("bfloat16")
    return model.eval().requires_grad_(False)
