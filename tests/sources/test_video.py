"""Videos as a source: numbers and times of frames, the same pixels whatever way they were reached, damage."""

from __future__ import annotations

import io
import sys
from fractions import Fraction

import av
import fsspec
import numpy as np
import pytest

from sapiens_ray import storage
from sapiens_ray.errors import ConfigError
from sapiens_ray.execution.preflight import prepare_job
from sapiens_ray.imaging.video_pixels import FrameConverter
from sapiens_ray.job.config import Job
from sapiens_ray.sources import Reading, video_table
from sapiens_ray.sources.video import SOURCE
from sapiens_ray.sources.video_streams import Watched, missing_at_the_end
from sapiens_ray.sources.video_table import read_table
from sapiens_ray.units import Done
from tests.sources.drain import drain
from tests.videos import (
    NTSC,
    SIZE,
    number_of,
    packets,
    pixels,
    read,
    write_two_sizes,
    write_video,
)

COUNT = 36
JOB = {"input": {"uri": "a.mp4"}, "output": {"uri": "out"}, "tasks": [{"task": "seg", "checkpoint": "x.pt2"}]}
OPEN_GOP = {"x264-params": "open-gop=1:scenecut=0"}
# The container and codec, with what is hard about each.
KINDS = {
    "plain.mp4": ("libx264", {}, {}),
    "open.mp4": ("libx264", OPEN_GOP, {}),
    "fragments.mp4": ("libx264", {}, {"movflags": "frag_keyframe+empty_moov"}),  # starts after 0, has no index
    "start.mov": ("libx264", {}, {"movflags": "faststart"}),
    "open.mkv": ("libx264", OPEN_GOP, {}),
    "asp.mkv": ("mpeg4", {}, {}),
    "hevc.mp4": ("libx265", {}, {}),
    "vp9.webm": ("libvpx-vp9", {}, {}),
    "vp8.webm": ("libvpx", {}, {}),
    "vp9.mp4": ("libvpx-vp9", {}, {}),
    "no_cues.mkv": ("libx264", {}, {"live": "1"}),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {
        name: write_video(folder / name, COUNT, codec, options=options, container=container)
        for name, (codec, options, container) in KINDS.items()
    }


@pytest.fixture(scope="module")
def whole(videos):
    """Every video read from its start to its end."""
    return {name: read(path) for name, path in videos.items()}


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_is_a_row_with_its_number_and_time(videos, whole, name):
    found, total = whole[name]
    assert total == COUNT and [image.index for image in found] == list(range(COUNT))
    assert [image.image_id for image in found] == [f"{name}/{number:08d}" for number in range(COUNT)]
    assert [image.uri for image in found] == [f"{videos[name]}#{number}" for number in range(COUNT)]
    assert [image.extra["frame"] for image in found] == [number_of(pixels(image)) for image in found]
    assert [image.extra["frame"] for image in found] == list(range(COUNT))
    with av.open(str(videos[name])) as file:
        base = file.streams.video[0].time_base
    times = [float(time * base) for time in sorted(time for time, _, _ in packets(videos[name]))]
    assert [image.extra["time_s"] for image in found] == times


@pytest.mark.parametrize("name", KINDS)
def test_a_frame_is_the_same_whatever_way_it_was_reached(videos, whole, name):
    expected = [image.data for image in whole[name][0]]
    for start in range(1, COUNT, 5):
        found, total = read(videos[name], Done(((0, start),)))
        assert total == COUNT and [image.index for image in found] == list(range(start, COUNT))
        assert [image.data for image in found] == expected[start:], start
    for only in range(0, COUNT, 7):
        (image,), total = read(videos[name], Done(((0, only), (only + 1, COUNT)), COUNT))
        assert (image.data, image.index, total) == (expected[only], only, COUNT)
    steps, _ = read(videos[name], every=13)
    assert [(image.extra["frame"], image.data) for image in steps] == [
        (number, expected[number]) for number in range(0, COUNT, 13)
    ]
    keys, _ = read(videos[name], keyframes=True)
    stored_whole = [0, 12, 24, 35] if name == "asp.mkv" else [0, 12, 24]  # that encoder ends with one
    assert [image.extra["frame"] for image in keys] == stored_whole
    assert [image.data for image in keys] == [expected[number] for number in stored_whole]


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("name", ["plain.mp4", "hevc.mp4", "vp9.webm"])
def test_the_pixels_are_those_of_any_number_of_threads(videos, whole, name, threads):
    converter = FrameConverter()
    with av.open(str(videos[name])) as file:
        stream = file.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
        plain = [converter.to_bgr(frame) for frame in file.decode(stream)]
    assert len(plain) == COUNT
    for image, expected in zip(whole[name][0], plain, strict=True):
        assert np.array_equal(pixels(image), expected)


def test_seeking_decodes_little(videos, monkeypatch):
    """Of an MP4 the frames before the wanted one are not even read."""
    path = write_video(videos["plain.mp4"].with_name("long.mp4"), 240, container={"movflags": "faststart"})
    reads = Counting(path.read_bytes())
    monkeypatch.setattr(storage, "open_read", lambda uri, options: reads)
    (image,), _ = drain(SOURCE.read("long.mp4", "long.mp4", Done(((0, 239),)), Reading()))
    assert image.extra["frame"] == 239 == number_of(pixels(image))
    first = packets(path)[0][1]  # where the frames begin
    assert len([start for start, _ in reads.spans if start >= first]) <= 4


class Counting(io.BytesIO):
    """Notes what is read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.spans: list[tuple[int, int]] = []

    def read(self, count: int = -1) -> bytes:
        self.spans.append((self.tell(), count))
        return super().read(count)


@pytest.mark.parametrize("name", ["plain.mp4", "open.mp4", "start.mov", "hevc.mp4", "vp9.mp4"])
def test_headers_alone_tell_what_the_whole_file_tells(videos, name):
    """The table of an MP4 file is read without its frames; packets with their content say the same."""
    reads = Counting(videos[name].read_bytes())
    table = read_table(Watched(reads), lambda: None)
    stored = packets(videos[name])
    first, last = min(start for _, start, _ in stored), max(start + size for _, start, size in stored)
    assert reads.spans and not [start for start, _ in reads.spans if first <= start < last]
    full = video_table._read(Watched(io.BytesIO(videos[name].read_bytes())), lambda: None)
    for field in ("times", "times_stored", "stored", "positions", "numbers"):
        assert np.array_equal(getattr(table, field), getattr(full, field)), field
    assert (table.end, table.breaks, table.time_base) == (full.end, full.breaks, full.time_base)
    assert np.array_equal(table.keys, full.keys)


def test_rates_that_vary(tmp_path):
    times = [0, 1, 5, 6, 7, 30, 31, 32, 100, 101]
    path = write_video(tmp_path / "vfr.mp4", len(times), times=times, time_base=Fraction(1, 1000))
    found, _ = read(path)
    assert [image.extra["time_s"] for image in found] == [time / 1000 for time in times]
    # At 100 per second, the frames shown at 0, 10, 20, ... 100 ms.
    assert [image.extra["frame"] for image in read(path, fps=100)[0]] == [0, 4, 5, 7, 8]


@pytest.mark.parametrize("rate", [NTSC, Fraction(24000, 1001), Fraction(25), Fraction(60)])
def test_resampling_an_odd_rate_has_no_drift(tmp_path, rate):
    path = write_video(tmp_path / "odd.mp4", 150, rate=rate)
    chosen = [image.extra["frame"] for image in read(path, fps=str(rate / 3))[0]]
    assert chosen == list(range(0, 150, 3))


def test_times_choose_frames(videos):
    found, _ = read(videos["plain.mp4"], start="0.5", end="00:00:01")
    assert [image.extra["frame"] for image in found] == list(range(15, 30))  # 15 x 1001 / 30000 = 0.5005
    found, total = read(videos["plain.mp4"], start=3600)
    assert (found, total) == ([], 0)


@pytest.mark.parametrize("name", ["start.mov", "open.mkv", "vp9.webm", "fragments.mp4"])
def test_cut_files(videos, whole, tmp_path, name):
    """Wherever a file ends, the frames before that are the same, and a row says that it is cut. (Next to the cut, a
    frame may be there while one that is shown before it is not: then numbers there are not those in the whole file.)"""
    data = videos[name].read_bytes()
    expected = {image.extra["time_s"]: image.data for image in whole[name][0]}
    path = tmp_path / name
    for cut in np.linspace(len(data) // 2, packets(videos[name])[-1][1] - 5, 6, dtype=int):
        path.write_bytes(data[:cut])
        found, total = read(path)
        good = [image for image in found if image.error is None]
        assert [image.index for image in found] == list(range(total)) and 0 < len(good) < COUNT
        assert all(image.data == expected[image.extra["time_s"]] for image in good)
        *_, last = found
        assert (last.image_id, last.error.kind) == (name, "shard_damaged"), cut
        again, _ = read(path, Done(((0, total // 2),)))
        assert [image.data for image in again] == [image.data for image in found[total // 2 :]]


@pytest.mark.parametrize("name", ["plain.mp4", "open.mp4", "asp.mkv", "hevc.mp4"])
def test_a_damaged_packet_costs_the_frames_that_need_it(videos, whole, tmp_path, name):
    stored = packets(videos[name])
    order = sorted(time for time, _, _ in stored)
    expected = [image.data for image in whole[name][0]]
    path = tmp_path / name
    for broken in (13, 16, 24):
        time, position, size = stored[broken]
        data = bytearray(videos[name].read_bytes())
        header = 20 if name.endswith("mkv") else 0  # of the block
        data[position + header : position + size] = bytes(size - header)
        path.write_bytes(data)
        found, total = read(path)
        assert total == COUNT
        bad = [image.index for image in found if image.error]
        assert order.index(time) in bad and {found[index].error.kind for index in bad} == {"corrupt"}
        last = 35 if broken == 24 else 23  # up to the next keyframe
        assert min(bad) >= broken - 3 and max(bad) <= last, bad
        assert all(image.data == expected[image.index] for image in found if image.index not in bad)
        for start in (0, 5, 18, 25):
            again, _ = read(path, Done(((0, start),)))
            assert [image.data for image in again] == [image.data for image in found[start:]], (broken, start)


def test_one_damaged_keyframe_does_not_cost_those_behind_it(videos, whole, tmp_path):
    """A decoder of MPEG-4 that has read a wrong header refuses all packets from then on."""
    expected = [image.data for image in whole["asp.mkv"][0]]
    source = videos["asp.mkv"]
    stored = packets(source)
    key = next(place for place, (time, _, _) in enumerate(stored) if time == sorted(stored)[12][0])
    data = bytearray(source.read_bytes())
    begin = data.index(b"\0\0\1\xb6", stored[key][1])
    # The header of a video of other sizes (ISO/IEC 14496-2, 6.2.3), in place of that of a frame.
    data[begin : begin + 12] = b"\0\0\1\x20" + bytes(8)
    path = tmp_path / "asp.mkv"
    path.write_bytes(data)
    found, _ = read(path)
    bad = [image.index for image in found if image.error]
    assert 12 in bad and min(bad) >= 9 and max(bad) < 24, bad
    assert [image.data for image in found[24:]] == expected[24:]
    for start in (5, 12, 20, 24, 30):
        again, _ = read(path, Done(((0, start),)))
        assert [image.data for image in again] == [image.data for image in found[start:]], start
    keys, _ = read(path, keyframes=True)
    assert [one.data for one in keys] == [expected[0], expected[24], expected[35]]  # its parser says what a keyframe is


def test_a_damaged_keyframe_of_vp8(videos, whole, tmp_path):
    expected = [image.data for image in whole["vp8.webm"][0]]
    source = videos["vp8.webm"]
    data = bytearray(source.read_bytes())
    begin = data.index(b"\x9d\x01\x2a", packets(source)[12][1])  # how frames begin that are stored whole
    data[begin] = 0
    path = tmp_path / "vp8.webm"
    path.write_bytes(data)
    for start in (0, 1, 14, 20, 26):
        found, total = read(path, Done(((0, start),)) if start else Done())
        assert total == COUNT
        assert [image.index for image in found if image.error] == list(range(max(12, start), max(24, start)))
        assert all(image.data == expected[image.index] for image in found if image.error is None)


def test_no_decoder_is_one_row(videos, tmp_path):
    data = videos["plain.mp4"].read_bytes()
    path = tmp_path / "encrypted.mp4"
    path.write_bytes(data.replace(b"avc1\0\0\0\0\0\0", b"encv\0\0\0\0\0\0"))
    (image,), total = read(path)
    assert (image.image_id, image.error.kind, total) == ("encrypted.mp4", "shard_damaged", 1)
    assert image.error.message == "no decoder for its video track: encrypted, of an unknown codec, or damaged"
    assert SOURCE.count(str(path), Reading()) == 1


@pytest.mark.parametrize("behind", [b"SEFH\x6b\0\0\0\x01\0\0\0SEFT", b"\x7f\xff\xff\xffSEFTabcd", b"TAG" + b"x" * 125])
def test_text_behind_a_whole_file_is_no_damage(videos, tmp_path, behind):
    path = tmp_path / "trailer.mov"
    path.write_bytes(videos["start.mov"].read_bytes() + behind)
    found, total = read(path)
    assert total == COUNT and not [image for image in found if image.error]


def test_the_end_of_a_file_of_many_boxes(videos):
    """Walking them is a sign of life, and a cut fragment is found behind more of them than a plain file has."""
    told = []
    stream = io.BytesIO(videos["plain.mp4"].read_bytes() + b"\0\0\0\x08free" * 5000 + b"\0\0\1\0moof")
    message = missing_at_the_end(Watched(stream), lambda: told.append(1))
    assert message == "the file is cut off: 248 bytes are missing at its end" and len(told) == 5


def test_larger_frames_than_max_pixels_are_not_decoded(videos, tmp_path, monkeypatch):
    width, height = SIZE
    assert [image.error for image in read(videos["plain.mp4"], max_pixels=width * height)[0]] == [None] * COUNT
    two = write_two_sizes(tmp_path / "two.webm", [SIZE, (320, 192)])
    kinds = [image.error and image.error.kind for image in read(two, max_pixels=width * height)[0]]
    assert kinds == [None] * 6 + ["too_large"] * 6
    monkeypatch.setattr("sapiens_ray.sources.video_frames._Decoder", None)
    found, total = read(videos["plain.mp4"], max_pixels=width * height - 1)
    assert total == COUNT and {image.error.kind for image in found} == {"too_large"}
    assert found[0].error.message == "160x96 pixels are more than max_pixels = 15359"
    assert Job.parse(JOB | {"max_pixels": 99}).reading.max_pixels == 99


def test_a_failing_storage_is_not_damage(videos, monkeypatch):
    class Failing(io.BytesIO):
        left = 3

        def read(self, count: int = -1) -> bytes:
            Failing.left -= 1
            if Failing.left < 0:
                raise ConnectionResetError("the storage is gone")
            return super().read(count)

    for name in ("plain.mp4", "open.mkv"):
        for Failing.left in range(12):
            stream = Failing(videos[name].read_bytes())
            monkeypatch.setattr(storage, "open_read", lambda uri, options, stream=stream: stream)
            try:
                found, total = drain(SOURCE.read(name, name, Done(), Reading()))
            except ConnectionResetError:
                continue
            assert total == COUNT and not any(image.error for image in found)
    assert Failing.left >= 0, "some number of reads is enough"


def test_a_video_on_another_file_system(videos, whole):
    fsspec.filesystem("memory").pipe_file("/bucket/a.mp4", videos["plain.mp4"].read_bytes())
    found, total = drain(SOURCE.read("memory://bucket/a.mp4", "a.mp4", Done(), Reading()))
    assert total == COUNT
    assert [image.data for image in found] == [image.data for image in whole["plain.mp4"][0]]
    assert found[3].uri == "memory://bucket/a.mp4#3"


def test_without_pyav_the_message_says_what_to_install(monkeypatch, write_job, videos):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError) as caught:
        prepare_job(Job.load(write_job(videos["plain.mp4"])))
    assert str(caught.value) == "videos need PyAV, which is not installed: pip install 'sapiens-ray[video]'"


def test_counting_does_not_decode(videos, monkeypatch):
    monkeypatch.setattr("sapiens_ray.sources.video.decoded", None)
    reading = Reading()
    for name in ("plain.mp4", "open.mkv"):
        assert SOURCE.count(str(videos[name]), reading) == COUNT
        assert list(SOURCE.read_numbers(str(videos[name]), reading)) == list(range(COUNT))
    assert SOURCE.count("memory://bucket/a.mp4", reading) is None
