"""What the tasks with one map per image share: which images count, and why there may be none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sapiens_ray.errors import ConfigError
from sapiens_ray.evaluation.evaluate import evaluate
from sapiens_ray.evaluation.request import Request
from tests.evaluation.labelled import png, write_labels

IDS = png(np.ones((6, 8), np.uint8))
LABELLED = {"image_id": "b.jpg", "seg": IDS}
ERROR = {"image_id": "a.jpg", "error_kind": "corrupt"}


@pytest.mark.parametrize(
    ("rows", "file", "reason"),
    [
        ([ERROR], "a.png", "all 1 rows of the output are error rows"),
        ([ERROR, LABELLED], "a.png",
         "rows with ground truth: 1, all of them error rows; rows with labels, but without ground truth: 1"),
        ([ERROR, LABELLED], "z.png",
         "no file belongs to an image of the output: the images are called like b.jpg, the files like z.png"),
    ],
)  # fmt: skip
def test_why_no_image_can_be_compared(tmp_path: Path, rows, file, reason):
    output = write_labels(tmp_path / "out", [{"task": "seg"}], rows)
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / file).write_bytes(IDS)
    with pytest.raises(ConfigError) as error:
        evaluate(output, Request("seg", str(tmp_path / "truth")))
    assert str(error.value) == f"--ground-truth {tmp_path}/truth: {reason}"
