"""Units: their names, their way through Arrow blocks, and how a stream of images is cut into them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from sapiens_ray.engine.assemble import make_unit
from sapiens_ray.errors import ImageError
from sapiens_ray.sources import Encoded
from sapiens_ray.sources.base import cut_units
from sapiens_ray.units import Done, Unit, UnitName


@given(st.integers(0, 10**7), st.integers(0, 10**9), st.integers(0, 10**6), st.booleans())
def test_names_round_trip(shard, start, length, last):
    name = UnitName(shard, start, start + length, last)
    assert UnitName.parse(name.file) == name


def test_names_sort_like_their_units():
    names = [
        UnitName(2, 0, 64, False),
        UnitName(2, 64, 128, False),
        UnitName(2, 128, 130, True),
        UnitName(10, 0, 5, True),
    ]
    assert sorted(name.file for name in names) == [name.file for name in names]
    assert names[2].file == "s000002-00000128-00000130-end.parquet"
    for other in ("s000002-00000128.parquet", ".tmp-s000002-00000128-00000130.parquet", "notes.txt"):
        assert UnitName.parse(other) is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.none(), st.binary(max_size=30)), max_size=8), st.integers(0, 5), st.booleans())
def test_a_unit_round_trips_through_a_block(datas, start, last):
    encoded = [
        Encoded(start + number, f"id {number} é", f"uri {number}", data, None if data else ImageError("empty", "why"))
        for number, data in enumerate(datas)
    ]
    unit = make_unit(encoded, pa.schema([("key", pa.string())]), shard=3, start=start, last=last)
    unit.inputs = {"kind": np.arange(len(datas) * 24, dtype=np.uint8).reshape(-1, 2, 4, 3)}
    unit.seconds = {"read": 0.5}
    arrived = Unit.from_block(unit.to_block())
    assert arrived.rows.equals(unit.rows)
    assert (arrived.name, arrived.seconds) == (unit.name, unit.seconds)
    assert np.array_equal(arrived.inputs["kind"], unit.inputs["kind"])
    assert arrived.good_rows() == [number for number, data in enumerate(datas) if data]


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, Done]:
    """The number of images of a shard, and the ranges of it that are done."""
    total = draw(st.integers(0, 40))
    cuts = sorted(draw(st.lists(st.integers(0, total), max_size=8, unique=True)))
    ranges = tuple((a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False))
    known = total if ranges and ranges[-1][1] == total and draw(st.booleans()) else None
    return total, Done(ranges, known)


@settings(max_examples=300, deadline=None)
@given(spans(), st.integers(1, 9), st.sampled_from([10, 55, 10**6]))
def test_cutting_covers_exactly_the_images_that_are_not_done(span, size, max_bytes):
    total, done = span

    def images():
        for index in range(total):
            if not done.has(index):
                yield Encoded(index, str(index), "", b"x" * (index % 30))
        return total

    units = list(cut_units(images(), size, max_bytes))
    indices = [image.index for unit, _ in units for image in unit]
    assert indices == [index for index in range(total) if not done.has(index)]
    for unit, _ in units:
        numbers = [image.index for image in unit]
        assert (
            len(numbers) <= size and numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
        )
    marked = [unit for unit, last in units if last]
    if indices and indices[-1] == total - 1:
        assert len(marked) == 1 and marked[0][-1].index == total - 1
    elif indices:
        assert marked == [], "the last unit is done already"
    else:
        assert units == [([], True)], "no image is left, but the end must be recorded"


@given(spans())
def test_done_knows_when_it_is_complete(span):
    total, done = span
    everything = all(done.has(index) for index in range(total))
    assert done.complete == (done.total is not None and everything)
    assert done.rows == sum(done.has(index) for index in range(total))
