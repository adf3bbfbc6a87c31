"""The contact sheets, and which rows get a picture."""

from __future__ import annotations

from collections import Counter

import numpy as np

from sapiens_ray.output.chunks import read_chunks
from sapiens_ray.output.reading import labels_of
from sapiens_ray.reporting.drawing import Thumbnail
from sapiens_ray.reporting.pictures import choose_pictures, on_sheets, sheets_of
from sapiens_ray.reporting.rows import Shown, ShownRows
from sapiens_ray.reporting.statistics import Statistics
from tests.reporting.made import error_row, random_row, schema, write_rows

NAMES = {"seg": "confidence", "normal": "length", "persons": "score"}


def shown_of(tmp_path, rows) -> Shown:
    output = write_rows(tmp_path / "out", rows, files=2)
    statistics = Statistics(labels_of(output), schema(), ShownRows(1000))
    statistics.add_all(read_chunks(output, statistics.columns))
    return statistics.shown.finish()


def shuffled(rows):
    return [rows[place] for place in np.random.default_rng(3).permutation(len(rows))]


def kinds_of(shown: Shown, places) -> Counter:
    return Counter(shown.rows["error_kind"].take(list(places)).to_pylist())


def sheet(shown: Shown, caption: str, pictures=None):
    return next(one for one in sheets_of(shown, pictures or {}, NAMES) if one.caption == caption)


def test_the_sheet_of_errors_has_every_kind(tmp_path):
    random = np.random.default_rng(0)
    rows = [error_row(f"c{number}.jpg", "corrupt") for number in range(300)]
    rows += [error_row(f"e{number}.jpg", "empty") for number in range(30)]
    rows += [error_row("f.jpg", "failed"), *(random_row(f"{number}.jpg", random) for number in range(50))]
    shown = shown_of(tmp_path, shuffled(rows))
    tiles = Counter(one.detail.partition(":")[0] for one in sheet(shown, "Errors").pictures)
    assert set(tiles) == {"corrupt", "empty", "failed"} and tiles["failed"] == 1
    assert abs(tiles["corrupt"] - tiles["empty"]) <= 1
    assert kinds_of(shown, shown.errors) == {"corrupt": 300, "empty": 30, "failed": 1}, "each row once"


def test_where_most_images_failed_the_random_sheet_has_pictures_all_the_same(tmp_path):
    random = np.random.default_rng(0)
    rows = [random_row(f"{number}.jpg", random) for number in range(100)]
    rows += [error_row(f"e{number}.jpg") for number in range(800)]
    rows += [{**error_row(f"x{number}.jpg", "crashed"), "width": 10, "height": 10} for number in range(30)]
    shown = shown_of(tmp_path, shuffled(rows))
    chosen = choose_pictures(shown, 80)
    assert len(chosen) == len(set(chosen)) == 80
    assert kinds_of(shown, chosen) == {None: 80}, "neither rows without a size nor crashed ones"
    pictures = {place: Thumbnail("data:image/webp;base64,AA") for place in chosen}
    for caption in ("Random images", *(f"Least confident: {task}" for task in NAMES)):
        tiles = sheet(shown, caption, pictures).pictures
        assert len(tiles) == 18 and all(tile.src for tile in tiles), caption


def test_few_pictures_go_to_the_sheets_by_turns(tmp_path):
    random = np.random.default_rng(0)
    rows = [random_row(f"{number}.jpg", random) for number in range(60)]
    rows += [{**error_row(f"e{number}.jpg", "failed"), "width": 10, "height": 10} for number in range(5)]
    shown = shown_of(tmp_path, rows)
    sheets = on_sheets(shown)
    first = dict.fromkeys([*(places[0] for places in sheets.least.values()), sheets.random[0], sheets.errors[0]])
    assert choose_pictures(shown, len(first)) == list(first)
    assert set(choose_pictures(shown, 1000)) == set(range(65))
