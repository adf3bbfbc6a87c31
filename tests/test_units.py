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
from sapiens_ray.units import PHOTO, Done, Unit, UnitName, UnitReport, binary_array, join_units, set_column, split_unit


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


COUNTS = st.dictionaries(st.text(), st.integers(0, 2**40), max_size=3)
SECONDS = st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=3)
EXAMPLE = st.fixed_dictionaries({"image_id": st.text(), "error": st.text()})
EXAMPLES = st.dictionaries(st.text(), st.lists(EXAMPLE, max_size=2), max_size=3)


@given(st.text(), st.integers(0, 10**9), COUNTS, SECONDS, st.lists(st.text(), max_size=3), st.integers(0, 99), EXAMPLES)
def test_a_report_travels_unchanged(file, rows, errors, seconds, notes, repeated, examples):
    report = UnitReport(file, rows, errors, seconds, notes, repeated, examples)
    assert UnitReport.from_json(report.to_json()) == report


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=5))
def test_a_unit_taken_apart_is_joined_again(images):
    """Images that were not decoded have no inputs, and photos have any size."""
    unit = make_unit(
        [Encoded(7 + number, str(number), "", b"x") for number in range(len(images))], pa.schema([]), start=7
    )
    decoded = [(width, height) for good, width, height in images if good]
    sizes = [(width, height) if good else (None, None) for good, width, height in images]
    for name, values in zip(("width", "height"), zip(*sizes, strict=True), strict=True):
        unit.rows = set_column(unit.rows, name, pa.array(values, pa.int32()))
    random = np.random.default_rng(0)
    flat = [random.integers(0, 256, width * height * 3, np.uint8) for width, height in decoded]
    if decoded:
        small = random.integers(0, 256, (len(decoded), 2, 2, 3), np.uint8)
        unit.inputs = {PHOTO: np.concatenate(flat), "small": small}
    unit.notes, unit.seconds = ("said",), {"read": 1.0}
    parts = split_unit(unit)
    assert [part.start for part in parts] == [7 + number for number in range(len(images))]
    assert [part.rows["image_id"].to_pylist() for part in parts] == [[str(number)] for number in range(len(images))]
    assert [bool(part.inputs) for part in parts] == [good for good, _, _ in images]
    joined = join_units(parts, unit)
    assert joined.rows.equals(unit.rows) and (joined.name, joined.notes, joined.seconds) == (
        unit.name, unit.notes, unit.seconds,
    )  # fmt: skip
    assert joined.inputs.keys() == unit.inputs.keys()
    assert all(np.array_equal(joined.inputs[kind], array) for kind, array in unit.inputs.items())


@given(st.lists(st.none() | st.binary(max_size=40), max_size=30))
@settings(max_examples=200, deadline=None)
def test_cells_become_the_array_that_arrow_makes(cells):
    array = binary_array(cells)
    array.validate(full=True)
    assert array.equals(pa.array(cells, pa.binary())) and array.null_count == cells.count(None)


def test_cells_that_are_too_large_for_one_array_are_left_to_arrow(monkeypatch):
    """Its offsets are 32-bit. The cells are never copied."""

    class Large(bytes):
        def __len__(self):
            return 1 << 30

    assert binary_array([Large(), Large()]) is None
