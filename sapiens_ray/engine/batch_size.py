"""`batch_size: auto`: the smallest batch with which the device gives about as many images per second as it can.

Sizes are doubled until memory is full. Each is run several times and its median counts, so that one slow run decides
nothing. No size is left out because the one before it gained little: images per second may rise again after a plateau.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import median

from sapiens_ray.models.device import out_of_memory

SIZES = (1, 2, 4, 8, 16, 32, 64)
RUNS = 5  # of each size that are timed, after one that is not: it chooses algorithms
AS_GOOD = 1.02  # images per second that are lower by this factor than the best: a smaller batch waits less, and fits
LONGEST_S = 30.0  # a size whose runs would take longer is not tried: at seconds per batch, no launch counts any more

Seconds = Callable[[int], float]  # runs one batch of a size, and returns how long it took


def timed(seconds: Seconds, sizes: Iterable[int] = SIZES) -> dict[int, float]:
    """The median time of a batch of each size, by size, up to the first that is too large.

    sizes: in rising order. A size is too large if memory runs out, or if its runs would take more than `LONGEST_S`,
    judged by the last size. If not even the first fits into memory, that error is raised, and so is any other error.
    """
    medians: dict[int, float] = {}
    for size in sizes:
        if medians:
            last = max(medians)
            if medians[last] * size / last * (RUNS + 1) > LONGEST_S:
                break
        try:
            seconds(size)
            medians[size] = median(seconds(size) for _ in range(RUNS))
        except Exception as error:
            if not medians or not out_of_memory(error):
                raise
            break
    return medians


def chosen(medians: Mapping[int, float]) -> int:
    """The smallest size whose images per second are within 2 % of the best."""
    speeds = {size: size / max(seconds, 1e-9) for size, seconds in medians.items()}
    return min(size for size, speed in speeds.items() if speed * AS_GOOD >= max(speeds.values()))


def around(size: int, medians: Mapping[int, float]) -> list[int]:
    """The sizes for which code is compiled, to choose among them: this one, its half and its double, if they ran.

    Compiling for every size would take as many times as long. What it saves at each launch makes the best size
    smaller, rarely larger, and not by much.
    """
    return [near for near in (size // 2, size, size * 2) if near in medians]
