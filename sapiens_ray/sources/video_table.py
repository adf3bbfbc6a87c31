"""What the frames of a video are, found without decoding: their times, their order, and where decoding can start.

A video stores its packets in the order in which they are decoded. A frame that is stored early, since others are
predicted from it, may be shown late. Frames are numbered in the order in which they are shown.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sapiens_ray.sources.video_streams import (
    TELL_EVERY,
    HeadersOnly,
    Watched,
    missing_at_the_end,
    open_video,
    quoting,
    taken,
)

if TYPE_CHECKING:
    from av import Packet
    from av.video.stream import VideoStream

VP8_SHOWN = 0x10  # a bit of the first byte of a VP8 frame (RFC 6386, 9.1)


@dataclass(frozen=True, eq=False)
class FrameTable:
    """The frames of a video.

    Of packets, in the order in which they are stored: times_stored (when they are shown), keys (whether decoding can
    start there), positions (in the file; -1 if not known). Of frames, by their number: times (when they are shown,
    ascending), stored (the index of their packet). Times are int64 in units of `time_base`. end: when the last frame
    ends. numbers: of each packet, the number of its frame; -1 for a packet that shows nothing. breaks: where something
    is missing or damaged in the file: the index of the next packet, and what is wrong there. size: width and height
    that the header says; 0 if it does not. hidden: packets without a frame, since an earlier one has the same time.
    """

    time_base: Fraction
    times_stored: np.ndarray
    keys: np.ndarray
    positions: np.ndarray
    times: np.ndarray
    stored: np.ndarray
    numbers: np.ndarray
    end: int
    breaks: dict[int, str] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    hidden: int = 0

    def __len__(self) -> int:
        return len(self.times)

    def is_key(self, numbers: np.ndarray) -> np.ndarray:
        """Whether each of these frames is stored whole."""
        found: np.ndarray = self.keys[self.stored[numbers]]
        return found

    def seconds(self, number: int) -> float:
        """When a frame is shown: the float64 next to its time."""
        return float(int(self.times[number]) * self.time_base)

    def entry(self, number: int) -> int:
        """The packet from which decoding must start to show a frame: the last one before it in the file that is stored
        whole and is not shown later. A frame that is stored after such a packet and shown before it (in an open group
        of pictures) may be predicted from frames before that packet.

        0 if there is none: then the first packets cannot be decoded.
        """
        place = int(np.searchsorted(self._entries, self.stored[number], side="right")) - 1
        while place >= 0 and self.times_stored[self._entries[place]] > self.times[number]:
            place -= 1
        return int(self._entries[place]) if place >= 0 else 0

    def next_entry(self, packet: int) -> int:
        """The first packet from this one on from which decoding can start; the number of packets if there is none."""
        place = int(np.searchsorted(self._entries, packet))
        return int(self._entries[place]) if place < len(self._entries) else len(self.keys)

    def entries_before(self, packet: int) -> np.ndarray:
        """The packets before this one, and this one, from which decoding can start; the nearest first."""
        found: np.ndarray = self._entries[: np.searchsorted(self._entries, packet, side="right")]
        return found[::-1]

    @cached_property
    def _entries(self) -> np.ndarray:
        return np.flatnonzero(self.keys)

    def number_at(self, time: int) -> int | None:
        """The number of the frame with this time; None if there is none."""
        place = int(np.searchsorted(self.times, time))
        return place if place < len(self.times) and self.times[place] == time else None

    def index_of(self, packet: Packet[VideoStream]) -> int | None:
        """The index of a packet, by its time and its place in the file; None if there is none, or several."""
        found = np.flatnonzero((self.times_stored == packet.pts) & (self.positions == _position(packet)))
        return int(found[0]) if len(found) == 1 else None


def _position(packet: Packet[VideoStream]) -> int:
    return -1 if packet.pos is None else packet.pos


def is_stored_frame(packet: Packet[VideoStream]) -> bool:
    """Whether a packet is one that a table counts: whole, and with a time."""
    return bool(packet.size) and packet.pts is not None and not packet.is_corrupt


def read_table(stream: Watched, progress: Callable[[], None]) -> FrameTable:
    """Read the table of a video. progress: called now and then.

    Of an MP4 or MOV file only the headers are read: they hold the times, so that a table costs a few requests on an
    object store. Matroska and fragmented files are read whole. Raises DamagedVideoError for a file without frames.
    """
    headers = HeadersOnly(stream)
    table = _read(headers, progress) if headers.saves_reading else None
    if table is None:
        stream.seek(0)
        table = _read(stream, progress)
    assert table is not None
    cut = missing_at_the_end(stream, progress)
    if cut:
        table.breaks.setdefault(len(table.keys), cut)
    return table


def _read(stream: Watched, progress: Callable[[], None]) -> FrameTable | None:
    """See `read_table`. None if the headers alone do not tell which frames are stored whole."""
    times, durations, positions = array("q"), array("q"), array("q")
    keys, shown = bytearray(), bytearray()
    breaks: dict[int, str] = {}
    whole = not isinstance(stream, HeadersOnly)
    with quoting() as reports, open_video(stream) as (container, track):
        reports.clear()  # of opening it
        is_vp8 = track.codec_context.name.startswith(("vp8", "libvpx")) and "vp9" not in track.codec_context.name
        for packet in stream.packets(container, track, lambda text: breaks.setdefault(len(times), text)):
            if said := taken(reports, container.format.name):
                breaks.setdefault(len(times), said)
            if packet.size and not is_stored_frame(packet):
                breaks.setdefault(len(times), "a packet is cut off, or has no time")
            if not is_stored_frame(packet):
                continue
            times.append(int(packet.pts or 0))
            durations.append(int(packet.duration or 0))
            positions.append(_position(packet))
            keys.append(packet.is_keyframe)
            hidden = packet.is_discard or (is_vp8 and whole and not bytes(packet)[0] & VP8_SHOWN)
            shown.append(not hidden)
            if len(times) % TELL_EVERY == 0:
                progress()
        if said := taken(reports, container.format.name):
            breaks.setdefault(len(times), said)
        if not whole:
            index = [(entry.pos, entry.is_keyframe) for entry in track.index_entries]
            if is_vp8 or [pos for pos, _ in index] != list(positions):
                return None
            keys = bytearray(is_key for _, is_key in index)  # without their content, packets do not say it
        assert track.time_base is not None
        base, size = track.time_base, (track.width, track.height)
    return _table(base, times, durations, positions, keys, shown, breaks, size)


def _table(
    base: Fraction, times: array[int], durations: array[int], positions: array[int], keys: bytearray, shown: bytearray,
    breaks: dict[int, str], size: tuple[int, int],
) -> FrameTable:  # fmt: skip
    stored_times = np.array(times, np.int64)
    candidates = np.flatnonzero(np.frombuffer(bytes(shown), np.uint8))
    # Decoded frames are known by their time, so that of two packets with the same time the first counts.
    found, first = np.unique(stored_times[candidates], return_index=True)
    stored = candidates[first]
    numbers = np.full(len(stored_times), -1, np.int64)
    numbers[stored] = np.arange(len(stored))
    last = int(found[-1]) + max(1, durations[int(stored[-1])]) if len(found) else 0
    is_key = np.frombuffer(bytes(keys), np.uint8).astype(bool)
    places, hidden = np.array(positions, np.int64), len(candidates) - len(stored)
    return FrameTable(base, stored_times, is_key, places, found, stored, numbers, last, breaks, size, hidden)
