"""Trial runs: labelling the first images of the input, or a random sample of them."""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sapiens_ray.errors import ConfigError
from sapiens_ray.sources import Entry
from sapiens_ray.units import Ranges

SUFFIX = r"-(limit-\d+|sample-\d+-seed--?\d+)"  # the form of `Subset.suffix`


@dataclass(frozen=True)
class Subset:
    """The images that a trial run labels: the first `count`, or with a seed, a sample of this many."""

    count: int
    seed: int | None = None

    @property
    def is_sample(self) -> bool:
        return self.seed is not None

    @property
    def suffix(self) -> str:
        """What is appended to the output of the job, so that a trial has an output of its own."""
        return f"-sample-{self.count}-seed-{self.seed}" if self.is_sample else f"-limit-{self.count}"

    def __str__(self) -> str:
        if self.is_sample:
            return f"a sample of {self.count} images, seed {self.seed}"
        return f"the first {self.count} images"


def make_subset(limit: int | None, sample: int | None, seed: int | None) -> Subset | None:
    """The subset for the options of a run; None for all images. Raises ConfigError for options that make no sense.

    seed: of the sample; None for 0.
    """
    if seed is not None and sample is None:
        raise ConfigError(f"--seed {seed}: it belongs to --sample, which is not given")
    if limit is not None and sample is not None:
        raise ConfigError("limit and sample: give one of them")
    for name, count in (("limit", limit), ("sample", sample)):
        if count is not None and count < 1:
            raise ConfigError(f"--{name} {count}: give a number of images, 1 or more")
    if limit is not None:
        return Subset(limit)
    return None if sample is None else Subset(sample, seed or 0)


Place = tuple[int, int]  # what holds an image (a shard, or a part of the input), and its position there


class Drawing:
    """Draws a sample: the images with the smallest keys, which are random numbers that depend on the seed and on the
    name of the image alone. So a run on another machine draws the same images, and new images replace few of them.

    Images are added in any order; only as many as are drawn are held.
    """

    def __init__(self, subset: Subset) -> None:
        self._count = subset.count
        self._seed = f"{subset.seed}\0".encode()
        self._drawn: list[tuple[float, Place, Entry | None]] = []  # a heap: the largest key (negated) first

    def add_entries(self, holder: int, entries: Iterable[tuple[int, Entry]]) -> None:
        """Add images of a folder or list with their positions."""
        for position, entry in entries:
            self._add(self._number(entry.image_id) / 2**64, (holder, position), entry)

    def add_file(self, holder: int, shard_id: str, images: int) -> None:
        """Add all images of a file that is a shard."""
        keys = np.random.Generator(np.random.Philox(self._number(shard_id))).random(images)
        order = np.argsort(keys, kind="stable")[: self._count]
        for position in order:
            if not self._add(float(keys[position]), (holder, int(position)), None):
                break

    def rank(self, shard_id: str) -> int:
        """A random number of a file: which files are opened if there are too many to open all."""
        return self._number(shard_id)

    def drawn(self) -> dict[int, list[tuple[int, Entry | None]]]:
        """The drawn images by what holds them, in order of their position."""
        chosen = sorted(((place, entry) for _, place, entry in self._drawn), key=lambda one: one[0])
        groups = itertools.groupby(chosen, key=lambda one: one[0][0])
        return {holder: [(place[1], entry) for place, entry in group] for holder, group in groups}

    def _add(self, key: float, place: Place, entry: Entry | None) -> bool:
        item = (-key, place, entry)
        if len(self._drawn) < self._count:
            heapq.heappush(self._drawn, item)
            return True
        if item[:2] > self._drawn[0][:2]:
            heapq.heapreplace(self._drawn, item)
            return True
        return False

    def _number(self, name: str) -> int:
        digest = hashlib.blake2b(self._seed + name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest)


def as_ranges(positions: Iterable[int]) -> Ranges:
    """Sorted positions as half-open ranges."""
    ranges: list[tuple[int, int]] = []
    for position in positions:
        if ranges and ranges[-1][1] == position:
            ranges[-1] = (ranges[-1][0], position + 1)
        else:
            ranges.append((position, position + 1))
    return tuple(ranges)
