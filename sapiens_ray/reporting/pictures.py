"""Which of the shown rows get a thumbnail, and the contact sheets that show them first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sapiens_ray.pages import Picture, Sheet
from sapiens_ray.reporting.drawing import Thumbnail
from sapiens_ray.reporting.rows import Shown, confidence_column

ON_SHEET = 18  # pictures


def choose_pictures(shown: Shown, limit: int) -> list[int]:
    """Places of at most `limit` rows: those of the contact sheets, then random and least confident ones by turns."""
    sheets = [places[:ON_SHEET] for places in (*shown.least.values(), shown.sample, shown.errors)]
    rest = [places[ON_SHEET:] for places in (shown.sample, *shown.least.values())]
    turns = [*_by_turns(sheets), *_by_turns(rest)]
    return list(dict.fromkeys(turns))[:limit]


def _by_turns(lists: Sequence[Sequence[int]]) -> list[int]:
    longest = max((len(one) for one in lists), default=0)
    return [one[turn] for turn in range(longest) for one in lists if turn < len(one)]


def sheets_of(shown: Shown, pictures: Mapping[int, Thumbnail], names: Mapping[str, str]) -> list[Sheet]:
    """The contact sheets: random, least confident by task, errors. names: of the confidence of each task."""
    labelled = [place for place in shown.sample if shown.rows["error_kind"][place].as_py() is None]
    sheets = [Sheet("Random images", [_picture(shown, pictures, place) for place in labelled[:ON_SHEET]])]
    for task, places in shown.least.items():
        values = shown.rows[confidence_column(task)]
        tiles = [
            _picture(shown, pictures, place, task, f"{values[place].as_py():.3f}")
            for place in places[:ON_SHEET]
        ]  # fmt: skip
        sheets.append(Sheet(f"Least confident: {task}", tiles, f"Ordered by {names[task]}, lowest first."))
    if shown.errors:
        tiles = [_picture(shown, pictures, place) for place in shown.errors[:ON_SHEET]]
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
