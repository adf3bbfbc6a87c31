from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.reporting.numbers import KEPT, Lowest, Spread, row_keys

NUMBERS = st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), max_size=40)


@given(st.lists(NUMBERS, max_size=4))
def test_a_spread_is_that_of_all_values_together(parts):
    spread = Spread()
    for part in parts:
        spread.add(np.array(part, np.float64))
    values = np.array([value for part in parts for value in part], np.float64)
    known = values[~np.isnan(values)]
    found = spread.result()
    assert (found["count"], found["missing"]) == (len(known), len(values) - len(known))
    if not len(known):
        assert found["min"] is found["median"] is found["mean"] is None
        return
    assert (found["min"], found["max"]) == (known.min(), known.max())
    assert found["mean"] == pytest.approx(known.mean(), abs=1e-6)
    for name, share in (("p05", 0.05), ("p25", 0.25), ("median", 0.5), ("p75", 0.75), ("p95", 0.95)):
        assert found[name] == pytest.approx(np.quantile(known, share))


def test_quantiles_of_many_values_are_those_of_a_sample_in_bounded_memory():
    spread = Spread()
    for start in range(0, 1_000_000, 50_000):
        spread.add(np.arange(start, start + 50_000) / 1e6)
        assert spread._held <= 2 * KEPT + 50_000
    found = spread.result()
    assert (found["count"], found["min"], found["max"]) == (1_000_000, 0.0, 0.999999) and len(spread.sample) == KEPT
    # A quantile of 100,000 of them has a standard error of 0.0016 at most.
    assert [found[name] for name in ("p05", "median", "p95")] == pytest.approx([0.05, 0.5, 0.95], abs=0.008)
    assert sum(spread.shares(np.linspace(0, 1, 11))) == pytest.approx(1)


def test_shares_count_what_lies_outside_for_the_outer_bins():
    spread = Spread()
    spread.add(np.array([-1, 0.1, 0.6, 3, np.nan]))
    assert spread.shares([0, 0.5, 1]) == [0.5, 0.5]
    assert Spread().shares([0, 1]) == [0.0]


@given(st.lists(NUMBERS, min_size=1, max_size=5), st.integers(0, 30))
def test_lowest_keeps_the_smallest_of_all(parts, limit):
    lowest = Lowest(limit)
    for part in parts:
        lowest.add(pa.table({"key": pa.array(part, pa.float64())}), np.array(part))
    keys = np.array([key for part in parts for key in part], np.float64)
    expected = np.sort(keys[~np.isnan(keys)])[:limit].tolist()
    table = lowest.table()
    assert ([] if table is None else table["key"].to_pylist()) == expected


def test_keys_depend_on_the_place_of_a_row_and_the_seed_alone():
    shards, indices = np.repeat(np.arange(100), 100), np.tile(np.arange(100), 100)
    keys = row_keys(shards, indices, 0)
    assert len(np.unique(keys)) == 10_000 and keys.min() >= 0 and keys.max() < 1
    assert np.histogram(keys, 10, (0, 1))[0].tolist() == pytest.approx([1000] * 10, abs=120)  # four sigma
    assert (row_keys(shards[7:9], indices[7:9], 0) == keys[7:9]).all()
    assert (row_keys(shards, indices, 1) != keys).all()
