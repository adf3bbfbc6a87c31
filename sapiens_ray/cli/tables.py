"""Tables that fit: names and values, and lists in columns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.cells import cell_len

from sapiens_ray.cli.console import BOLD, DIM, columns_of, styled, wrap

GAP = 2  # columns between two columns of a table
LEAST_VALUE = 20  # columns for the value of a fact
BELOW = 4  # columns before a line about the value above it


@dataclass(frozen=True)
class _Fact:
    """value: its lines for so many columns. whole: one line that is never broken. below: lines without a name."""

    name: str
    value: Callable[[int | None], list[str]]
    whole: bool = False
    below: bool = False


class Facts:
    """A table of names and values. Values are wrapped at spaces; a path or a command is never broken."""

    def __init__(self, title: str = "") -> None:
        self.title = title
        self._facts: list[_Fact] = []

    def add(self, name: str, value: str) -> None:
        """Add a value in prose."""
        self._facts.append(_Fact(name, lambda room: wrap(value, room)))

    def add_whole(self, name: str, value: str) -> None:
        """Add a value to copy and paste, such as a path. Where it is too long to stand beside its name, it has a line
        of its own."""
        self._facts.append(_Fact(name, lambda room: [value], whole=True))

    def add_below(self, value: Callable[[int | None], list[str]]) -> None:
        """Add lines about the value above, which are made for the columns that they may take; None: for any."""
        self._facts.append(_Fact("", value, below=True))

    def lines(self, columns: int | None) -> list[tuple[str, str]]:
        """The lines as (name with the space after it, value)."""
        indent = max((cell_len(fact.name) for fact in self._facts), default=0) + GAP
        room = None if columns is None else max(LEAST_VALUE, columns - indent)
        lines = []
        for fact in self._facts:
            if fact.below:
                below = fact.value(None if columns is None else columns - BELOW)
                lines += [(" " * BELOW, line) for line in below]
                continue
            first, *others = fact.value(room)
            if fact.whole and room is not None and cell_len(first) > room:
                lines += [(fact.name, "")] if fact.name else []
                lines.append((" " * GAP, first))
                continue
            head = fact.name + " " * (indent - cell_len(fact.name))
            lines += [(head, first), *((" " * indent, other) for other in others)]
        return lines

    def print(self, out: TextIO | None = None) -> None:
        """Print the table, to stdout if no stream is given."""
        out = out or sys.stdout
        if self.title:
            print(styled(self.title, BOLD, out), file=out)
        for name, value in self.lines(columns_of(out)):
            print((styled(name, DIM, out) + value).rstrip(), file=out)


def print_columns(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    """Print rows in columns as wide as their longest cell. right: which columns end flush."""
    widths = [max(map(cell_len, cells)) for cells in zip(titles, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = []
        for cell, width, flush in zip(cells, widths, right, strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(space + cell if flush else cell + space)
        return (" " * GAP).join(padded).rstrip()

    print(styled(line(titles), BOLD, sys.stdout))
    for row in rows:
        print(line(row))
