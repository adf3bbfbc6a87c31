"""Columns of the input: the types of those that are copied, joined over its parts, and refusals of missing ones."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from sapiens_ray.errors import InputError
from sapiens_ray.job.config import Job
from sapiens_ray.sources import VIDEO, Reading, source_of
from sapiens_ray.sources.webdataset import NO_JSON
from sapiens_ray.storage.uris import readable, redact_uri
from sapiens_ray.tasks import persons
from sapiens_ray.units import Row


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
        if name not in old.names:  # of tars, in an output that was begun when their columns were not carried over
            continue
        was = old.field(name).type
        if was != kind and not pa.types.is_null(fields.get(name, pa.null())) and joined_type(name, was, kind) != was:
            raise InputError(f"input.columns: {name!r} is {kind} in the new input, but {was} in the existing output")
    return old


def readable_columns(reading: Reading, planned: pa.Schema) -> Reading:
    """How an output with these passthrough columns reads its input. One that was begun before the columns of tars were
    carried over goes on without them: with them, tars would have other members, and images other numbers."""
    return replace(reading, passthrough=tuple(name for name in reading.passthrough if name in planned.names))


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


def type_of(name: str, values: Sequence[object], where: str) -> pa.DataType:
    """The type of a column of a list. where: what holds the values, for the message. Raises InputError for mixed types,
    with the first values that do not go together."""
    try:
        return pa.array([readable(one) if isinstance(one, str) else one for one in values]).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
        given = [value for value in values if value is not None]
        kinds = [float if type(one) is int else type(one) for one in given]  # numbers of both kinds go together
        other = next((one for one, kind in zip(given, kinds, strict=True) if kind is not kinds[0]), None)
        large = next((one for one in given if isinstance(one, int) and not -(2**63) <= one < 2**63), None)
        if other is not None:
            what = f"mixes types, {given[0]!r:.40} and {other!r:.40}"
        elif large is not None:
            what = f"holds {large}, which does not fit 64 bits"
        else:
            what = f"has no single type ({error})"
        raise InputError(f"input.columns: {name!r} {what}, in {where}; leave it out, or mend it") from None


def refuse_ignored_columns(job: Job, format: str, uri: str, is_new: bool) -> None:
    """Raise InputError if the job names columns for tasks or to carry over, and this part of its input has none.

    is_new: whether the output is. In one that an earlier version began, columns to carry over may be missing.
    """
    if "columns" not in source_of(format).ignored:
        return
    who = "Parquet files, .csv and .jsonl lists, and the <key>.json members of tars have them"
    if job.label_fields:
        column, field = next(iter(job.label_fields.items()))
        raise InputError(
            f"{field}: {column!r} must be read from the input, but {redact_uri(uri)} has no columns; {who}"
        )
    if job.input.columns and is_new:
        raise InputError(
            f"input.columns: {job.input.columns[0]!r} cannot be copied, since {redact_uri(uri)} has no columns; {who}"
        )


def refuse_ignored_settings(job: Job, formats: set[str]) -> None:
    """Raise InputError for a setting that none of the formats of the input can follow, such as a choice of frames where
    no part is a video."""
    for setting in ("id_column", "image_column"):
        value = getattr(job.input, setting)
        if value is not None and all(setting in source_of(format).ignored for format in formats):
            raise InputError(
                f"input.{setting}: {', '.join(map(redact_uri, job.input.uri))} has no column {value!r}: only Parquet "
                f"files and lists have columns for it; leave out input.{setting}"
            )
    if job.input.video is not None and VIDEO not in formats:
        raise InputError(
            f"input.video: {', '.join(map(redact_uri, job.input.uri))} holds no video that is read; set input.format: "
            "video to read those in folders, or leave out input.video"
        )


def refuse_wrong_boxes(records: Sequence[Row], uris: Sequence[str], job: Job) -> None:
    """Raise InputError if a column that is to hold the boxes of a task holds something else in the first records: text,
    numbers, objects. Lists of numbers that are no boxes are not refused: they concern their image, whose row says so.
    """
    for name in job.box_columns:
        given = [record[name] for record in records if record.get(name) is not None]
        wrong = [cell for cell in given if not persons.may_be_boxes(cell)]
        if wrong and len(wrong) == len(given) and 2 * len(given) >= len(records):
            raise InputError(
                f"{job.label_fields[name]}: {name!r} holds no boxes in {', '.join(map(redact_uri, uris))}, but "
                f"{str(wrong[0])[:40]!r} and the like; it should hold [[x1, y1, x2, y2], …]"
            )


def types_in_records(records: Sequence[Row], uris: Sequence[str], reading: Reading) -> dict[str, pa.DataType]:
    """The types of the passthrough columns in the first records of files that do not state their columns. Lists and
    objects are kept as JSON text: later ones may have other fields.

    Raises InputError for a column that none of the records has.
    """
    where = ", ".join(map(redact_uri, uris))
    fields = list(dict.fromkeys(name for record in records for name in record))
    for name in reading.columns:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            found = f"the fields are {', '.join(fields)}" if fields != ["key"] else NO_JSON
            raise InputError(
                f"{reading.field_of(name)}: none of the first {len(records)} images in {where} has a field {name!r} "
                f"in its <key>.json; {hint}{found}"
            )
    values = {name: [record.get(name) for record in records] for name in reading.passthrough}
    nested = {name for name, cells in values.items() if any(isinstance(cell, dict | list) for cell in cells)}
    return {name: pa.string() if name in nested else type_of(name, cells, where) for name, cells in values.items()}
