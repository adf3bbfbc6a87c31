"""Which frames of videos are labelled: `input.video` of the job file."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from sapiens_ray.sources.video_table import FrameTable
from sapiens_ray.tasks.sections import Section, Settings

CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d{1,2}(?:\.\d+)?)")  # hh:mm:ss, mm:ss


def seconds(value: object) -> Fraction:
    """Seconds of a number, or of a text such as 00:10:02.5 or 10:02.5. Raises ValueError for anything else."""
    found = CLOCK.fullmatch(str(value))
    if found:
        hours, minutes, rest = found.groups()
        if Fraction(rest) < 60 and (hours is None or int(minutes) < 60):
            return 3600 * int(hours or 0) + 60 * int(minutes) + Fraction(rest)
    number = None if isinstance(value, bool) else _number(value)
    if number is None or number < 0:
        raise ValueError("should be seconds, or a time such as '00:10:02.5'")
    return number


def rate(value: object) -> Fraction:
    """Frames per second, of a number or of a text such as 30000/1001. Raises ValueError for anything else."""
    number = None if isinstance(value, bool) else _number(value)
    if number is None or not 0 < number <= 1000:
        raise ValueError("should be a number of frames per second above 0, such as 2, 0.5 or '30000/1001'")
    return number


def _number(value: object) -> Fraction | None:
    try:
        return Fraction(str(value))  # of a float, the decimal number that was written
    except (ValueError, ZeroDivisionError):
        return None


def _checked_seconds(value: object) -> object:
    if value is not None:
        seconds(value)
    return value


def _checked_rate(value: object) -> object:
    if value is not None:
        rate(value)
    return value


Seconds = Annotated[float | str, BeforeValidator(_checked_seconds)]
Rate = Annotated[float | str, BeforeValidator(_checked_rate)]


class VideoOptions(Section):
    """Which frames of videos are labelled; all of them by default."""

    every: int | None = Field(
        None, ge=1, description="Only frames whose number, counted from 0 in the whole video, is a multiple of this."
    )
    fps: Rate | None = Field(
        None,
        description="Only the frames shown at so many points in time per second, such as 2, 0.5 or '30000/1001', "
        "counted from `start` or from the first frame. A frame that is shown at several of them is labelled once.",
    )
    keyframes: bool = Field(False, description="Only frames that are stored whole; the others are not decoded.")
    start: Seconds | None = Field(
        None, description="Only from this time of the video on: seconds, or a text such as '00:10:00'."
    )
    end: Seconds | None = Field(None, description="Only before this time of the video.")

    @model_validator(mode="after")
    def _one_choice(self) -> VideoOptions:
        given = [name for name in ("every", "fps", "keyframes") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; give one of every, fps and keyframes")
        if self.end is not None and seconds(self.end) <= seconds(self.start or 0):
            raise ValueError(f"end: {self.end} should be later than start: {self.start or 0}")
        return self

    def result_settings(self) -> Settings:
        """The options that are given, as far as they decide which frames are labelled: equal for equal frames."""
        given: Settings = {}
        if self.every not in (None, 1):
            given["every"] = self.every
        if self.fps is not None:
            given["fps"] = str(rate(self.fps))
        if self.keyframes:
            given["keyframes"] = True
        if self.start is not None and seconds(self.start):
            given["start"] = str(seconds(self.start))
        if self.end is not None:
            given["end"] = str(seconds(self.end))
        return given

    def choose(self, table: FrameTable) -> np.ndarray:
        """The numbers of the chosen frames, ascending, int64.

        All times are compared exactly, as fractions: a rate such as 30000/1001 has no drift.
        """
        if not len(table):
            return np.empty(0, np.int64)
        first = 0 if self.start is None else self._first_at(table, self.start)
        stop = len(table) if self.end is None else self._first_at(table, self.end)
        if self.fps is not None:
            return self._resampled(table, rate(self.fps))
        numbers = np.arange(first, stop, dtype=np.int64)
        if self.keyframes:
            return np.compress(table.is_key(numbers), numbers)
        if self.every is not None:
            return np.compress(numbers % self.every == 0, numbers)
        return numbers

    @staticmethod
    def _first_at(table: FrameTable, time: float | str) -> int:
        """The number of the first frame at a time or after it."""
        ticks = seconds(time) / table.time_base
        return int(np.searchsorted(table.times, -(-ticks.numerator // ticks.denominator)))

    def _resampled(self, table: FrameTable, wanted: Fraction) -> np.ndarray:
        """The frame that is shown at start, start + 1/fps, start + 2/fps, …, before the end; each once.

        Every frame is asked for a point in its time: where time stamps are wrong, there may be any number of points.
        """
        begin = max(seconds(self.start or 0) / table.time_base, Fraction(int(table.times[0])))
        end = Fraction(table.end)
        if self.end is not None:
            end = min(end, seconds(self.end) / table.time_base)
        step = 1 / (wanted * table.time_base)  # in units of the time base
        whole = begin.denominator * end.denominator * step.denominator
        at, until, by = int(begin * whole), int(end * whole), int(step * whole)  # exact, of any size
        stops = [*(time * whole for time in table.times.tolist()[1:]), until]  # a frame is shown up to the next one
        found, point = [], at
        for number, stop in enumerate(stops):
            if point < min(stop, until):
                found.append(number)
                point = at + -((at - stop) // by) * by  # the first one that is not before `stop`
        return np.array(found, np.int64)
