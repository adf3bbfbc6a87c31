"""Errors by kind, with examples, in the tables of `run` and `status`."""

from __future__ import annotations

from functools import partial

from rich.cells import cell_len

from sapiens_ray.cli.console import one_line, shortened, wrap
from sapiens_ray.cli.tables import Facts
from sapiens_ray.units import Examples

CONTINUED = "  "


def add_errors(table: Facts, counts: dict[str, int], examples: Examples, whole: bool = False) -> None:
    """Add the errors by kind to a table, the most frequent first, with examples: cut to one line each, or whole."""
    for place, (kind, count) in enumerate(sorted(counts.items(), key=lambda item: (-item[1], item[0]))):
        table.add("" if place and not examples else "errors", f"{count} {kind}")
        for example in examples.get(kind, ()):
            table.add_below(partial(_example, one_line(example["image_id"]), one_line(example["error"]), whole))


def _example(image_id: str, message: str, whole: bool, columns: int | None) -> list[str]:
    """The lines of an error row. If it is cut to one line, an id that takes more than half of it loses its beginning,
    which images share."""
    if whole:
        first, *others = wrap(f"{image_id}: {message}", columns and columns - len(CONTINUED))
        return [first, *(CONTINUED + other for other in others)]
    if columns is not None and cell_len(f"{image_id}: {message}") > columns and cell_len(image_id) > columns // 2:
        while cell_len(image_id) >= columns // 2:
            image_id = image_id[1:]
        image_id = f"…{image_id}"
    return [shortened(f"{image_id}: {message}", columns)]
