"""Videos for tests. Each frame shows its number as black and white blocks, which survive compression."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from sapiens_ray.sources import Encoded
from sapiens_ray.sources.base import Reading
from sapiens_ray.sources.video import SOURCE
from sapiens_ray.sources.video_options import VideoOptions
from sapiens_ray.units import Done
from tests.sources.drain import drain

BITS, BLOCK = 8, 20
SIZE = (BITS * BLOCK, 96)  # width, height
NOTHING = Done()
NTSC = Fraction(30000, 1001)
GROUPS = {
    "libx264": {"g": "12", "bf": "3", "preset": "veryfast", "sc_threshold": "0"},
    "libx265": {"g": "12", "preset": "ultrafast", "x265-params": "log-level=none:pools=1:bframes=3:keyint=12"},
    "libvpx": {"g": "12", "deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"g": "12", "deadline": "realtime", "cpu-used": "8"},
    "mpeg4": {"g": "12", "bf": "2", "sc_threshold": "1000000000"},
}


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The frame with this number, H x W x 3 uint8 BGR: its bits as blocks, and a bar that moves."""
    width, height = size
    image = np.full((height, width, 3), 128, np.uint8)
    block = width // BITS
    for bit in range(BITS):
        image[height // 4 : height // 2, bit * block : (bit + 1) * block] = 255 * (number >> bit & 1)
    at = number * 5 % (width - 24)
    image[height // 2 :, at : at + 24] = (40, 200, 90)
    return image


def number_of(image: np.ndarray) -> int:
    """The number that a frame shows."""
    height, width = image.shape[:2]
    block = width // BITS
    row = image[height * 3 // 8, :, 1]
    return sum(1 << bit for bit in range(BITS) if row[bit * block + block // 2] > 128)


def write_video(
    path: Path, count: int = 36, codec: str = "libx264", rate: Fraction = NTSC, times: Sequence[int] | None = None,
    time_base: Fraction | None = None, options: dict[str, str] | None = None, container: dict[str, str] | None = None,
    size: tuple[int, int] = SIZE,
) -> Path:  # fmt: skip
    """Write a video. times: of the frames, in units of `time_base`; default: one after the other at `rate`."""
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=rate, options=GROUPS.get(codec, {}) | (options or {}))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if time_base is not None:
            stream.codec_context.time_base = time_base
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, size), format="bgr24")
            frame.pts = number if times is None else times[number]
            if time_base is not None:
                frame.time_base = time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """Write a file with a track of sound alone."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def write_two_sizes(path: Path, sizes: Sequence[tuple[int, int]], each: int = 6) -> Path:
    """Write a WebM file whose track changes its size: VP9 says it in every keyframe."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libvpx-vp9", rate=10)
        (stream.width, stream.height), stream.pix_fmt = sizes[0], "yuv420p"
        for part, size in enumerate(sizes):
            encoder = av.CodecContext.create("libvpx-vp9", "w")
            (encoder.width, encoder.height), encoder.pix_fmt = size, "yuv420p"
            encoder.time_base, encoder.framerate = Fraction(1, 10), Fraction(10)
            encoder.options = GROUPS["libvpx-vp9"]
            frames = [av.VideoFrame.from_ndarray(picture(part * each + k, size), format="bgr24") for k in range(each)]
            for place, frame in enumerate(frames):
                frame.pts, frame.time_base = part * each + place, Fraction(1, 10)
            for packet in [*(one for frame in frames for one in encoder.encode(frame)), *encoder.encode(None)]:
                packet.stream = stream
                file.mux(packet)
    return path


def turn(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Set the display matrix in the header of the track of an MP4 file (ISO/IEC 14496-12, 8.3.2, version 0)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16
    struct.pack_into(">9i", data, at, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def packets(path: Path) -> list[tuple[int, int, int]]:
    """Time, place in the file and size of every packet of a video, in the order in which they are stored."""
    with av.open(str(path)) as file:
        return [(one.pts, one.pos, one.size) for one in file.demux(video=0) if one.size]


def read(
    path: Path, done: Done = NOTHING, max_pixels: int | None = None, **options: object
) -> tuple[list[Encoded], int]:
    """What the source makes of a video, and how many images it says there are."""
    video = VideoOptions.model_validate(options) if options else None
    return drain(SOURCE.read(str(path), path.name, done, Reading(video=video, max_pixels=max_pixels)))


def pixels(image: Encoded) -> np.ndarray:
    assert image.data is not None, image.error
    decoded: np.ndarray = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)
    return decoded
