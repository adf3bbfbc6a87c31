"""Which rows the page shows: a sample of all, the least confident of every task, and error rows."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sapiens_ray.reporting.numbers import Lowest, row_keys
from sapiens_ray.reporting.tasks import RowValues

LEAST_CONFIDENT = 200  # of each task
ERRORS = 2_000  # of all kinds; and at least so many of each kind:
ERRORS_OF_KIND = 20
BASE = ["shard", "index", "image_id", "uri", "width", "height", "error_kind", "error", "visualization"]

Row = tuple[int, int]  # shard and index


def confidence_column(task: str) -> str:
    """The column of a table of shown rows with a task's confidence. No column of an output has a colon."""
    return f"{task}:confidence"


def mask_column(task: str) -> str:
    """The column with the classes of a row as bits."""
    return f"{task}:classes"


def measure_column(task: str, measure: str) -> str:
    """The column with a number of the task."""
    return f"{task}:measure:{measure}"


@dataclass(frozen=True)
class Shown:
    """The rows of the page, in the order of the plan.

    rows: a table with the columns `BASE` and those of the tasks. sample: the places in it of a random sample, in random
    order. least: by task, the places of its least confident rows, least first. errors: of error rows, one of each
    kind by turns, those of a kind in random order. complete: whether `rows` are all rows of the output.
    """

    rows: pa.Table
    sample: list[int]
    least: dict[str, list[int]]
    errors: list[int]
    complete: bool


@dataclass
class ShownRows:
    """Chooses the rows while tables pass by. limit: rows of the page, at most. seed: another one chooses others."""

    limit: int
    seed: int = 0
    images: int = 0
    _sample: Lowest = field(init=False)
    _least: dict[str, Lowest] = field(init=False, default_factory=dict)
    _errors: Lowest = field(init=False)
    _of_kind: dict[str, Lowest] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._sample = Lowest(self.limit)
        self._errors = Lowest(ERRORS)

    def add(self, table: pa.Table, values: Mapping[str, RowValues]) -> None:
        """Consider the rows of a table. values: of every task."""
        self.images += table.num_rows
        rows = table.select(BASE)
        for task, one in values.items():
            if one.confidence is not None:
                rows = rows.append_column(confidence_column(task), pa.array(one.confidence, pa.float32()))
            if one.masks is not None:
                rows = rows.append_column(mask_column(task), pa.array(one.masks, pa.int64()))
            for name, numbers in one.measures.items():
                rows = rows.append_column(measure_column(task, name), pa.array(numbers, pa.float64()))
        keys = row_keys(table["shard"].to_numpy(), table["index"].to_numpy(), self.seed)
        self._sample.add(rows, keys)
        for task, one in values.items():
            if one.confidence is not None:
                self._least.setdefault(task, Lowest(LEAST_CONFIDENT)).add(rows, one.confidence)
        self._add_errors(rows, keys)

    def _add_errors(self, rows: pa.Table, keys: np.ndarray) -> None:
        bad = rows["error_kind"].is_valid()
        if not pc.any(bad).as_py():
            return
        failed, keys = rows.filter(bad), keys[bad.to_numpy()]
        self._errors.add(failed, keys)
        for kind in pc.unique(failed["error_kind"]).to_pylist():
            chosen = pc.equal(failed["error_kind"], kind)
            self._of_kind.setdefault(kind, Lowest(ERRORS_OF_KIND)).add(failed.filter(chosen), keys[chosen.to_numpy()])

    def finish(self) -> Shown | None:
        """The chosen rows; None if there are none. The sample gives way to the others."""
        sample = self._sample.table()
        if sample is None:
            return None
        least = {task: found for task, lowest in self._least.items() if (found := lowest.table()) is not None}
        errors = [found for lowest in (*self._of_kind.values(), self._errors) if (found := lowest.table()) is not None]
        parts = [*errors, *least.values(), sample]
        chosen = _first_of_each(parts, self.limit)
        rows = chosen.sort_by([("shard", "ascending"), ("index", "ascending")])
        at = {row: place for place, row in enumerate(_identities(rows))}

        def places(tables: Sequence[pa.Table]) -> list[int]:
            found = (at.get(row) for table in tables for row in _identities(table))
            return list(dict.fromkeys(place for place in found if place is not None))

        return Shown(
            rows, places([sample]), {task: places([table]) for task, table in least.items()},
            _kinds_by_turns(rows, places(errors)), complete=rows.num_rows == self.images,
        )  # fmt: skip


def by_turns(lists: Iterable[Sequence[int]]) -> list[int]:
    """The first of each list, then the second of each, and so on."""
    return [one for turn in itertools.zip_longest(*lists) for one in turn if one is not None]


def _kinds_by_turns(rows: pa.Table, places: Sequence[int]) -> list[int]:
    """The places of error rows, one of each kind by turns: a kind with many rows would hide the others."""
    kinds = rows["error_kind"].take(pa.array(places, pa.int64())).to_pylist()
    of_kind: dict[str, list[int]] = defaultdict(list)
    for place, kind in zip(places, kinds, strict=True):
        of_kind[kind].append(place)
    return by_turns(of_kind.values())


def _identities(table: pa.Table) -> list[Row]:
    return list(zip(table["shard"].to_pylist(), table["index"].to_pylist(), strict=True))


def _first_of_each(tables: Sequence[pa.Table], limit: int) -> pa.Table:
    """The rows of all tables, each once, those of the first tables first; at most `limit`."""
    together = pa.concat_tables(tables).combine_chunks()
    shard, index = (together[name].to_numpy().astype(np.int64) for name in ("shard", "index"))
    _, first = np.unique((shard << 32) | index, return_index=True)
    return together.take(pa.array(np.sort(first)[:limit]))
