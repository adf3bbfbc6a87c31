"""Which rows of two outputs show the same image: joined by `image_id`, whatever the order of the rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sapiens_ray.comparing.rows import Ids

EXAMPLES = 5  # images that are named of each kind
NAMED_ERRORS = 100


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
    unique_a, unique_b = (
        one.ids if len(first) == len(one) else one.ids.take(pa.array(first))
        for one, first in ((a, first_a), (b, first_b))
    )
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
