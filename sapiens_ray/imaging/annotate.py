"""Pictures that explain themselves: panels with titles and, right of them, a key in words and colours.

All pictures are h x w x 3 uint8 BGR, and so are the blocks of which a key consists. Text is ASCII. Bitmaps of words are
cached: the pictures of a job repeat the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:  # Pillow is imported where text is drawn: a wrong job file is refused without it
    from PIL import ImageFont

Colour = tuple[int, int, int]  # BGR

PAPER: Colour = (255, 255, 255)
INK: Colour = (40, 35, 31)
MUTED: Colour = (110, 99, 89)

SHARE = 80  # the picture is about this many times as wide as the text is high: readable where it fills a screen
SMALLEST, LARGEST = 16, 64  # pixels of the font; below the smallest, letters are no longer clear
FINER = 3  # text is drawn so many times as large and reduced: small letters drawn at their size stand at whole pixels
STRIP = 3  # panels that are wider than this many times their height lie one above the other
ROWS = 10  # a legend has at least so many rows before it gets a second column
COLUMNS = 3  # and at most so many columns: a thousand keypoints would be wider than the photo


@dataclass(frozen=True)
class Layout:
    """Where `count` panels of one size lie, and the size of the text. All numbers are pixels."""

    width: int
    height: int
    count: int = 1

    @property
    def stacked(self) -> bool:
        """Whether the panels lie one above the other."""
        return self.width > STRIP * self.height

    @property
    def text(self) -> int:
        """Size of the font; even, so that pictures of similar size share their bitmaps."""
        across, down = (1, self.count) if self.stacked else (self.count, 1)
        side = max(self.width * across, 1.6 * self.height * down)  # screens are 1.6 times as wide as they are high
        return 2 * round(min(max(side / SHARE, SMALLEST), LARGEST) / 2)

    @property
    def line(self) -> int:
        """Height of a line of text, as `text` draws it."""
        return int(text(" ", self.text).shape[0])

    @property
    def gap(self) -> int:
        return self.text // 2

    @property
    def beside(self) -> int:
        """The height of all panels: what a key beside them may fill."""
        down = self.count if self.stacked else 1
        return self.height * down + (self.line + self.gap) * (down - 1)


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


@lru_cache(maxsize=512)
def text(words: str, size: int, ink: Colour = INK, paper: Colour = PAPER, pad: int = 0) -> np.ndarray:
    """A line of words on a plate of their own. Its height depends on `size` and `pad` alone."""
    from PIL import Image, ImageDraw

    font = _font(size * FINER)
    top, bottom = font.getbbox("Ay", anchor="ls")[1::2]  # from the baseline
    height, width = round((bottom - top) / FINER + 0.3 * size), max(1, round(font.getlength(words) / FINER))
    image = Image.new("RGB", ((width + 2 * pad) * FINER, (height + 2 * pad) * FINER), paper[::-1])
    place = (pad * FINER, pad * FINER + round(0.15 * size * FINER - top))
    ImageDraw.Draw(image).text(place, words, ink[::-1], font, anchor="ls")
    bitmap = np.asarray(image.reduce(FINER))[..., ::-1].copy()
    bitmap.flags.writeable = False  # shared by all callers
    return bitmap


def paste(canvas: np.ndarray, block: np.ndarray, x: int, y: int) -> None:
    """Put a block on the canvas with its upper left corner at (x, y). What lies outside the canvas is cut off."""
    left, top = max(0, -x), max(0, -y)
    part = block[top : max(top, canvas.shape[0] - y), left : max(left, canvas.shape[1] - x)]
    canvas[y + top : y + top + part.shape[0], x + left : x + left + part.shape[1]] = part


def blank(width: int, height: int) -> np.ndarray:
    """White paper."""
    return np.full((height, width, 3), 255, np.uint8)


def below(blocks: Sequence[np.ndarray], gap: int = 0) -> np.ndarray:
    """Blocks one below the other, with their left edges in a line."""
    canvas = blank(max(block.shape[1] for block in blocks), sum(block.shape[0] + gap for block in blocks) - gap)
    y = 0
    for block in blocks:
        paste(canvas, block, 0, y)
        y += block.shape[0] + gap
    return canvas


def words(layout: Layout, lines: Sequence[str], ink: Colour = MUTED) -> np.ndarray:
    """Lines of text, as a block of a key."""
    return below([text(line, layout.text, ink) for line in lines])


def legend(layout: Layout, entries: Sequence[tuple[Colour, str, str]]) -> np.ndarray:
    """Colours with their names and values, in as many columns as the height of the panels asks for; of very many, the
    first ones, and how many more there are."""
    down = max(ROWS, layout.beside // layout.line - 1)
    if (more := len(entries) - COLUMNS * down) > 0:
        entries = [*entries[: COLUMNS * down - 1], (PAPER, f"and {more + 1} more", "")]
    columns = -(-len(entries) // down)
    rows = -(-len(entries) // columns)
    blocks = [_column(layout, entries[start : start + rows]) for start in range(0, len(entries), rows)]
    canvas = blank(sum(block.shape[1] + 2 * layout.gap for block in blocks) - 2 * layout.gap, rows * layout.line)
    x = 0
    for block in blocks:
        paste(canvas, block, x, 0)
        x += block.shape[1] + 2 * layout.gap
    return canvas


def _column(layout: Layout, entries: Sequence[tuple[Colour, str, str]]) -> np.ndarray:
    names = [text(name, layout.text) for _, name, _ in entries]
    values = [text(value, layout.text, MUTED) for _, _, value in entries]
    start = layout.line + layout.gap
    room = max(value.shape[1] for value in values) + 2 * layout.gap if any(value for *_, value in entries) else 0
    width = start + max(name.shape[1] for name in names) + room
    canvas = blank(width, len(entries) * layout.line)
    inset = layout.line // 8
    for row, (colour, *_) in enumerate(entries):
        y = row * layout.line
        canvas[y + inset : y + layout.line - inset, : layout.line] = colour
        paste(canvas, names[row], start, y)
        paste(canvas, values[row], width - values[row].shape[1], y)
    return canvas


def scale_bar(layout: Layout, colour_map: int, top: Sequence[str], bottom: Sequence[str], taken: int = 0) -> np.ndarray:
    """OpenCV's colour map as a bar, from its largest value at the top, with lines of text at both ends.

    taken: pixels of the height of the panels that other blocks of the key take.
    """
    height = max((len(top) + len(bottom) + 1) * layout.line, min(layout.beside - taken, 12 * layout.line))
    bar, above, under = _bar(layout.line, height, colour_map), words(layout, top, INK), words(layout, bottom, INK)
    start = bar.shape[1] + layout.gap
    canvas = blank(start + max(above.shape[1], under.shape[1]), height)
    paste(canvas, bar, 0, 0)
    paste(canvas, above, start, 0)
    paste(canvas, under, start, height - under.shape[0])
    return canvas


@lru_cache(maxsize=64)
def _bar(width: int, height: int, colour_map: int) -> np.ndarray:
    values = np.linspace(255, 0, height).round().astype(np.uint8)
    bar = np.repeat(cv2.applyColorMap(values[:, None], colour_map), width, axis=1)
    bar.flags.writeable = False
    return bar


def plate(canvas: np.ndarray, line: str, size: int, x: int, y: int, ink: Colour = PAPER, paper: Colour = INK) -> None:
    """Write on the canvas: a line of text on a plate whose lower left corner is at (x, y), moved inside if it can
    be."""
    block = text(line, size, ink, paper, size // 4)
    height, width = block.shape[:2]
    paste(canvas, block, max(0, min(x, canvas.shape[1] - width)), max(0, min(y, canvas.shape[0]) - height))


def banner(canvas: np.ndarray, line: str, size: int) -> None:
    """Write a line of text across the middle of the canvas, up to twice as large as `size`; where the canvas is too
    narrow, word by word, and smaller if need be."""
    plates = [[line], line.split(" ")]
    for parts in plates:
        longest = max(text(part, size, pad=size // 2).shape[1] for part in parts)
        if longest <= canvas.shape[1]:
            break
    size = max(1, min(2 * size, int(size * canvas.shape[1] / longest)))
    blocks = [text(part, size, PAPER, INK) for part in parts]
    pad = size // 2
    width = max(block.shape[1] for block in blocks) + 2 * pad
    plate = np.full((sum(block.shape[0] for block in blocks) + 2 * pad, width, 3), INK, np.uint8)
    y = pad
    for block in blocks:
        paste(plate, block, (width - block.shape[1]) // 2, y)
        y += block.shape[0]
    paste(canvas, plate, (canvas.shape[1] - width) // 2, (canvas.shape[0] - plate.shape[0]) // 2)


def compose(panels: Sequence[tuple[str, np.ndarray]], key: Sequence[np.ndarray] = ()) -> np.ndarray:
    """The picture: panels of one size with their titles above them, and the blocks of the key in a column."""
    height, width = panels[0][1].shape[:2]
    layout = Layout(width, height, len(panels))
    titles = [text(title, layout.text) for title, _ in panels]
    cells = [max(width, title.shape[1]) for title in titles]
    down = layout.line + height + layout.gap
    across = max(cells) if layout.stacked else sum(cells) + layout.gap * (len(cells) - 1)
    column = below(key, layout.gap) if key else None
    total_height = down * (len(panels) if layout.stacked else 1)
    total_width = across
    if column is not None:
        total_width += 2 * layout.gap + column.shape[1]
        total_height = max(total_height, column.shape[0] + layout.gap)
    canvas = blank(total_width + 2 * layout.gap, total_height + layout.gap)
    x = y = layout.gap
    for (_, panel), title, cell in zip(panels, titles, cells, strict=True):
        paste(canvas, title, x, y)
        paste(canvas, panel, x, y + layout.line)
        x, y = (x, y + down) if layout.stacked else (x + cell + layout.gap, y)
    if column is not None:
        paste(canvas, column, 3 * layout.gap + across, layout.gap)
    return canvas
