from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.reporting.pose import of_persons
from sapiens_ray.tasks.confidence import of_person

AT_THE_LIMITS = [0.2, 0.3, *(float(np.nextafter(np.float32(one), np.float32(1))) for one in (0.2, 0.3))]
SCORES = st.lists(st.sampled_from(AT_THE_LIMITS) | st.floats(0, 1.25, width=32), min_size=3, max_size=3)
PERSONS = st.lists(st.tuples(SCORES, st.none() | st.floats(0, 1, width=32)), max_size=5)


@given(PERSONS)
def test_persons_of_earlier_outputs_get_the_numbers_of_today(persons):
    scores = np.array([scores for scores, _ in persons], np.float32).reshape(-1, 3)
    boxes = np.array([box for _, box in persons], np.float64)
    found = of_persons(scores, boxes)
    expected = [of_person(row, box) for row, (_, box) in zip(scores, persons, strict=True)]
    assert found[0].tolist() == pytest.approx([one["score"] for one in expected])
    assert found[1].tolist() == [one["visible"] for one in expected]


def test_a_score_at_the_limit_counts_as_float32():
    score, visible = of_persons(np.array([[0.2, 0.8, 0.3]], np.float32), np.array([np.nan]))[:, 0]
    assert (score, visible) == (pytest.approx(0.55), 2)
