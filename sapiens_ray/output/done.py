"""What is done: computed from the names of the label files, and from nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeVar

from sapiens_ray.output.layout import data_units
from sapiens_ray.storage import Folder
from sapiens_ray.units import Done, UnitName


def list_units(output: Folder) -> list[UnitName]:
    """The units that have a file, without those whose rows are all in another file (left by a merge)."""
    return current(data_units(output))[0]


Answer = TypeVar("Answer")


def with_units(output: Folder, use: Callable[[list[UnitName]], Answer]) -> Answer:
    """Call `use` with the files that count; called again with a new listing if a merge removes one meanwhile."""
    for _ in range(10):  # merges are rare; a tenth one in a row means that a file is really gone
        try:
            return use(list_units(output))
        except FileNotFoundError:
            continue
    return use(list_units(output))


def current(names: Iterable[UnitName]) -> tuple[list[UnitName], list[UnitName]]:
    """Split into the files that count, in order, and those whose rows are all in another file as well."""
    ordered = sorted(names, key=lambda name: (name.shard, name.start, -name.stop, not name.last))
    counted: list[UnitName] = []
    inside: list[UnitName] = []
    for name in ordered:
        before = counted[-1] if counted and counted[-1].shard == name.shard else None
        covered = before is not None and name.stop <= before.stop and (before.last or not name.last)
        (inside if covered else counted).append(name)
    return counted, inside


def done_by_shard(names: Iterable[UnitName]) -> dict[int, Done]:
    """What is done of each shard that has any file."""
    ranges: dict[int, list[tuple[int, int]]] = defaultdict(list)
    totals: dict[int, int] = {}
    for name in names:
        ranges[name.shard].append((name.start, name.stop))
        if name.last:
            totals[name.shard] = name.stop
    return {shard: Done(tuple(sorted(spans)), totals.get(shard)) for shard, spans in ranges.items()}
