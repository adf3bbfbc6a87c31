"""The tensors in a checkpoint file, whatever its container, without running what is in it.

Each tensor is read when it is asked for, straight from its place in the file: a model of a smaller type never has
the weights beside it in their stored type, and no file is mapped that somebody may overwrite.
"""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch

from sapiens_ray.errors import CheckpointError
from sapiens_ray.models.checkpoint import Container, container_of, first_line, seems_to_be


@dataclass(frozen=True)
class Entry:
    """A tensor in a file. `read` gives it on the CPU, once."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]


def read_weights(path: Path) -> dict[str, Entry]:
    """The tensors of a file under their names. Raises CheckpointError for files of other kinds, or damaged ones."""
    container = container_of(path)
    readers: dict[Container, Callable[[Path], dict[str, Entry]]] = {
        "torchscript": _of_torchscript,
        "export": _of_export,
        "old export": _of_old_export,
        "pickle": lambda path: _of_pickle(path, path, 0),
        "safetensors": _of_safetensors,
    }
    if container is None:
        raise CheckpointError(f"{path} is no checkpoint: {seems_to_be(path)}")
    try:
        return readers[container](path)
    except (RuntimeError, ValueError, KeyError, TypeError, EOFError, OSError, pickle.UnpicklingError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise CheckpointError(f"{path}: cannot read its tensors ({container}): {first_line(error)}") from None


def load_torchscript(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    """A TorchScript file as a module in eval mode on the device. Raises CheckpointError for anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit works, and is what Meta released
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        what = f"{path} is not a TorchScript file: {seems_to_be(path)} ({first_line(error)})"
        raise CheckpointError(what) from None


class _Inert:
    """Stands for an object of any class in a pickle: nothing of that class is imported or called."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _of_pickle(path: Path, source: Path | IO[bytes], base: int) -> dict[str, Entry]:
    """What torch.save wrote: a state dict, or a dict with one under `state_dict`.

    source: the file, or a window into it that begins at `base`. Objects that are no tensors, which training
    frameworks leave in `meta`, are skipped unseen.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    def load(**options: Any) -> Any:
        if not isinstance(source, Path):
            source.seek(0)
        # Names of classes are read from the pickle without loading any of them.
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(source) if zipped else []
        if not isinstance(source, Path):
            source.seek(0)
        with torch.serialization.safe_globals([(_Inert, name) for name in unknown]):
            return torch.load(source, weights_only=True, **options)

    zipped = base > 0 or zipfile.is_zipfile(path)
    if zipped:  # fake tensors know their shapes, and where in the file their numbers are
        with FakeTensorMode():
            state = _state_dict(load())
        places = {
            name: base
            + int(tensor.untyped_storage()._checkpoint_offset or 0)
            + int(tensor.storage_offset()) * tensor.itemsize
            for name, tensor in state.items()
        }
        if all(tensor.is_contiguous() for tensor in state.values()):
            return {name: _at(path, places[name], tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}
    state = _state_dict(load(map_location="cpu"))  # the format of torch before 1.6, or tensors that are views
    return {name: _in_memory(tensor) for name, tensor in state.items()}


def _state_dict(loaded: Any) -> dict[str, torch.Tensor]:
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping):
        raise ValueError("it holds no dict of tensors")
    return {str(name): tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}


def _of_torchscript(path: Path) -> dict[str, Entry]:
    module = load_torchscript(path, torch.device("cpu"))
    return {name: _in_memory(tensor) for name, tensor in module.state_dict(keep_vars=True).items()}


def _of_export(path: Path) -> dict[str, Entry]:
    """The layout of torch 2.9 and later: each tensor a member of the zip, described by a JSON file."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        index = next((name for name in members if name.endswith("/data/weights/model_weights_config.json")), None)
        if index is None:
            raise ValueError("it has no list of weights")
        config = json.loads(archive.read(index))["config"]
    entries = {}
    for name, about in config.items():
        if about["use_pickle"]:
            raise ValueError(f"tensor {name} is pickled")
        meta = about["tensor_meta"]
        shape = tuple(size["as_int"] for size in meta["sizes"])
        dtype = _EXPORTED_TYPES[meta["dtype"]]
        start = _place_in(path, members[f"{index.rpartition('/')[0]}/{about['path_name']}"])
        strides = tuple(stride["as_int"] for stride in meta["strides"])
        if strides != torch.empty(shape, device="meta").stride() and 0 not in shape:
            entries[name] = Entry(shape, dtype, partial(_strided, path, start, meta, dtype, shape, strides))
        else:
            entries[name] = _at(path, start + meta["storage_offset"]["as_int"] * dtype.itemsize, shape, dtype)
    return entries


_EXPORTED_TYPES = {6: torch.float16, 7: torch.float32, 8: torch.float64, 13: torch.bfloat16, 5: torch.int64}


def _of_old_export(path: Path) -> dict[str, Entry]:
    """The layout of torch 2.1 to 2.8: the state dict is a torch.save file inside the zip.

    No later torch can open such a program, but the weights in it are as good as ever.
    """
    with zipfile.ZipFile(path) as archive:
        info = next(one for one in archive.infolist() if one.filename.endswith("serialized_state_dict.pt"))
    start = _place_in(path, info)
    with path.open("rb") as file, io.BufferedReader(_Window(file, start, info.file_size)) as window:
        return _of_pickle(path, window, start)


def _of_safetensors(path: Path) -> dict[str, Entry]:
    from safetensors import SafetensorError, safe_open

    def read(name: str) -> torch.Tensor:
        with safe_open(path, framework="pt") as file:  # one mapping a tensor, gone with it
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor.clone()

    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: Entry(tuple(part.get_shape()), _SAFE_TYPES[part.get_dtype()], partial(read, name))
                for name, part in slices.items()
            }
    except SafetensorError as error:
        raise ValueError(str(error)) from None


_SAFE_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
}  # fmt: skip


def _at(path: Path, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> Entry:
    def read() -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        with path.open("rb") as file:
            file.seek(start)
            wanted = tensor.numel() * tensor.itemsize
            buffer: Any = tensor.view(-1).view(torch.uint8).numpy()
            if wanted and file.readinto(buffer) != wanted:
                raise CheckpointError(f"{path} ends inside a tensor: it is damaged")
        return tensor

    return Entry(shape, dtype, read)


def _strided(
    path: Path, start: int, meta: dict[str, Any], dtype: torch.dtype, shape: tuple[int, ...], strides: tuple[int, ...]
) -> torch.Tensor:
    """A tensor that is stored transposed, or in channels-last order."""
    offset = meta["storage_offset"]["as_int"]
    count = offset + 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return _at(path, start, (count,), dtype).read().as_strided(shape, strides, offset).contiguous()


def _in_memory(tensor: torch.Tensor) -> Entry:
    def read() -> torch.Tensor:
        taken = tensor.detach()
        tensor.data = torch.empty(0, dtype=tensor.dtype)  # the module that it is part of lets it go
        return taken

    return Entry(tuple(tensor.shape), tensor.dtype, read)


def _place_in(path: Path, info: zipfile.ZipInfo) -> int:
    """Where in a zip file the bytes of a member begin; torch compresses none. Raises ValueError if one is."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed; torch writes no such files")
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)  # lengths of the name and of the extra field in the local header
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return info.header_offset + 30 + name + extra


class _Window(io.RawIOBase):
    """A stretch of a file as a file of its own."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self.file, self.start, self.size, self.position = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self.size - self.position)]
        self.file.seek(self.start + self.position)
        count = self.file.readinto(view)  # type: ignore[attr-defined]
        self.position += count
        return int(count)
