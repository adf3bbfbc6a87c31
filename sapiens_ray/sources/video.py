"""Videos: every file is a shard, every chosen frame an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, cast

import numpy as np
import pyarrow as pa

from sapiens_ray import storage
from sapiens_ray.errors import ImageError
from sapiens_ray.imaging.images import check_size, encode_bmp
from sapiens_ray.imaging.video_pixels import FrameConverter
from sapiens_ray.sources.base import READING_SETTINGS, Encoded, Images, Look, Reading, ShardSource
from sapiens_ray.sources.video_frames import decoded
from sapiens_ray.sources.video_options import VideoOptions
from sapiens_ray.sources.video_streams import DamagedVideoError, Watched, pyav
from sapiens_ray.sources.video_table import FrameTable, read_table
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.units import Done

COLUMNS = {"frame": pa.int64(), "time_s": pa.float64()}
LARGEST_TO_COUNT = 256 << 20  # bytes: the frames of larger files are counted when they are read
SAME_TIME = "some frames of videos have the same time as the one before; they have no rows"
LOST = "the video is damaged here, or where a frame is that this one is predicted from"


class Videos(ShardSource):
    """MP4, MOV, Matroska and WebM."""

    suffixes: ClassVar[tuple[str, ...]] = (".mp4", ".mov", ".m4v", ".mkv", ".webm")
    ignored: ClassVar[tuple[str, ...]] = READING_SETTINGS
    includes_files: ClassVar[bool] = True

    def read(self, uri: str, shard_id: str, done: Done, reading: Reading) -> Images:
        """The chosen frames of a video, as BMP files: uncompressed, since PNG would take more time than decoding.

        image_id is `<shard>/<number of the frame>`. A place where the file is damaged is an image of the name of the
        shard (the second one with `#2` behind it, and so on), with an error; frames that cannot be decoded have one
        each. A file that is no video is one such image.
        """
        with storage.open_read(uri, reading.storage_options) as raw:
            stream = Watched(raw)
            try:
                table = _table_of(uri, stream, reading)
                items = Items(table, reading.video or VideoOptions())
            except DamagedVideoError as error:
                if not done.has(0):
                    yield damage(0, uri, shard_id, 0, str(error))
                return 1
            yield from _images(stream, table, items, uri, shard_id, done, reading)
        return len(items)

    def look(self, uri: str, reading: Reading) -> Look:
        """The columns of frames. Raises ConfigError without PyAV. The file is not opened."""
        pyav()
        return Look(types=COLUMNS)

    def read_numbers(self, uri: str, reading: Reading) -> Iterator[int]:
        """Without decoding."""
        with storage.open_read(uri, reading.storage_options) as raw:
            try:
                table = read_table(Watched(raw), reading.progress)
                yield from range(len(Items(table, reading.video or VideoOptions())))
            except DamagedVideoError:
                yield 0

    def count(self, uri: str, reading: Reading) -> int | None:
        """The number of frames of a local file that is not large."""
        if storage.is_remote(uri):
            return None
        try:
            small = storage.stamp(uri)[0] <= LARGEST_TO_COUNT
            return sum(1 for _ in self.read_numbers(uri, reading)) if small else None
        except OSError:
            return None


SOURCE = Videos()


def _table_of(uri: str, stream: Watched, reading: Reading) -> FrameTable:
    """The table of a video: that of an earlier reading, if it was of the same file."""
    kept = reading.kept or {}
    if kept.get("video") == uri:
        return cast(FrameTable, kept["table"])
    table = read_table(stream, reading.progress)
    if reading.kept is not None:
        reading.kept.update(video=uri, table=table)
    return table


class Items:
    """What a video becomes rows of, in order: the numbers of its chosen frames, and the places where it is damaged,
    each before the first frame that is stored behind it."""

    def __init__(self, table: FrameTable, options: VideoOptions) -> None:
        """Raises DamagedVideoError for a video without frames."""
        if not len(table):
            raise DamagedVideoError(next(iter(table.breaks.values()), "the video track holds no frame"))
        frames = options.choose(table)
        places, self.texts = list[int](), list[str]()
        for packet, text in sorted(table.breaks.items()):
            before = int(np.count_nonzero(table.numbers[:packet] >= 0))
            places.append(int(np.searchsorted(frames, before)))
            self.texts.append(text)
        self._items = np.insert(frames, places, -1 - np.arange(len(places)))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> int:
        """The number of a frame, or -1, -2, … for the first, second, … place of damage."""
        return int(self._items[index])


def _images(
    stream: Watched, table: FrameTable, items: Items, uri: str, shard_id: str, done: Done, reading: Reading
) -> Iterator[Encoded]:
    """The frames and places of damage that are not done."""
    left = [index for index in range(len(items)) if not done.has(index)]
    numbers = (items[index] for index in left if items[index] >= 0)
    whole = reading.video is not None and reading.video.keyframes
    frames = decoded(stream, table, numbers, whole, reading)
    converter = FrameConverter() if left else None
    for index in left:
        number = items[index]
        if number < 0:
            yield damage(index, uri, shard_id, -1 - number, items.texts[-1 - number])
            continue
        image = Encoded(index, f"{shard_id}/{number:08d}", f"{redact_uri(uri)}#{number}")
        image.extra = {"frame": number, "time_s": table.seconds(number)}
        image.note = SAME_TIME if table.hidden else ""
        try:
            _check_size(*table.size, reading)
            _, frame = next(frames)
            if frame is None or converter is None:
                raise ImageError("corrupt", LOST)
            _check_size(frame.width, frame.height, reading)
            image.data = encode_bmp(converter.to_bgr(frame))
        except ImageError as error:
            image.error = error
        yield image


def _check_size(width: int, height: int, reading: Reading) -> None:
    """Raise ImageError for frames that are larger than the job allows."""
    if reading.max_pixels is not None and width and height:
        check_size(width, height, reading.max_pixels)


def damage(index: int, uri: str, shard_id: str, place: int, text: str) -> Encoded:
    """The row of a place where a file is damaged. place: 0 for the first one of the file."""
    name = f"{shard_id}#{place + 1}" if place else shard_id
    return Encoded(index, name, redact_uri(uri), error=ImageError("shard_damaged", text))
