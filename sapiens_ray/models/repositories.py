"""Object detectors in the layout of transformers: which files make one, where they are, and what identifies them.

A folder holds `config.json`, `preprocessor_config.json` and weights, as `save_pretrained` writes them. It is a local
folder, one of any fsspec file system, or a repository of the Hugging Face hub. Imports neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sapiens_ray import storage
from sapiens_ray.errors import CheckpointError, StorageError
from sapiens_ray.models.catalogue import ROOT_VARIABLE
from sapiens_ray.models.checkpoint import Checkpoint, cache_folder, fetch, field_named, file_sha256
from sapiens_ray.storage import Folder, StorageOptions
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.tasks.persons import DetectorOptions
from sapiens_ray.tasks.repositories import DETECTORS, is_repository, on_hub

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
INSTALL = "pip install 'sapiens-ray[detectors]'"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in the order in which transformers looks for them


@dataclass(frozen=True)
class ModelFolder(Checkpoint):
    """The folder of an object detector, identified by the content of its configuration and weights.

    uri: a folder, or OWNER/NAME of a repository. sha256: see `folder_sha256`. revision: of the repository.
    """

    revision: str = ""

    def local_file(self) -> Path:
        """The folder on this node's disk; what is remote is fetched once per node. Raises CheckpointError."""
        if self.revision:
            path = find_repository(self.uri, self.revision)[0] or download_repository(self.uri, self.revision)
        else:
            with storage.translate_errors(StorageError, f"cannot fetch {redact_uri(self.uri)}"):
                path = _folder(self.uri, self.storage_options)
        if folder_sha256(path) != self.sha256:
            raise CheckpointError(f"{self.uri} does not hold the model this job was started with (its SHA-256 differs)")
        return path


def resolve_folder(
    options: DetectorOptions, where: str, storage_options: StorageOptions, download: bool = True
) -> ModelFolder:
    """Find the folder of a detector, hash it, and check that it has the label of persons. Raises CheckpointError.

    where: the section of the job file, for messages. download: if not, a repository that is not on this machine has no
    digest; folders by URL are fetched.
    """
    with field_named(f"{where}.model"):
        if find_spec("transformers") is None:
            raise CheckpointError(f"{options.model} needs transformers, which is not installed: {INSTALL}")
        if is_repository(options.model):
            place, revision = on_hub(options.model)
            path, revision = find_repository(place, revision)
            if path is None and not download:
                size = next((int(one.megabytes * 1e6) for one in DETECTORS.values() if one.place == place), 0)
                return ModelFolder(place, size, "", revision=revision)
            if path is None:
                path = download_repository(place, revision)
                revision = path.name
            uri, given = place, {}
        else:
            uri, revision = options.model, ""
            given = storage_options if storage.is_remote(uri) else {}
            with storage.translate_errors(CheckpointError, f"cannot fetch {redact_uri(uri)}"):
                path = _folder(uri, given)
        person_label(read_config(path), options, uri)
        digest = folder_sha256(path)
    if options.sha256 and digest != options.sha256.lower():
        raise CheckpointError(
            f"{where}.sha256: {uri} has SHA-256 {digest}, but the job pins {options.sha256.lower()}: it is another "
            "model, or a file is damaged"
        )
    size = sum((path / name).stat().st_size for name in model_files(os.listdir(path), uri))
    return ModelFolder(uri, size, digest, given, revision=revision)


def model_files(names: Collection[str], what: str) -> list[str]:
    """Which files of a folder make the model, sorted: configurations, and the weights that transformers would choose.

    what: names the folder in messages. Raises CheckpointError if one is missing.
    """
    for needed in (CONFIG, PROCESSOR):
        if needed not in names:
            raise CheckpointError(
                f"{what} has no {needed}; an object detector is what `save_pretrained` of transformers writes: "
                f"{CONFIG}, {PROCESSOR} and model.safetensors"
            )
    for whole in _WEIGHTS:
        if whole in names:
            return sorted([CONFIG, PROCESSOR, whole])
        stem, _, ending = whole.partition(".")
        if (index := f"{whole}.index.json") in names:
            parts = [name for name in names if name.startswith(f"{stem}-") and name.endswith(f".{ending}")]
            return sorted([CONFIG, PROCESSOR, index, *parts])
    raise CheckpointError(f"{what} has no weights: neither {' nor '.join(_WEIGHTS)}")


def folder_sha256(folder: Path) -> str:
    """What identifies a model: the SHA-256 of the lines that `sha256sum` prints for its files, sorted by name."""
    names = model_files(os.listdir(folder), str(folder))
    lines = "".join(f"{file_sha256(folder / name)}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a model. Raises CheckpointError."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a mapping")
    return config


def person_label(config: dict[str, Any], options: DetectorOptions, what: str) -> int:
    """The number of the label of persons, by `id2label` of a configuration; case does not matter.

    what: names the model in messages. Raises CheckpointError.
    """
    names = {int(number): str(name) for number, name in (config.get("id2label") or {}).items()}
    wanted = options.label
    if isinstance(wanted, int):
        found = [wanted] if wanted in names or not names else []
    else:
        found = [number for number, name in names.items() if name.casefold() == wanted.strip().casefold()]
    if len(found) != 1:
        listed = ", ".join(f"{number} {name}" for number, name in list(names.items())[:20])
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        raise CheckpointError(
            f"{what} has {'no' if not found else 'more than one'} label {wanted!r} in its id2label"
            f"{f': {listed}{more}' if names else ', which is missing'}; name that of persons with `label:`"
        )
    return found[0]


def _folder(uri: str, options: StorageOptions) -> Path:
    """A local folder as it is; the files of a remote one fetched, in a folder of links to them."""
    if not storage.is_remote(uri):
        path = Path(storage.local_path(uri))
        if not path.is_dir():
            what = "is a file, not the folder of a model" if path.exists() else "does not exist"
            raise CheckpointError(
                f"{path} {what} on node {os.uname().nodename}; give a folder that every node can read, or a URL"
            )
        model_files(os.listdir(path), str(path))
        return path
    remote = Folder(uri, options)
    fetched = {name: fetch(remote.join(name), options) for name in model_files(remote.files(), redact_uri(uri))}
    key = hashlib.sha256("\n".join(map(str, fetched.values())).encode()).hexdigest()[:32]
    path = cache_folder() / "detectors" / key
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=storage.TEMPORARY))
        for name, file in fetched.items():
            (partial / name).symlink_to(file.resolve())
        try:
            partial.rename(path)
        except OSError:  # another process of this node was faster
            shutil.rmtree(partial)
    return path


def in_tree(root: Path, place: str) -> Path:
    """Where `checkpoints pull --to` puts a repository below a root."""
    short = next((one.name for one in DETECTORS.values() if one.place == place), place.replace("/", "--"))
    return root / "detector" / short


def find_repository(place: str, revision: str = "main") -> tuple[Path | None, str]:
    """The folder of a repository on this machine, if all its files are here, and its exact revision: in the folder tree
    of $SAPIENS_LITE_CHECKPOINT_ROOT (for the newest revision), else in the hub's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    root = os.environ.get(ROOT_VARIABLE)
    if root and revision == "main" and is_complete(pulled := in_tree(Path(root).expanduser(), place)):
        return pulled, revision
    cached = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=place, repo_type="model")
    reference = cached / "refs" / revision
    exact = reference.read_text().strip() if reference.is_file() else revision
    snapshot = cached / "snapshots" / exact
    return (snapshot, exact) if is_complete(snapshot) else (None, revision)


def is_complete(folder: Path) -> bool:
    """Whether a folder holds all files of a model."""
    try:
        names = model_files(os.listdir(folder), "")
        index = next((name for name in names if name.endswith(".index.json")), None)
        parts = set(json.loads((folder / index).read_bytes())["weight_map"].values()) if index else set()
        return parts <= set(names)
    except (OSError, CheckpointError, ValueError):
        return False


def download_repository(place: str, revision: str = "main", to: Path | None = None) -> Path:
    """Download the model of a repository, or continue an interrupted download. Raises CheckpointError.

    to: root of a folder tree, see `in_tree`; None for the hub's cache, in which the name of the folder is the exact
    revision. HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE work as documented by huggingface_hub.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import RepositoryNotFoundError

    known = next((one for one in DETECTORS.values() if one.place == place), None)
    try:
        names = HfApi().list_repo_files(place, revision=revision)
        files = model_files(names, f"the repository {place}")
        logging.getLogger("sapiens_ray").warning(
            "Downloading %s%s. Licence: %s.", place, f" (about {known.megabytes:.0f} MB)" if known else "",
            known.licence if known else "see its page on the hub",
        )  # fmt: skip
        if to is None:
            fetched = [Path(hf_hub_download(place, name, revision=revision)) for name in files]
            return fetched[0].parent
        target = in_tree(to, place)
        partial = target.parent / f".download-{target.name}"
        for name in files:
            hf_hub_download(place, name, revision=revision, local_dir=partial)
        target.mkdir(parents=True, exist_ok=True)
        for name in files:
            (partial / name).replace(target / name)
        shutil.rmtree(partial, ignore_errors=True)
        return target
    except CheckpointError:
        raise
    except RepositoryNotFoundError:
        beside = f"; for the folder of this name write ./{place}" if Path(place).is_dir() else ""
        raise CheckpointError(f"{place} is not on the hub, or needs a token ($HF_TOKEN){beside}") from None
    except Exception as error:  # of many kinds, from huggingface_hub and its dependencies
        reason = " ".join(str(error).split())[:300].rstrip(".")
        name = known.name if known else place
        raise CheckpointError(
            f"cannot download {place}: {type(error).__name__}: {reason}. Without a network, run `sapiens-ray "
            f"checkpoints pull {name} --to DIR` on another machine, copy DIR, and give the folder "
            f"{in_tree(Path('DIR'), place)} as `model`"
        ) from None
