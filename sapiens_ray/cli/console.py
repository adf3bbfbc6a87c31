"""Tables and text for a terminal or a pipe."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

PIPE_WIDTH = 200  # a pipe has no width, and paths in logs must not be wrapped


def grid(title: str = "") -> Table:
    """A table of names and values."""
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify, table.title_style = title or None, "left", "bold"
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def show(table: Table) -> None:
    """Print a table without interpreting markup: paths may contain [brackets]."""
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, emoji=False, width=PIPE_WIDTH)
    console.print(table)


def size(count: float) -> str:
    """A human-readable number of bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
