"""The native models: against plain float64 formulas, and against the original classes in the parity kit."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sapiens_ray.errors import CheckpointError
from sapiens_ray.models.device import arrange_convolutions
from sapiens_ray.models.heads import InstanceNorm
from sapiens_ray.models.loading import load_model
from sapiens_ray.models.sapiens import Sapiens, SapiensFamily, tensors_of
from sapiens_ray.models.vit import interpolate_pos_embed
from sapiens_ray.models.weights import read_weights
from tests.conftest import SHARED
from tests.small_models import TASKS, images, output, small, write

PARTS = ("patch_embed", "deconv_layers", "conv_layers", "conv_seg")  # with convolutions

CPU = torch.device("cpu")
CONVERT = SHARED / "parity" / "convert"
needs_kit = pytest.mark.skipif(not CONVERT.is_dir(), reason="needs the parity kit")


def plain(model: Sapiens, batch: torch.Tensor) -> torch.Tensor:
    """The formulas of the architecture in float64, step by step, using only the tensors."""
    about = model.architecture
    w = {name: tensor.double() for name, tensor in model.state_dict().items()}

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-6).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    edge = 2 if about.task in ("pose", "normal") else 0
    padded = F.pad(batch.double(), [edge] * 4)
    rows, columns = about.input_size[0] // 16, about.input_size[1] // 16
    patches = padded.unfold(2, 16, 16).unfold(3, 16, 16)[:, :, :rows, :columns]  # B x 3 x rows x columns x 16 x 16
    kernel = w["backbone.patch_embed.projection.weight"]
    x = torch.einsum("bcyxij,dcij->byxd", patches, kernel).flatten(1, 2) + w["backbone.patch_embed.projection.bias"]
    if "backbone.cls_token" in w:
        x = torch.cat([w["backbone.cls_token"].expand(len(x), -1, -1), x], 1)
    x = x + w["backbone.pos_embed"]
    for number in range(about.layers):
        layer = f"backbone.layers.{number}"
        q, k, v = linear(norm(x, f"{layer}.ln1"), f"{layer}.attn.qkv").chunk(3, -1)
        width = about.width // about.heads
        mixed = []
        for head in range(about.heads):
            part = slice(head * width, (head + 1) * width)
            weights = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width), -1)
            mixed.append(weights @ v[..., part])
        x = x + linear(torch.cat(mixed, -1), f"{layer}.attn.proj")
        hidden = linear(norm(x, f"{layer}.ln2"), f"{layer}.ffn.layers.0.0")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        x = x + linear(hidden, f"{layer}.ffn.layers.1")
    x = norm(x, "backbone.ln1")[:, -rows * columns :]
    maps = x.transpose(1, 2).reshape(len(x), about.width, rows, columns)
    if about.channels is None:
        return maps

    def activated(y: torch.Tensor) -> torch.Tensor:
        y = (y - y.mean((2, 3), keepdim=True)) / (y.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        return y * torch.sigmoid(y)

    for number in range(len(about.deconv)):
        kernel = w[f"{about.head}.deconv_layers.{3 * number}.weight"]
        maps = activated(F.conv_transpose2d(maps, kernel, stride=2, padding=1))
    for number in range(len(about.conv)):
        name = f"{about.head}.conv_layers.{3 * number}"
        mixed_maps = torch.einsum("bchw,dc->bdhw", maps, w[f"{name}.weight"][:, :, 0, 0])
        maps = activated(mixed_maps + w[f"{name}.bias"][:, None, None])
    last = f"{about.head}.{about.last}"
    return torch.einsum("bchw,dc->bdhw", maps, w[f"{last}.weight"][:, :, 0, 0]) + w[f"{last}.bias"][:, None, None]


@pytest.mark.parametrize("task", TASKS)
def test_native_models_equal_the_formulas(task, tmp_path):
    model = small(task)
    batch = images(model, 2)
    wanted = plain(model, batch)
    scale = wanted.abs().max()
    assert (output(model, batch) - wanted).abs().max() < 2e-5 * scale
    # As loaded from a file: another memory order, and nearly all matrix products in bfloat16.
    path = write(tmp_path / "model.pth", model, "pth")
    assert (output(load_model(path, "float32", CPU).module, batch) - wanted).abs().max() < 2e-5 * scale
    small_type = output(load_model(path, "bfloat16", CPU).module, batch)
    error = (small_type - wanted).square().mean().sqrt() / wanted.std()
    assert 1e-4 < error < 0.03, "bfloat16 only rounds"
    assert small_type.dtype == torch.float32


def test_a_wrong_padding_would_show():
    """It raises no error and shifts every patch by two pixels: the tests above must be able to detect it."""
    for task in ("pose17", "normal", "seg"):
        model = small(task)
        batch = images(model)
        wanted = output(model, batch)
        padding = model.backbone.patch_embed.projection.padding
        assert padding == ((0, 0) if task == "seg" else (2, 2))
        model.backbone.patch_embed.projection.padding = (2, 2) if task == "seg" else (0, 0)
        assert (output(model, batch) - wanted).abs().max() > 1e-2 * wanted.abs().max()


@needs_kit
@pytest.mark.parametrize("task", ["seg", "depth", "normal", "pose17", "pretrain"])
@pytest.mark.parametrize("file", ["{}.pth", "{}_torch23_bfloat16.pt2"])
def test_outputs_equal_those_of_the_original_classes(task, file):
    kept = np.load(CONVERT / f"{task}.npz")
    photo = cv2.imread(str(CONVERT / str(kept["input"])))[:, :, ::-1].astype(np.float32)
    batch = torch.from_numpy((photo - np.float32(SapiensFamily.mean_rgb)) / np.float32(SapiensFamily.std_rgb)).permute(
        2, 0, 1
    )[None]
    stride, offset = int(kept["stride"]), int(kept["offset"])
    path = CONVERT / file.format(task)
    about = load_model(path, "float32", CPU).architecture
    arch = json.loads(str(kept["arch"]))
    assert (about.width, about.layers, about.heads, about.hidden, [about.padding] * 2) == (
        arch["embed_dims"], arch["num_layers"], arch["num_heads"], arch["feedforward_channels"], arch["patch_padding"],
    )  # fmt: skip
    found = {}
    for mode in ("float32", "bfloat16"):
        whole = output(load_model(path, mode, CPU).module, batch)
        assert list(whole.shape) == kept["output_shape"].tolist()
        found[mode] = whole[0, :, offset::stride, offset::stride].numpy()
    difference = {mode: np.abs(one - kept["output"]) for mode, one in found.items()}
    spread = kept["output"].std()
    errors = {mode: float(np.sqrt((one**2).mean()) / spread) for mode, one in difference.items()}
    print(task, path.suffix, {mode: float(one.max()) for mode, one in difference.items()}, errors)
    if path.suffix == ".pth":
        assert difference["float32"].max() < 1e-5
        assert errors["bfloat16"] < 0.02
    else:  # weights that were rounded when they were saved
        assert errors["float32"] < 0.02 and errors["bfloat16"] < 0.025


@needs_kit
def test_positions_are_interpolated_as_by_the_original_loader():
    kept = np.load(CONVERT / "pos_embed_resize.npz")["result"]
    positions = torch.load(CONVERT / "pretrain.pth", weights_only=True)["state_dict"]["backbone.pos_embed"]
    resized = interpolate_pos_embed(positions, (64, 48), class_token=False)
    assert resized.shape == (1, 3072, 96) and np.abs(resized[0, 3::7].numpy() - kept).max() < 1e-6


def test_positions_of_the_same_grid_are_unchanged():
    tokens = torch.randn(1, 12 + 1, 4)
    assert torch.equal(interpolate_pos_embed(tokens, (4, 3), class_token=True), tokens)
    assert torch.equal(interpolate_pos_embed(tokens, (4, 3), class_token=False), tokens[:, 1:])
    square = torch.randn(1, 16 + 1, 4)
    assert torch.equal(interpolate_pos_embed(square, (4, 3), class_token=True)[:, 0], square[:, 0])
    with pytest.raises(ValueError, match="neither 4 x 3 nor a square"):
        interpolate_pos_embed(torch.randn(1, 14, 4), (4, 3), class_token=False)
    with pytest.raises(ValueError, match="class token"):
        interpolate_pos_embed(torch.randn(1, 12, 4), (4, 3), class_token=True)


def test_a_pretrained_encoder_fits_into_a_task_model(tmp_path):
    """With a class token, and positions of a square grid, as training starts from it."""
    model, pretrained = small("seg"), small("features")
    state = model.state_dict()
    state |= {name: tensor for name, tensor in pretrained.state_dict().items() if name.startswith("backbone.")}
    state["neck.decoder_embed.weight"] = torch.zeros(3, 3)
    torch.save({"state_dict": state}, tmp_path / "model.pth")
    loaded = load_model(tmp_path / "model.pth", "float32", CPU)
    wanted = interpolate_pos_embed(state["backbone.pos_embed"], (64, 48), class_token=False)
    assert torch.equal(loaded.module.backbone.pos_embed, wanted) and loaded.module.backbone.cls_token is None
    assert output(loaded.module, images(model)).shape == (1, 28, 512, 384)


def test_a_mismatch_names_the_tensor_and_both_shapes(tmp_path):
    def refusal(change) -> str:
        state = dict(small("pose17").state_dict())
        change(state)
        torch.save(state, tmp_path / "x.pth")
        with pytest.raises(CheckpointError) as refused:
            load_model(tmp_path / "x.pth", "float32", CPU)
        return str(refused.value)

    name = "backbone.layers.1.attn.qkv.weight"
    text = refusal(lambda state: state.update({name: torch.zeros(96, 31)}))
    assert f"tensor {name} has shape (96, 31) instead of (96, 32)" in text and "17 keypoints" in text
    text = refusal(lambda state: state.pop(name))
    assert (
        f"tensor {name} of shape (96, 32) is missing; judging by its other tensors, it is a Sapiens pose model" in text
    )
    text = refusal(lambda state: state.update({"backbone.extra": torch.zeros(3)}))
    assert "tensor backbone.extra of shape (3,) does not belong to the model" in text
    text = refusal(lambda state: state.update({"backbone.pos_embed": torch.zeros(1, 3000, 32)}))
    assert "backbone.pos_embed of shape (1, 3000, 32): 3000 position embeddings are neither 64 x 48 nor" in text
    text = refusal(lambda state: state.update({"backbone.patch_embed.projection.weight": torch.zeros(3)}))
    assert "backbone.patch_embed.projection.weight has shape (3,), not 4 dimensions" in text
    text = refusal(lambda state: state.clear())
    assert "not those of a Sapiens model" in text


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 2), st.integers(1, 5), st.integers(1, 40), st.integers(1, 9), st.floats(-4, 4), st.booleans())
@example(1, 4, 2, 1, 0.0, False)  # here a mean that is rounded to bfloat16 is off by a tenth
def test_instance_norm_in_every_memory_order(batch, channels, height, width, mean, last):
    maps = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(height)) + mean
    if last:
        maps = maps.contiguous(memory_format=torch.channels_last)
    if height * width == 1:
        return  # torch's instance_norm refuses a single value
    exact = maps.double()
    wanted = (exact - exact.mean((2, 3), keepdim=True)) / (exact.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    before = maps.clone()
    # If all values are nearly the same, the rounding error of their differences is divided by a tiny number.
    amplified = 1e-6 * (1 + maps.abs().max()) / (exact.var((2, 3), correction=0).min() + 1e-5).sqrt()
    assert (InstanceNorm()(maps) - wanted).abs().max() < 1e-5 + amplified and torch.equal(maps, before)
    rounded = InstanceNorm()(maps.bfloat16())
    exact = maps.bfloat16().double()
    wanted = (exact - exact.mean((2, 3), keepdim=True)) / (exact.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    assert rounded.dtype == torch.bfloat16 and (rounded - wanted).abs().max() < 0.02 * max(1, wanted.abs().max())


@pytest.mark.parametrize("mean", [0, 10, 100])
def test_instance_norm_of_large_maps_far_from_zero(mean):
    """Statistics are float32 sums over 200,000 values; bfloat16 only rounds inputs and outputs."""
    maps = torch.randn(1, 4, 512, 384, generator=torch.Generator().manual_seed(1)) + mean
    for dtype, limit in ((torch.float32, 3e-5), (torch.bfloat16, 3e-3)):
        given = maps.to(dtype).contiguous(memory_format=torch.channels_last)
        exact = given.double()
        wanted = (exact - exact.mean((2, 3), keepdim=True)) / exact.std((2, 3), correction=0, keepdim=True)
        error = (InstanceNorm()(given).double() - wanted).square().mean().sqrt()
        assert error < limit, (dtype, mean, float(error))


@pytest.mark.parametrize(
    ("kind", "dtype", "matmul", "ordered"),
    [
        ("cpu", torch.float32, "strict", {"patch_embed", "deconv_layers", "conv_layers", "conv_seg"}),
        ("cpu", torch.bfloat16, "strict", {"patch_embed", "deconv_layers", "conv_layers", "conv_seg"}),
        ("cuda", torch.float32, "strict", set()),
        ("cuda", torch.float32, "tf32", {"patch_embed", "deconv_layers", "conv_layers", "conv_seg"}),
        ("cuda", torch.bfloat16, "strict", {"deconv_layers", "conv_layers"}),  # the others stay float32
    ],
)
def test_convolutions_are_arranged_by_device(tmp_path, kind, dtype, matmul, ordered):
    """The order decides how fast they run, and not what they give. Here all orders run on a CPU."""
    path = write(tmp_path / "model.pth", small("seg"), "pth")
    plain, arranged = (SapiensFamily().build(tensors_of(read_weights(path)), "x", dtype, CPU) for _ in range(2))
    before = {name: weights.clone() for name, weights in arranged.named_parameters()}
    arrange_convolutions(arranged, kind, matmul)
    found = set()
    for name, weights in arranged.named_parameters():
        assert torch.equal(weights, before[name])
        if weights.ndim == 4 and weights.stride()[1] == 1 and weights.stride() != before[name].stride():
            found.add(next(part for part in name.split(".") if part in PARTS))
    assert found == ordered
    batch = images(plain, 1)
    wanted = output(plain, batch)
    error = (output(arranged, batch) - wanted).square().mean().sqrt() / wanted.std()
    assert error < (1e-5 if dtype == torch.float32 else 0.02)


def test_traced_programs_do_not_contain_the_cpu_loop(tmp_path):
    path = write(tmp_path / "model.pt2", small("depth"), "torchscript")
    graph = str(torch.jit.load(str(path)).inlined_graph)
    assert graph.count("aten::instance_norm") == 6 and "aten::split" not in graph
