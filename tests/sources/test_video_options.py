"""Which frames the options choose, against a plain loop over times; and what is refused."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.errors import ConfigError
from sapiens_ray.job.config import Job
from sapiens_ray.sources.video_options import VideoOptions, seconds
from sapiens_ray.sources.video_table import FrameTable

RATES = ["1", "2.5", "10", "23.976", "30000/1001", "29.97", "1000"]
TIMES = st.fractions(0, 6, max_denominator=1000).map(lambda time: f"{float(time):.3f}")


@st.composite
def tables(draw) -> FrameTable:
    """Frames at any times; packets are stored as they are shown."""
    base = draw(st.sampled_from([Fraction(1, 1000), Fraction(1, 30000), Fraction(1001, 30000), Fraction(1, 90000)]))
    longest = max(1, int(Fraction(1, 5) / base))
    gaps = draw(st.lists(st.integers(1, longest), min_size=1, max_size=40))
    times = np.cumsum([draw(st.integers(-longest, 3 * longest)), *gaps])[:-1].astype(np.int64)
    places = np.arange(len(times))
    keys = np.array(draw(st.lists(st.booleans(), min_size=len(times), max_size=len(times))))
    return FrameTable(base, times, keys, places, times, places, places, int(times[-1]) + gaps[-1])


@given(tables(), st.sampled_from(RATES), st.none() | TIMES, st.none() | TIMES)
def test_fps_chooses_the_frame_that_is_shown_at_each_point(table, fps, start, end):
    if end is not None and Fraction(end) <= Fraction(start or 0):
        return
    shown = [int(time) * table.time_base for time in table.times]
    begin = max(Fraction(start or 0), shown[0])
    stop = table.end * table.time_base if end is None else min(Fraction(end), table.end * table.time_base)
    expected, number = [], 0
    while (point := begin + number / Fraction(fps)) < stop:
        expected.append(max(place for place, time in enumerate(shown) if time <= point))
        number += 1
    chosen = VideoOptions(fps=fps, start=start, end=end).choose(table)
    assert chosen.tolist() == sorted(set(expected))


def test_wrong_time_stamps_cost_nothing():
    """A gap of 31 years, and more points in it than fit into memory."""
    times, places = np.array([0, 1, 2, 10**12]), np.arange(4)
    table = FrameTable(Fraction(1, 1000), times, places == 0, places, times, places, places, 10**12 + 1)
    assert VideoOptions(fps=1000).choose(table).tolist() == [0, 1, 2, 3]
    assert VideoOptions(fps=300).choose(table).tolist() == [0, 2, 3]


def test_entries_before_a_packet():
    keys, places = np.array([True, False, False, True, True, False]), np.arange(6)
    table = FrameTable(Fraction(1, 10), places, keys, places, places, places, places, 6)
    found = [table.entries_before(packet).tolist() for packet in (-3, 0, 2, 3, 9)]
    assert found == [[], [0], [0], [3, 0], [4, 3, 0]]


@given(tables(), st.none() | st.integers(1, 9), st.booleans(), st.none() | TIMES, st.none() | TIMES)
def test_other_choices(table, every, keyframes, start, end):
    if (every and keyframes) or (end is not None and Fraction(end) <= Fraction(start or 0)):
        return
    expected = [
        number
        for number, time in enumerate(table.times)
        if (start is None or int(time) * table.time_base >= Fraction(start))
        and (end is None or int(time) * table.time_base < Fraction(end))
        and number % (every or 1) == 0
        and (not keyframes or table.keys[number])
    ]
    options = VideoOptions(every=every, keyframes=keyframes, start=start, end=end)
    assert options.choose(table).tolist() == expected


def test_times_are_seconds_or_a_clock():
    assert [seconds(one) for one in (90, 1.5, "1:30", "00:01:30.250", "90", "75:59", "1:59:59")] == [
        90, Fraction(3, 2), 90, Fraction(361, 4), 90, 4559, 7199,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ({"every": 2, "fps": 1}, "every and fps exclude each other; give one of every, fps and keyframes"),
        ({"every": 2, "keyframes": True}, "every and keyframes exclude each other"),
        ({"every": 2, "fps": 1, "keyframes": True}, "every and fps and keyframes exclude each other"),
        ({"start": 5, "end": "0:05"}, "end: 0:05 should be later than start: 5"),
        ({"fps": 0}, "input.video.fps: should be a number of frames per second above 0"),
        ({"fps": "fast"}, "input.video.fps: should be a number of frames per second above 0"),
        ({"start": "soon"}, "input.video.start: should be seconds, or a time such as '00:10:02.5'"),
        ({"start": "5:99"}, "input.video.start: should be seconds, or a time such as '00:10:02.5'"),
        ({"start": "1:75:00"}, "input.video.start: should be seconds, or a time such as '00:10:02.5'"),
        ({"every": 0}, "input.video.every"),
        ({"step": 3}, "input.video.step"),
    ],
)
def test_wrong_options_are_refused_in_one_line(video, message):
    job = {"input": {"uri": "a.mp4", "video": video}, "output": {"uri": "out"},
           "tasks": [{"task": "seg", "checkpoint": "x.pt2"}]}  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        Job.parse(job)
    assert message in str(caught.value) and "\n" not in str(caught.value), caught.value


def test_equal_choices_are_equal_settings():
    assert VideoOptions(every=1, start=0).result_settings() == {}
    assert VideoOptions(fps=0.5, start="1:00").result_settings() == VideoOptions(fps="1/2", start=60).result_settings()
    assert VideoOptions(keyframes=True, end=2).result_settings() == {"keyframes": True, "end": "2"}
