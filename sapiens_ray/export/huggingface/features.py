"""The columns of a Hugging Face dataset, and how `datasets` is told what they are.

A dataset says so twice: as JSON in the Parquet files (metadata key `huggingface`), and as YAML at the head of
README.md. Both are in the spelling of datasets 3 (`Sequence`), which later versions read as well; version 3 does not
know their `List`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sapiens_ray.storage import is_remote
from sapiens_ray.tasks.stored import StoredClassMap, StoredLabels

Feature = Any  # the JSON object of a feature; {name: Feature} for a struct, [Feature] for a list of structs
IMAGE: Feature = {"_type": "Image"}
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
# Columns of every row that others have no use for: where a row is in the output, and what is null in rows with labels.
NOT_PUBLISHED = ("shard", "index", "error_kind", "error", "visualization")
_DTYPES = {pa.float16(): "float16", pa.float32(): "float32", pa.float64(): "float64", pa.date32(): "date32",
           pa.date64(): "date64"}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column of the dataset. type: of Arrow. names: what the numbers in it stand for, if they are class ids."""

    name: str
    type: pa.DataType
    names: tuple[str, ...] = ()

    @property
    def is_image(self) -> bool:
        return bool(self.type == IMAGE_TYPE)

    @property
    def feature(self) -> Feature:
        return IMAGE if self.is_image else _feature(self.type, self.names)

    def convert(self, cells: pa.ChunkedArray) -> pa.ChunkedArray:
        """The cells of the output as cells of the dataset."""
        if self.name == "uri":  # a path on the disk of whoever made the labels means nothing elsewhere
            return pa.chunked_array(
                [[_published(uri) for uri in chunk.to_pylist()] for chunk in cells.chunks], self.type
            )
        if self.is_image and not pa.types.is_struct(cells.type):
            return pa.chunked_array([image_cells(chunk) for chunk in cells.chunks], IMAGE_TYPE)
        return cells.cast(self.type)


def image_cells(files: pa.Array, names: pa.Array | None = None) -> pa.Array:
    """Encoded images, and their file names, as cells of an image column."""
    names = pa.nulls(len(files), pa.string()) if names is None else names
    return pa.StructArray.from_arrays([files, names], fields=list(IMAGE_TYPE), mask=files.is_null())


def _published(uri: str | None) -> str | None:
    """A URL that others can open as well; None for a file of this machine, also inside a chained URL."""
    return uri if uri and is_remote(uri.rpartition("::")[2]) else None


def dataset_columns(schema: pa.Schema, labels: Sequence[StoredLabels]) -> tuple[list[Column], dict[str, str]]:
    """The columns of the dataset of an output with this schema, and the columns that are left out, with the reason.

    Maps that are PNGs, such as class maps, are images, which `datasets` decodes when they are used. Float maps stay
    bytes of `.npy`: as arrays of `datasets` they would need one shape for all rows, and take several times as long to
    read.
    """
    class_maps = {one.column: one for one in labels if isinstance(one, StoredClassMap)}
    class_lists = {f"{column}_classes": one for column, one in class_maps.items()}
    pictures = {column for one in labels for column in one.pictures}
    columns: list[Column] = []
    left_out: dict[str, str] = {}
    for field in schema:
        kind = _plain(field.type)
        if field.name in NOT_PUBLISHED:
            continue
        if field.name in pictures:
            columns.append(Column(field.name, IMAGE_TYPE))
        elif field.name in class_lists:
            columns.append(Column(field.name, pa.list_(pa.int64()), tuple(class_lists[field.name].class_names)))
        elif kind is None:
            left_out[field.name] = f"datasets has no feature for {field.type}"
        else:
            columns.append(Column(field.name, kind))
    return columns, left_out


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """The schema of the Parquet files, with what `datasets` must know in its metadata."""
    features = {column.name: column.feature for column in columns}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([pa.field(column.name, column.type) for column in columns], metadata=metadata)


def yaml_features(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """The same as `dataset_info.features` of a dataset card."""
    return [{"name": column.name, **_in_yaml(column.feature)} for column in columns]


def _plain(kind: pa.DataType) -> pa.DataType | None:
    """The type under which `datasets` knows values of a type of Arrow; None if it knows none."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_struct(kind):
        fields = [(field.name, _plain(field.type)) for field in kind]
        return None if any(inner is None for _, inner in fields) else pa.struct(fields)
    if pa.types.is_fixed_size_list(kind):
        inner = _plain(kind.value_type)
        return None if inner is None else pa.list_(inner, kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _plain(kind.value_type)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    known = (pa.types.is_primitive, pa.types.is_string, pa.types.is_binary, pa.types.is_null, pa.types.is_decimal128)
    return kind if any(test(kind) for test in known) else None


def _feature(kind: pa.DataType, names: tuple[str, ...] = ()) -> Feature:
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _feature(kind.value_type, names)
        if pa.types.is_struct(kind.value_type):  # a Sequence of structs would be read as a struct of lists
            return [inner]
        length = {"length": kind.list_size} if pa.types.is_fixed_size_list(kind) else {}
        return {"feature": inner, **length, "_type": "Sequence"}
    if names:
        return {"names": list(names), "_type": "ClassLabel"}
    return {"dtype": _DTYPES.get(kind, str(kind)), "_type": "Value"}


def _in_yaml(feature: Feature) -> dict[str, Any]:
    if isinstance(feature, list):
        return {"list": _in_yaml(feature[0])["struct"]}
    kind = feature.get("_type") if isinstance(feature, Mapping) else None
    if not isinstance(kind, str):
        return {"struct": [{"name": name, **_in_yaml(inner)} for name, inner in feature.items()]}
    if kind == "Sequence":
        inner = _in_yaml(feature["feature"])
        length = {"length": feature["length"]} if "length" in feature else {}
        return {"sequence": inner["dtype"] if list(inner) == ["dtype"] else inner, **length}
    if kind == "ClassLabel":
        return {
            "dtype": {"class_label": {"names": {str(number): name for number, name in enumerate(feature["names"])}}}
        }
    return {"dtype": feature["dtype"] if kind == "Value" else "image"}
