"""The columns of an output: those that it was begun with, and no name twice."""

from __future__ import annotations

import pyarrow as pa
import pytest

from sapiens_ray.errors import ConfigError
from sapiens_ray.output.schema import output_schema
from sapiens_ray.tasks.seg import Seg, SegOptions

SEG = Seg(SegOptions(task="seg", checkpoint="x"))
NONE = pa.schema([])
BEFORE = [field for field in output_schema([SEG], NONE, {}) if "confidence" not in field.name]


def test_an_output_keeps_the_columns_with_which_it_was_begun():
    assert {"seg_confidence", "seg_confidence_p05", "seg_class_confidence"} <= set(output_schema([SEG], NONE, {}).names)
    assert output_schema([SEG], NONE, {}, pa.schema(BEFORE)).names == [field.name for field in BEFORE]


def test_an_input_column_may_have_the_name_of_one_that_came_later():
    """In an output that was begun before; a new one is refused."""
    extra = pa.schema([pa.field("seg_confidence", pa.string())])
    begun = pa.schema([*BEFORE, *extra])
    schema = output_schema([SEG], extra, {}, begun)
    assert schema.names == begun.names and schema.field("seg_confidence").type == pa.string()
    with pytest.raises(ConfigError, match="'seg_confidence' is already a column"):
        output_schema([SEG], extra, {})
