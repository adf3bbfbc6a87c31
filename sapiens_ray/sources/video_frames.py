"""Decoding chosen frames of a video, so that a frame has the same pixels whatever way it was reached."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from sapiens_ray.sources.video_streams import Watched, open_video, pyav
from sapiens_ray.sources.video_table import FrameTable, is_stored_frame

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream

    from sapiens_ray.sources.base import Reading

MOST_KEPT = 16  # frames that a decoder of H.264 keeps
MOST_DELAY = 32  # packets after its own that a decoder may need before it gives a frame; H.264 and HEVC have up to 16
NEAR = 64  # packets that are read and not decoded, where a seek would cost more


def decoded(
    stream: Watched, table: FrameTable, numbers: Iterable[int], whole: bool, reading: Reading
) -> Iterator[tuple[int, av.VideoFrame | None]]:
    """Each of these frames, ascending, with its number; None in place of one that cannot be decoded.

    whole: the frames are all stored whole, and each is decoded alone. reading: its `progress` is called for every
    packet. Decoding starts at the last packet before a frame from which it can start. Raises the exception of a failing
    storage.
    """
    waiting = iter(numbers)
    first = next(waiting, None)
    if first is None:
        return
    with contextlib.closing(_Packets(stream, table, reading)) as packets:
        decoder = _Decoder(packets, table)
        for number in itertools.chain([first], waiting):
            yield number, decoder.alone(number) if whole else decoder.frame(number)


class _Packets:
    """The packets of a video in the order in which they are stored, from any packet on.

    next: the index of the next packet.
    """

    def __init__(self, stream: Watched, table: FrameTable, reading: Reading) -> None:
        self._stream, self._table, self._reading = stream, table, reading
        self._opened = contextlib.ExitStack()
        self._open()

    def _open(self) -> None:
        """Open the file, again where seeking in it fails: then every packet from its start on is read."""
        self._opened.close()
        opened = open_video(self._stream, self._reading.max_pixels)
        self._container, self._track = self._opened.enter_context(opened)
        self._demux()
        self.next = 0

    def _demux(self) -> None:
        self._coming = self._stream.packets(self._container, self._track, lambda text: None)
        self._held: av.Packet[VideoStream] | None = None

    @property
    def codec(self) -> av.VideoCodecContext:
        """The decoder for the packets. It changes when the position does."""
        return self._track.codec_context

    def start_for(self, entry: int) -> int:
        """The packet to begin with, so that what follows `entry` is decoded as if the file was read from its start.

        H.264 has packets to start at behind which other packets still name frames from before, to forget them. A
        decoder that never had these complains. So it starts early enough to have as many frames as it can keep.
        """
        if self.codec.name != "h264":
            return entry
        before = self._table.entries_before(entry - MOST_KEPT)
        return int(before[0]) if len(before) else 0

    def take(self) -> av.Packet[VideoStream] | None:
        """The next packet; None after the last one."""
        self._reading.progress()
        packet = self._held or next(filter(is_stored_frame, self._coming), None)
        self._held = None
        if packet is None or self.next >= len(self._table.keys):
            return None
        if packet.pts != self._table.times_stored[self.next]:
            return None  # not the file that the table is of
        self.next += 1
        return packet

    def go_to(self, index: int, anew: bool) -> None:
        """Make the packet with this index the next one, and make the decoder forget what it knows. anew: also what it
        keeps of damaged packets when its frames are flushed, by opening the file again."""
        if anew:
            self._open()
        if not 0 <= index - self.next <= NEAR:
            self._seek(index)
        while self.next < index and self.take() is not None:
            pass
        self.codec.flush_buffers()

    def _seek(self, index: int) -> None:
        """Move to this packet or to one before it. Containers differ in which time they look for, so that a seek may
        end behind the packet; then an earlier time is tried, and in the end the file is opened again."""
        entries = self._table.entries_before(index)
        for place in (0, 1, 4, 16, 64):
            if place >= len(entries):
                break
            try:
                time = int(self._table.times_stored[entries[place]])
                self._container.seek(time, stream=self._track, backward=True)
                self._demux()
                packet = next(filter(is_stored_frame, self._coming), None)
            except pyav().error.FFmpegError:
                self._stream.check()
                break
            found = None if packet is None else self._table.index_of(packet)
            if found is not None and found <= index:
                self._held, self.next = packet, found
                return
        self._open()

    def close(self) -> None:
        self._opened.close()


class _Spoiled(NamedTuple):
    """Packets that are of no use: from `start` to `stop`, and those behind that are shown before `time`."""

    start: int
    stop: int
    time: int


class _Decoder:
    """Decodes frames. Where a packet cannot be decoded, or packets are missing, the frames after it are predicted from
    pixels that are made up. None of these is given, up to the next packet from which decoding can start. It is started
    as for a reader who begins there, so that frames behind damage do not depend on where reading began.

    _ready: decoded frames that were not asked for yet. _sent: the frames whose packets were decoded, and that did not
    come yet. _spoiled: what damage was found. _damaged: whether any was since decoding started. _start: the packet at
    which it started; _from: the time of that packet, None for the first one. Frames before it may lack what they are
    predicted from.
    """

    def __init__(self, packets: _Packets, table: FrameTable) -> None:
        self._packets, self._table = packets, table
        self._ready: dict[int, av.VideoFrame] = {}
        self._sent: set[int] = set()
        self._spoiled: list[_Spoiled] = []
        self._from: int | None = None
        self._start, self._damaged, self._ended = 0, False, False

    def frame(self, number: int) -> av.VideoFrame | None:
        """A frame with a larger number than those before; None if it cannot be decoded."""
        table = self._table
        entry = table.entry(number)
        start = self._packets.start_for(entry)
        if start > self._packets.next or (self._damaged and start > self._start):
            self._restart(start)
        self._ready = {one: frame for one, frame in self._ready.items() if one >= number}
        self._sent = {one for one in self._sent if one >= number}
        self._spoiled = [one for one in self._spoiled if one.stop >= entry]
        last = int(table.stored[number]) + MOST_DELAY
        while number not in self._ready and not self._ended and self._packets.next <= last:
            self._step(number)
        frame, place = self._ready.pop(number, None), int(table.stored[number])
        if frame is None:
            self._spoil(place, place + 1)
        return None if self._is_spoiled(place) else frame

    def _restart(self, start: int) -> None:
        """Decode from this packet on."""
        self._packets.go_to(start, self._damaged)
        self._ready, self._sent, self._spoiled = {}, set(), []
        self._start, self._damaged, self._ended = start, False, False
        self._from = int(self._table.times_stored[start]) if start else None

    def _step(self, number: int) -> None:
        """Decode the next packet. Frames before `number` are dropped."""
        table, index = self._table, self._packets.next
        packet = self._packets.take()
        self._ended = packet is None
        is_whole = packet is not None and (self._from is None or table.times_stored[index] >= self._from)
        if packet is not None and index in table.breaks:
            self._spoil(index, index)
        if is_whole and table.numbers[index] >= 0:
            self._sent.add(int(table.numbers[index]))
        try:
            frames = self._packets.codec.decode(packet)
        except pyav().error.FFmpegError:
            frames = []
            if is_whole:
                self._spoil(index, index + 1)
        for frame in frames:
            place = None if frame.pts is None else table.number_at(frame.pts)
            if place is None:
                continue
            if frame.is_corrupt:
                self._spoil(int(table.stored[place]), int(table.stored[place]) + 1)
            self._sent.discard(place)
            for lost in [one for one in self._sent if one < place]:  # frames come in the order in which they are shown
                self._sent.discard(lost)
                self._spoil(int(table.stored[lost]), int(table.stored[lost]) + 1)
            if place >= number:
                self._ready[place] = frame

    def _spoil(self, index: int, after: int) -> None:
        """Give no frame of a packet and of those behind it, up to the first from `after` on to start at, nor those
        behind that one that are shown before it. Where the packet is itself one that is shown before the last one to
        start at, only its like may need it."""
        self._damaged = True
        if self._is_spoiled(index):
            return
        table = self._table
        before = table.entries_before(index)
        if len(before) and table.times_stored[index] < table.times_stored[before[0]]:
            self._spoiled.append(_Spoiled(index, index + 1, int(table.times_stored[before[0]])))
        else:
            stop = table.next_entry(after)
            time = int(table.times_stored[stop]) if stop < len(table.keys) else int(table.times[0])
            self._spoiled.append(_Spoiled(index, stop, time))

    def _is_spoiled(self, index: int) -> bool:
        """Whether the frame of a packet must not be given."""
        time = self._table.times_stored[index]
        return any(one.start <= index and (index < one.stop or time < one.time) for one in self._spoiled)

    def alone(self, number: int) -> av.VideoFrame | None:
        """A frame that is marked as stored whole, decoded from its packet alone; None if it cannot be decoded.

        Some are not: H.264 with intra refresh marks frames from which a player can start, and is whole a little later.
        They are decoded with those before them."""
        index = int(self._table.stored[number])
        self._packets.go_to(index, self._damaged)
        self._damaged = False
        packet = self._packets.take()
        try:
            codec = self._packets.codec
            frames = [*codec.decode(packet), *codec.decode(None)] if packet is not None else []
        except pyav().error.FFmpegError:
            frames = []
        time = int(self._table.times[number])
        found = next((frame for frame in frames if frame.pts == time and not frame.is_corrupt), None)
        if found is None:
            self._damaged = True
            self._restart(self._packets.start_for(self._table.entry(number)))
            return self.frame(number)
        return found
