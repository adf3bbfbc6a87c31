"""The tensors in a checkpoint file of any format, without running code in the file.

Each tensor is read when it is needed, straight from its position in the file. So weights are never in memory in their
stored dtype beside the model, and no file is memory-mapped that somebody may overwrite.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch

from sapiens_ray.errors import CheckpointError, first_line
from sapiens_ray.models.checkpoint import FileFormat, format_of, seems_to_be


@dataclass(frozen=True)
class Entry:
    """A tensor in a file. `read` returns it, contiguous, on the CPU; it raises CheckpointError for a damaged file."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]


def read_weights(path: Path) -> dict[str, Entry]:
    """The tensors of a file by name. Raises CheckpointError if the file is not a checkpoint, or is damaged."""
    file_format = format_of(path)
    readers: dict[FileFormat, Callable[[Path], dict[str, Entry]]] = {
        "torchscript": _of_torchscript,
        "export": _of_export,
        "old export": _of_old_export,
        "pickle": _of_pickle,
        "safetensors": _of_safetensors,
    }
    if file_format is None:
        raise CheckpointError(f"{path} is not a checkpoint: {seems_to_be(path)}")
    try:
        return readers[file_format](path)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # damage can be anywhere: in the zip, in JSON, in pickles, in their values
        raise CheckpointError(
            f"{path}: cannot read its tensors ({file_format}): {type(error).__name__}: {first_line(error)}"
        ) from None


def load_torchscript(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    """A TorchScript file as a module in eval mode on the device. Raises CheckpointError for anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit works, and Meta's files use it
            warnings.simplefilter("ignore", FutureWarning)
            program: torch.jit.ScriptModule = torch.jit.load(str(path), map_location=device)
            return program.eval()
    except (RuntimeError, ValueError) as error:
        what = f"{path} is not a TorchScript file: {seems_to_be(path)} ({first_line(error)})"
        raise CheckpointError(what) from None


@dataclass(frozen=True)
class _Place:
    """A tensor as a pickle describes it: the position of its values in a named storage."""

    storage: str
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Inert:
    """Placeholder for an object of any class, or for the result of any function: nothing is imported or called."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def append(self, item: object) -> None:
        pass

    def extend(self, items: object) -> None:
        pass

    def add(self, item: object) -> None:
        pass

    def __setitem__(self, key: object, item: object) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)


class _OrderedDict(dict[str, object]):
    """State dicts are OrderedDicts that also pickle their attributes, which are ignored."""

    def __setstate__(self, state: object) -> None:
        pass


class _TensorsOnly(pickle.Unpickler):
    """Builds plain containers and the positions of tensors from pickles of torch.save or torch.jit.save.

    Unpickling calls what `find_class` returns, and that is always defined in this module.
    """

    def find_class(self, module: str, name: str) -> object:
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _rebuilt
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _first_argument
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return _OrderedDict
        return _Inert

    def persistent_load(self, pid: tuple[object, ...]) -> tuple[torch.dtype, str]:
        """('storage', its type, name, device, number of elements)."""
        _, kind, name, *_ = pid
        if not isinstance(kind, torch.dtype):
            raise pickle.UnpicklingError(f"a storage of type {kind}, which Sapiens checkpoints do not have")
        return kind, str(name)


def _rebuilt(
    storage: tuple[torch.dtype, str], offset: int, shape: Sequence[int], strides: Sequence[int], *_: object
) -> _Place:
    dtype, name = storage
    return _Place(name, dtype, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _first_argument(value: object, *_: object) -> object:
    return value


_STORAGES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


def _of_pickle(path: Path) -> dict[str, Entry]:
    """A file of torch.save: a state dict, or a dict with one under `state_dict`."""
    if zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return _of_torch_zip(path, file, 0)
    # The format of torch before 1.6: refused if it holds anything except tensors and plain containers.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = _state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    tensors = {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
    return {name: Entry(tuple(one.shape), one.dtype, partial(one.contiguous)) for name, one in tensors.items()}


def _of_torch_zip(path: Path, file: IO[bytes], base: int) -> dict[str, Entry]:
    """file: the zip that torch.save wrote, which starts at `base` in the file at `path`."""
    with zipfile.ZipFile(file) as archive:
        members, index = _members(archive, "data.pkl")
        state = _state_dict(_TensorsOnly(io.BytesIO(archive.read(f"{index}/data.pkl"))).load())
    places = {name: place for name, place in state.items() if isinstance(place, _Place)}
    return {name: _at_place(path, file, base, members, index, place) for name, place in places.items()}


def _of_torchscript(path: Path) -> dict[str, Entry]:
    """The parameters and buffers of a scripted program by path; the program is not loaded."""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members, index = _members(archive, "data.pkl")
        root = _TensorsOnly(io.BytesIO(archive.read(f"{index}/data.pkl"))).load()
        places: dict[str, _Place] = {}
        _collect(root, "", places)
        return {name: _at_place(path, file, 0, members, index, place) for name, place in places.items()}


def _collect(node: object, name: str, places: dict[str, _Place]) -> None:
    """Add the tensors of a module of a scripted program, and of its submodules, to `places`."""
    for key, value in node.state.items() if isinstance(node, _Inert) and isinstance(node.state, dict) else ():
        if isinstance(value, _Place):
            places[f"{name}{key}"] = value
        else:
            _collect(value, f"{name}{key}.", places)


def _members(archive: zipfile.ZipFile, wanted: str) -> tuple[dict[str, zipfile.ZipInfo], str]:
    """The members of a zip, and the folder that holds the wanted one."""
    members = {info.filename: info for info in archive.infolist()}
    folder = next(name.rpartition("/")[0] for name in members if name.endswith(f"/{wanted}"))
    if members.get(f"{folder}/byteorder") and archive.read(f"{folder}/byteorder") != b"little":
        raise ValueError("it was saved on a big-endian machine")
    return members, folder


def _at_place(
    path: Path, file: IO[bytes], base: int, members: Mapping[str, zipfile.ZipInfo], folder: str, place: _Place
) -> Entry:
    info = members[f"{folder}/data/{place.storage}"]
    return _strided(
        path, base + _place_in(file, info), info.file_size, place.dtype, place.shape, place.strides, place.offset
    )


def _state_dict(loaded: object) -> dict[str, object]:
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping):
        raise ValueError("it does not hold a dict of tensors")
    return {str(name): value for name, value in state.items()}


def _of_export(path: Path) -> dict[str, Entry]:
    """The layout of torch 2.9 and later: each tensor is a member of the zip, described by a JSON file."""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members, folder = _members(archive, "model_weights_config.json")
        config = json.loads(archive.read(f"{folder}/model_weights_config.json"))["config"]
        entries = {}
        for name, about in config.items():
            if about["use_pickle"]:
                raise ValueError(f"tensor {name} is pickled")
            meta = about["tensor_meta"]
            shape, strides = (tuple(int(one["as_int"]) for one in meta[key]) for key in ("sizes", "strides"))
            info = members[f"{folder}/{about['path_name']}"]
            start, dtype = _place_in(file, info), _EXPORTED_TYPES[meta["dtype"]]
            offset = int(meta["storage_offset"]["as_int"])
            entries[name] = _strided(path, start, info.file_size, dtype, shape, strides, offset)
    return entries


# The numbers of torch's ScalarType in its export schema.
_EXPORTED_TYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip


def _of_old_export(path: Path) -> dict[str, Entry]:
    """The layouts of torch 2.1 to 2.8: the state dict is a torch.save file inside the zip.

    Later versions of torch cannot open such a program, but its weights can still be used.
    """
    with path.open("rb") as file:
        with zipfile.ZipFile(file) as archive:
            info = next(
                one for one in archive.infolist()
                if one.filename.endswith(("serialized_state_dict.pt", "/data/weights/model.pt"))
            )  # fmt: skip
        start = _place_in(file, info)
        with io.BufferedReader(_Window(file, start, info.file_size)) as window:
            return _of_torch_zip(path, window, start)


def _of_safetensors(path: Path) -> dict[str, Entry]:
    """The layout: length of a JSON header, header, values. The library would map the whole file for each tensor."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    entries = {}
    for name, about in header.items():
        if name != "__metadata__":
            start, end = about["data_offsets"]
            shape = tuple(int(size) for size in about["shape"])
            strides = torch.empty(shape, device="meta").stride()
            entries[name] = _strided(
                path, 8 + length + int(start), int(end) - int(start), _SAFE_TYPES[about["dtype"]], shape, strides, 0
            )
    return entries


_SAFE_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def _named(path: Path, read: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Add the name of the file to errors of `read`."""

    def named() -> torch.Tensor:
        try:
            return read()
        except Exception as error:
            raise CheckpointError(
                f"{path}: cannot read a tensor: {type(error).__name__}: {first_line(error)}"
            ) from None

    return named


def _strided(
    path: Path, start: int, size: int, dtype: torch.dtype, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> Entry:
    """A tensor in the `size` bytes of a file from `start` on; offset and strides in elements."""
    if len(strides) != len(shape) or min((offset, *shape, *strides)) < 0:
        raise ValueError(f"a tensor of shape {shape} and strides {strides}")
    spans = zip(shape, strides, strict=True)
    count = 0 if 0 in shape else 1 + sum((length - 1) * stride for length, stride in spans)
    if (offset + count) * dtype.itemsize > size or start + size > path.stat().st_size:
        raise ValueError(f"a tensor of shape {shape} does not fit into the file: it is truncated or damaged")

    def read() -> torch.Tensor:
        flat = torch.empty(count, dtype=dtype)
        with path.open("rb") as file:
            file.seek(start + offset * dtype.itemsize)
            buffer: Any = flat.view(torch.uint8).numpy() if count else b""
            if count and file.readinto(buffer) != count * dtype.itemsize:
                raise ValueError("the file ends inside a tensor: it is damaged")
        if count != math.prod(shape):  # a view into something larger
            return flat.as_strided(shape, strides).clone()
        return flat.as_strided(shape, strides).contiguous()

    return Entry(shape, dtype, _named(path, read))


def _place_in(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Where the bytes of a member of a zip file start. Raises ValueError if it is compressed; torch never does that."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed, which torch never does; save the file again with torch.save")
    file.seek(info.header_offset + 26)  # lengths of the name and of the extra field in the local header
    name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return info.header_offset + 30 + name + extra


class _Window(io.RawIOBase):
    """A range of bytes of a file as a separate file."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self.file, self.start, self.size, self.position = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self.size - self.position)]
        self.file.seek(self.start + self.position)
        count = self.file.readinto(view)  # type: ignore[attr-defined]
        self.position += count
        return int(count)
