"""Types of the passthrough columns, joined over all parts of the input."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from sapiens_ray.errors import InputError


def extra_schema(old: pa.Schema | None, fields: dict[str, pa.DataType]) -> pa.Schema:
    """Types of the passthrough columns, `key` first (for tars; null for other images). The types of an existing
    output are kept. Raises InputError if new input does not fit them."""
    kinds = {
        "key": pa.string(),
        **{name: pa.string() if pa.types.is_null(kind) else kind for name, kind in fields.items()},
    }
    if old is None:
        return pa.schema(list(kinds.items()))
    for name, kind in kinds.items():
        was = old.field(name).type
        if was != kind and not pa.types.is_null(fields.get(name, pa.null())) and joined_type(name, was, kind) != was:
            raise InputError(f"input.columns: {name!r} is {kind} in the new input, but {was} in the existing output")
    return old


def joined_type(name: str, one: pa.DataType | None, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of both types. Raises InputError if there is none."""
    if one is None or one == other or pa.types.is_null(one):
        return other
    if pa.types.is_null(other):
        return one
    numbers = all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (one, other))
    if not numbers:
        raise InputError(f"input.columns: {name!r} is {one} in one part of the input and {other} in another")
    return pa.int64() if pa.types.is_integer(one) and pa.types.is_integer(other) else pa.float64()


def type_of(name: str, values: Sequence[object]) -> pa.DataType:
    """The type of a column of a list. Raises InputError for mixed types."""
    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        raise InputError(
            f"input.columns: {name!r} mixes types, such as numbers and text, or holds numbers beyond 64 bits"
        ) from None
