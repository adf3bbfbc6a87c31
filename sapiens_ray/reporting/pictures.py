"""Which of the shown rows get a thumbnail, and the contact sheets that show them first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sapiens_ray.pages import Picture, Sheet
from sapiens_ray.reporting.drawing import Thumbnail, has_photo
from sapiens_ray.reporting.rows import Shown, by_turns, confidence_column

ON_SHEET = 18  # pictures


@dataclass(frozen=True)
class OnSheets:
    """The places of the rows of each contact sheet, at most `ON_SHEET`: random labelled rows, the least confident by
    task, and error rows."""

    random: list[int]
    least: dict[str, list[int]]
    errors: list[int]


def on_sheets(shown: Shown) -> OnSheets:
    """Which rows the contact sheets show."""
    labelled = shown.rows["error_kind"].is_null().to_pylist()
    return OnSheets(
        [place for place in shown.sample if labelled[place]][:ON_SHEET],
        {task: places[:ON_SHEET] for task, places in shown.least.items()},
        shown.errors[:ON_SHEET],
    )


def choose_pictures(shown: Shown, limit: int) -> list[int]:
    """Places of at most `limit` rows: those of the contact sheets, then random and least confident ones by turns.
    Rows without a photo to show have none."""
    sheets = on_sheets(shown)
    turns = [
        *by_turns([*sheets.least.values(), sheets.random, sheets.errors]),
        *by_turns([shown.sample, *shown.least.values()]),
    ]
    drawable = [has_photo(row) for row in shown.rows.select(["width", "error_kind"]).to_pylist()]
    return [place for place in dict.fromkeys(turns) if drawable[place]][:limit]


def sheets_of(shown: Shown, pictures: Mapping[int, Thumbnail], names: Mapping[str, str]) -> list[Sheet]:
    """The contact sheets: random, least confident by task, errors. names: of the confidence of each task."""
    chosen = on_sheets(shown)
    sheets = [Sheet("Random images", [_picture(shown, pictures, place) for place in chosen.random])]
    for task, places in chosen.least.items():
        values = shown.rows[confidence_column(task)]
        tiles = [_picture(shown, pictures, place, task, f"{values[place].as_py():.3f}") for place in places]
        sheets.append(Sheet(f"Least confident: {task}", tiles, f"Ordered by {names[task]}, lowest first."))
    tiles = [_picture(shown, pictures, place) for place in chosen.errors]
    sheets.append(Sheet("Errors", tiles, "Error rows have no labels. The kinds are explained in docs/outputs.md."))
    return [sheet for sheet in sheets if sheet.pictures]


def _picture(
    shown: Shown, pictures: Mapping[int, Thumbnail], place: int, task: str | None = None, detail: str = ""
) -> Picture:
    row = shown.rows.slice(place, 1).select(["image_id", "error_kind", "error", "width", "height"]).to_pylist()[0]
    made = pictures.get(place, Thumbnail())
    labels = made.labels.get(task, "") if task else next(iter(made.labels.values()), "")
    if row["error_kind"]:
        detail = row["error_kind"] if made.photo else f"{row['error_kind']}: {row['error'] or ''}"[:160]
    elif not (labels or made.photo):
        detail = " ".join(part for part in (detail, f"{row['width']} × {row['height']}, no picture here") if part)  # noqa: RUF001
    return Picture(row["image_id"], labels or made.photo, detail, place)
