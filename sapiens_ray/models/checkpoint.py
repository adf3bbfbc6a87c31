"""Checkpoint files: their location, their file format, and a copy on this node's disk. Imports torch only if needed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from filelock import FileLock

from sapiens_ray import storage
from sapiens_ray.errors import CheckpointError, StorageError
from sapiens_ray.models import catalogue
from sapiens_ray.storage import StorageOptions
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.tasks.network import Recipe

FileFormat = Literal["torchscript", "export", "old export", "pickle", "safetensors"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, identified by its content. Actors get this object, not the weights.

    size: in bytes; of a file that is not here, as published, or 0 if unknown. sha256: "" for a file that is not here.
    """

    uri: str
    size: int
    sha256: str
    storage_options: StorageOptions = field(default_factory=dict, repr=False)
    # What `uri` is: a path or URL, a URL whose file is in the torch hub cache, or a name of the catalogue.
    kind: Literal["file", "torch hub", "catalogue"] = "file"
    mode: catalogue.Mode = "torchscript"  # of the file, for a catalogue name: the same file on every node
    recipe: Recipe = field(default_factory=Recipe)  # as far as the file is known

    @property
    def is_here(self) -> bool:
        """Whether the file is on this machine; else a run downloads it first."""
        return bool(self.sha256)

    def local_file(self) -> Path:
        """The file on this node's disk; a remote file is fetched once per node.

        Raises CheckpointError if it is missing, or is not the file that the job was started with.
        """
        if self.kind == "torch hub":
            path = hub_file(self.uri)
        elif self.kind == "catalogue":
            path = catalogue.find_file(self.uri, self.mode)
        elif not storage.is_remote(self.uri):
            path = Path(storage.local_path(self.uri))
            if not path.is_file():
                raise CheckpointError(
                    f"{path} is not on node {os.uname().nodename}: put the checkpoint on storage that all nodes can "
                    "read"
                )
        else:
            with storage.translate_errors(StorageError, f"cannot fetch {redact_uri(self.uri)}"):
                path = fetch(self.uri, self.storage_options)
        if file_sha256(path) != self.sha256:
            raise CheckpointError(f"{self.uri} is not the file this job was started with (its SHA-256 differs)")
        return path


def resolve(
    uri: str,
    sha256: str | None,
    where: str,
    storage_options: StorageOptions,
    mode: catalogue.Mode = "torchscript",
    download: bool = True,
) -> tuple[Checkpoint, Path | None]:
    """Find the checkpoint of a task and hash it. Returns it with its local file. Raises CheckpointError, also if the
    file is not a checkpoint.

    uri: a path, a URL, or a name of the catalogue, whose file for this `mode` is downloaded if it is not here.
    where: the field, for messages. sha256: the required digest, if any. download: if not, a file that is not on this
    machine has no digest, and there is no path.
    """
    options = storage_options if storage.is_remote(uri) else {}
    path: Path | None
    if catalogue.is_name(uri):
        with field_named(where):
            path, mode = catalogue.find_here(uri, mode) or (None, mode)
            if path is None and not download:
                return Checkpoint(uri, int(catalogue.published(uri).file_bytes(mode)), "", {}, "catalogue", mode), None
            path = path or catalogue.download(catalogue.published(uri), mode)
        kind: Literal["catalogue", "file"] = "catalogue"
    else:
        path, size = _file(uri, where, storage_options, download)
        if path is None:
            return Checkpoint(uri, size, "", options), None
        kind = "file"
    digest = _verified(path, uri, sha256, where)
    if format_of(path) is None:  # checked here, before any process is started to load it
        raise CheckpointError(f"{where}: {uri} is not a checkpoint: {seems_to_be(path)}")
    return Checkpoint(uri, path.stat().st_size, digest, options, kind, mode), path


def resolve_weights(
    uri: str,
    sha256: str | None,
    where: str,
    storage_options: StorageOptions,
    torchscript: bool,
    download: bool = True,
) -> Checkpoint:
    """Find the file of a person detector: a TorchScript program, or only weights. Raises CheckpointError."""
    options = storage_options if storage.is_remote(uri) else {}
    path, size = _file(uri, where, storage_options, download)
    if path is None:
        return Checkpoint(uri, size, "", options)
    digest = _verified(path, uri, sha256, where)
    is_script = format_of(path) == "torchscript"
    if torchscript and not is_script:
        raise CheckpointError(f"{where}: {uri} is not a TorchScript file: {seems_to_be(path)}")
    if not torchscript and is_script:
        raise CheckpointError(f"{where}: {uri} is a TorchScript file, not weights; set `model: torchscript`")
    return Checkpoint(uri, path.stat().st_size, digest, options)


def _file(uri: str, where: str, storage_options: StorageOptions, download: bool) -> tuple[Path | None, int]:
    """The local file of a path or URL, and its size; no path if it would have to be downloaded and must not be."""
    try:
        if not storage.is_remote(uri):
            path = Path(storage.local_path(uri))
        elif download:
            path = fetch(uri, storage_options)
        else:
            path, size = _place(uri, storage_options)
            if not _is_complete(path, size):
                return None, size
    except Exception as error:
        raise CheckpointError(f"{where}: cannot fetch {uri}: {type(error).__name__}: {error}") from None
    if not path.is_file():
        what = "is a folder, not a checkpoint file" if path.is_dir() else "does not exist"
        hint = (
            "it was not uploaded with --working-dir (which skips files listed in .gitignore and .rayignore): "
            "give an absolute path that every node can read, or a URL"
            if storage.in_working_dir(uri)
            else "give the path or URL of a file, or a name that `sapiens-ray checkpoints list` shows"
            f"{catalogue.suggestion(uri)} (`make demo` writes checkpoints for a first try)"
        )
        raise CheckpointError(f"{where}: {uri} {what}; {hint}")
    return path, path.stat().st_size


@contextlib.contextmanager
def field_named(where: str) -> Iterator[None]:
    """Prefix the message of a CheckpointError with the name of a field."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None


def resolve_hub(url: str, sha256: str | None, where: str, download: bool = True) -> Checkpoint:
    """Find weights in the torch hub cache, downloading them if they are not there. Raises CheckpointError."""
    if not (download or hub_path(url).is_file()):
        return Checkpoint(url, 0, "", kind="torch hub")
    with field_named(where):
        path = hub_file(url)
    return Checkpoint(url, path.stat().st_size, _verified(path, url, sha256, where), kind="torch hub")


def hub_path(url: str) -> Path:
    """Where the file of a URL is in the torch hub cache ($TORCH_HOME/hub/checkpoints), if it is there."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def hub_file(url: str) -> Path:
    """The file of a URL in the torch hub cache, downloaded if it is not there."""
    import torch

    path = hub_path(url)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            prefix = path.stem.rpartition("-")[2]  # the names of torchvision's files end in their hash
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=False)
        except Exception as error:
            raise CheckpointError(
                f"cannot download {url} ({type(error).__name__}: {error}): put the file at {path}, or give a "
                "path with `checkpoint:`"
            ) from None
    return path


def _verified(path: Path, uri: str, pin: str | None, where: str) -> str:
    """The SHA-256 of a file. Raises CheckpointError if the job pins another one."""
    digest = file_sha256(path)
    if pin and digest != pin.lower():
        raise CheckpointError(
            f"{where}: {uri} has SHA-256 {digest}, but the job pins {pin.lower()}: it is another file, or it is damaged"
        )
    return digest


def format_of(path: Path) -> FileFormat | None:
    """The format of a checkpoint file, found from its zip directory or its first bytes; None if it is not a checkpoint.

    torchscript: a scripted program. export: a program of torch.export, in the layout of torch 2.9 and later.
    old export: a program of torch.export in an earlier layout. pickle: written by torch.save. safetensors.
    """
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except Exception:  # damaged directories raise many kinds of errors
            return None
        if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
            return "torchscript"
        ends: dict[str, FileFormat] = {
            "serialized_state_dict.pt": "old export", "/data/weights/model.pt": "old export",
            "/model_weights_config.json": "export", "/data.pkl": "pickle",
        }  # fmt: skip
        return next((kind for end, kind in ends.items() if any(name.endswith(end) for name in names)), None)
    with path.open("rb") as file:
        head = file.read(9)
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04"):  # pickles, as written by torch before 1.6
        return "pickle"
    if len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    return None


def seems_to_be(path: Path) -> str:
    """What a file seems to be, for messages."""
    file_format = format_of(path)
    if file_format is not None:
        return {
            "torchscript": "it is a TorchScript program",
            "export": "it was saved by torch.export",
            "old export": "it was saved by torch.export of an older torch version",
            "pickle": "it looks like a torch.save file (weights without code)",
            "safetensors": "it looks like a safetensors file (weights without code)",
        }[file_format]
    if zipfile.is_zipfile(path):
        return "it is a zip file with other content"
    with path.open("rb") as file:
        head = file.read(16)
    if head == b"version https://":
        return "it is a Git LFS pointer, not the file itself; run `git lfs pull`"
    if head.startswith(b"PK\x03\x04"):
        return "it is a truncated zip archive; download it again"
    return "it is empty" if not head else f"it has no known file format, its first bytes are {head!r}"


def cache_folder() -> Path:
    """Where fetched files are kept: $SAPIENS_RAY_CACHE, or sapiens_ray in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("SAPIENS_RAY_CACHE") or Path(base) / "sapiens_ray")


def _place(uri: str, options: StorageOptions) -> tuple[Path, int]:
    """Where the local copy of a remote file is, by its URI, size and stamp, so a changed file is fetched again; and
    its size."""
    size, stamp = storage.stamp(uri, options)
    key = hashlib.sha256(f"{uri}\0{size}\0{stamp}".encode()).hexdigest()[:32]
    return cache_folder() / "checkpoints" / key / uri.rsplit("/", 1)[-1], size


def _is_complete(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def fetch(uri: str, options: StorageOptions) -> Path:
    """A local copy of a remote file."""
    target, size = _place(uri, options)
    if _is_complete(target, size):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / ".lock"):  # the actors of a node fetch it once
        if _is_complete(target, size):
            return target
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=storage.TEMPORARY, delete=False) as temporary:
            try:
                with storage.open_read(uri, options) as stream:
                    shutil.copyfileobj(stream, temporary, 1 << 22)
                temporary.flush()
                Path(temporary.name).replace(target)
            except BaseException:
                Path(temporary.name).unlink(missing_ok=True)
                raise
    return target


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
