"""The folder that Ultralytics trains YOLO on: `images/`, `labels/` and `data.yaml`.

A label file has one line per object, numbers between 0 and 1 after the class. It has the path of its photo with the
last `/images/` replaced by `/labels/`, and ends in `.txt`. Written from the published format; Ultralytics is not used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import yaml

from sapiens_ray.errors import ConfigError, OutputError
from sapiens_ray.export.base import Exported, Omitted, Option, Options, is_unreadable, labelled, value_of, word_of
from sapiens_ray.export.filenames import RowNames
from sapiens_ray.export.photos import Photos, local_file, suffix_of
from sapiens_ray.imaging.names import hash_fraction
from sapiens_ray.storage import Folder
from sapiens_ray.storage.uris import absolute, redact_uri
from sapiens_ray.tasks.stored import StoredLabels
from sapiens_ray.units import Row

ELSEWHERE = "no files of this machine (use --images copy)"
NOT_UTF8 = "their names are not UTF-8, so that no link can be made (use --images copy)"
IMAGES = ("link", "copy", "none")
ABOUT, SHARE = "data.yaml", "val_share"  # the file that Ultralytics reads; our key in it
_TAKEN = re.compile(r"(?<![^/])(images_*)(?=/)")  # folders that would be mistaken for the one with all images


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share < 1:
        raise ValueError("should be at least 0 and less than 1")
    return share


WITH_IMAGES = Option(
    "images",
    "photos in images/: link (files of this machine), copy (from wherever the job had them) or none; default link",
    "link",
    word_of(*IMAGES),
)
VAL = Option("val", "share of the images in val, chosen by a hash of image_id; default 0.1", 0.1, _share)
LinesOf = Callable[[Row], Iterable[Sequence[float]]]  # the objects of an image: class, then numbers from 0 to 1


def write_dataset(
    source: Folder, target: Folder, columns: list[str], lines_of: LinesOf, about: Row, options: Options | None
) -> Exported:
    """Write `labels/<split>/<name>.txt`, `images/<split>/<name>.<suffix>` and `data.yaml`.

    columns: what `lines_of` reads of a row. about: what `data.yaml` says of the labels. An image without objects has an
    empty file: it shows background. Raises ConfigError for links in a remote target, and for a folder that was divided
    by another share; OutputError if no image has labels.
    """
    share, how = value_of(options, VAL), value_of(options, WITH_IMAGES)
    if how == "link" and target.remote:
        raise ConfigError(
            f"--to {redact_uri(target.uri)}: links can only be made on this machine; use --images copy or none"
        )
    _refuse_other_share(target, share)
    done = Exported()
    names, photos = RowNames(source), Photos(source) if how == "copy" else None
    missing = Omitted()
    counts = Counter[str]()
    for row in labelled(source, list(dict.fromkeys(["shard", "index", "uri", *columns])), done):
        name, renamed = names.of(row)
        done.renamed += renamed
        place = f"{'val' if hash_fraction(row['image_id']) < share else 'train'}/{_free(name)}"
        text = "".join(f"{line[0]:.0f} {' '.join(f'{value:.6f}' for value in line[1:])}\n" for line in lines_of(row))
        target.write(f"labels/{place}.txt", text.encode(), durable=False)
        counts[place.partition("/")[0]] += 1
        if how != "none" and not _add_photo(target, f"images/{place}", row, photos):
            named = NOT_UTF8 if is_unreadable(row["uri"]) else ELSEWHERE
            missing.add(named if how == "link" else "gone or changed", row["image_id"])
    done.notes += missing.notes(what="photos left out")
    _write_about(source, target, {**about, SHARE: share}, counts, done)
    return done


def leave_out(labels: Iterable[StoredLabels], taken: Sequence[StoredLabels | None], what: str) -> dict[str, str]:
    """Why the columns that are not taken are left out. what: what one folder holds."""
    return {
        one.column: f"a YOLO folder holds {what}"
        for one in labels
        if one.column not in [other.column for other in taken if other]
    }


def _free(name: str) -> str:
    """The name without a folder called `images`, by which the label file would not be found: `images_` in its place.
    As that gets one more `_`, too, no two names become one."""
    return _TAKEN.sub(r"\1_", name)


def _add_photo(target: Folder, name: str, row: Row, photos: Photos | None) -> bool:
    """Write a photo, or without `photos` link it. name: without ending. Returns whether there is one."""
    if photos is None:
        path = local_file(row)
        if path is None:
            return False
        with path.open("rb") as file:
            target.link(f"{name}.{suffix_of(path.name, file.read(16))}", str(path))
        return True
    data, _ = photos.read(row)
    if data is None:
        return False
    target.write(f"{name}.{suffix_of(row['image_id'], data)}", data, durable=False)
    return True


def _refuse_other_share(target: Folder, share: float) -> None:
    """Raise ConfigError if an earlier export divided this folder by another share: some images would be in both parts,
    and Ultralytics would validate on what it was trained on."""
    try:
        earlier = yaml.safe_load(target.read(ABOUT)) if target.exists(ABOUT) else None
    except yaml.YAMLError:  # of something else
        earlier = None
    before = earlier.get(SHARE, share) if isinstance(earlier, dict) else share
    if before != share:
        raise ConfigError(
            f"--val {share}: {redact_uri(target.uri)} was written with --val {before}, and images would be in both "
            "parts; give that, or name another folder"
        )


def _write_about(source: Folder, target: Folder, about: Row, counts: Counter[str], done: Exported) -> None:
    """Write `data.yaml`. Ultralytics refuses a dataset without images to validate on: then those of train are named."""
    splits = {split: counts[split] > 0 or target.exists(f"labels/{split}") for split in ("train", "val")}
    if not any(splits.values()):
        raise OutputError(f"no image of {redact_uri(source.uri)} has labels: all rows are error rows")
    for split, other in (("train", "val"), ("val", "train")):
        if not splits[split] and splits[other]:
            done.notes.append(f"data.yaml: no image is in {split}, so it names those of {other}")
    places = {split: f"images/{split if there else other}"
              for (split, there), other in zip(splits.items(), ("val", "train"), strict=True)}  # fmt: skip
    # Without `path`, Ultralytics takes the folder of the file.
    root = {} if target.remote else {"path": absolute(target.uri)}
    text = yaml.safe_dump({**root, **places, **about}, sort_keys=False, allow_unicode=True)
    target.write(ABOUT, text.encode(), durable=False)
