"""Float maps as bytes, against NumPy's own way."""

from __future__ import annotations

import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sapiens_ray.imaging import maps
from sapiens_ray.tasks.dense import as_float16

KINDS = st.sampled_from([np.float16, np.float32, np.float64, np.bool_, np.uint8, np.int64])


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array))
    return buffer.getvalue()


@given(arrays.arrays(KINDS, arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5)), st.booleans())
@settings(max_examples=200, deadline=None)
def test_npy_bytes_are_those_of_numpy(array, transposed):
    array = array.T if transposed else array
    assert maps.encode_npy(array) == saved(array)
    again = maps.decode_npy(maps.encode_npy(array))
    assert again.dtype == array.dtype and np.array_equal(again, array, equal_nan=array.dtype.kind == "f")


@given(arrays.arrays(np.float32, (3, 7), elements=st.floats(-65504, 65504, width=32)))
@settings(max_examples=300, deadline=None)
def test_float16_is_rounded_as_by_numpy(array):
    expected = array.astype(np.float16)
    assert as_float16(array).tobytes() == expected.tobytes() and as_float16(array).dtype == np.float16
