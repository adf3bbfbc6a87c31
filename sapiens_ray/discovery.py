"""Finding the input: what the URIs of a job name, in a stable order."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NoReturn

from sapiens_ray import storage
from sapiens_ray.config import Input
from sapiens_ray.errors import InputError
from sapiens_ray.images import has_image_suffix
from sapiens_ray.retries import retrying
from sapiens_ray.sources import Entry, listing
from sapiens_ray.sources import images as image_files
from sapiens_ray.storage import Folder
from sapiens_ray.uris import shown

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
LIST_SUFFIXES = (".txt", ".csv", ".jsonl")
FILES = ("webdataset", "parquet")  # formats of which every file is a shard
MAX_RANGE = 1_000_000
LOOK = 10_000  # files of a folder that are listed before it is settled what they are
# What a run writes, for photos and labels in one folder.
OUTPUT_PARTS = ("data/", "visualizations/", "plan/", "attempts/", "plan.parquet/")


@dataclass(frozen=True)
class Found:
    """What one input URI turned out to be: one tar or Parquet file, or the images of one folder or list.

    `entries` may be an iterator over a listing under way. last: nothing follows that another `input.uri` names.
    """

    format: str
    uri: str
    name: str
    entries: Iterable[Entry] = ()
    last: bool = False


def find_input(settings: Input, output: str = "") -> Iterator[Found]:
    """Everything the input names, once, in a stable order.

    What lies below `output` is left out: a folder may hold its own labels. Raises InputError for what is not
    there or ambiguous.
    """
    with storage.asking(InputError, f"input.uri: cannot list {', '.join(map(shown, settings.uri))}"):
        uris = [expanded for uri in settings.uri for expanded in _expand(uri, settings)]
        root = _common_root(uris)
        seen: set[str] = set()
        for uri in dict.fromkeys(uris):
            for found in _found_at(uri, settings, root, output.rstrip("/")):
                if found.uri not in seen:
                    seen.add(found.uri)
                    yield replace(found, last=uri == uris[-1])


def _expand(uri: str, settings: Input) -> list[str]:
    """Brace ranges and globs to URIs."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", uri)
    if match:
        first, last = match.groups()
        numbers = range(int(first), int(last) + 1)
        if len(numbers) > MAX_RANGE:
            raise InputError(f"input.uri: {shown(uri)} names {len(numbers)} files; the most is {MAX_RANGE}")
        spelled = [f"{uri[: match.start()]}{number:0{len(first)}d}{uri[match.end() :]}" for number in numbers]
        return [one for item in spelled for one in _expand(item, settings)]
    fs, path = storage.filesystem(uri, settings.storage_options)
    fs.invalidate_cache()  # of an earlier run in this process
    if any(mark in uri for mark in "*?[") and not retrying(fs.exists, path):
        found = sorted(retrying(fs.glob, path))
        if not found:
            raise InputError(f"input.uri: nothing matches {shown(uri)}")
        return [fs.unstrip_protocol(name) if storage.is_remote(uri) else name for name in found]
    return [uri]


def _common_root(uris: list[str]) -> str:
    """The folder that image ids are relative to: of one URI the folder it names, of several what they share."""
    folders = [uri.rstrip("/") if len(uris) == 1 and not _file_format(uri) else uri.rstrip("/").rpartition("/")[0]
               for uri in uris]  # fmt: skip
    parts = [folder.split("/") for folder in folders]
    shared = os.path.commonprefix(parts)  # works on lists of parts as well as on characters
    return "/".join(shared)


def _file_format(uri: str) -> str | None:
    lower = uri.lower()
    if lower.endswith(TAR_SUFFIXES):
        return "webdataset"
    if lower.endswith(".parquet"):
        return "parquet"
    return "list" if lower.endswith(LIST_SUFFIXES) else None


def _found_at(uri: str, settings: Input, root: str, output: str) -> Iterator[Found]:
    options = settings.storage_options
    fs, path = storage.filesystem(uri, options)
    name = _below(uri, root)
    kind = settings.format if settings.format != "auto" else _file_format(uri)
    if storage.is_remote(uri) and kind in FILES and _file_format(uri) == kind:
        yield Found(kind, uri, name)  # asked for its stamp next, with many others at once
        return
    if retrying(fs.isdir, path):
        yield from _found_in_folder(Folder(uri.rstrip("/") or "/", options), settings, root, output)
        return
    if not retrying(fs.exists, path):
        raise InputError(f"input.uri: {shown(uri)} is not there")
    if kind in FILES:
        yield Found(kind, uri, name)
    elif kind == "list":
        found = listing.find(
            uri, options, settings.image_column, settings.id_column, settings.columns, _folder_of(name)
        )
        yield Found("list", uri, name, found)
    elif kind == "images" or has_image_suffix(uri):
        yield Found("images", uri, name, [Entry(uri, name)])
    else:
        raise InputError(
            f"input.uri: {shown(uri)} is none of folder, image, .tar, .tar.gz, .parquet, .txt, .csv, .jsonl; say "
            "input.format"
        )


def _folder_of(name: str) -> str:
    folder, slash, _ = name.rpartition("/")
    return folder + slash


def _found_in_folder(folder: Folder, settings: Input, root: str, output: str) -> Iterator[Found]:
    prefix = f"{_below(folder.uri, root)}/".lstrip("/")

    # Labels may lie below the photos, or among them.
    parts = OUTPUT_PARTS if folder.uri.rstrip("/") == output else ("",)

    def ours(uri: str) -> bool:
        return bool(output) and any(f"{uri}/".startswith(f"{output}/{part}") for part in parts)

    def refuse(kinds: Iterable[str]) -> NoReturn:
        held = ", ".join(kind for kind in ("images", *FILES) if kind in kinds)
        raise InputError(f"input.format: {shown(folder.uri)} holds several kinds of input ({held}); say which to read")

    listed = ((name, is_file) for name, is_file in storage.walk(folder) if not ours(folder.join(name)))
    first = list(itertools.islice(listed, LOOK))
    kinds = {kind for name, is_file in first if (kind := _kind_in_folder(name, is_file, settings.include))}
    everything = itertools.chain(first, listed)
    if settings.format == "auto" and len(kinds) > 1:
        refuse(kinds)
    kind = settings.format if settings.format != "auto" else next(iter(kinds), "images")

    def of_one_kind() -> Iterator[tuple[str, bool]]:
        for name, is_file in everything:
            other = _kind_in_folder(name, is_file, settings.include)
            if settings.format == "auto" and other and other != kind:  # behind the first ones
                refuse({kind, other})
            yield name, is_file

    if kind == "images":
        yield Found("images", folder.uri, prefix, image_files.find(folder, settings.include, prefix, of_one_kind()))
        return
    for name, is_file in of_one_kind():
        if is_file and _file_format(name) == kind:
            yield from _found_at(folder.join(name), settings.model_copy(update={"format": kind}), root, output)


def _kind_in_folder(name: str, is_file: bool, include: list[str]) -> str | None:
    """Which kind of input a file of a folder makes it; lists in folders are not read."""
    kind = _file_format(name) if is_file else None
    if kind in FILES:
        return kind
    return "images" if image_files.chosen(name, is_file, include) else None


def _below(uri: str, root: str) -> str:
    """`uri` relative to the root."""
    trimmed = uri.rstrip("/")
    return trimmed[len(root) :].lstrip("/") if root and trimmed.startswith(root) else trimmed.lstrip("/")
