"""The published checkpoints by name, such as seg-1b: where they are on this machine, or on the Hugging Face hub.

Does not import torch. huggingface_hub is imported only when it is needed.
"""

from __future__ import annotations

import difflib
import fnmatch
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from sapiens_ray.errors import CheckpointError

Mode = Literal["torchscript", "bfloat16", "original"]
MODES: tuple[Mode, ...] = ("torchscript", "bfloat16", "original")  # of files, as Meta named their folders
LICENCE = "CC-BY-NC 4.0"
ROOT_VARIABLE = "SAPIENS_LITE_CHECKPOINT_ROOT"

_NAME = re.compile(r"[a-z]+\d*-\d(\.\d)?b")
_COCO = "noahcao/sapiens-pose-coco"  # all pose models with 17 and 133 keypoints, in Sapiens-Lite's folder tree
_SUFFIX = {"torchscript": "_torchscript.pt2", "bfloat16": "_bfloat16.pt2", "original": ".pth"}


@dataclass(frozen=True)
class Published:
    """One model that Meta published.

    stem: of the file names. parameters: number of weights in millions. accuracy: as published, with the metric.
    """

    name: str
    stem: str
    parameters: float
    accuracy: str = ""

    @property
    def kind(self) -> str:
        """seg, depth, normal, pretrain, pose17, pose133 or pose308."""
        return self.name.partition("-")[0]

    @property
    def size(self) -> str:
        return self.name.partition("-")[2]

    @property
    def folder(self) -> str:
        """The folder of its task in Sapiens-Lite's folder tree."""
        return "pose" if self.kind.startswith("pose") else self.kind

    def file_name(self, mode: Mode) -> str:
        clean = "_clean" if self.kind == "pretrain" and mode == "original" else ""
        return f"{self.stem}{clean}{_SUFFIX[mode]}"

    def tree_path(self, mode: Mode) -> str:
        """Path of the file below `sapiens_lite_host/$MODE` (for mode original: below `sapiens_host`)."""
        return f"{self.folder}/checkpoints/sapiens_{self.size}/{self.file_name(mode)}"

    def on_hub(self, mode: Mode) -> tuple[str, str]:
        """The repository, and the path of the file in it."""
        if self.kind in ("pose17", "pose133"):
            return _COCO, f"{_host(mode)}/{self.tree_path(mode)}"
        suffix = "" if mode == "original" else f"-{mode}"
        return f"facebook/sapiens-{self.folder}-{self.size}{suffix}", self.file_name(mode)

    def file_bytes(self, mode: Mode) -> float:
        """Approximate size of the file."""
        return self.parameters * 1e6 * (2 if mode == "bfloat16" else 4)


def _host(mode: Mode) -> str:
    return "sapiens_host" if mode == "original" else f"sapiens_lite_host/{mode}"


CATALOGUE = {
    one.name: one
    for one in (
        Published("seg-0.3b", "sapiens_0.3b_goliath_best_goliath_mIoU_7673_epoch_194", 339.5, "mIoU 76.7"),
        Published("seg-0.6b", "sapiens_0.6b_goliath_best_goliath_mIoU_7777_epoch_178", 671.0, "mIoU 77.8"),
        Published("seg-1b", "sapiens_1b_goliath_best_goliath_mIoU_7994_epoch_151", 1178.7, "mIoU 79.9"),
        Published("depth-0.3b", "sapiens_0.3b_render_people_epoch_100", 319.9),
        Published("depth-0.6b", "sapiens_0.6b_render_people_epoch_70", 649.8),
        Published("depth-1b", "sapiens_1b_render_people_epoch_88", 1156.0),
        Published("depth-2b", "sapiens_2b_render_people_epoch_25", 2151.1),
        Published("normal-0.3b", "sapiens_0.3b_normal_render_people_epoch_66", 339.5),
        Published("normal-0.6b", "sapiens_0.6b_normal_render_people_epoch_200", 671.0),
        Published("normal-1b", "sapiens_1b_normal_render_people_epoch_115", 1178.7),
        Published("normal-2b", "sapiens_2b_normal_render_people_epoch_70", 2176.2),
        Published("pose17-0.3b", "sapiens_0.3b_coco_best_coco_AP_796", 329.5, "COCO AP 79.6"),
        Published("pose17-0.6b", "sapiens_0.6b_coco_best_coco_AP_812", 661.0, "COCO AP 81.2"),
        Published("pose17-1b", "sapiens_1b_coco_best_coco_AP_821", 1168.7, "COCO AP 82.1"),
        Published("pose17-2b", "sapiens_2b_coco_best_coco_AP_822", 2166.2, "COCO AP 82.2"),
        Published("pose133-0.3b", "sapiens_0.3b_coco_wholebody_best_coco_wholebody_AP_620", 329.5, "whole AP 62.0"),
        Published("pose133-0.6b", "sapiens_0.6b_coco_wholebody_best_coco_wholebody_AP_695", 661.0, "whole AP 69.5"),
        Published("pose133-1b", "sapiens_1b_coco_wholebody_best_coco_wholebody_AP_727", 1168.8, "whole AP 72.7"),
        Published("pose133-2b", "sapiens_2b_coco_wholebody_best_coco_wholebody_AP_745", 2166.3, "whole AP 74.4"),
        Published("pose308-0.3b", "sapiens_0.3b_goliath_best_goliath_AP_573", 329.7, "Goliath AP 57.3"),
        Published("pose308-0.6b", "sapiens_0.6b_goliath_best_goliath_AP_609", 661.2, "Goliath AP 60.9"),
        Published("pose308-1b", "sapiens_1b_goliath_best_goliath_AP_639", 1168.9, "Goliath AP 63.9"),
        Published("pretrain-0.3b", "sapiens_0.3b_epoch_1600", 307.3),
        Published("pretrain-0.6b", "sapiens_0.6b_epoch_1600", 635.9),
        Published("pretrain-1b", "sapiens_1b_epoch_173", 1140.7),
        Published("pretrain-2b", "sapiens_2b_epoch_660", 2133.9),
    )
}


def licence_of(checkpoint: str) -> str | None:
    """The licence of a checkpoint that Meta published, known by its catalogue name or by the name of its file; None for
    any other."""
    name = checkpoint.rstrip("/").rpartition("/")[2]
    files = (model.file_name(mode) for model in CATALOGUE.values() for mode in MODES)
    if name in CATALOGUE or any(fnmatch.fnmatch(name, _any_numbers(file)) for file in files):
        return LICENCE
    return None


def file_mode(mode: str) -> Mode:
    """The mode of the files that Meta published for a mode of a job: those for float32 are TorchScript."""
    return "torchscript" if mode == "float32" else cast(Mode, mode)


def is_name(checkpoint: str) -> bool:
    """Whether the value of `checkpoint:` has the form of a catalogue name, not of a path."""
    return _NAME.fullmatch(checkpoint) is not None


def published(name: str) -> Published:
    """The entry with this name. Raises CheckpointError, which suggests similar names."""
    if name not in CATALOGUE:
        raise CheckpointError(f"{name!r} is not in the catalogue{suggestion(name)}; see `sapiens-ray checkpoints list`")
    return CATALOGUE[name]


def refuse_other_kind(name: str, kind: str) -> None:
    """Raise CheckpointError unless the entry with this name is of a kind, such as seg or pose17."""
    model = published(name)
    if model.kind != kind:
        fitting = ", ".join(one.name for one in CATALOGUE.values() if one.kind == kind)
        raise CheckpointError(f"{name} is a model for {model.kind}; the task needs one for {kind}: {fitting}")


def suggestion(name: str) -> str:
    """A hint with similar names; empty if there are none."""
    close = difflib.get_close_matches(name.rsplit("/", 1)[-1], CATALOGUE, n=3, cutoff=0.75)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def find_here(name: str, mode: Mode) -> tuple[Path, Mode] | None:
    """The file of a published model for a mode, and the mode of that file, if it is on this machine: in the folder tree
    of $SAPIENS_LITE_CHECKPOINT_ROOT, else in the hub's cache.

    Any file format can be loaded in any mode, so a file of another mode is used too.
    Raises CheckpointError for a name that is not in the catalogue.
    """
    model = published(name)
    usable: tuple[Mode, ...] = (mode, *(other for other in ("torchscript", "original") if other != mode))
    found = ((look(model, one), one) for look in (_in_root, _in_cache) for one in usable)
    return next(((path, one) for path, one in found if path is not None), None)


def find_file(name: str, mode: Mode) -> Path:
    """The file of exactly this mode, so that all nodes use the same file. Raises CheckpointError."""
    model = published(name)
    return here(model, mode) or download(model, mode)


def here(model: Published, mode: Mode) -> Path | None:
    """The file of a model for a mode, if it is on this machine."""
    return _in_root(model, mode) or _in_cache(model, mode)


def _in_root(model: Published, mode: Mode) -> Path | None:
    root = os.environ.get(ROOT_VARIABLE)
    return in_tree(Path(root).expanduser(), model, mode) if root else None


def in_tree(root: Path, model: Published, mode: Mode) -> Path | None:
    """The file of a model in Sapiens-Lite's folder tree; `root` may be any of its levels. A file of an older release,
    with other numbers in its name, is found too."""
    folders = [root / _host(mode), root.parent / _host(mode), root.parent.parent / _host(mode)]
    folders += [root / mode, root] if root.name in MODES or (root / mode).is_dir() else []
    for folder in folders:
        wanted = folder / model.tree_path(mode)
        if wanted.is_file():
            return wanted
        for renamed in sorted(wanted.parent.glob(_any_numbers(wanted.name))):
            return renamed
    return None


def target_in_tree(root: Path, model: Published, mode: Mode) -> Path:
    """The path for the file of a model in the folder tree at `root`, which may exist or be new."""
    host, _, below = _host(mode).partition("/")
    if root.parent.name == host and root.name in MODES:
        root = root.parent
    folder = root / below if root.name == host or (below and (root / below).is_dir()) else root / host / below
    return folder / model.tree_path(mode)


def _any_numbers(file_name: str) -> str:
    """A pattern for the same model at another epoch: files were renamed on the hub between releases."""
    return re.sub(r"(AP|mIoU|epoch)_\d+", r"\1_*", file_name)


def _in_cache(model: Published, mode: Mode) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    repository, file = model.on_hub(mode)
    found = try_to_load_from_cache(repository, file)
    if isinstance(found, str):
        return Path(found)
    snapshots = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model") / "snapshots"
    return next(iter(sorted(snapshots.glob(f"*/{_any_numbers(file)}"))), None)


def download(model: Published, mode: Mode, to: Path | None = None) -> Path:
    """Download a file from the hub, or continue an interrupted download. Raises CheckpointError.

    to: root of a folder tree like that of Sapiens-Lite; None for the hub's cache. HF_ENDPOINT, HF_TOKEN, HF_HOME and
    HF_HUB_OFFLINE work as documented by huggingface_hub.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, file = model.on_hub(mode)
    target = target_in_tree(to, model, mode) if to else None
    logging.getLogger("sapiens_ray").warning(
        "Downloading %s (%s, about %.1f GB) from %s. Licence: %s, not for commercial use.",
        model.name, mode, model.file_bytes(mode) / 1e9, repository, LICENCE,
    )  # fmt: skip

    def fetch(file: str) -> Path:
        if target is None:
            return Path(hf_hub_download(repository, file))
        # Moved to its final path when it is complete: repositories have it at the top, or in folders.
        partial = target.parent / ".download"
        fetched = Path(hf_hub_download(repository, file, local_dir=partial))
        place = target.with_name(fetched.name)
        fetched.replace(place)
        shutil.rmtree(partial, ignore_errors=True)
        return place

    try:
        try:
            return fetch(file)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:  # renamed since: the same model with other numbers in its name
            names = HfApi().list_repo_files(repository)
            renamed = next((name for name in names if fnmatch.fnmatch(name, _any_numbers(file))), None)
            if renamed is None:
                raise
            return fetch(renamed)
    except Exception as error:  # of many kinds, from huggingface_hub and its dependencies
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise CheckpointError(
            f"cannot download {file} from {repository}: {type(error).__name__}: {reason}. Put the file into the folder "
            f"tree of ${ROOT_VARIABLE}, or give its path"
        ) from None
