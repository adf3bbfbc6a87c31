"""Errors by kind, with examples, in the tables of `run` and `status`."""

from __future__ import annotations

from functools import partial

from rich.cells import cell_len

from sapiens_ray.cli.console import one_line, shortened
from sapiens_ray.cli.tables import Facts
from sapiens_ray.units import Examples


def add_errors(table: Facts, counts: dict[str, int], examples: Examples) -> None:
    """Add the errors by kind to a table, the most frequent first, with examples cut to one line each."""
    for place, (kind, count) in enumerate(sorted(counts.items(), key=lambda item: (-item[1], item[0]))):
        table.add("" if place else "errors", f"{count} {kind}")
        for example in examples.get(kind, ()):
            table.add_below(partial(_example, one_line(example["image_id"]), one_line(example["error"])))


def _example(image_id: str, message: str, columns: int | None) -> str:
    """An error row in one line. An id that takes more than half of it loses its beginning, which images share."""
    if columns is not None and cell_len(f"{image_id}: {message}") > columns and cell_len(image_id) > columns // 2:
        while cell_len(image_id) >= columns // 2:
            image_id = image_id[1:]
        image_id = f"…{image_id}"
    return shortened(f"{image_id}: {message}", columns)
