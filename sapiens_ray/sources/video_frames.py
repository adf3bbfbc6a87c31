"""Decoding chosen frames of a video, so that a frame has the same pixels whatever way it was reached."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from sapiens_ray.sources.video_streams import Watched, open_video, pyav
from sapiens_ray.sources.video_table import FrameTable, is_stored_frame

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream

MOST_KEPT = 16  # frames that a decoder of H.264 keeps
MOST_DELAY = 32  # packets after its own that a decoder may need before it gives a frame; H.264 and HEVC have up to 16
NEAR = 64  # packets that are read and not decoded, where a seek would cost more


def decoded(
    stream: Watched, table: FrameTable, numbers: Iterable[int], whole: bool, progress: Callable[[], None]
) -> Iterator[tuple[int, av.VideoFrame | None]]:
    """Each of these frames, ascending, with its number; None in place of one that cannot be decoded.

    whole: the frames are all stored whole, and each is decoded alone. progress: called for every packet. Decoding
    starts at the last packet before a frame from which it can start. Raises the exception of a failing storage.
    """
    waiting = iter(numbers)
    first = next(waiting, None)
    if first is None:
        return
    with contextlib.closing(_Packets(stream, table, progress)) as packets:
        decoder = _Decoder(packets, table)
        for number in itertools.chain([first], waiting):
            yield number, decoder.alone(number) if whole else decoder.frame(number)


class _Packets:
    """The packets of a video in the order in which they are stored, from any packet on.

    next: the index of the next packet.
    """

    def __init__(self, stream: Watched, table: FrameTable, progress: Callable[[], None]) -> None:
        self._stream, self._table, self._progress = stream, table, progress
        self._opened = contextlib.ExitStack()
        self._open()

    def _open(self) -> None:
        """Open the file, again where seeking in it fails: then every packet from its start on is read."""
        self._opened.close()
        self._container, self._track = self._opened.enter_context(open_video(self._stream))
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
        self._progress()
        packet = self._held or next(filter(is_stored_frame, self._coming), None)
        self._held = None
        if packet is None or self.next >= len(self._table.keys):
            return None
        if packet.pts != self._table.times_stored[self.next]:
            return None  # not the file that the table is of
        self.next += 1
        return packet

    def go_to(self, index: int) -> None:
        """Make the packet with this index the next one, and make the decoder forget what it knows."""
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


class _Decoder:
    """Decodes frames. After a packet that cannot be decoded, or a place where packets are missing, frames are predicted
    from pixels that are made up; so none is given until the next packet from which decoding can start.

    _spoiled: whether that is so now. _clean_from: the time of the packet with which it ended; frames that are stored
    after that packet and shown before it may still be spoiled.
    """

    def __init__(self, packets: _Packets, table: FrameTable) -> None:
        self._packets, self._table = packets, table
        self._ready: dict[int, av.VideoFrame] = {}
        self._lost: set[int] = set()
        self._ended = False
        self._spoiled = not (len(table.keys) and table.keys[0])
        self._clean_from: int | None = None

    def frame(self, number: int) -> av.VideoFrame | None:
        """A frame with a larger number than those before; None if it cannot be decoded."""
        table = self._table
        entry = self._packets.start_for(table.entry(number))
        if entry > self._packets.next:
            self._packets.go_to(entry)
            self._ready.clear()
            self._lost.clear()
            self._ended, self._spoiled = False, True
        self._ready = {one: frame for one, frame in self._ready.items() if one >= number}
        self._lost = {one for one in self._lost if one >= number}
        last = int(table.stored[number]) + MOST_DELAY
        while number not in self._ready and not self._ended and self._packets.next <= last:
            self._step(number)
        frame = self._ready.pop(number, None)
        return None if number in self._lost else frame

    def _step(self, number: int) -> None:
        """Decode the next packet. Frames before `number` are dropped."""
        table, index = self._table, self._packets.next
        packet = self._packets.take()
        self._ended = packet is None
        own = table.numbers[index] if packet is not None else -1
        is_sound = True
        if packet is not None:
            time = int(table.times_stored[index])
            if index in table.breaks:
                self._spoiled = True
            if table.keys[index] and self._spoiled:
                self._spoiled, self._clean_from = False, time
            is_sound = not self._spoiled and (self._clean_from is None or time >= self._clean_from)
        try:
            frames = self._packets.codec.decode(packet)
        except pyav().error.FFmpegError:
            frames = []
            self._spoiled = self._spoiled or is_sound
            is_sound = False
        if not is_sound:
            self._lost.add(int(own))
        for frame in frames:
            place = None if frame.pts is None else table.number_at(frame.pts)
            if place is not None and place >= number:
                self._ready[place] = frame
                if frame.is_corrupt:
                    self._lost.add(place)

    def alone(self, number: int) -> av.VideoFrame | None:
        """A frame that is stored whole, decoded from its packet alone; None if it cannot be decoded."""
        index = int(self._table.stored[number])
        self._packets.go_to(index)
        packet = self._packets.take()
        try:
            codec = self._packets.codec
            frames = [*codec.decode(packet), *codec.decode(None)] if packet is not None else []
        except pyav().error.FFmpegError:
            frames = []
        time = int(self._table.times[number])
        return next((frame for frame in frames if frame.pts == time and not frame.is_corrupt), None)
