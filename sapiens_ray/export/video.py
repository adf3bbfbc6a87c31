"""Pictures of the frames of videos as videos again, one per video and task."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sapiens_ray.errors import ConfigError, OutputError
from sapiens_ray.export.base import Export, Exported, Option, Options
from sapiens_ray.export.filenames import Names
from sapiens_ray.imaging.images import decode
from sapiens_ray.imaging.video_pixels import BT709, LIMITED, to_frame
from sapiens_ray.output.layout import PICTURES
from sapiens_ray.output.reading import iterate_rows, labels_of, schema_in
from sapiens_ray.output.where import ChosenRows
from sapiens_ray.sources.video import COLUMNS as FRAMES
from sapiens_ray.sources.video_streams import pyav
from sapiens_ray.storage import Folder
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.units import Row

if TYPE_CHECKING:
    from av import VideoFrame

ENCODERS = {"h264": "libx264", "vp9": "libvpx-vp9"}
CODEC = Option("codec", f"one of {', '.join(ENCODERS)}; default h264", "h264")
COLUMN = Option("column", "only the pictures of this task; default: of every task that has pictures", None)
# bf: with frames out of order, an MP4 file ends too early where rates vary.
QUALITY = {"h264": {"crf": "20", "bf": "0"}, "vp9": {"crf": "30", "b": "0", "cpu-used": "4", "row-mt": "1"}}
TICKS = Fraction(1, 90_000)  # a second has a whole number of them for all common rates of 1001
PIXELS = 1 << 28  # of a picture
LONGEST = 3 * 3600 * 90_000  # ticks of a frame: MP4 files hold 31 bits
MOST_REPEATS = 56  # of a frame: a week. Where one is shown longer, time stamps are wrong
COLUMNS = ["image_id", "shard", "frame", "time_s", "error_kind", "visualization"]


def export_video(source: Folder, target: Folder, options: Options | None = None) -> Exported:
    """Write `<column>/<video>.mp4` for every video and every task with pictures. Sound is not in it.

    A picture is shown from the time of its frame on, counted from the first frame with a row, until the next one: rates
    that vary are kept. It is written again every three hours, as MP4 files need, and shown for a week at most. A frame
    without a picture (an error row, or one that was not drawn) shows the one before; before the first picture the video
    is black. Other sizes than that of the first picture are fitted into it.
    Raises OutputError if there are no frames or no pictures, ConfigError for an option that makes no sense.
    """
    given = dict(options or {})
    codec, wanted = given.get(CODEC.name) or CODEC.default, given.get(COLUMN.name)
    schema = schema_in(source)
    if any(name not in schema.names or schema.field(name).type != kind for name, kind in FRAMES.items()):
        raise OutputError(
            f"{redact_uri(source.uri)} holds no frames of videos: its input was no video; see `input.format: video`"
        )
    there = [name for name, encoder in ENCODERS.items() if encoder in pyav().codecs_available]
    if codec not in there:
        raise ConfigError(f"--codec {codec}: this FFmpeg cannot write it; it can write {', '.join(there)}")
    columns = [labels.column for labels in labels_of(source)]
    if wanted is not None and wanted not in columns:
        raise ConfigError(f"--column {wanted}: the tasks are {', '.join(columns)}")
    done = Exported()
    names = _video_names(source)
    pictures = 0
    for number, column in enumerate([wanted] if wanted else columns):
        counts = _Counts()
        for _, rows in itertools.groupby(_frames(source), lambda row: row["shard"]):
            shown = _pictures(source, column if len(columns) > 1 else "", rows, counts)
            _write(shown, target, column, names, codec)
        if not counts.drawn:
            done.left_out[column] = "no pictures of it are in the output"
        elif counts.drawn < counts.frames:
            frames = f"{counts.frames - counts.drawn} of {counts.frames} frames have no picture"
            done.notes.append(f"{column}: {frames}; the one before is shown")
        pictures += counts.drawn
        if number == 0:
            done.images, done.skipped = counts.frames - counts.errors, counts.errors
    if not pictures:
        raise OutputError(f"{redact_uri(source.uri)} holds no pictures of frames; see output.visualize.fraction")
    return done


EXPORT = Export("pictures of frames as MP4 videos", export_video, (COLUMN, CODEC))


@dataclass
class _Counts:
    """Frames, those with an error, those with a picture."""

    frames: int = 0
    errors: int = 0
    drawn: int = 0

    def add(self, row: Row, picture: np.ndarray | None) -> None:
        self.frames += 1
        self.errors += row["error_kind"] is not None
        self.drawn += picture is not None


def _frames(source: Folder) -> Iterator[Row]:
    return (row for row in iterate_rows(source, COLUMNS) if None not in (row["frame"], row["time_s"]))


def _video_of(row: Row) -> str:
    return str(row["image_id"]).rpartition("/")[0]


def _video_names(source: Folder) -> dict[str, str]:
    """The file name, without ending, of every video; the same whichever rows a condition chooses."""
    every = Folder(source.uri, source.options) if isinstance(source, ChosenRows) else source
    rows = (row for row in iterate_rows(every, ["image_id", *FRAMES]) if None not in (row["frame"], row["time_s"]))
    videos = dict.fromkeys(_video_of(row) for row in rows)
    names = Names(videos)
    return {video: names.of(video)[0] for video in videos}


def _pictures(
    source: Folder, folder: str, rows: Iterable[Row], counts: _Counts
) -> Iterator[tuple[Row, np.ndarray | None]]:
    """Each row with its picture, h x w x 3 uint8 BGR. Several are fetched at a time. folder: of the task."""

    def fetch(row: Row) -> np.ndarray | None:
        path = row["visualization"]
        if path is None:
            return None
        name = path.removeprefix(f"{PICTURES}/")
        if folder:
            name = f"{folder}/{name.partition('/')[2]}"  # the column names the picture of the first task
        try:
            return decode(source.read(f"{PICTURES}/{name}"), PIXELS)
        except FileNotFoundError:
            return None

    waiting: deque[tuple[Row, Future[np.ndarray | None]]] = deque()
    with ThreadPoolExecutor(source.threads, thread_name_prefix="pictures") as pool:
        for row in itertools.chain(rows, [None]):
            if row is not None:
                waiting.append((row, pool.submit(fetch, row)))
            while waiting and (row is None or len(waiting) > source.threads):
                one, future = waiting.popleft()
                counts.add(one, future.result())
                yield one, future.result()


def _write(
    shown: Iterator[tuple[Row, np.ndarray | None]], target: Folder, column: str, names: dict[str, str], codec: str
) -> None:
    """Write one video; nothing if none of its frames has a picture."""
    first: Row | None = None
    for row, picture in shown:
        first = first or row
        if picture is None:
            continue
        with (
            target.replacing(f"{column}/{names[_video_of(row)]}.mp4", durable=False) as path,
            _Film(path, picture, codec) as film,
        ):
            begin = first["time_s"]
            if row is not first:
                film.show(np.zeros_like(picture), 0.0)
            film.show(picture, row["time_s"] - begin)
            last = row
            for last, later in shown:
                if later is not None:
                    film.show(later, last["time_s"] - begin)
            film.hold(last["time_s"] - begin)


class _Film:
    """A video that is being written. Use it as a context manager."""

    def __init__(self, path: Path, picture: np.ndarray, codec: str) -> None:
        """picture: decides the size."""
        self._height, self._width = (side + side % 2 for side in picture.shape[:2])  # 4:2:0 has whole pairs of pixels
        self._container = pyav().open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        self._stream = self._container.add_stream(ENCODERS[codec], rate=30, options=QUALITY[codec])
        self._stream.width, self._stream.height, self._stream.pix_fmt = self._width, self._height, "yuv420p"
        codec_context = self._stream.codec_context
        codec_context.time_base, codec_context.colorspace, codec_context.color_range = TICKS, BT709, LIMITED
        codec_context.flags |= pyav().codec.context.Flags.frame_duration  # else the last frame has none
        self._at, self._gap = -1, round(1 / (25 * TICKS))
        self._left_out = 0  # ticks of gaps that were shortened
        self._last: VideoFrame | None = None

    def show(self, picture: np.ndarray, seconds: float) -> None:
        """Show a picture from this time on."""
        self._encode(to_frame(_fitted(picture, self._width, self._height)), round(seconds / TICKS) - self._left_out)

    def hold(self, seconds: float) -> None:
        """Show the last picture until this time at least."""
        at = round(seconds / TICKS) - self._left_out
        if self._last is not None and at > self._at:
            self._encode(self._last, at)

    def _encode(self, frame: VideoFrame, at: int) -> None:
        at = max(at, self._at + 1)  # rows of frames with equal times
        if self._last is not None:
            wrong = max(0, at - self._at - MOST_REPEATS * LONGEST)
            at, self._left_out = at - wrong, self._left_out + wrong
            while at - self._at > LONGEST:
                self._send(self._last, self._at + LONGEST)
        self._send(frame, at)

    def _send(self, frame: VideoFrame, at: int) -> None:
        if self._at >= 0:
            self._gap = at - self._at
        frame.pts, frame.time_base, frame.duration = at, TICKS, self._gap
        self._at, self._last = at, frame
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> _Film:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


def _fitted(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """The picture at this size; one of another shape is made smaller or larger, with black beside it."""
    found_height, found_width = picture.shape[:2]
    if (found_width + found_width % 2, found_height + found_height % 2) == (width, height):
        return cv2.copyMakeBorder(
            picture, 0, height - found_height, 0, width - found_width, cv2.BORDER_REPLICATE
        )  # fmt: skip
    scale = min(width / found_width, height / found_height)
    size = min(width, max(1, round(found_width * scale))), min(height, max(1, round(found_height * scale)))
    fitted = np.zeros((height, width, 3), np.uint8)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    fitted[top : top + size[1], left : left + size[0]] = cv2.resize(picture, size, interpolation=how)
    return fitted
