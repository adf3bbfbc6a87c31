"""What is read of all rows of an output: ids and places; and of some rows, what a page says about them.

The ids are held as Arrow strings, with 13 bytes beside each: 130 MB for two outputs of a million rows with ids of 50
characters. Nothing else of a row is held.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sapiens_ray.output.chunks import read_chunks
from sapiens_ray.reporting.rows import BASE
from sapiens_ray.storage import Folder
from sapiens_ray.units import Tell

COLUMNS = ("image_id", "shard", "index", "error_kind")


@dataclass(frozen=True)
class Ids:
    """All rows of an output, in its order.

    ids: N strings. shards, indices: N int32, where the rows are. failed: N bool, which are error rows. kinds: N
    dictionary-encoded strings, their error kinds.
    """

    ids: pa.Array
    shards: np.ndarray
    indices: np.ndarray
    failed: np.ndarray
    kinds: pa.Array

    @classmethod
    def read(cls, folder: Folder, name: str, tell: Tell) -> Ids:
        """The rows of a folder; of a `ChosenRows` those that meet its condition. name: of the output, for `tell`."""
        parts = []
        rows = 0
        for table in read_chunks(folder, dict.fromkeys(COLUMNS, ())):
            kept = table.select(COLUMNS)
            kept = kept.set_column(0, "image_id", kept["image_id"].cast(pa.large_string()))
            parts.append(kept.set_column(3, "error_kind", kept["error_kind"].dictionary_encode()))
            rows += table.num_rows
            tell(f"rows of {name} listed", rows, None)
        if not parts:
            none, nobody = np.empty(0, np.int32), pa.array([], pa.large_string())
            return cls(nobody, none, none, none.astype(bool), nobody)
        whole = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
        kinds = _array(whole["error_kind"])
        shards, indices = (whole[one].to_numpy() for one in ("shard", "index"))
        return cls(_array(whole["image_id"]), shards, indices, kinds.is_valid().to_numpy(zero_copy_only=False), kinds)

    def __len__(self) -> int:
        return len(self.ids)


def _array(column: pa.ChunkedArray) -> pa.Array:
    """A column of `combine_chunks` as one array."""
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def rows_at(folder: Folder, shards: np.ndarray, indices: np.ndarray) -> pa.Table:
    """The rows at these places, in their order, with the columns BASE."""
    wanted = _keys(shards, indices)
    order = np.argsort(wanted)
    parts = []
    for table in read_chunks(folder, dict.fromkeys(BASE, ())):
        places = _keys(table["shard"].to_numpy(), table["index"].to_numpy())
        parts.append(table.select(BASE).filter(pa.array(np.isin(places, wanted))))
    table = pa.concat_tables(parts)
    found = _keys(table["shard"].to_numpy(), table["index"].to_numpy())
    by_key = np.argsort(found)  # the k-th smallest wanted key is the k-th smallest found one
    rows = np.empty(len(wanted), np.int64)
    rows[order] = by_key
    return table.take(pa.array(rows))


def _keys(shards: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """One int64 per place of a row."""
    found: np.ndarray = (shards.astype(np.int64) << 32) | indices
    return found
