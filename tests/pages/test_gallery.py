from __future__ import annotations

import json
import math

import pytest

from sapiens_ray.pages import Gallery, Layer, Measure, Vocabulary
from sapiens_ray.pages.gallery import MOST_ROWS, safe_json

NASTY = ["</script><script>alert(1)</script>", "<!--", "\"'&", "a\u2028b", "\ud800 lone", "😀.jpg"]


def gallery(ids: list[str], **changes: object) -> Gallery:
    count = len(ids)
    layer = Layer("seg", [], [math.nan] * count, "sure", Vocabulary(["a"], [[1, 2, 3]], [1] * count))
    values = {"ids": ids, "errors": [""] * count, "widths": [1] * count, "heights": [None] * count,
              "thumbnails": [-1] * count, "photos": [], "layers": [layer], **changes}  # fmt: skip
    return Gallery(**values)


def test_names_survive_and_cannot_end_the_script_block():
    text = gallery(NASTY).to_json()
    assert not set("<>&\u2028") & set(text)
    text.encode()
    assert json.loads(text)["ids"] == NASTY


def test_numbers_are_short_and_unknown_ones_null():
    layer = Layer("depth", [], [0.123456, math.nan, 1.0], measures=[Measure("range", [0.12345, None, 7], 3)])
    found = json.loads(gallery(["a", "b", "c"], layers=[layer]).to_json())["layers"][0]
    assert found["confidence"] == [0.1235, None, 1.0]
    assert found["measures"][0]["values"] == [0.123, None, 7]
    assert found["classes"] is None


def test_error_kinds_are_numbers():
    found = json.loads(gallery(["a", "b", "c"], errors=["", "empty", "corrupt"], messages={1: "no bytes"}).to_json())
    assert (found["kinds"], found["errors"]) == (["corrupt", "empty"], [-1, 1, 0])
    assert found["messages"] == {"1": "no bytes"}


def test_too_many_rows_are_refused():
    with pytest.raises(ValueError, match="at most 100000 rows, not 100001"):
        gallery([""] * (MOST_ROWS + 1))


def test_json_refuses_what_json_cannot_say():
    with pytest.raises(ValueError, match="not JSON compliant"):
        safe_json([math.nan])
