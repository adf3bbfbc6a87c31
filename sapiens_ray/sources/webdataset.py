"""WebDataset tars: a streaming reader that reports damage as an error row and continues.

Python's `tarfile` stops silently where an archive is cut off at a member boundary or inside a header, and loses all
members after a damaged header. Here every image member that can be read has its row, in the order of the archive, and
every place of damage has one too, with the shard as `image_id`.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, ClassVar

from sapiens_ray import storage
from sapiens_ray.errors import ImageError
from sapiens_ray.imaging.images import has_image_suffix, looks_like_image
from sapiens_ray.sources.base import Encoded, Images, Reading, ShardSource, matches, unused
from sapiens_ray.storage.uris import readable, redact_uri
from sapiens_ray.units import Done, Row

BLOCK = tarfile.BLOCKSIZE
MAX_JSON = 16 << 20
MAX_SAMPLE = 256  # images of one key that are held until their JSON is read
MAX_MEMBER = 1 << 30  # bytes; a larger image is refused
# Plain `tar cf` packs a folder in the order of the disk, which parts an image from its JSON.
NO_JSON = (
    "some images of tars have no <key>.json right before or after them, and so no columns: the members of a key must "
    "follow each other, as `tar --sort=name` packs them, and a key ends at the first dot of a name"
)
_LOST = (tarfile.HeaderError, tarfile.ReadError, ValueError, EOFError, zlib.error, gzip.BadGzipFile)


class _Headers(tarfile.TarFile):
    """A TarFile that reads headers only through `TarInfo.fromtarfile`, which raises where `next` is silent."""

    def next(self) -> None:
        return None


class _Damage(Exception):
    """The archive is damaged here. `fatal` if nothing after it can be read."""

    def __init__(self, message: str, fatal: bool) -> None:
        super().__init__(message)
        self.fatal = fatal


class Tars(ShardSource):
    """WebDataset shards, and any other tar with images in it."""

    suffixes: ClassVar[tuple[str, ...]] = (".tar", ".tar.gz", ".tgz")
    ignored: ClassVar[tuple[str, ...]] = ("id_column", "image_column")

    def read(self, uri: str, shard_id: str, done: Done, reading: Reading) -> Images:
        """The image members of a tar, read once, front to back.

        image_id is `<shard>/<member name>`, so several images of one WebDataset key have different ids; the key itself
        (member name up to the first dot of its last part) is in `extra["key"]`. The second member with the same name
        gets `#2` at its end. A member is an image if it has the suffix or the first bytes of one; with `include` only
        the patterns decide.

        Columns (boxes, masks, passthrough) are fields of the `<key>.json` next to the images of a key. Members of a
        key are consecutive, as WebDataset requires; an image whose JSON lies elsewhere in the tar has none.
        """
        return read(uri, shard_id, done, reading)

    def first_records(self, uri: str, reading: Reading, count: int) -> list[Row]:
        """The JSON fields of the first `count` images, and their `key`. Reads no image; damage ends the list."""
        return first_records(uri, reading, count)

    def read_numbers(self, uri: str, reading: Reading) -> Iterator[int]:
        """From the headers alone."""
        with storage.open_read(uri, reading.storage_options) as raw:
            members = _members(raw, reading.include, with_json=bool(reading.columns))
            yield from (index for index, _ in enumerate(member for member in members if not member.is_json))

    def count(self, uri: str, reading: Reading) -> int | None:
        """The number of image members of an uncompressed local tar. Damage, if any, adds rows to it."""
        if storage.is_remote(uri) or not uri.lower().endswith(".tar"):
            return None
        try:
            with tarfile.open(storage.local_path(uri), "r:") as tar:
                names = [member.name.removeprefix("./") for member in tar if not member.isdir()]
        except (tarfile.TarError, OSError):
            return None
        include = reading.include
        return sum(matches(name, include) if include else has_image_suffix(name) for name in names)


SOURCE = Tars()


def read(uri: str, shard_id: str, done: Done, reading: Reading) -> Images:
    """See `Tars.read`."""
    fields = reading.columns
    index = 0
    names: dict[str, int] = {}
    sample = _Sample("")
    with storage.open_read(uri, reading.storage_options) as raw:
        for member in _members(raw, reading.include, bool(fields)):
            ours = member.is_json and member.key == sample.key
            if done.total is not None and index >= done.total and not ours:
                break
            if member.key != sample.key:
                sample.beside_damage = sample.beside_damage or member.name is None
                yield from sample.complete(reading)
                sample = _Sample(member.key, beside_damage=sample.is_damage)
            sample.is_damage = member.name is None
            if member.is_json:
                sample.read(member)
                continue
            name = unused(readable(member.name or ""), names)
            if not done.has(index):
                sample.images.append(_row(index, member, uri, shard_id, name))
            index += 1
            if len(sample.images) == MAX_SAMPLE:
                sample.error = ImageError("bad_boxes", f"more than {MAX_SAMPLE} images share the key {sample.key!r}")
            if not fields or sample.error:  # nothing to wait for
                yield from sample.complete(reading)
    yield from sample.complete(reading)
    return index


def first_records(uri: str, reading: Reading, count: int) -> list[Row]:
    """See `Tars.first_records`."""
    records: list[Row] = []
    sample = _Sample("")
    images = 0  # of this key
    with storage.open_read(uri, reading.storage_options) as raw:
        for member in _members(raw, reading.include, with_json=True):
            if member.name is None:
                break
            if member.key != sample.key:
                records += [sample.fields] * images
                sample, images = _Sample(member.key), 0
            if len(records) >= count:
                break
            if member.is_json:
                sample.read(member)
            else:
                images += 1
    records += [sample.fields] * images
    return records[:count]


class _Sample:
    """Consecutive images of one key, held until its JSON is read. fields: those of the JSON, and the key itself.
    is_damage: it is a place of damage. beside_damage: it lies next to one, where its JSON may have been."""

    def __init__(self, key: str, beside_damage: bool = False) -> None:
        self.key = key
        self.is_damage, self.beside_damage = False, beside_damage
        self.images: list[Encoded] = []
        self.fields: Row = {"key": readable(key)}
        self.error: ImageError | None = None
        self.has_json = False

    def read(self, member: _Member) -> None:
        """Read the fields of a JSON member. If it cannot be read, the images of its key have none."""
        self.has_json = True
        try:
            if member.size > MAX_JSON:
                raise ValueError(f"{member.size} bytes")
            values = json.loads(member.load())
            if not isinstance(values, dict):
                raise ValueError("not an object")
            self.fields |= values
        except (ValueError, RecursionError, ImageError) as error:
            self.error = ImageError("bad_boxes", f"{readable(member.name or '')} cannot be used: {error}"[:500])

    def complete(self, reading: Reading) -> Iterator[Encoded]:
        """The images, with their fields. Those whose boxes or masks cannot be read become error rows."""
        parted = not (self.has_json or self.beside_damage or self.error) and set(reading.columns) != {"key"}
        for image in self.images:
            image.extra.update({name: self.fields[name] for name in reading.columns if name in self.fields})
            if parted and reading.columns and image.error is None:
                image.note = NO_JSON
            if reading.labels:
                image.error = image.error or self.error
            elif self.error:
                image.note = "input.columns: some <key>.json of tars cannot be read; their values are null"
            yield image
        self.images = []


def _row(index: int, member: _Member, uri: str, shard_id: str, name: str) -> Encoded:
    if member.name is None:
        return Encoded(index, shard_id, redact_uri(uri), error=member.error)
    data = None
    error = member.error
    if error is None:
        try:
            data = member.load()
        except ImageError as problem:
            error = problem
    return Encoded(
        index,
        image_id=f"{shard_id}/{name}",
        uri=f"{redact_uri(uri)}#{readable(member.name)}",
        data=data,
        error=error,
        extra={"key": readable(member.key)},
    )


class _Member:
    """An image or JSON member, or a place of damage (`name` is None). Data is read only if asked for."""

    def __init__(
        self, name: str | None, stream: IO[bytes] | None = None, size: int = 0, head: bytes = b"",
        error: ImageError | None = None, is_json: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.stream, self.size, self.head, self.error = name, stream, size, head, error
        self.is_json = is_json
        self.complete: bool | None = None  # whether the archive holds all of it; known once it is loaded

    @property
    def key(self) -> str:
        """The member's name up to the first dot of its last part; empty for damage."""
        folder, _, base = (self.name or "").rpartition("/")
        return f"{folder}/{base.split('.', 1)[0]}".lstrip("/")

    def load(self) -> bytes:
        """The member's bytes. Raises ImageError if the archive ends or breaks inside it."""
        assert self.stream is not None
        if self.size > MAX_MEMBER:
            raise ImageError("too_large", f"the member says it has {self.size} bytes")
        self.complete = False
        try:
            data = self.head + self.stream.read(self.size - len(self.head))
        except _LOST as problem:
            raise ImageError("unreadable", f"the shard is damaged inside this member: {problem}") from None
        if len(data) < self.size:
            raise ImageError(
                "unreadable", f"the shard ends inside this member, after {len(data)} of its {self.size} bytes"
            )
        self.complete = True
        return data


def _members(raw: IO[bytes], include: Sequence[str], with_json: bool) -> Iterator[_Member]:
    """Image members (and JSON ones) and places of damage, in the order of the archive."""
    stream: IO[bytes] = raw
    if raw.read(2) == b"\x1f\x8b":
        stream = gzip.GzipFile(fileobj=raw, mode="rb")  # type: ignore[assignment]
    raw.seek(0)
    headers = _Headers(fileobj=stream, mode="r", errors="surrogateescape")
    position = 0
    while True:
        try:
            info = _next_header(headers, stream, position)
            if info is None:
                return
            if info.size < 0 or headers.offset <= position:  # the reader would go back and never end
                raise _Damage(f"a header at byte {position} says {info.size} bytes", fatal=False)
            position = headers.offset
            member = _member(info, stream, include, with_json)
            if member is not None:
                yield member
            if member is None or member.complete is None:
                _require(stream, info)
            elif not member.complete:
                raise _Damage(f"the tar ends or breaks inside member {readable(info.name)!r}", fatal=True)
        except _Damage as damage:
            yield _Member(None, error=ImageError("shard_damaged", str(damage)))
            found = None if damage.fatal else _resynchronize(stream, position)
            if found is None:
                return
            position = found


def _next_header(headers: tarfile.TarFile, stream: IO[bytes], position: int) -> tarfile.TarInfo | None:
    """The header at `position`, or None at the end of the archive. Raises _Damage."""
    zeros = 0
    while True:
        try:
            stream.seek(position)
            headers.offset = position
            return tarfile.TarInfo.fromtarfile(headers)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros
            zeros += 1
            position += BLOCK
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]  # nothing left
            if zeros:
                return None
            what = (
                "is empty" if position == 0 else f"ends without its end-of-archive blocks: cut off at byte {position}"
            )
            raise _Damage(f"the tar {what}", fatal=True) from None
        except tarfile.TruncatedHeaderError:  # type: ignore[attr-defined]
            raise _Damage(f"the tar ends inside a header at byte {position}", fatal=True) from None
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _Damage(f"the compressed tar is damaged: {error}", fatal=True) from None
        except (tarfile.HeaderError, tarfile.ReadError, ValueError) as error:
            where = "after the end of the archive" if zeros else "instead of a tar header"
            raise _Damage(f"unexpected bytes {where}, at byte {position}: {error}", fatal=False) from None


def _member(info: tarfile.TarInfo, stream: IO[bytes], include: Sequence[str], with_json: bool) -> _Member | None:
    name = info.name.removeprefix("./")
    if with_json and info.isreg() and name.rpartition("/")[2].split(".", 1)[1:] == ["json"]:
        stream.seek(info.offset_data)
        return _Member(name, stream, info.size, is_json=True)
    suffixed = matches(name, include) if include else has_image_suffix(name)
    if info.islnk() or info.issym():
        if not suffixed:
            return None
        return _Member(name, error=ImageError("unreadable", f"is a link inside the tar, to {readable(info.linkname)}"))
    if not info.isreg():
        return None
    stream.seek(info.offset_data)
    if suffixed:
        return _Member(name, stream, info.size)
    if include:
        return None
    try:
        head = stream.read(min(16, info.size))
    except _LOST:
        return None  # _require reports the damage
    return _Member(name, stream, info.size, head) if looks_like_image(head) else None


def _require(stream: IO[bytes], info: tarfile.TarInfo) -> None:
    """Raise _Damage if the archive ends before the end of this member's data, which has not been read."""
    if not info.isreg() or info.size == 0:
        return
    try:
        stream.seek(info.offset_data + info.size - 1)
        complete = len(stream.read(1)) == 1
    except _LOST as error:
        raise _Damage(f"damaged inside member {readable(info.name)!r}: {error}", fatal=True) from None
    if not complete:
        raise _Damage(f"the tar ends inside member {readable(info.name)!r}", fatal=True)


def _resynchronize(stream: IO[bytes], position: int) -> int | None:
    """The offset of the next block after `position` that is a valid header; None if there is none."""
    position += BLOCK
    try:
        stream.seek(position)
        while block := stream.read(BLOCK):
            if block[257:262] == b"ustar":
                try:
                    tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                    return position
                except tarfile.HeaderError:
                    pass
            position += BLOCK
    except (*_LOST, io.UnsupportedOperation):
        return None
    return None
