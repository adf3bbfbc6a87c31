"""The report of an output, from its files alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sapiens_ray.errors import OutputError
from sapiens_ray.output.chunks import read_chunks
from sapiens_ray.output.done import list_units
from sapiens_ray.output.reading import schema_in
from sapiens_ray.output.schema import labels_in
from sapiens_ray.output.where import where_of
from sapiens_ray.pages import render_page
from sapiens_ray.pages.gallery import MOST_ROWS
from sapiens_ray.planning.status import output_status
from sapiens_ray.reporting.about import About, throughput
from sapiens_ray.reporting.drawing import Drawer, Thumbnail
from sapiens_ray.reporting.page import build_page
from sapiens_ray.reporting.pictures import choose_pictures
from sapiens_ray.reporting.rows import Shown, ShownRows
from sapiens_ray.reporting.statistics import Statistics
from sapiens_ray.storage import Folder
from sapiens_ray.units import Tell


@dataclass(frozen=True)
class ReportOptions:
    """thumbnails: images that get a thumbnail, at most. rows: images in the gallery, at most. seed: of the samples."""

    thumbnails: int = 300
    rows: int = MOST_ROWS
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """statistics: JSON values, described in `docs/report.md`. html: the page."""

    statistics: dict[str, Any]
    html: str


def make_report(
    folder: Folder, options: ReportOptions | None = None, tell: Tell = lambda what, done, of: None
) -> Report:
    """Read an output and make its report. Memory does not grow with the number of rows.

    folder: of a `ChosenRows`, only those rows are counted and shown. tell: called again and again with what is being
    done. Raises OutputError if the folder holds no labels, or no such row.
    """
    options = options or ReportOptions()
    about = About.of(folder)
    schema = schema_in(folder)
    state = output_status(folder)
    units = list_units(folder)
    statistics = Statistics(labels_in(schema), schema, ShownRows(options.rows, options.seed))
    where = where_of(folder)
    total = int(state["images"]) if where is None else None
    tables = read_chunks(folder, statistics.columns)
    statistics.add_all(tables, lambda rows: tell("rows", rows, total))
    if where is not None and not statistics.images:
        raise OutputError(f"no row of {folder.uri} meets the condition {where.text}")
    shown = statistics.shown.finish()
    pictures = _thumbnails(folder, about, shown, options, tell)
    written = throughput(folder, units)
    found = {
        **about.result(),
        "where": where.text if where else None,
        "state": state["state"],
        "complete": state["complete"],
        "expected": state["expected"],
        "throughput": written.result(),
        **statistics.result(),
    }
    page = build_page(about, state, statistics, shown, pictures, written, where.text if where else "")
    return Report(found, render_page(page))


def _thumbnails(
    folder: Folder, about: About, shown: Shown | None, options: ReportOptions, tell: Tell
) -> dict[int, Thumbnail]:
    """Thumbnails by the place of their row; empty ones where nothing could be drawn."""
    if shown is None or not options.thumbnails:
        return {}
    places = choose_pictures(shown, options.thumbnails)
    rows = shown.rows.take(pa.array(places, pa.int64())).to_pylist()  # of no places, too
    drawn: dict[int, Thumbnail] = {}
    for number, (at, thumbnail) in enumerate(Drawer(folder, about.record).draw(rows), 1):
        drawn[places[at]] = thumbnail
        tell("pictures", number, len(rows))
    return drawn
