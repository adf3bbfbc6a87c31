"""What counts as done, told by the names of files."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sapiens_ray.output.done import current, done_by_shard
from sapiens_ray.units import UnitName


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data())
def test_files_that_a_merged_one_covers_do_not_count_twice(lengths, data):
    stops = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    starts = [0, *stops[:-1]]
    parts = [UnitName(4, start, stop, stop == stops[-1]) for start, stop in zip(starts, stops, strict=True)]
    merged = UnitName(4, 0, stops[-1], True)
    left = data.draw(st.lists(st.sampled_from(parts), unique=True))
    for found, rows in ((parts, stops[-1]), ([*left, merged], stops[-1])):
        counted, inside = current(data.draw(st.permutations(found)))
        assert sum(name.stop - name.start for name in counted) == rows
        assert sorted([*counted, *inside]) == sorted(found)
        assert done_by_shard(counted)[4].complete
    some = [name for name in parts if name not in left]
    done = done_by_shard(current(some)[0])
    assert (not some) or done[4].complete == (not left)
