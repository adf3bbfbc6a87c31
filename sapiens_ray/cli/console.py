"""What a stream can show: escape codes or plain text, and how many columns; texts that fit into them."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TextIO

from rich.cells import cell_len, chop_cells

LEAST_COLUMNS = 20
BOLD, DIM = "1", "2"


def is_live(stream: TextIO) -> bool:
    """Whether a stream shows colours and moves its cursor: a terminal, unless NO_COLOR or TERM=dumb say otherwise."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") in ("dumb", "unknown")
    return stream.isatty() and not plain


def columns_of(stream: TextIO) -> int | None:
    """How many columns to fit: $COLUMNS, else those of the terminal; None in a pipe, where nothing is wrapped."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return max(LEAST_COLUMNS, int(given))
    return terminal_columns(stream) if stream.isatty() else None


def terminal_columns(stream: TextIO) -> int:
    """The columns of a terminal; 80 if it does not say."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        columns = 0
    return max(LEAST_COLUMNS, columns or shutil.get_terminal_size((80, 24)).columns)


def styled(text: str, style: str, stream: TextIO) -> str:
    """The text in a style, such as BOLD, if the stream shows styles."""
    return f"\x1b[{style}m{text}\x1b[0m" if text and is_live(stream) else text


def tell(line: str) -> None:
    """Print a line for people, beside what a command answers."""
    print(line, file=sys.stderr, flush=True)


def wrap(text: str, columns: int | None) -> list[str]:
    """The text in lines of at most so many columns, broken only at spaces: what has none, such as a path, stays whole.

    Line breaks of the text stay.
    """
    lines = []
    for line in text.split("\n"):
        current = ""
        for word in line.split(" ") if columns is not None else [line]:
            longer = f"{current} {word}" if current else word
            if columns is not None and current and cell_len(longer) > columns:
                lines.append(current)
                longer = word
            current = longer
        lines.append(current)
    return lines


def one_line(text: str) -> str:
    """Text of somebody else, such as an image id, without line breaks and control characters."""
    return "".join(char if char.isprintable() else " " if char.isspace() else repr(char)[1:-1] for char in text)


def shortened(text: str, columns: int | None) -> str:
    """The beginning of a text, with an ellipsis where it was cut."""
    if columns is None or cell_len(text) <= columns:
        return text
    return f"{chop_cells(text, max(1, columns - 1))[0]}…"


def size(count: float) -> str:
    """A human-readable number of bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
