"""Rows that meet a condition, in the order of the input or sorted, as tables of a few columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sapiens_ray.errors import ConfigError
from sapiens_ray.output.chunks import read_chunks
from sapiens_ray.output.reading import schema_in
from sapiens_ray.output.where import ChosenRows, Order, Where, is_binary
from sapiens_ray.storage import Folder

ALWAYS = ("image_id", "uri", "shard", "index")  # what names an image
KEPT_BEFORE_SORTING = 50_000  # rows


@dataclass(frozen=True)
class Query:
    """A checked query. columns: of the answer, besides those in ALWAYS. limit: rows, at most; None for all."""

    folder: ChosenRows
    columns: tuple[str, ...]
    order: Order | None = None
    descending: bool = False
    limit: int | None = None

    def tables(self, tell: Callable[[int], None] | None = None) -> Iterator[pa.Table]:
        """The answer. tell: called with the number of rows that met the condition so far, also beyond the limit.
        Without it, rows beyond the limit are not read, unless rows are sorted.

        Sorted rows are in memory together, as many as the limit allows; null comes last. Rows that are equal keep the
        order of the input.
        """
        needed = dict.fromkeys([*ALWAYS, *self.columns, *(self.order.columns if self.order else ())])
        met = 0
        best: pa.Table | None = None
        left = self.limit
        for table in read_chunks(self.folder, dict.fromkeys(needed, ())):
            met += table.num_rows
            if tell:
                tell(met)
            if self.order is not None:
                best = table if best is None else pa.concat_tables([best, table], promote_options="default")
                if self.limit is not None and best.num_rows > self.limit + KEPT_BEFORE_SORTING:
                    best = self._sorted(best)
            elif left is None or left > 0:
                answer = table.slice(0, left)
                left = None if left is None else left - answer.num_rows
                yield answer.select(self._shown)
                if left == 0 and tell is None:
                    return
        if best is not None:
            yield self._sorted(best).select(self._shown)

    @property
    def _shown(self) -> list[str]:
        return list(dict.fromkeys([*ALWAYS, *self.columns]))

    def _sorted(self, table: pa.Table) -> pa.Table:
        assert self.order is not None
        values = self.order.values(table)
        keys = np.where(np.isnan(values), np.inf, -values if self.descending else values)
        return table.take(np.argsort(keys, kind="stable")[: self.limit])


def make_query(
    folder: Folder,
    where: str,
    columns: Sequence[str] = (),
    order_by: str | None = None,
    descending: bool = False,
    limit: int | None = None,
) -> Query:
    """The query over an output. columns: to show, besides the short ones that the condition and the order name.

    Raises ConfigError for a wrong condition, order or column, and for columns of maps, which are no values to look at;
    OutputError if there are no labels.
    """
    schema = schema_in(folder)
    condition = Where.parse(where, schema)
    order = None if order_by is None else Order.parse(order_by, schema)
    for name in columns:
        if name not in schema.names:
            raise ConfigError(f"columns: no column {name!r}; the columns are {', '.join(schema.names)}")
        if is_binary(schema.field(name).type):
            raise ConfigError(f"columns: {name} holds encoded maps; read them with read_labels(where=…) or `export`")
    used = [*condition.columns, *(order.columns if order else ())]
    named = [*(name for name in used if _is_short(schema.field(name).type)), *columns]
    shown = tuple(dict.fromkeys(name for name in named if name != "image_id"))
    return Query(ChosenRows(folder.uri, folder.options, condition), shown, order, descending, limit)


def _is_short(kind: pa.DataType) -> bool:
    """Whether a value can be read at a glance: a number, a text, or a list of these; not a list of persons."""
    if pa.types.is_list(kind):
        return not pa.types.is_nested(kind.value_type)
    return not is_binary(kind)
