"""An output with maps and photos, in several files and row groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.export.test_huggingface import plan_of
from tests.reporting.made import Row, error_row, labelled_photo, write_rows

ROWS = 41  # with labels


@dataclass
class Made:
    folder: Path
    photos: Path
    rows: list[Row]  # those with labels


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """41 rows with labels and two error rows, in two shards, in row groups of 16."""
    folder = tmp_path_factory.mktemp("training")
    rows = [labelled_photo(folder / "photos", f"{seed:02d}.png", seed) for seed in range(ROWS)]
    rows[1]["persons"] = []
    rows[2]["persons"] = rows[2]["persons"] * 3
    rows[3]["persons"][0]["box_score"] = None
    every = [*rows[:20], error_row("bad.jpg"), *rows[20:], error_row("worse.jpg")]
    output = write_rows(folder / "out", every, files=2)
    plan_of(output, folder / "photos", [row["image_id"] for row in every])
    return Made(folder / "out", folder / "photos", rows)
