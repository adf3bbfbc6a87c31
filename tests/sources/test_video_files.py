"""Unusual files: turned, of two sizes, without keyframes or with equal times, damaged in several places, no videos."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from sapiens_ray.sources.video import SAME_TIME
from sapiens_ray.units import Done
from tests.videos import SIZE, number_of, packets, pixels, read, turn, write_sound, write_two_sizes, write_video


def test_what_is_no_video_is_one_row(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_bytes(b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    (tmp_path / "header.mkv").write_bytes(b"\x1a\x45\xdf\xa3")
    whole = write_video(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "no_end.mp4").write_bytes(whole[:-400])  # without the header, which is at the end
    write_sound(tmp_path / "sound.mp4")
    messages = {
        "empty.mp4": "not an MP4, MOV, Matroska or WebM file: it is empty",
        "text.mp4": "not an MP4, MOV, Matroska or WebM file: it starts with b'#EXTM3U",
        "header.mkv": "the video cannot be opened: ",
        "no_end.mp4": "the video cannot be opened: ",
        "sound.mp4": "the file has no video track",
    }
    for name, message in messages.items():
        (image,), total = read(tmp_path / name)
        assert (image.image_id, image.error.kind, total) == (name, "shard_damaged", 1)
        assert image.error.message.startswith(message), image.error.message
        assert read(tmp_path / name, Done(((0, 1),))) == ([], 1)


def test_frames_of_intra_refresh_are_decoded_with_those_before(tmp_path):
    """They are marked as keyframes, and none of them is stored whole."""
    options = {"g": "12", "bf": "0", "x264-params": "intra-refresh=1:keyint=12"}
    path = write_video(tmp_path / "refresh.mkv", 40, options=options)
    expected = [image.data for image in read(path)[0]]
    assert None not in expected
    keys, _ = read(path, keyframes=True)
    assert [image.extra["frame"] for image in keys] == [0, 12, 24, 36]
    assert [image.data for image in keys] == [expected[number] for number in (0, 12, 24, 36)]


def test_damaged_places_have_names_of_their_own(tmp_path):
    source = write_video(tmp_path / "a.mkv", 60, options={"bf": "0", "g": "6"}, container={"cluster_time_limit": "300"})
    data = bytearray(source.read_bytes())
    for packet in (20, 40):
        position = packets(source)[packet][1]
        data[position - 16 : position + 10] = bytes(26)
    path = tmp_path / "b.mkv"
    path.write_bytes(data)
    found, _ = read(path)
    places = [image for image in found if image.error and image.error.kind == "shard_damaged"]
    assert [image.image_id for image in places] == ["b.mkv", "b.mkv#2"]
    (again,) = [one for one in read(path, Done(((0, places[1].index),)))[0] if "#" in one.image_id]
    assert (again.index, again.image_id) == (places[1].index, "b.mkv#2")


def test_frames_with_the_time_of_another_one_are_told(tmp_path):
    """Matroska counts in milliseconds: of 2000 frames per second, every second one has the time of the one before."""
    path = write_video(tmp_path / "fast.mkv", 40, times=range(40), time_base=Fraction(1, 2000), options={"bf": "0"})
    found, total = read(path)
    assert total == len({time for time, _, _ in packets(path)}) < len(packets(path))
    assert {image.note for image in found} == {SAME_TIME}
    assert not any(image.note for image in read(write_video(tmp_path / "slow.mkv", 4))[0])


def test_a_stream_with_two_sizes(tmp_path):
    path = write_two_sizes(tmp_path / "two.webm", [SIZE, (320, 192)])
    found, _ = read(path)
    assert [pixels(image).shape for image in found] == [(96, 160, 3)] * 6 + [(192, 320, 3)] * 6
    assert [number_of(pixels(image)) for image in found] == list(range(12))
    assert [image.data for image in read(path, Done(((0, 8),)))[0]] == [image.data for image in found[8:]]


def test_a_display_matrix_turns_frames(tmp_path):
    upright = pixels(read(write_video(tmp_path / "plain.mp4", 3))[0][1])
    turned = {
        (0, 1, -1, 0): np.rot90(upright, -1),  # a quarter clockwise, as telephones write it
        (-1, 0, 0, -1): np.rot90(upright, 2),
        (0, -1, 1, 0): np.rot90(upright, 1),
        (-1, 0, 0, 1): upright[:, ::-1],  # mirrored
        (1, 0, 0, 1): upright,
    }
    for matrix, expected in turned.items():
        path = turn(write_video(tmp_path / "turned.mp4", 3), *matrix)
        assert np.array_equal(pixels(read(path)[0][1]), expected), matrix
