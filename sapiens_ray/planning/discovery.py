"""Finding the input: the files and folders that the URIs of a job name, in a stable order."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from sapiens_ray import storage
from sapiens_ray.errors import InputError
from sapiens_ray.imaging.images import has_image_suffix
from sapiens_ray.job.config import Input
from sapiens_ray.output.layout import DATA, JOB_FILE, PARTS, PLAN_FILE
from sapiens_ray.output.record import input_uris
from sapiens_ray.planning.left_out import OTHER_PHOTOS, OTHER_VIDEOS, REWRAP, LeftOut
from sapiens_ray.planning.overlap import Listed
from sapiens_ray.planning.subset import SUFFIX
from sapiens_ray.sources import SOURCES, VIDEO, Entry, EntrySource, Reading, ShardSource, format_of, is_shard_format
from sapiens_ray.sources import folders as image_folders
from sapiens_ray.sources.base import matches
from sapiens_ray.storage import Folder
from sapiens_ray.storage.retries import retrying
from sapiens_ray.storage.uris import absolute, redact_uri

IMAGES = "images"  # the format of folders of images, and of single images
MAX_RANGE = 1_000_000
TRIAL_END = re.compile(f"{SUFFIX}$")
OUTPUT_END = re.compile(f"({SUFFIX})?/")
SINGLE_IMAGES = 1000  # that are looked at together: a trial may need only a few
LOOK = 10_000  # files of a folder that are listed before its format is decided


@dataclass(frozen=True)
class Found:
    """What input URIs turned out to be: one file that is a shard, or the images of one folder or list, or single images
    that were named one after the other.

    `entries` may be an iterator over a listing in progress. is_folder: of images. last: nothing from another
    `input.uri` follows.
    """

    format: str
    uri: str
    name: str
    entries: Iterable[Entry] = ()
    is_folder: bool = False
    last: bool = False


def find_input(settings: Input, reading: Reading, left_out: LeftOut, output: str = "") -> Iterator[Found]:
    """Everything that the input names, without duplicates, in a stable order.

    left_out: counts what is not listed. Files below `output` are not either: the output may be inside the input folder.
    Raises InputError for a URI that does not exist or is ambiguous.
    """
    with storage.translate_errors(InputError, f"input.uri: cannot list {', '.join(map(redact_uri, settings.uri))}"):
        uris = list(dict.fromkeys(expanded for uri in settings.uri for expanded in _expand(uri, settings)))
        search = _Search(settings, reading, _common_root(uris), output.rstrip("/"), left_out)
        listed = Listed(search.is_listed_image)
        for storage_root, group in itertools.groupby(_named_once(search, uris), _single_image_in):
            if storage_root is not None:
                while images := list(itertools.islice(group, SINGLE_IMAGES)):
                    found = _together(images)
                    yield replace(found, entries=listed.without(found.uri, found.entries))
                    listed.add_images(one.uri for one in images)
                continue
            for found in group:
                if found.is_folder:
                    yield replace(found, entries=listed.without(found.uri, found.entries))
                    listed.add_folder(found.uri)
                else:
                    yield found


def _named_once(search: _Search, uris: list[str]) -> Iterator[Found]:
    """What the URIs turn out to be, without duplicates."""
    seen: set[str] = set()
    for uri in uris:
        for found in search.at(uri, search.settings.format):
            if found.uri not in seen:
                seen.add(found.uri)
                yield replace(found, last=uri == uris[-1])


def _single_image_in(found: Found) -> str | None:
    """The storage that a single image is on, such as s3://bucket; None for everything else."""
    if found.format != IMAGES or found.is_folder:
        return None
    return "/".join(found.uri.split("/")[:3]) if storage.is_remote(found.uri) else ""


def _common_folder(names: list[str]) -> str:
    parts = [name.split("/")[:-1] for name in names]
    return "/".join(os.path.commonprefix(parts))  # works on lists of parts as well as on characters


def _together(images: list[Found]) -> Found:
    """Images that are named one after the other, such as those that a glob matches, as if they were a folder.
    Otherwise each would be a shard."""
    if len(images) == 1:
        return images[0]
    uri, name = (_common_folder(names) for names in ([one.uri for one in images], [one.name for one in images]))
    entries = itertools.chain.from_iterable(one.entries for one in images)
    return Found(IMAGES, uri, name, entries, last=images[-1].last)


def _expand(uri: str, settings: Input) -> list[str]:
    """Expand brace ranges and globs."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", uri)
    if match:
        first, last = match.groups()
        numbers = range(int(first), int(last) + 1)
        if len(numbers) > MAX_RANGE:
            raise InputError(f"input.uri: {redact_uri(uri)} names {len(numbers)} files; the limit is {MAX_RANGE}")
        spelled = [f"{uri[: match.start()]}{number:0{len(first)}d}{uri[match.end() :]}" for number in numbers]
        return [one for item in spelled for one in _expand(item, settings)]
    fs, path = storage.filesystem(uri, settings.storage_options)
    fs.invalidate_cache()  # of an earlier run in this process
    if any(mark in uri for mark in "*?[") and not retrying(fs.exists, path, of=uri):
        found = sorted(retrying(fs.glob, path, of=uri))
        if not _has_dot(path):  # as in a shell, `*` stands for no name that begins with a dot
            found = [name for name in found if not _has_dot(name)]
        if not found:
            raise InputError(f"input.uri: nothing matches {redact_uri(uri)}")
        return [fs.unstrip_protocol(name) if storage.is_remote(uri) else name for name in found]
    return [uri]


def _common_root(uris: list[str]) -> str:
    """The folder that image ids are relative to: the folder that one URI names, or the common parent of several."""
    if len(uris) == 1 and not format_of(uris[0]):
        return uris[0].rstrip("/")
    return _common_folder([uri.rstrip("/") for uri in uris])


@dataclass(frozen=True)
class _Search:
    """Inspects one URI after the other. root: the folder that image ids are relative to."""

    settings: Input
    reading: Reading
    root: str
    output: str
    left_out: LeftOut
    known_outputs: dict[str, bool] = field(default_factory=dict)  # folders that were looked at

    def at(self, uri: str, wanted: str) -> Iterator[Found]:
        """What a URI contains, read in the `wanted` format or, for auto, in the format of its suffix."""
        options = self.settings.storage_options
        fs, path = storage.filesystem(uri, options)
        name = _below(uri, self.root)
        kind = wanted if wanted != "auto" else format_of(uri)
        if storage.is_remote(uri) and is_shard_format(kind) and format_of(uri) == kind:
            yield Found(str(kind), uri, name)  # its stamp is requested next, together with those of many others
            return
        if retrying(fs.isdir, path, of=uri):
            yield from self._in_folder(Folder(uri.rstrip("/") or "/", options), wanted)
            return
        is_link = not storage.is_remote(uri) and os.path.islink(storage.local_path(uri))
        if not retrying(fs.exists, path, of=uri) and not (is_link and has_image_suffix(uri)):  # that one gets its row
            raise InputError(f"input.uri: {redact_uri(uri)} does not exist")
        if kind is None and has_image_suffix(uri):
            kind = IMAGES
        source = SOURCES[kind] if kind else None
        if kind and isinstance(source, EntrySource):
            yield Found(kind, uri, name, source.entries(uri, _folder_of(name), self.reading))
        elif kind:
            yield Found(kind, uri, name)
        else:
            if uri.lower().endswith(OTHER_VIDEOS):
                raise InputError(f"input.uri: {redact_uri(uri)} is a video of a kind that is not read; {REWRAP}")
            if uri.lower().endswith(".json"):
                raise InputError(
                    f"input.uri: {redact_uri(uri)} is a JSON file; a list of images is one JSON object per line, in a "
                    "file whose name ends with .jsonl"
                )
            suffixes = [suffix for known in SOURCES.values() for suffix in known.suffixes]
            raise InputError(
                f"input.uri: {redact_uri(uri)} is not a folder, an image, or a file that ends with one of "
                f"{', '.join(suffixes)}; set input.format"
            )

    def _in_folder(self, folder: Folder, wanted: str) -> Iterator[Found]:
        prefix = f"{_below(folder.uri, self.root)}/".lstrip("/")
        everywhere = storage.walk(folder, lambda name: self._is_entered(folder, name))
        listed = ((name, is_file) for name, is_file in everywhere if self._is_listed(folder, name, is_file))
        first = list(itertools.islice(listed, LOOK))
        kinds = {kind for name, is_file in first if (kind := self._kind_in_folder(name, is_file))}
        everything: Iterator[tuple[str, bool]] = itertools.chain(first, listed)
        if wanted == "auto" and len(kinds) > 1:
            self._refuse(folder, kinds)
        kind = wanted if wanted != "auto" else next(iter(kinds), IMAGES)
        if wanted == "auto":
            everything = self._of_one_kind(folder, kind, everything)
        if kind == IMAGES:
            entries = image_folders.find(folder, self.settings.include, prefix, everything)
            yield Found(IMAGES, folder.uri, prefix, entries, is_folder=True)
            return
        for name, is_file in everything:
            if is_file and format_of(name) == kind and self._is_included(kind, name):
                yield from self.at(folder.join(name), kind)

    def _of_one_kind(
        self, folder: Folder, kind: str, everything: Iterable[tuple[str, bool]]
    ) -> Iterator[tuple[str, bool]]:
        """The same names. Raises InputError at a name of another kind, which may follow after the first `LOOK`."""
        for name, is_file in everything:
            other = self._kind_in_folder(name, is_file)
            if other and other != kind:
                self._refuse(folder, {kind, other})
            yield name, is_file

    def _kind_in_folder(self, name: str, is_file: bool) -> str | None:
        """The kind of input that a folder with this file is; None if the file does not decide it.

        Lists in folders are not read.
        """
        kind = format_of(name) if is_file else None
        if kind == VIDEO and self.settings.format != VIDEO:
            return None
        if is_shard_format(kind):
            return kind
        return IMAGES if image_folders.chosen(name, is_file, self.settings.include) else None

    def _is_entered(self, folder: Folder, name: str) -> bool:
        """Whether to look into a folder of a local folder: not into one with labels of another job on the photos."""
        if _has_dot(name) and not self._hidden_patterns:
            return False
        uri = folder.join(name)
        if _is_written(uri):
            return False
        is_output = _is_output_folder(uri) and not _has_photos(uri)
        self.left_out.outputs += is_output and not self._is_output(folder, f"{name}{DATA}")
        return not is_output

    def _is_listed(self, folder: Folder, name: str, is_file: bool) -> bool:
        """Whether a file or folder of a folder may be input; counts those that are left out."""
        if self._is_output(folder, name) or _is_written(folder.join(name)):
            return False
        if self._is_hidden(name):  # a hidden folder counts as one, unless it is entered
            counts = self._kind_in_folder(name, is_file) is not None if is_file else not self._hidden_patterns
            self.left_out.hidden += counts
            return False
        is_video = is_file and self._is_left_out_video(name)
        self.left_out.videos += is_video and matches(name, self.settings.include)
        # `include` may ask for files whatever their suffix: these are not left out.
        if is_file and not is_video and self._kind_in_folder(name, is_file) is None:
            self.left_out.photos += name.lower().endswith(OTHER_PHOTOS) and matches(name, self.settings.include)
            self.left_out.unnamed += "." not in name.rpartition("/")[2] and matches(name, self.settings.include)
        return not is_video

    def _is_left_out_video(self, name: str) -> bool:
        """Whether a file is a video, and videos of its kind are not read here."""
        if name.lower().endswith(OTHER_VIDEOS):
            return True
        return self.settings.format != VIDEO and format_of(name) == VIDEO

    def _is_included(self, kind: str, name: str) -> bool:
        """Whether `include` chooses a file of this kind. Of most kinds, it chooses among the images in files."""
        source = SOURCES[kind]
        by_name = isinstance(source, ShardSource) and source.includes_files
        return not by_name or matches(name, self.settings.include)

    def is_listed_image(self, uri: str, name: str) -> bool:
        """Whether an image is listed with a folder that it is in. name: relative to that."""
        if not image_folders.chosen(name, True, self.settings.include) or self._is_hidden(name):
            return False
        folder = Folder(uri, self.settings.storage_options)
        parts = name.split("/")
        above = ["/".join(parts[:end]) for end in range(1, len(parts))]
        return not self._is_output(folder, name) and not any(self._is_of_outputs(folder.join(one)) for one in above)

    def _is_of_outputs(self, uri: str) -> bool:
        """Whether a folder is one with labels, or one that runs write in such a folder."""
        if uri not in self.known_outputs:
            self.known_outputs[uri] = _is_written(uri) or (_is_output_folder(uri) and not _has_photos(uri))
        return self.known_outputs[uri]

    def _is_hidden(self, name: str) -> bool:
        """Whether a name begins with a dot, or is in a folder whose name does, and `include` does not ask for it."""
        asked_for = self._hidden_patterns and matches(name, self._hidden_patterns)
        return _has_dot(name) and not asked_for

    @cached_property
    def _hidden_patterns(self) -> list[str]:
        """The patterns of `include` that ask for hidden files."""
        return [pattern for pattern in self.settings.include if _has_dot(pattern)]

    def _is_output(self, folder: Folder, name: str) -> bool:
        """Whether a file of a folder is in an output of the job, or of a trial of it. They may be in the folder of the
        photos or below it."""
        uri = f"{folder.join(name)}/"
        if not self._output or not uri.startswith(self._output):
            return False
        if folder.uri.rstrip("/") == self._output:
            return uri.startswith(tuple(f"{self._output}/{part}" for part in PARTS))
        return OUTPUT_END.match(uri, len(self._output)) is not None

    @cached_property
    def _output(self) -> str:
        """The output of the whole job, also in a trial."""
        return TRIAL_END.sub("", self.output)

    def _refuse(self, folder: Folder, kinds: set[str]) -> NoReturn:
        held = ", ".join(kind for kind in SOURCES if kind in kinds)
        raise InputError(
            f"input.format: {redact_uri(folder.uri)} holds several kinds of input ({held}); say which to read"
        )


def _folder_of(name: str) -> str:
    folder, slash, _ = name.rpartition("/")
    return folder + slash


def _below(uri: str, root: str) -> str:
    """`uri` relative to the root."""
    trimmed = uri.rstrip("/")
    return trimmed[len(root) :].lstrip("/") if root and trimmed.startswith(root) else trimmed.lstrip("/")


def _is_output_folder(uri: str) -> bool:
    """Whether a folder of this machine is an output of this package."""
    folder = Path(storage.local_path(uri))
    return not storage.is_remote(uri) and (folder / PLAN_FILE).exists() and (folder / JOB_FILE).exists()


def _is_written(uri: str) -> bool:
    """Whether a file or folder of this machine has a name that runs give, and is in an output."""
    above, _, name = uri.rstrip("/").rpartition("/")
    return f"{name}/" in PARTS and _is_output_folder(above)


def _has_photos(output: str) -> bool:
    """Whether an output folder is the folder of the photos, too, or around it."""
    folder = absolute(output)
    return any(f"{uri}/".startswith(f"{folder}/") for uri in input_uris(Folder(folder)))


def _has_dot(name: str) -> bool:
    return name.startswith(".") or "/." in name
