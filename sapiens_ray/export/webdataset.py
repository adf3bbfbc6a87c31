"""WebDataset tars: a sample per image, with its labels as files beside each other, with or without the photo.

Images of folders, lists and Parquet files get new tars. Images of tars get tars with the names of those that they came
from, and samples with the same keys, so that both can be read side by side.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import re
import tarfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sapiens_ray.errors import ConfigError, OutputError
from sapiens_ray.export.base import Export, Exported, Omitted, Option, Options, place_of, values_of
from sapiens_ray.export.json_text import json_text
from sapiens_ray.export.photos import Photos, archives_of, suffix_of
from sapiens_ray.imaging.images import looks_like_image
from sapiens_ray.imaging.names import file_names
from sapiens_ray.output.reading import iterate_rows, labels_of, schema_in
from sapiens_ray.output.where import ChosenRows, is_binary
from sapiens_ray.planning.plan import Shard
from sapiens_ray.storage import Folder
from sapiens_ray.units import Row

LARGEST_TAR = 1 << 30  # bytes of members, after which the next sample begins a new tar
KEY, ERRORS = "key", ("error_kind", "error")
UNUSED = "visualization"  # a path in the output folder


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise ValueError("should be a whole number of at least 1")
    return int(text)


def _base_name(text: str) -> str:
    if not text or "/" in text or "." in text:
        raise ValueError("should be a word without dots and slashes")
    return text


PHOTOS = Option("photos", "also write the photos, read again from where the job read them", False, flag=True)
NAME = Option("name", "the new tars are NAME-000000.tar, NAME-000001.tar, ...; default labels", "labels", _base_name)
SHARD_SIZE = Option("shard_size", "images in each new tar; default 1000", 1000, _count)
OPTIONS = (PHOTOS, NAME, SHARD_SIZE)


@dataclass(frozen=True)
class Member:
    """A file in a tar. tar: the name of the tar. name: `<key>.<field>`."""

    tar: str
    name: str
    data: bytes


def export_webdataset(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write tars with `<key>.json` (all columns without maps) and `<key>.<column>.png` or `.npy` for each map.

    Keys of new tars are `<shard>-<index>`, the place of the image in the output. Beside tars of the input, keys are
    theirs, and error rows have a JSON, too, unless photos are written. Members have no times and no owners: the same
    labels give the same bytes. Raises OutputError if there are no labels.
    """
    done, omitted = Exported(), Omitted()
    members = _members(source, values_of(OPTIONS, options), done, omitted)
    written: set[str] = set()
    for name, group in itertools.groupby(members, key=lambda member: member.tar):
        if name in written:
            raise OutputError(f"two tars of the input would be {name}; export one of them by --where elsewhere")
        written.add(name)
        with target.replacing(name, durable=False) as path:
            _write_tar(path, group, compressed=not name.endswith(".tar"))
    omitted.report(done, source)
    return done


EXPORT = Export("tars with the labels of each image side by side, for loaders", export_webdataset, OPTIONS)


def _members(source: Folder, options: Options, done: Exported, omitted: Omitted) -> Iterator[Member]:
    """The files of all samples, in order, without keeping them."""
    schema = schema_in(source)
    maps = [name for labels in labels_of(source) for name in labels.maps]
    binary = [one.name for one in schema if is_binary(one.type)]
    done.left_out.update({name: "holds bytes that are no labels" for name in binary if name not in maps})
    texts = [name for name in schema.names if name not in (*binary, UNUSED)]
    photos = Photos(source) if options[PHOTOS.name] else None
    # Photos of Parquet files and videos are in no tar, also where an input column is called `key`.
    tars = {number: shard for number, shard in archives_of(source).items() if shard.format == "webdataset"}
    _refuse_name(options[NAME.name], tars.values())
    beside = BesideTars(tars)
    new = NewTars(options[NAME.name], options[SHARD_SIZE.name])
    for row in iterate_rows(source, [*texts, *maps]):
        failed, in_tar = row["error_kind"] is not None, row["shard"] in tars and row.get(KEY) is not None
        done.images += not failed
        done.skipped += failed
        if failed and (photos or not in_tar):
            continue
        fields: dict[str, bytes] = {}
        if photos:
            photo, why = photos.read(row)
            if photo is None:
                omitted.drop(why, row["image_id"], done)
                continue
            fields[suffix_of(row["image_id"], photo)] = photo
        fields["json"] = json_text({name: row[name] for name in texts if failed or name not in ERRORS}).encode()
        fields |= {f"{name}.{_suffix(row[name])}": row[name] for name in maps if row[name] is not None}
        if in_tar:
            new.end()  # tars are written one after the other
        tar, sample = beside.place(row, fields) if in_tar else new.place(row, sum(map(len, fields.values())))
        for field, data in fields.items():
            yield Member(tar, f"{sample}.{field}", data)
    if isinstance(source, ChosenRows) and beside.used:
        done.notes.append("tars of the input have samples that --where leaves out: pair them by key, not by position")
    if beside.climbing:
        done.notes.append(f"keys with `..`, which are written as `__`: {beside.climbing}, such as {beside.first}")


class NewTars:
    """Where samples of images are that were not in tars: tars of `size` images, fewer where they would take more than
    LARGEST_TAR bytes."""

    def __init__(self, name: str, size: int) -> None:
        self._name, self._size = name, size
        self._number = self._images = self._bytes = 0

    def place(self, row: Row, size: int) -> tuple[str, str]:
        """The tar, and what the names of the files begin with. size: bytes of the sample."""
        if self._images == self._size or self._bytes + size > LARGEST_TAR:
            self.end()
        self._images += 1
        self._bytes += size
        shard, index = place_of(row)
        return f"{self._name}-{self._number:06d}.tar", f"{shard:06d}-{index:08d}"

    def end(self) -> None:
        """Put the next sample into another tar."""
        self._number, self._images, self._bytes = self._number + bool(self._images), 0, 0


class BesideTars:
    """Where samples of images are that were members of tars: in tars of the same names, under the same keys.

    A key may have several images, such as k.left.jpg and k.right.jpg: their labels are k.left.json and k.right.json.
    """

    def __init__(self, shards: Mapping[int, Shard]) -> None:
        self._shards = shards
        self._sample: tuple[int, str] | None = None
        self._taken: set[str] = set()  # names of files of the key
        self._asked = Counter[str]()
        self.used = False
        self.climbing, self.first = 0, ""  # images whose keys lead out of their folder, and one of them

    def place(self, row: Row, fields: Collection[str]) -> tuple[str, str]:
        """The tar, and what the names of the files begin with, to be followed by a dot and each of the fields."""
        shard_id, key = self._shards[row["shard"]].shard_id, row[KEY]
        sample = "/".join("__" if part == ".." else part for part in key.split("/"))  # nothing leaves its folder
        if sample != key:
            self.climbing, self.first = self.climbing + 1, self.first or row["image_id"]
        self.used = True
        if self._sample != (row["shard"], key):
            self._sample, self._taken = (row["shard"], key), set()
            self._asked.clear()
        member = row["image_id"].removeprefix(f"{shard_id}/").lstrip("/")
        middle = member[len(key) + 1 :].rpartition(".")[0]
        wanted = f"{sample}.{middle}" if middle else sample
        while True:
            self._asked[wanted.lower()] += 1  # readers ignore case
            number = self._asked[wanted.lower()]  # of k.png beside k.jpg
            found = f"{wanted}.{number}" if number > 1 else wanted
            names = {f"{found}.{field}".lower() for field in fields}
            if not names & self._taken:
                self._taken |= names
                return file_names(shard_id)[1], found


def _refuse_name(name: str, shards: Iterable[Shard]) -> None:
    """Raise ConfigError if a tar of the input has a name that new tars may get."""
    for shard in shards:
        tar = file_names(shard.shard_id)[1]
        if re.fullmatch(rf"{re.escape(name)}-\d+\.tar", tar):
            raise ConfigError(f"--name {name}: the input has a tar {tar}, whose labels get that name; choose another")


def _suffix(cell: bytes) -> str:
    """Maps are stored as PNG or `.npy`."""
    return "png" if looks_like_image(cell) else "npy"


def _write_tar(path: Path, members: Iterable[Member], compressed: bool) -> None:
    with (
        path.open("wb") as file,
        _compressing(file) if compressed else contextlib.nullcontext(file) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.size = len(member.data)
            tar.addfile(info, io.BytesIO(member.data))


def _compressing(file: IO[bytes]) -> gzip.GzipFile:
    """Without the time, so that the same labels give the same bytes."""
    return gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
