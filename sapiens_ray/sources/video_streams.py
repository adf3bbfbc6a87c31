"""Video files as streams: which container they are, opening them, and what is missing of them."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from logging import CRITICAL, getLogger
from types import ModuleType
from typing import IO, TYPE_CHECKING

from sapiens_ray.errors import ConfigError

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer
    from av.video.stream import VideoStream

# The first box of an MP4 or MOV file; the first bytes of Matroska and WebM.
BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
# Boxes with headers and frames. Cameras add text behind the last box; its first bytes may look like the length of one.
NEEDED = (b"moov", b"mdat", b"moof")
EBML = b"\x1a\x45\xdf\xa3"
SEGMENT = b"\x18\x53\x80\x67"
MOST_BOXES = 64  # at the top level of a file that is not fragmented
MOST_FRAGMENTS = 1 << 20  # boxes that are walked for the end of a file
TELL_EVERY = 1000  # boxes or packets
NOTHING = CRITICAL + 1  # a level of Python's logging
Report = tuple[int, str, str]  # level, part of FFmpeg, text
# The headers tell what is needed. FFmpeg would read up to five seconds more to guess rates, and what it reports of
# damage in them would be lost.
PROBE = {"probesize": "32", "analyzeduration": "0"}
LARGEST_BLOCKS = 1 << 20  # pixels
ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC: the cover of an audio file


class DamagedVideoError(Exception):
    """A file is no video, or nothing of it can be read."""


def pyav() -> ModuleType:
    """The library that reads and writes videos. Raises ConfigError if it is not installed."""
    try:
        import av
    except ImportError:
        raise ConfigError("videos need PyAV, which is not installed: pip install 'sapiens-ray[video]'") from None
    return av


class Watched:
    """A stream that remembers a failure of its storage: FFmpeg takes a failed read for the end of the file.

    failed: the exception of the storage, if there was one.
    """

    def __init__(self, stream: IO[bytes] | Watched) -> None:
        self._stream = stream
        self.failed: Exception | None = None

    def read(self, count: int = -1) -> bytes:
        try:
            return self._stream.read(count)
        except Exception as error:
            self.failed = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    @property
    def size(self) -> int:
        """In bytes. The position in the stream stays."""
        at = self.tell()
        size = self.seek(0, 2)
        self.seek(at)
        return size

    def check(self) -> None:
        """Raise the exception of the storage, if there was one."""
        if self.failed is not None:
            raise self.failed

    def packets(
        self, container: InputContainer, track: VideoStream, damaged: Callable[[str], object]
    ) -> Iterator[Packet[VideoStream]]:
        """The packets of a track to the end of the file, or to where nothing can be read any more; then `damaged` is
        called with the reason. Raises the exception of a failing storage."""
        library = pyav()
        packets = container.demux(track)
        while True:
            try:
                packet = next(packets, None)
            except library.error.FFmpegError as error:
                self.check()
                damaged(_text(error))
                return
            self.check()
            if packet is None:
                return
            yield packet


class HeadersOnly(Watched):
    """The stream of an MP4 or MOV file in which the content of all frames reads as zeros, without being read.

    saves_reading: whether the file is one that can be read so: not fragmented, where headers lie between the frames.
    """

    def __init__(self, stream: Watched) -> None:
        super().__init__(stream)
        self._size = stream.size
        self._contents = _contents(stream)
        self.saves_reading = bool(self._contents)
        stream.seek(0)

    def read(self, count: int = -1) -> bytes:
        at = self.tell()
        count = min(count if count >= 0 else self._size, max(0, self._size - at))
        for start, stop in self._contents:
            if start <= at < stop:
                count = min(count, stop - at)
                self.seek(at + count)
                return bytes(count)
            if at < start:
                count = min(count, start - at)
        return super().read(count)


def _boxes(stream: Watched) -> Iterator[tuple[bytes, int, int]]:
    """The boxes at the top level of an MP4 or MOV file (ISO/IEC 14496-12, 4.2): kind, where the content begins, where
    the box ends, which may be behind the end of the file. None of another file."""
    at, size = 0, stream.size
    while at < size:
        stream.seek(at)
        head = stream.read(16)
        kind, length, start = head[4:8], int.from_bytes(head[:4]), at + 8
        if at == 0 and kind not in BOXES:
            return
        if length == 1 and len(head) == 16:
            length, start = int.from_bytes(head[8:]), at + 16
        stop = at + length if length else size
        if stop < start:  # the end of something else
            return
        yield kind, start, stop
        at = stop


def _contents(stream: Watched) -> list[tuple[int, int]]:
    """Where the frames of an MP4 or MOV file are, as byte ranges; empty if the file is another one, or fragmented."""
    found: list[tuple[int, int]] = []
    for kind, start, stop in itertools.islice(_boxes(stream), MOST_BOXES):
        if kind == b"moof":
            return []
        if kind == b"mdat":
            found.append((start, stop))
    return found


def missing_at_the_end(stream: Watched, progress: Callable[[], None]) -> str:
    """What a file lacks at its end, in words; empty if it is whole, or does not say how long it is.

    progress: called now and then."""
    end = 0
    for number, (kind, _, stop) in enumerate(itertools.islice(_boxes(stream), MOST_FRAGMENTS), 1):
        if kind in NEEDED:
            end = max(end, stop)
        if number % TELL_EVERY == 0:
            progress()
    stream.seek(0)
    head = stream.read(64 + 12)
    if head.startswith(EBML):
        length, at = _ebml_size(head, 4)
        at += length or 0
        if head[at : at + 4] == SEGMENT:
            length, start = _ebml_size(head, at + 4)
            end = 0 if length is None else start + length
    lacking = end - stream.size
    return f"the file is cut off: {lacking} bytes are missing at its end" if lacking > 0 else ""


def _ebml_size(data: bytes, at: int) -> tuple[int | None, int]:
    """The length of an EBML element (RFC 8794, 4) that is written at this place, None for an unknown one, and the
    place behind it."""
    if at >= len(data) or not data[at]:
        return None, at
    count = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + count]) & ((1 << 7 * count) - 1)
    return (None if value == (1 << 7 * count) - 1 else value), at + count


@contextlib.contextmanager
def open_video(stream: Watched, max_pixels: int | None = None) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video and choose its video track, with one thread for decoding.

    One thread, since then a packet that cannot be decoded says so at once, and not at some later one. The container is
    told by its first bytes and never guessed: FFmpeg would also read playlists, which name other files.
    max_pixels: the decoder makes no frames of more than twice as many, whatever the stream says.
    Raises DamagedVideoError, also for a codec that FFmpeg does not know, and the exception of a failing storage.
    """
    library = pyav()
    stream.seek(0)
    head = stream.read(12)
    stream.seek(0)
    name = "matroska" if head.startswith(EBML) else "mov" if head[4:8] in BOXES else ""
    if not name:
        what = "is empty" if not head else f"starts with {head!r}"
        raise DamagedVideoError(f"not an MP4, MOV, Matroska or WebM file: it {what}")
    try:
        container = _opened(stream, name, PROBE)
    except library.error.FFmpegError as error:
        stream.check()
        try:  # without the headers of all fragments, of which the last one may be cut off
            container = _opened(stream, name, {**PROBE, "fflags": "ignidx"})
        except library.error.FFmpegError:
            stream.check()
            raise DamagedVideoError(f"the video cannot be opened: {_text(error)}") from None
    with container:
        stream.check()
        tracks = [one for one in container.streams.video if not int(one.disposition) & ATTACHED_PICTURE]
        if not tracks:
            raise DamagedVideoError("the file has no video track, only sound or other tracks")
        best = container.streams.best("video")
        track = best if best in tracks else tracks[0]
        if track.codec_context is None:
            raise DamagedVideoError("no decoder for its video track: encrypted, of an unknown codec, or damaged")
        for other in container.streams:
            if other is not track:
                other.discard = library.stream.Discard.all
        track.thread_type = "NONE"
        track.codec_context.thread_count = 1
        # Errors are raised, and not hidden by pixels that are made up. `strict` is about H.264 alone: a decoder that
        # guesses how far frames are reordered drops some where it guessed wrong.
        track.codec_context.options = {
            "err_detect": "explode",
            **({"strict": "strict"} if track.codec_context.name == "h264" else {}),
            # Codecs store whole blocks, so that small frames are stored larger than they are.
            **({"max_pixels": str(2 * max_pixels + LARGEST_BLOCKS)} if max_pixels else {}),
        }
        yield container, track


def _opened(stream: Watched, name: str, options: dict[str, str]) -> InputContainer:
    stream.seek(0)
    found: InputContainer = pyav().open(stream, format=name, metadata_errors="replace", options=options)
    return found


def _text(error: Exception) -> str:
    return str(getattr(error, "strerror", "") or error)[:300]


class _Quoting:
    """While any thread is inside, FFmpeg reports errors, and each thread gets its own. PyAV has one level of reports
    per process; the user's settings are restored when the last thread leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._logger = getLogger("libav")
        self._before: tuple[int | None, bool, int] = None, True, 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[list[Report]]:
        logging = pyav().logging
        with self._lock:
            if self._inside == 0:
                self._before = logging.get_level(), logging.get_skip_repeated(), self._logger.level
                self._logger.setLevel(NOTHING)  # what other threads do meanwhile is not printed
                logging.set_level(logging.ERROR)
                logging.set_skip_repeated(False)  # else the same damage would be reported once in a process
            self._inside += 1
        try:
            with logging.Capture(local=True) as reports:
                yield reports
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    logging.set_level(self._before[0])
                    logging.set_skip_repeated(self._before[1])
                    self._logger.setLevel(self._before[2])


quoting = _Quoting().__call__


def taken(reports: list[Report], source: str) -> str:
    """The first report of one part of FFmpeg, whose name begins so, and forget all reports; empty if there is none."""
    found = next((text.strip() for _, name, text in reports if name.startswith(source)), "")
    reports.clear()
    return found
