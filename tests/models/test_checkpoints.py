"""Checkpoints in every file format: recognised, read without running their content, refused with a reason."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapiens_ray.errors import CheckpointError
from sapiens_ray.models.checkpoint import format_of
from sapiens_ray.models.loading import load_model
from sapiens_ray.models.weights import read_weights
from tests.conftest import ROOT
from tests.small_models import FILE_FORMATS, images, output, small, write

CPU = torch.device("cpu")


@pytest.mark.parametrize("file_format", FILE_FORMATS)
def test_every_file_format_gives_the_same_model(tmp_path, file_format):
    model = small("depth")
    path = write(tmp_path / FILE_FORMATS[file_format], model, file_format)
    kinds = {"flat pth": "pickle", "pth": "pickle", "old pth": "pickle"}
    assert format_of(path) == kinds.get(file_format, file_format)
    tensors = {name: entry.read() for name, entry in read_weights(path).items()}
    state = model.state_dict()
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)
    batch = images(model, 2)
    wanted = output(model, batch)
    loaded = load_model(path, "float32", CPU)
    assert (loaded.native is None) == (file_format == "torchscript")
    assert (output(loaded.module, batch) - wanted).abs().max() < 1e-4
    rounded = load_model(path, "bfloat16", CPU)
    assert rounded.native is not None
    types = {name: tensor.dtype for name, tensor in rounded.native.state_dict().items()}
    assert types["backbone.layers.0.attn.qkv.weight"] == torch.bfloat16
    assert types["backbone.pos_embed"] == types["decode_head.conv_seg.weight"] == torch.float32
    error = (output(rounded.module, batch) - wanted).square().mean().sqrt() / wanted.std()
    assert 0 < error < 0.03


def test_tensors_that_are_views_are_read_as_they_are(tmp_path):
    whole = torch.arange(24.0)
    state = {"a": whole[4:10], "b": whole.view(4, 6).t(), "c": whole, "empty": torch.zeros(0, 3), "one": whole[3]}
    torch.save(state, tmp_path / "x.pth")
    read = {name: entry.read() for name, entry in read_weights(tmp_path / "x.pth").items()}
    assert all(torch.equal(read[name], state[name]) for name in state)
    torch.save({name: tensor.contiguous() for name, tensor in state.items() if name != "b"}, tmp_path / "y.pth")
    read = {name: entry.read() for name, entry in read_weights(tmp_path / "y.pth").items()}
    assert all(torch.equal(read[name], state[name]) for name in read) and len(read) == 4


class Bomb:
    """Unpickling it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Trap:
    """Unpickling it calls a function of this module."""

    def __reduce__(self):
        return _sprung, ()


SPRUNG: list[bool] = []


def _sprung() -> object:
    SPRUNG.append(True)
    return {}


@pytest.mark.parametrize("place", ["meta", "state_dict", "flat"])
@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_pickle_is_run(tmp_path, place, zipped):
    state = dict(small("seg").state_dict())
    for name, trap in (("bomb", Bomb(f"touch {tmp_path / 'exploded'}")), ("trap", Trap())):
        whole = {"state_dict": dict(state), "meta": {}} if place != "flat" else dict(state)
        (whole if place == "flat" else whole[place])[name] = trap
        torch.save(whole, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        try:
            load_model(tmp_path / "x.pth", "bfloat16", CPU)
        except CheckpointError as error:
            assert "x.pth" in str(error)
    assert not (tmp_path / "exploded").exists() and not SPRUNG
    if zipped:  # objects that are not tensors are ignored, so objects of training frameworks do no harm
        torch.save({"state_dict": state, "meta": {"config": Trap()}}, tmp_path / "x.pth")
        assert load_model(tmp_path / "x.pth", "float32", CPU).native is not None and not SPRUNG


def test_exported_files_with_pickles_or_libraries_are_refused(tmp_path):
    class Foreign(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch.mean(1, keepdim=True) * self.weight[0]

    path = tmp_path / "x.pt2"
    torch.export.save(torch.export.export(Foreign(), (torch.zeros(2, 3, 8, 8),)), path)
    loaded = load_model(path, "float32", CPU)
    assert loaded.native is None and loaded.batch == 2, "a program with a fixed batch size"
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}

    def refused(changes: dict[str, bytes]) -> str:
        with zipfile.ZipFile(tmp_path / "y.pt2", "w") as archive:
            for name, data in {**members, **changes}.items():
                archive.writestr(name, data)
        with pytest.raises(CheckpointError) as error:
            load_model(tmp_path / "y.pt2", "float32", CPU)
        return str(error.value)

    trap = io.BytesIO()
    torch.save(({"a": Trap()}, {}), trap)
    assert "holds pickled objects" in refused({"x/data/sample_inputs/model.pt": trap.getvalue()})
    for part in ("data/aotinductor/model/a.so", "data/constants/opaque_obj_0", "data/constants/custom_obj_0", "x.PT"):
        assert "is not part of a plain exported network" in refused({f"x/{part}": b""})
    assert "is not part of a plain exported network" in refused({"version": b"8.20"})
    config = json.loads(members["x/data/weights/model_weights_config.json"])
    config["config"]["weight"]["use_pickle"] = True
    pickled = refused({"x/data/weights/model_weights_config.json": json.dumps(config).encode()})
    assert "tensor weight is pickled" in pickled
    constants = json.dumps({"config": {"c": {"use_pickle": True, "path_name": "c"}}}).encode()
    assert "holds pickled objects" in refused({"x/data/constants/model_constants_config.json": constants})
    # torch evaluates expressions, and calls the functions that a graph names.
    bomb = f"__import__('os').system('touch {tmp_path / 'exploded'}')"
    for expression in (bomb, "exec(chr(49))", "Symbol('os')", "(1).__class__", "Integer(1) if x else 2", "[s0]", "'s0"):
        range_constraint = {"as_expr": {"expr_str": expression}}
        program = json.loads(members["x/models/model.json"])
        program["range_constraints"] = {"x": range_constraint}
        text = refused({"x/models/model.json": json.dumps(program).encode()})
        assert "an expression that is not plain arithmetic" in text
    text = members["x/models/model.json"].replace(b"torch.ops.aten.mean.dim", b"torch.os.system")
    assert "a call of 'torch.os.system', which is not an operator of torch" in refused({"x/models/model.json": text})
    text = members["x/models/model.json"].replace(b"torch.ops.aten.mean.dim", b"torch.ops.aten.from_file.default")
    assert "which is not an operator of torch" in refused({"x/models/model.json": text})
    assert not (tmp_path / "exploded").exists()
    program = json.loads(members["x/models/model.json"])
    program["schema_version"]["major"] += 1
    assert "another torch" in refused({"x/models/model.json": json.dumps(program).encode()})
    assert not SPRUNG


def test_programs_of_other_models_run_as_they_are(tmp_path):
    """Exported programs in the mode of their dtype, TorchScript in both modes."""
    model = torch.nn.Conv2d(3, 4, 1).eval()
    batch = torch.randn(2, 3, 6, 5)
    wanted = output(model, batch)
    torch.jit.trace(model, batch).save(str(tmp_path / "script.pt2"))
    loaded = load_model(tmp_path / "script.pt2", "bfloat16", CPU)
    assert loaded.dtype == torch.bfloat16
    assert 0 < (output(loaded.module, batch.bfloat16()) - wanted).abs().max() < 0.05
    dim = torch.export.Dim("batch", min=1, max=8)
    for dtype, mode, other in ((torch.float32, "float32", "bfloat16"), (torch.bfloat16, "bfloat16", "float32")):
        program = torch.export.export(model.to(dtype), (batch.to(dtype),), dynamic_shapes=({0: dim},))
        torch.export.save(program, tmp_path / "export.pt2")
        loaded = load_model(tmp_path / "export.pt2", mode, CPU)
        assert loaded.batch is None and loaded.dtype == dtype
        assert (output(loaded.module, batch.to(dtype)[:1]) - wanted[:1]).abs().max() < 0.05
        with pytest.raises(CheckpointError, match=f"cannot run in mode {other}"):
            load_model(tmp_path / "export.pt2", other, CPU)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("formats")
    model = small("pose17")
    return {kind: write(folder / f"{kind}-{name}", model, kind).read_bytes() for kind, name in FILE_FORMATS.items()}


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(FILE_FORMATS)),
    where=st.floats(0, 1),
    what=st.sampled_from(["cut", "flip", "zero"]),
    part=st.sampled_from([None, "data.pkl", ".json", "PK"]),
)
def test_damaged_files_are_refused_or_read_but_never_crash(files, tmp_path_factory, kind, where, what, part):
    data = bytearray(files[kind])
    place = min(int(where * len(data)), len(data) - 1)
    if part and part.encode() in data:  # the few bytes that describe the others
        start = data.index(part.encode())
        place = min(start + int(where * 2000), len(data) - 1)
    if what == "cut":
        del data[place:]
    elif what == "flip":
        data[place] ^= 0xFF
    else:
        data[place : place + 64] = bytes(len(data[place : place + 64]))
    path = tmp_path_factory.mktemp("damaged") / FILE_FORMATS[kind]
    path.write_bytes(data)
    try:
        for entry in read_weights(path).values():
            assert tuple(entry.read().shape) == entry.shape
    except CheckpointError as error:
        assert str(path) in str(error)


def test_messages_say_what_a_file_is_that_is_not_a_checkpoint(tmp_path):
    cases = {
        b"": "it is empty",
        b"hello there": "first bytes are b'hello there'",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n": "git lfs pull",
    }
    for data, message in cases.items():
        (tmp_path / "x.pt2").write_bytes(data)
        with pytest.raises(CheckpointError, match=message):
            read_weights(tmp_path / "x.pt2")
    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        archive.writestr("readme.txt", "no model")
    with pytest.raises(CheckpointError, match="a zip file with other content"):
        read_weights(tmp_path / "x.pt2")
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    with pytest.raises(CheckpointError, match="a zip file with other content"):
        read_weights(tmp_path / "x.npz")
    (tmp_path / "list.pth").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(CheckpointError, match=r"list\.pth"):
        read_weights(tmp_path / "list.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="does not hold a dict of tensors"):
        read_weights(tmp_path / "list.pth")


@pytest.mark.parametrize("file_format", ["pth", pytest.param("torchscript", marks=pytest.mark.nightly)])
def test_loading_never_holds_two_copies(tmp_path, file_format):
    """60 million float32 weights as bfloat16: peak memory grows by little more than the bfloat16 weights."""
    code = """
import sys, torch
from pathlib import Path
from sapiens_ray.models.sapiens import Sapiens, SapiensArchitecture
from sapiens_ray.models.loading import load_model
from tests.small_models import small, write
def peak():  # ru_maxrss starts at that of the parent
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
folder, file_format = Path(sys.argv[1]), sys.argv[2]
if sys.argv[3] == "write":
    write(folder / "large", Sapiens(SapiensArchitecture("features", 1024, 4, 16, 4096)).eval(), file_format)
    write(folder / "small", small("features"), file_format)
else:
    load_model(folder / "small", "bfloat16", torch.device("cpu"))  # imports and one-time costs first
    before = peak()
    model = load_model(folder / "large", "bfloat16", torch.device("cpu")).module
    print(sum(t.numel() * t.element_size() for t in model.state_dict().values()) / 2**20, peak() - before)
"""
    for step in ("write", "load"):
        run = [sys.executable, "-c", code, str(tmp_path), file_format, step]
        done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT)
    held, grown = map(float, done.stdout.split())
    print(file_format, held, grown)
    assert held > 110 and held * 0.8 < grown < held * 1.8, (held, grown)


def test_reading_the_tensors_of_a_program_does_not_run_it(tmp_path):
    """TorchScript may write files, even while it is loaded."""

    class Writes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.arange(3.0))
            self.path = str(tmp_path / "written")

        @torch.jit.export
        def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
            return self.weight, self.path, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
            self.weight = state[0]
            self.path = state[1]
            self.training = state[2]
            torch.save(self.weight, state[1])

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch * self.weight[0]

    torch.jit.script(Writes()).save(str(tmp_path / "x.pt2"))
    (tmp_path / "written").unlink(missing_ok=True)
    assert read_weights(tmp_path / "x.pt2") == {}
    assert not (tmp_path / "written").exists()


def test_other_layouts_and_kinds_of_tensors(tmp_path):
    model = small("seg")
    state = dict(model.state_dict())
    write(tmp_path / "model.pth", model, "flat pth")
    # torch 2.8 put the state dict there.
    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        archive.write(tmp_path / "model.pth", "x/data/weights/model.pt")
        archive.writestr("x/models/model.json", "{}")
    assert format_of(tmp_path / "x.pt2") == "old export"
    assert torch.equal(read_weights(tmp_path / "x.pt2")["backbone.pos_embed"].read(), state["backbone.pos_embed"])
    # Objects of training frameworks: subclasses of lists and dicts, sets, other pickle protocols.
    odd = {"a": defaultdict(list, {"x": [1]}), "b": deque([1, 2]), "c": {1, 2}, "d": Path("x"), "e": np.float64(3)}
    for protocol in (2, 3, 4, 5):
        torch.save({"state_dict": state, "meta": odd}, tmp_path / "odd.pth", pickle_protocol=protocol)
        assert load_model(tmp_path / "odd.pth", "bfloat16", CPU).native is not None
    # An encoder without its prefix, with the decoder of the pretraining; tensors of other dtypes are ignored.
    encoder = small("features").state_dict()
    bare = {name.removeprefix("backbone."): tensor for name, tensor in encoder.items()}
    torch.save({**bare, "neck.mask_token": torch.zeros(1, dtype=torch.int32)}, tmp_path / "bare.pth")
    assert load_model(tmp_path / "bare.pth", "float32", CPU).native is not None
    # Compressed by a zip tool: refused, although torch would read it.
    with (
        zipfile.ZipFile(tmp_path / "model.pth") as source,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for info in source.infolist():
            archive.writestr(info.filename, source.read(info))
    with pytest.raises(CheckpointError, match="is compressed"):
        read_weights(tmp_path / "small.pth")


def test_inspect_gives_the_digest_of_the_file(tmp_path, sapiens_ray):
    path = write(tmp_path / "model.safetensors", small("normal"), "safetensors")
    done = sapiens_ray("checkpoints", "inspect", path, "--json")
    seen = json.loads(done.out)
    assert done.code == 0, done.text
    assert seen["sha256"] == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert seen["container"] == "safetensors" and seen["dtypes"] == {"float32": seen["tensors"]}
    about = seen["architecture"]
    assert (about["task"], about["channels"], about["width"], about["layers"]) == ("normal", 3, 32, 2)
    assert seen["modes"] == dict.fromkeys(["float32", "bfloat16", "torchscript"], "native module")
