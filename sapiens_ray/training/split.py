"""How processes divide the rows of a data set: each row once, whatever their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Row = TypeVar("Row")


@dataclass(frozen=True)
class Reader:
    """One of the processes that read a data set together: worker `worker` of `workers`, of rank `rank` of `ranks`."""

    rank: int = 0
    ranks: int = 1
    worker: int = 0
    workers: int = 1

    def share(self, total: int, even: bool = False) -> tuple[int, int]:
        """The half-open range of the rows that this process reads.

        The ranges of all ranks join from 0 to `total`, and those of its workers join to that of a rank. They differ by
        at most one row. even: all ranks have the same number; up to `ranks` - 1 rows are left out.
        """
        used = total - total % self.ranks if even else total
        start, stop = _part(used, self.rank, self.ranks)
        first, after = _part(stop - start, self.worker, self.workers)
        return start + first, start + after


def _part(total: int, number: int, parts: int) -> tuple[int, int]:
    return total * number // parts, total * (number + 1) // parts


def pieces(sizes: np.ndarray, order: np.ndarray, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The parts of groups that make up the rows [start, stop), if groups follow each other in an order.

    sizes: rows of each group. order: the numbers of the groups. Yields (group, first row in it, row after the last).
    """
    ends = np.cumsum(sizes[order])
    for position in range(int(np.searchsorted(ends, start, side="right")), len(order)):
        begin = int(ends[position] - sizes[order[position]])
        if begin >= stop:
            return
        first, after = max(start, begin) - begin, min(stop, int(ends[position])) - begin
        if first < after:
            yield int(order[position]), first, after


def shuffled(
    rows: Iterable[Row],
    size: int,
    random: np.random.Generator,
    weigh: Callable[[Row], int] = lambda row: 0,
    most_bytes: int = 0,
) -> Iterator[Row]:
    """The rows in random order, of which `size` are held: each new row takes the place of one that is drawn.

    weigh: the bytes of a row. Fewer rows are held if they have more than `most_bytes` together; one always is.
    """
    held: list[tuple[Row, int]] = []
    held_bytes = 0
    for row in rows:
        weight = weigh(row)
        while held and (len(held) >= size or held_bytes + weight > most_bytes):
            place = int(random.integers(len(held)))
            held[place], held[-1] = held[-1], held[place]
            drawn, freed = held.pop()
            held_bytes -= freed
            yield drawn
        held.append((row, weight))
        held_bytes += weight
    for place in random.permutation(len(held)):
        yield held[place][0]
