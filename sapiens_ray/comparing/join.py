"""Which rows of two outputs show the same image: joined by `image_id`, whatever the order of the rows.

The ids of both outputs are held as Arrow strings, with 9 bytes beside each: 150 MB for two outputs of a million rows
with ids of 50 characters. Nothing else of a row is held.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sapiens_ray.comparing.told import Tell
from sapiens_ray.output.where import where_of
from sapiens_ray.reporting.chunks import Columns, read_chunks
from sapiens_ray.storage import Folder

COLUMNS = ("image_id", "shard", "index", "error_kind")
EXAMPLES = 5  # images that are named of each kind
NAMED_ERRORS = 100


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
        where = where_of(folder)
        names = [*COLUMNS, *(where.read_columns if where else ())]
        columns: Columns = dict.fromkeys(names, ())

        def keep(table: pa.Table) -> pa.Table:
            return table if where is None else table.filter(pa.array(where.mask(table)))

        parts = []
        rows = 0
        for table in read_chunks(folder, columns, keep):
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


@dataclass(frozen=True)
class FailedImage:
    """An image with an error row. a, b: the error kinds; None where it has labels."""

    image_id: str
    a: str | None
    b: str | None


@dataclass
class Counts:
    """How the rows of A and B fit together.

    in_both: images with a row in A and in B. error_in_a, error_in_b, error_in_both: of these, the ones with an error
    row in A only, in B only, in both. repeated: rows whose id an earlier row of the same output has; they are left out.
    """

    rows_in_a: int = 0
    rows_in_b: int = 0
    in_both: int = 0
    only_in_a: int = 0
    only_in_b: int = 0
    error_in_a: int = 0
    error_in_b: int = 0
    error_in_both: int = 0
    repeated_in_a: int = 0
    repeated_in_b: int = 0
    compared: int = 0
    only_in_a_examples: list[str] = field(default_factory=list)
    only_in_b_examples: list[str] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """Images with an error row in A or B."""
        return self.error_in_a + self.error_in_b + self.error_in_both


@dataclass(frozen=True)
class Joined:
    """The images with labels in both outputs, in the order of A. a, b: their positions in the `Ids`, N int64.

    failed: images with an error row, at most NAMED_ERRORS.
    """

    a: np.ndarray
    b: np.ndarray
    counts: Counts
    failed: list[FailedImage]


def join(a: Ids, b: Ids) -> Joined:
    """Join by id. Of rows of one output with the same id, the first counts."""
    first_a, first_b = _first_of_each(a.ids), _first_of_each(b.ids)
    unique_a, unique_b = a.ids.take(pa.array(first_a)), b.ids.take(pa.array(first_b))
    found = pc.index_in(unique_a, value_set=unique_b)
    matched = found.is_valid().to_numpy(zero_copy_only=False)
    at_a = first_a[matched]
    at_b = first_b[found.drop_null().to_numpy()]
    missing_in_a = pc.invert(pc.is_in(unique_b, value_set=unique_a))
    only_a, only_b = unique_a.filter(pa.array(~matched)), unique_b.filter(missing_in_a)
    failed_a, failed_b = a.failed[at_a], b.failed[at_b]
    bad = failed_a | failed_b
    counts = Counts(
        rows_in_a=len(a), rows_in_b=len(b), in_both=len(at_a), only_in_a=len(only_a), only_in_b=len(only_b),
        error_in_a=int((failed_a & ~failed_b).sum()), error_in_b=int((failed_b & ~failed_a).sum()),
        error_in_both=int((failed_a & failed_b).sum()),
        repeated_in_a=len(a) - len(first_a), repeated_in_b=len(b) - len(first_b),
        only_in_a_examples=only_a.slice(0, EXAMPLES).to_pylist(),
        only_in_b_examples=only_b.slice(0, EXAMPLES).to_pylist(),
    )  # fmt: skip
    named = zip(at_a[bad][:NAMED_ERRORS].tolist(), at_b[bad][:NAMED_ERRORS].tolist(), strict=True)
    failed = [FailedImage(a.ids[one].as_py(), a.kinds[one].as_py(), b.kinds[other].as_py()) for one, other in named]
    return Joined(at_a[~bad], at_b[~bad], counts, failed)


def _first_of_each(ids: pa.Array) -> np.ndarray:
    """The positions of the rows whose id no earlier row has, ascending int64."""
    codes = ids.dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    return np.sort(first).astype(np.int64)
