"""How processes divide rows: each row once, whatever their number."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.training.split import Reader, pieces, shuffled

FEW = st.integers(1, 5)


def rows_of(sizes: np.ndarray, order: np.ndarray, span: tuple[int, int]) -> list[tuple[int, int]]:
    return [(group, row) for group, first, after in pieces(sizes, order, *span) for row in range(first, after)]


@given(st.lists(st.integers(1, 9), max_size=8), FEW, FEW, st.booleans(), st.integers(0, 99))
def test_every_row_is_read_once_by_all_workers_of_all_ranks(sizes, ranks, workers, even, seed):
    sizes = np.array(sizes, np.int64)
    total = int(sizes.sum())
    order = np.random.default_rng(seed).permutation(len(sizes))
    read = [
        [rows_of(sizes, order, Reader(rank, ranks, worker, workers).share(total, even)) for worker in range(workers)]
        for rank in range(ranks)
    ]
    every = [(group, row) for group in order for row in range(sizes[group])]
    used = total - total % ranks if even else total
    assert [row for rank in read for worker in rank for row in worker] == every[:used]
    of_ranks = [sum(map(len, rank)) for rank in read]
    assert max(of_ranks) - min(of_ranks) <= (0 if even else 1)
    for rank in read:
        counts = list(map(len, rank))
        assert max(counts) - min(counts) <= 1
    if even:  # then all ranks have the same number of batches
        assert all(list(map(len, rank)) == list(map(len, read[0])) for rank in read)


@given(st.integers(0, 60), st.integers(1, 70), st.integers(0, 99))
def test_the_buffer_loses_and_doubles_nothing(count, size, seed):
    drawn = list(shuffled(range(count), size, np.random.default_rng(seed)))
    assert sorted(drawn) == list(range(count))
    for place, row in enumerate(drawn):
        assert row < place + size + 1, "a row cannot leave before it came in"
    assert drawn == list(shuffled(range(count), size, np.random.default_rng(seed)))


@given(st.lists(st.integers(0, 12), max_size=40), st.integers(1, 10), st.integers(1, 20), st.integers(0, 9))
def test_the_buffer_holds_few_bytes(weights, size, most, seed):
    """Rows are pairs of a number and their bytes."""
    held, come = 0, []

    def rows():
        nonlocal held
        for row in enumerate(weights):
            held += row[1]
            come.append(row)
            yield row

    drawn = []
    for row in shuffled(rows(), size, np.random.default_rng(seed), lambda row: row[1], most):
        newest = come[-1][1] if len(come) < len(weights) else 0  # the one that waits for its place
        assert held - newest <= most or len(come) - len(drawn) <= 2 or len(come) == len(weights)
        held -= row[1]
        drawn.append(row)
    assert sorted(drawn) == list(enumerate(weights))
