"""Checkpoint files: where they are, what they are, and a copy on this node's disk. Imports no torch."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sapiens_ray import storage
from sapiens_ray.errors import CheckpointError


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, known by its content. Actors get this, never the weights."""

    uri: str
    size: int
    sha256: str
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    hub: bool = False  # `uri` is a URL whose file lies in the torch hub cache

    def local_file(self) -> Path:
        """The file on this node's disk, fetched once a node if it lies elsewhere.

        Raises CheckpointError if it is not there, or no longer the file the job was started with.
        """
        if self.hub:
            path = hub_file(self.uri)
        elif not storage.is_remote(self.uri):
            path = Path(storage.local_path(self.uri))
            if not path.is_file():
                raise CheckpointError(
                    f"{path} is not on node {os.uname().nodename}: put the checkpoint on storage that all nodes see"
                )
        else:
            path = _fetch(self.uri, self.storage_options)
        if _sha256(path) != self.sha256:
            raise CheckpointError(f"{self.uri} is not the file this job was started with (its SHA-256 differs)")
        return path


def resolve(
    uri: str, sha256: str | None, where: str, storage_options: dict[str, Any], torchscript: bool = True
) -> Checkpoint:
    """Find a checkpoint and hash it. `where` names the field for messages; `sha256`: refuse another file.

    torchscript: it must hold a TorchScript program, or else must not. Raises CheckpointError.
    """
    try:
        path = _fetch(uri, storage_options) if storage.is_remote(uri) else Path(storage.local_path(uri))
    except Exception as error:
        raise CheckpointError(f"{where}: cannot fetch {uri}: {type(error).__name__}: {error}") from None
    if not path.is_file():
        what = "is a folder, not a checkpoint file" if path.is_dir() else "is not there"
        hint = (
            "it was not sent with --working-dir (which leaves out what .gitignore and .rayignore name): "
            "give an absolute path that every node sees, or a URL"
            if storage.in_working_dir(uri)
            else "give the path of a TorchScript .pt2 file (README: 'Real weights' says where to get one; "
            "`make demo` writes one to try with)"
        )
        raise CheckpointError(f"{where}: {uri} {what}; {hint}")
    digest = _verified(path, uri, sha256, where)
    if torchscript and not _has_code(path):  # told apart here, before any process is started to load it
        raise CheckpointError(f"{where}: {uri} is not a TorchScript file: {seems_to_be(path)}")
    if not torchscript and _has_code(path):
        raise CheckpointError(f"{where}: {uri} is a TorchScript file, not weights; say `model: torchscript`")
    return Checkpoint(uri, path.stat().st_size, digest, storage_options if storage.is_remote(uri) else {})


def resolve_hub(url: str, sha256: str | None, where: str) -> Checkpoint:
    """Find weights in the torch hub cache, downloading them if they are not there. Raises CheckpointError."""
    path = hub_file(url)
    return Checkpoint(url, path.stat().st_size, _verified(path, url, sha256, where), hub=True)


def hub_file(url: str) -> Path:
    """The file of a URL in the torch hub cache ($TORCH_HOME/hub/checkpoints), downloaded if it is not there."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            prefix = path.stem.rpartition("-")[2]  # torchvision's files are named after their hash
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=False)
        except Exception as error:
            raise CheckpointError(
                f"cannot download {url} ({type(error).__name__}: {error}): put the file at {path}, or name a file "
                "with `checkpoint:`"
            ) from None
    return path


def _verified(path: Path, uri: str, pin: str | None, where: str) -> str:
    """The SHA-256 of a file. Raises CheckpointError if the job pins another one."""
    digest = _sha256(path)
    if pin and digest != pin.lower():
        raise CheckpointError(
            f"{where}: {uri} has SHA-256 {digest}, but the job pins {pin.lower()}: it is another file, or damaged"
        )
    return digest


def _has_code(path: Path) -> bool:
    """Whether a file is a zip with a TorchScript program in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name or name.endswith("/constants.pkl") for name in archive.namelist())


def seems_to_be(path: Path) -> str:
    """What a file that is no TorchScript seems to be, for messages."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            head = file.read(16)
        return "it is empty" if not head else f"no archive at all, its first bytes are {head!r}"
    with zipfile.ZipFile(path) as archive:
        names = [name.rsplit("/", 1)[-1] for name in archive.namelist()]
    if "serialized_exported_program.json" in names or "serialized_state_dict.pt" in names:
        return "it was saved by torch.export (a bfloat16 file?); take the -torchscript file of the same model"
    if "data.pkl" in names:
        return "it looks like a torch.save file (weights without code); take the -torchscript file of the same model"
    return "a zip file of something else"


def cache_folder() -> Path:
    """Where fetched files are kept: $SAPIENS_RAY_CACHE, or sapiens_ray in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("SAPIENS_RAY_CACHE") or Path(base) / "sapiens_ray")


def _fetch(uri: str, options: dict[str, Any]) -> Path:
    """A remote file as a local one; kept under its address and stamp, so a changed file is fetched anew."""
    size, stamp = storage.stamp(uri, options)
    key = hashlib.sha256(f"{uri}\0{size}\0{stamp}".encode()).hexdigest()[:32]
    target = cache_folder() / "checkpoints" / key / uri.rsplit("/", 1)[-1]
    if target.is_file() and target.stat().st_size == size:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=storage.TEMPORARY, delete=False) as temporary:
        try:
            with storage.open_read(uri, options) as stream:
                shutil.copyfileobj(stream, temporary, 1 << 22)
            temporary.flush()
            Path(temporary.name).replace(target)  # actors of one node that fetch at once end with one whole file
        except BaseException:
            Path(temporary.name).unlink(missing_ok=True)
            raise
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
