"""The models of Sapiens2: against plain float64 formulas, `transformers`, and the answers of the original."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.errors import CheckpointError
from sapiens_ray.models.architectures import recognise
from sapiens_ray.models.compiling import compile_native
from sapiens_ray.models.inspection import inspect
from sapiens_ray.models.loading import load_model
from sapiens_ray.models.rope import Tables, angles_of, default_periods, rotate, rounded
from sapiens_ray.models.sapiens2 import FAMILY, Sapiens2, Sapiens2Architecture
from sapiens_ray.models.weights import read_weights
from tests.conftest import SHARED
from tests.small_models import TASKS2, images, small2, write

CPU = torch.device("cpu")
KIT = SHARED / "parity2"
needs_kit = pytest.mark.skipif(not KIT.is_dir(), reason="needs the parity kit of Sapiens2")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
# The classes of transformers, without `Sapiens2` in front.
CLASSES = {
    "seg": "ForSemanticSegmentation", "pose": "ForPoseEstimation", "normal": "ForNormalEstimation",
    "pointmap": "ForPointmapEstimation", "matting": "ForImageMatting", "features": "Model",
}  # fmt: skip


def mostly_nightly(*tasks: str) -> list[object]:
    """All tasks as parameters of a test; the ordinary suite runs it for these."""
    return [one if one in tasks else pytest.param(one, marks=pytest.mark.nightly) for one in TASKS2]


def whole(model: Sapiens2, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        found = model(batch)
    return found if isinstance(found, tuple) else (found,)


def plain(model: Sapiens2, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The formulas of the architecture in float64, head by head, using only the tensors."""
    w = {name: tensor.double() for name, tensor in model.state_dict().items()}
    about = model.architecture
    rows, columns = about.grid
    d = about.width // about.heads

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    periods = 100.0 ** (torch.arange(d // 4).double() / (d // 4))
    places = torch.tensor(
        [[(y + 0.5) / rows, (x + 0.5) / columns] for y in range(rows) for x in range(columns)]
    ).double()
    angles = (2 * math.pi * (2 * places - 1)[:, :, None] / periods).flatten(1)

    def turned(x: torch.Tensor) -> torch.Tensor:
        pairs = torch.complex(x[..., : d // 2], x[..., d // 2 :])
        pairs[:, 9:] *= torch.polar(torch.ones_like(angles), angles)
        return torch.cat([pairs.real, pairs.imag], -1)

    def block(x: torch.Tensor, name: str, position: bool = True) -> torch.Tensor:
        y = norm(x, f"{name}.ln1")
        q, k, v = (linear(y, f"{name}.attn.{part}") for part in ("wq", "wk", "wv"))
        shared = q.shape[-1] // k.shape[-1]  # query heads per key head
        mixed = []
        for head in range(about.heads):
            mine = slice(head * d, (head + 1) * d)
            other = slice(head // shared * d, (head // shared + 1) * d)
            a, b = q[..., mine], k[..., other]
            if position:
                a, b = turned(norm(a, f"{name}.attn.q_norm")), turned(norm(b, f"{name}.attn.k_norm"))
            mixed.append(torch.softmax(a @ b.transpose(1, 2) / math.sqrt(d), -1) @ v[..., other])
        y = linear(torch.cat(mixed, -1), f"{name}.attn.proj")
        x = x + (y * w[f"{name}.attn.gamma.weight"] if position else y)
        gate, value = linear(norm(x, f"{name}.ln2"), f"{name}.ffn.w12").chunk(2, -1)
        return x + linear(gate * torch.sigmoid(gate) * value, f"{name}.ffn.w3")

    kernel = w["backbone.patch_embed.projection.weight"]
    patches = batch.double().unfold(2, 16, 16).unfold(3, 16, 16)
    x = torch.einsum("bcyxij,dcij->byxd", patches, kernel) + w["backbone.patch_embed.projection.bias"]
    if about.tokenizer:
        windows = [x[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1, 2) for row in range(rows)
                   for column in range(columns)]  # fmt: skip
        y = torch.cat(windows)
        y = torch.cat([w["backbone.tokenizer.w_cls"].expand(len(y), -1, -1), y], 1)
        y = y + w["backbone.tokenizer.local_pos_embed"]
        for number in range(about.tokenizer):
            y = block(y, f"backbone.tokenizer.blocks.{number}", position=False)
        x = y[:, 0].unflatten(0, (rows * columns, len(x))).transpose(0, 1)
    else:
        x = x.flatten(1, 2)
    front = torch.cat([w["backbone.cls_token"], w["backbone.storage_tokens"]], 1).expand(len(x), -1, -1)
    x = torch.cat([front, x], 1)
    for number in range(len(about.key_heads)):
        x = block(x, f"backbone.blocks.{number}")
    x = norm(x, "backbone.ln1")
    features = x[:, 9:].transpose(1, 2).reshape(len(x), about.width, rows, columns)
    if about.channels is None:
        return features, x[:, 0]

    def activated(y: torch.Tensor) -> torch.Tensor:
        y = (y - y.mean((2, 3), keepdim=True)) / (y.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        return y * torch.sigmoid(y)

    def convolved(y: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        kernel = w[f"decode_head.{name}.weight"]
        return F.conv2d(y, kernel, w[f"decode_head.{name}.bias"], stride=stride, padding=kernel.shape[-1] // 2)

    maps = features
    if about.task in ("seg", "pose"):
        for number in range(len(about.enlarge)):
            kernel = w[f"decode_head.deconv_layers.{3 * number}.weight"]
            maps = activated(F.conv_transpose2d(maps, kernel, stride=2, padding=1))
    else:
        maps = activated(convolved(maps, "input_conv.0"))
        for number in range(len(about.enlarge)):
            four = convolved(maps, f"upsample_blocks.{number}.0").unflatten(1, (-1, 2, 2))  # B x C x 2 x 2 x h x w
            maps = activated(four.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3))
    for number in range(len(about.conv)):
        maps = activated(convolved(maps, f"conv_layers.{3 * number}"))
    maps = convolved(maps, about.last)
    if about.task == "matting":
        return (1 / (1 + torch.exp(-maps)),)
    if about.task != "pointmap":
        return (maps,)
    small = features
    for number in range(len(about.scale_conv)):
        small = activated(convolved(small, f"scale_conv_layers.{3 * number}", stride=2))
    scale = linear(small.flatten(1), "decode_head.scale_final_layer.1")
    for number in range(1, len(about.scale_linear)):
        scale = linear(scale * torch.sigmoid(scale), f"decode_head.scale_final_layer.{2 * number + 1}")
    return maps, scale


@pytest.mark.parametrize("task", mostly_nightly("features"))
def test_models_equal_the_formulas(task, tmp_path):
    model = small2(task)
    model.use_rope("float32")
    batch = images(model, 1)
    wanted = plain(model, batch)
    for found, exact in zip(whole(model, batch), wanted, strict=True):
        assert found.shape == exact.shape and (found - exact).abs().max() < 1e-4 * exact.abs().max()
    # As loaded from a file: another memory order, and nearly all matrix products in bfloat16.
    path = write(tmp_path / "model.safetensors", model, "safetensors")
    loaded = load_model(path, "float32", CPU, rope="float32").native
    assert loaded.architecture == model.architecture
    for found, exact in zip(whole(loaded, batch), wanted, strict=True):
        assert (found - exact).abs().max() < 1e-4 * exact.abs().max()
    halved = load_model(path, "bfloat16", CPU).native
    for found, exact in zip(whole(halved, batch)[:1], wanted, strict=False):
        error = (found - exact).square().mean().sqrt() / exact.std()
        assert 1e-4 < error < 0.05 and found.dtype == torch.float32, "bfloat16 only rounds"


def test_the_tokenizer_equals_the_formulas():
    """Of models for inputs of 3072 x 4096 pixels: windows of 4 x 4 patches."""
    model = small2("features", tokenizer=1, key_heads=(4,))
    assert model.architecture.input_size == (4096, 3072)
    model.use_rope("float32")
    batch = images(model, 1)
    for found, exact in zip(whole(model, batch), plain(model, batch), strict=True):
        assert (found - exact).abs().max() < 1e-4 * exact.abs().max()


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 5), st.integers(0, 1000))
def test_rotations_equal_complex_products(rows, columns, quarter, seed):
    generator = torch.Generator().manual_seed(seed)
    angles = angles_of((rows, columns), default_periods(4 * quarter, torch.float32))[:, None]
    heads = torch.randn(2, rows * columns, 3, 4 * quarter, generator=generator)
    found = rotate(heads, Tables(angles.cos(), angles.sin()))
    pairs = torch.complex(*heads.double().chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles).to(torch.cdouble)
    assert (found - torch.cat([pairs.real, pairs.imag], -1)).abs().max() < 1e-5
    assert (found.norm(dim=-1) - heads.norm(dim=-1)).abs().max() < 1e-4, "a rotation keeps lengths"


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1))
def test_rounding_by_bits_is_that_of_bfloat16(values):
    values = torch.tensor(values, dtype=torch.float32)
    assert torch.equal(rounded(values), values.bfloat16().float())


def test_the_bfloat16_form_rounds_at_every_step():
    """One step after the other, in a loop: a fused form would round less, and move the features as far as float32."""
    grid, heads = (5, 3), torch.randn(1, 15, 2, 8, generator=torch.Generator().manual_seed(0))

    def step(value: float) -> float:
        return float(torch.tensor(float(value)).bfloat16())

    periods = [step(100.0 ** step(step(2 * i) / 4)) for i in range(2)]
    angles = angles_of(grid, default_periods(8, torch.bfloat16))
    for y in range(5):
        for x in range(3):
            centres = [step(step(2 * step((place + 0.5) / count)) - 1) for place, count in ((y, 5), (x, 3))]
            wanted = [step(step(2 * math.pi * centre) / period) for centre in centres for period in periods]
            assert angles[3 * y + x].float().tolist() == wanted
    tables = Tables(angles.cos()[:, None], angles.sin()[:, None])
    found = rotate(heads, tables)
    assert found.dtype == torch.bfloat16
    for place, angle in enumerate(angles.float().tolist()):
        for number in range(4):
            a, b = step(heads[0, place, 1, number]), step(heads[0, place, 1, 4 + number])
            cosine, sine = step(math.cos(angle[number])), step(math.sin(angle[number]))
            assert float(found[0, place, 1, number]) == step(step(a * cosine) - step(b * sine))
            assert float(found[0, place, 1, 4 + number]) == step(step(b * cosine) + step(a * sine))


@pytest.mark.nightly
@needs_compiler
def test_compiled_rotations_round_as_often():
    angles = angles_of((64, 48), default_periods(64, torch.bfloat16))[:, None]
    tables = Tables(angles.cos(), angles.sin())
    heads = torch.randn(1, 64 * 48, 4, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.compile(rotate)(heads, tables).float(), rotate(heads, tables).float())


def test_a_mismatch_names_the_tensor_and_both_shapes(tmp_path):
    def refusal(change) -> str:
        state = dict(small2("pose").state_dict())
        change(state)
        torch.save(state, tmp_path / "x.pth")
        with pytest.raises(CheckpointError) as refused:
            load_model(tmp_path / "x.pth", "float32", CPU)
        return str(refused.value)

    name = "backbone.blocks.1.ffn.w3.weight"
    text = refusal(lambda state: state.update({name: torch.zeros(32, 31)}))
    assert f"tensor {name} has shape (32, 31) instead of (32, 128)" in text and "308 keypoints" in text
    text = refusal(lambda state: state.pop(name))
    assert f"tensor {name} of shape (32, 128) is missing; judging by its other tensors, it is a Sapiens2 pose" in text
    text = refusal(lambda state: state.update({"backbone.extra": torch.zeros(3)}))
    assert "tensor backbone.extra of shape (3,) does not belong to the model" in text
    keys = "backbone.blocks.1.attn.wk.weight"
    text = refusal(lambda state: state.update({keys: torch.zeros(12, 32)}))
    assert f"tensor {keys} of shape (12, 32) cannot be divided into parts of 8" in text
    text = refusal(lambda state: state.update({keys: torch.zeros(24, 32)}))
    assert f"{keys} of shape (24, 32): its 3 heads do not divide the 4 of the queries" in text
    text = refusal(lambda state: state.pop("backbone.blocks.0.attn.q_norm.weight"))
    assert "looks like a Sapiens2 model, but has no tensor backbone.blocks.0.attn.q_norm.weight" in text
    text = refusal(lambda state: state.update({"decode_head.conv_pose.weight": torch.zeros(3)}))
    assert "tensor decode_head.conv_pose.weight has shape (3,), not 4 dimensions" in text


def test_periods_may_be_missing_and_other_content_is_ignored(tmp_path):
    model = small2("features")
    state = model.state_dict()
    state.pop("backbone.rope_embed.periods")
    state["backbone.mask_token"] = torch.zeros(1, 32)
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    batch = images(model, 1)
    found = whole(load_model(tmp_path / "x.pth", "float32", CPU).native, batch)[0]
    assert (found - whole(model, batch)[0]).abs().max() < 1e-4 * found.abs().max()


def test_loading_never_holds_a_second_copy(tmp_path):
    """Each tensor is read once, and is gone in its stored dtype before the next one is read."""
    path = write(tmp_path / "model.safetensors", small2("normal"), "safetensors")
    alive: list[int] = []
    read = read_weights(path)

    def watched(name: str):
        entry = read[name]

        def once() -> torch.Tensor:
            alive.append(sum(one() is not None for one in stored))
            tensor = entry.read()
            stored.append(weakref.ref(tensor))
            return tensor

        return type(entry)(entry.shape, entry.dtype, once)

    stored: list = []
    model = FAMILY.build({name: watched(name) for name in read}, "x", torch.bfloat16, CPU)
    products = [name for name, weights in model.named_parameters() if weights.dtype == torch.bfloat16]
    assert len(alive) == len(read) and len(products) > 20
    kept = sum(one.dtype == torch.float32 for one in model.state_dict().values())
    assert max(alive) <= kept + 1, "tensors of other dtypes than those that are kept are freed one by one"


def hugging_face(model: Sapiens2, folder: Path) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """A function of batches: what the classes of `transformers` give for the file of a model."""
    transformers = pytest.importorskip("transformers", "5.10.1")
    about = model.architecture
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if about.channels is None:
        state = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    from safetensors.torch import save_file

    save_file(state, folder / "model.safetensors", {"format": "pt"})
    shuffles = about.task not in ("seg", "pose")
    head = {
        "upsample_out_channels": list(about.enlarge), "use_pixel_shuffle": shuffles,
        "conv_out_channels": list(about.conv), "conv_kernel_size": 3 if shuffles else 1,
        "upsample_kernel_size": 3 if shuffles else 4,
    }  # fmt: skip
    if about.scale_conv:
        head |= {
            "scale_conv_out_channels": list(about.scale_conv),
            "scale_final_hidden_sizes": list(about.scale_linear),
        }
    config = transformers.Sapiens2Config(
        image_size=[1024, 768], hidden_size=about.width, intermediate_size=about.hidden,
        num_hidden_layers=len(about.key_heads), num_attention_heads=about.heads,
        num_key_value_heads_per_layer=list(about.key_heads), num_labels=about.channels or 2,
        head_config=head if about.channels else None,
    )  # fmt: skip
    config.save_pretrained(folder)
    kind = getattr(transformers, f"Sapiens2{CLASSES[about.task]}")
    theirs, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    theirs = theirs.eval()

    def answer(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            found = theirs(pixel_values=batch)
        if about.task == "features":
            tokens = found.last_hidden_state
            return tokens[:, 9:].transpose(1, 2).unflatten(2, about.grid), tokens[:, 0]
        if about.task == "matting":
            return (torch.cat([found.foregrounds, found.alphas], 1),)
        if about.task == "pointmap":
            return found.pointmaps, found.scales
        return (found[{"seg": "logits", "pose": "heatmaps", "normal": "normals"}[about.task]],)

    return answer


@pytest.mark.parametrize("task", mostly_nightly("pointmap", "features"))
def test_models_equal_transformers(task, tmp_path):
    model = small2(task)
    model.use_rope("float32")
    theirs = hugging_face(model, tmp_path)
    batch = images(model, 1)
    for ours, other in zip(whole(model, batch), theirs(batch), strict=True):
        assert ours.shape == other.shape
        assert (ours - other).abs().max() < 1e-4 * other.abs().max()


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kit2")
    subprocess.run([sys.executable, KIT / "make_checkpoints.py", folder], check=True, capture_output=True)
    return folder


def raw_answers(kit: Path, results: Path, tasks: list[str], rope: str, compiled: bool = False) -> None:
    """Write what networks give for the kit's input, in the layout of `compare.py`."""
    (results / "raw").mkdir(parents=True)
    photo = cv2.imread(str(KIT / "raw_input.png"))[:, :, ::-1].astype(np.float32)
    for task in tasks:
        path = kit / f"sapiens2_tiny_{task}.safetensors"
        loaded = load_model(path, "float32", CPU, rope=rope)
        model = loaded.native
        if compiled:
            compile_native(model, "default")
        enlarged = photo.repeat(4, 0).repeat(4, 1) if task == "pretrain_4k" else photo
        batch = (torch.from_numpy(enlarged) - torch.tensor(loaded.mean_rgb)) / torch.tensor(loaded.std_rgb)
        batch = batch.permute(2, 0, 1)[None]
        with torch.inference_mode():
            found = model.backbone(batch) if task.startswith("pretrain") else whole(model, batch)[0]
            if task == "pointmap":
                np.save(results / "raw" / "pointmap_scale.npy", whole(model, batch)[1].numpy())
        np.save(results / "raw" / f"{task}.npy", found[0].numpy())


def compared(results: Path, rope: str, *how: str) -> str:
    command = [sys.executable, KIT / "compare.py", results, "--tasks", "raw", "--verbose", *how]
    command += ["--rope", {"bfloat16": "bf16", "float32": "fp32"}[rope]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    return done.stdout


@needs_kit
@pytest.mark.parametrize("rope", ["float32", "bfloat16"])
def test_answers_equal_those_of_the_original(kit, tmp_path, rope):
    raw_answers(kit, tmp_path, ["pretrain"], rope)
    assert "compared=1/8" in compared(tmp_path, rope, "--allow-missing")


@pytest.mark.nightly
@needs_kit
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("rope", ["float32", "bfloat16"])
def test_all_answers_equal_those_of_the_original(kit, tmp_path, rope, compiled):
    tasks = ["seg", "normal", "pointmap", "matting", "pose", "pretrain", "pretrain_mha", "pretrain_4k"]
    raw_answers(kit, tmp_path, tasks, rope, compiled)
    assert "compared=8/8" in compared(tmp_path, rope)


@pytest.mark.nightly
@needs_kit
@pytest.mark.parametrize("task", TASKS2)
def test_what_mode_bfloat16_costs(kit, task):
    """Against mode float32, on the checkpoints of the kit; the figures of docs/sapiens2.md."""
    path = kit / f"sapiens2_tiny_{'pretrain' if task == 'features' else task}.safetensors"
    photo = cv2.imread(str(KIT / "raw_input.png"))[:, :, ::-1].astype(np.float32)
    found = {}
    for mode in ("float32", "bfloat16"):
        loaded = load_model(path, mode, CPU)
        batch = (torch.from_numpy(photo) - torch.tensor(loaded.mean_rgb)) / torch.tensor(loaded.std_rgb)
        found[mode] = whole(loaded.native, batch.permute(2, 0, 1)[None])[0][0]
    exact, halved = found["float32"], found["bfloat16"]
    error = float((halved - exact).square().mean().sqrt() / exact.std())
    print(f"\n| `{task}` | {error:.4f} | {cost(task, exact, halved)} |")
    assert 1e-4 < error < 0.1


def cost(task: str, exact: torch.Tensor, halved: torch.Tensor) -> str:
    """What the difference of two C x h x w answers means for the labels."""
    if task == "seg":
        return f"{100 * (exact.argmax(0) == halved.argmax(0)).float().mean():.1f} % of the pixels have the same class"
    if task == "pose":
        peaks = [one.flatten(1).argmax(1) for one in (exact, halved)]
        places = [torch.stack([peak // 192, peak % 192]) for peak in peaks]
        near = ((places[0] - places[1]).abs().amax(0) <= 1).float().mean()
        return f"{100 * near:.0f} % of the peaks within a cell"
    if task == "pointmap":
        return f"{100 * ((halved[2] - exact[2]).abs() / exact[2].abs()).mean():.2f} % of the depth on average"
    if task == "matting":
        return f"{(halved[3] - exact[3]).abs().mean():.4f} of alpha on average"
    cosine = torch.cosine_similarity(exact, halved, dim=0)
    return f"{torch.rad2deg(cosine.clamp(-1, 1).acos()).mean():.2f} degrees on average"


@needs_kit
def test_architectures_are_read_off_the_tensors(kit):
    about = json.loads((KIT / "checkpoints.json").read_text())["checkpoints"]
    for task, wanted in about.items():
        path = kit / f"sapiens2_tiny_{task}.safetensors"
        seen = inspect(path)
        found = seen.architecture
        assert found is not None and seen.problem == ""
        assert (found.width, found.heads, list(found.key_heads)) == (wanted["dim"], wanted["heads"], wanted["kv_heads"])
        assert found.hidden == wanted["ffn_hidden"] and found.task == task.replace("pretrain", "features").split("_")[0]
        family, tensors = recognise(read_weights(path))
        assert family is FAMILY and len(tensors) == wanted["tensors"]
    assert found.input_size == (4096, 3072) and "3072 x 4096" in " ".join(found.details)


def test_published_sizes_have_their_number_of_weights():
    """Against the facts on all published models; nothing is allocated."""
    facts = SHARED / "facts" / "sapiens2.json"
    if not facts.is_file():
        pytest.skip("needs the facts on Sapiens2")
    about = json.loads(facts.read_text())
    counted = 0
    for entry in (one for one in about["catalogue"] if one["released"]):
        size, head = about["sizes"][entry["size"].removesuffix("-4k")], entry.get("head") or {}
        few = size["kv_heads_grouped"] or size["heads"]
        layers = size["layers"]
        key_heads = tuple(size["heads"] if i < 8 or i >= layers - 8 else few for i in range(layers))
        parts = {}
        if head:
            enlarge = head.get("deconv_out_channels") or head["upsample_channels"]
            parts = {"enlarge": tuple(enlarge), "conv": tuple(head["conv_out_channels"]),
                     "channels": entry["out_channels"], "head": "decode_head",
                     "scale_conv": tuple(head.get("scale_conv_out_channels", ())),
                     "scale_linear": tuple(head.get("scale_final_layer", ())[1:])}  # fmt: skip
        four = size["tokenizer_layers_4k"] if "4k" in entry["size"] else 0
        task = "features" if entry["task"] == "pretrain" else entry["task"]

        architecture = Sapiens2Architecture(
            task, size["dim"], size["heads"], key_heads, size["ffn_hidden"], 8, four, **parts
        )
        with torch.device("meta"):
            state = Sapiens2(architecture).state_dict()
        assert len(state) == entry["tensors"], (entry["task"], entry["size"])
        assert sum(math.prod(tensor.shape) for tensor in state.values()) == entry["numbers"]
        counted += 1
    assert counted > 20
