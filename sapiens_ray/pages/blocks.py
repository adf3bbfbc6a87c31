"""What a page consists of. Every text is plain text: the templates escape it.

Each block has a macro of the same name in `templates/blocks.html`, which draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from markupsafe import Markup

from sapiens_ray.pages.gallery import Gallery

Rgb = Sequence[int]  # 0 to 255


class Block:
    """Base of all blocks. macro: the macro that draws it."""

    macro: ClassVar[str]


@dataclass(frozen=True)
class Note(Block):
    """A paragraph. kind: `plain`, or `aside` for what the reader should know of the numbers beside it."""

    macro: ClassVar[str] = "note"
    text: str
    kind: str = "plain"


@dataclass(frozen=True)
class Text:
    """A cell of a table with more than its text. title: tooltip. swatch: colour shown before it. code: in monospace."""

    text: str
    title: str = ""
    swatch: Rgb | None = None
    code: bool = False


Cell = str | int | float | Text | None


@dataclass(frozen=True)
class Facts(Block):
    """Names with their values."""

    macro: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, Cell]]


@dataclass(frozen=True)
class Table(Block):
    """A table. right: columns of numbers. fold: the title under which it is folded; empty for an open one."""

    macro: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    right: Sequence[int] = ()
    fold: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its length as a share of the longest, and the text at its end."""

    label: str
    share: float
    text: str
    swatch: Rgb | None = None
    title: str = ""


@dataclass(frozen=True)
class Bars(Block):
    """Horizontal bars, drawn as a table. columns: headings of the label and of the bar."""

    macro: ClassVar[str] = "bars"
    caption: str
    columns: tuple[str, str]
    rows: Sequence[Bar]


@dataclass(frozen=True)
class Histogram(Block):
    """Vertical bars. labels: one per bar, for tooltips. ends: texts below the first and the last bar.

    heights: shares of all, 0 to 1.
    """

    macro: ClassVar[str] = "histogram"
    caption: str
    heights: Sequence[float]
    labels: Sequence[str]
    ends: tuple[str, str]
    summary: str = ""


@dataclass(frozen=True)
class HeatTable(Block):
    """A square or oblong table of shares from 0 to 1, drawn as shades; None for an empty cell."""

    macro: ClassVar[str] = "heat"
    caption: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Svg(Block):
    """A drawing. svg: markup that the caller has escaped; texts in it shrink with it. summary: a text below it."""

    macro: ClassVar[str] = "drawing"
    caption: str
    svg: Markup
    summary: str = ""


@dataclass(frozen=True)
class Picture:
    """One picture of a contact sheet. src: a data URI; empty for a tile that shows `detail` alone.

    row: its row in the gallery of the page, which opens when it is clicked; None without one. other: a second picture
    of the same image, shown beside the first.
    """

    title: str
    src: str = ""
    detail: str = ""
    row: int | None = None
    other: str = ""


@dataclass(frozen=True)
class Sheet(Block):
    """A contact sheet. large: pictures as large as the page allows, in their own proportions."""

    macro: ClassVar[str] = "sheet"
    caption: str
    pictures: Sequence[Picture]
    note: str = ""
    large: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading. anchor: its id, of letters, digits and dashes. wide: blocks that need the
    whole width stand below each other, not side by side."""

    title: str
    anchor: str
    blocks: Sequence[Block]
    wide: bool = False


@dataclass(frozen=True)
class Page:
    """A page. lead: one sentence below the title. facts: numbers that stand out, as (value, name)."""

    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    gallery: Gallery | None = None
    footer: str = ""
    warnings: Sequence[str] = field(default_factory=tuple)
