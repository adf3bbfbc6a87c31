"""Five random kills in CI; `python -m tests.faults.chaos --kills 50` for more."""

from __future__ import annotations

import os

import pytest

from tests.faults import chaos


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_five_random_kills(tmp_path):
    found = chaos.run(kills=5, seed=int(os.environ.get("CHAOS_SEED", "3")), folder=tmp_path)
    print(found.table())
    assert sum(found.times.values()) == 5 and found.jobs >= 1
    assert not +found.lost and not +found.doubled
