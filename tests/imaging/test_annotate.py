"""Words, legends, bars and panels, as pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sapiens_ray.imaging import annotate
from sapiens_ray.imaging.annotate import INK, PAPER, Layout


def marked(array: np.ndarray, colour: tuple[int, int, int]) -> tuple[slice, slice]:
    """The smallest rectangle with all pixels of a colour."""
    rows, columns = np.nonzero((array == colour).all(-1))
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


def test_words_are_dark_on_paper_and_all_lines_have_the_same_height():
    lines = [annotate.text(words, 20) for words in ("photo", "Ay", "...", " ", "0.98 %")]
    assert len({line.shape[0] for line in lines}) == 1
    for line in lines[:3]:
        assert (line[[0, -1]] == PAPER).all() and line.min() < 80
    assert (lines[3] == PAPER).all()
    inverse = annotate.text("photo", 20, PAPER, INK, pad=5)
    assert inverse.shape == (lines[0].shape[0] + 10, lines[0].shape[1] + 10, 3)
    assert (inverse[:5] == INK).all() and inverse.max() == 255
    with pytest.raises(ValueError, match="read-only"):
        annotate.text("photo", 20)[:] = 0


@pytest.mark.parametrize("size", [16, 20, 34, 64])
def test_letters_have_the_height_of_their_font(size):
    dark = (annotate.text("H", size) < 128).all(-1)
    assert 0.65 * size <= np.count_nonzero(dark.any(1)) <= 0.8 * size


@pytest.mark.parametrize(("x", "y"), [(-3, 2), (7, -2), (8, 8), (20, 0), (-20, -20), (0, 30)])
def test_what_is_outside_the_canvas_is_cut_off(x, y):
    canvas, block = np.zeros((10, 12, 3), np.uint8), np.full((4, 6, 3), 9, np.uint8)
    whole = np.zeros((70, 72, 3), np.uint8)
    whole[30 + y : 34 + y, 30 + x : 36 + x] = 9
    annotate.paste(canvas, block, x, y)
    assert np.array_equal(canvas, whole[30:40, 30:42])


def test_a_legend_of_a_thousand_names_says_how_many_it_leaves_out():
    """Three columns of as many rows as fit beside the photo: the last entry is that number, without a colour."""
    layout = Layout(480, 640)
    down = layout.beside // layout.line - 1
    entries = [((9, 9, 9), f"k{number}", "") for number in range(1000)]
    assert np.array_equal(annotate.legend(layout, entries[: 3 * down]), whole(layout, entries[: 3 * down]))
    more = [*entries[: 3 * down - 1], (annotate.PAPER, f"and {1000 - 3 * down + 1} more", "")]
    found = annotate.legend(layout, entries)
    assert np.array_equal(found, whole(layout, more)) and found.shape[1] < layout.width


def whole(layout: Layout, entries: list[tuple[annotate.Colour, str, str]]) -> np.ndarray:
    """The columns of a legend beside each other."""
    down = layout.beside // layout.line - 1
    blocks = [annotate.legend(layout, entries[start : start + down]) for start in range(0, len(entries), down)]
    gap = annotate.blank(2 * layout.gap, blocks[0].shape[0])
    return np.hstack([part for block in blocks for part in (gap, block)][1:])


def test_a_legend_takes_columns_where_the_panels_are_low():
    entries = [((0, 0, 255), f"name {number}", "1.0 %") for number in range(24)]
    few, many = Layout(640, 230, 2), Layout(640, 900, 2)
    low, high = annotate.legend(few, entries), annotate.legend(many, entries)
    assert (low.shape[0] // few.line, high.shape[0] // many.line) == (8, 24)
    assert low.shape[1] / few.line > 2.5 * high.shape[1] / many.line, "three columns and one"
    for block in (low, high):
        swatches = cv2.connectedComponents(np.uint8((block == (0, 0, 255)).all(-1)))[0] - 1
        assert swatches == 24


def test_values_are_aligned_at_the_right():
    block = annotate.legend(Layout(640, 480), [((9, 9, 9), "a", "10.0 %"), ((9, 9, 9), "longer name", "1.0 %")])
    line = Layout(640, 480).line
    ends = [np.flatnonzero((block[y : y + line] < 200).all(-1).any(0)).max() for y in (0, line)]
    assert ends[0] == ends[1] >= block.shape[1] - 3


def test_a_scale_bar_goes_from_the_largest_value_down():
    layout = Layout(640, 480)
    block = annotate.scale_bar(layout, cv2.COLORMAP_INFERNO, ["1", "near"], ["far", "2"])
    bar = block[:, : layout.line]
    colours = cv2.applyColorMap(np.uint8([[255, 128, 0]]), cv2.COLORMAP_INFERNO)[0]
    assert (bar[0] == colours[0]).all() and (bar[-1] == colours[2]).all()
    assert np.abs(bar[len(bar) // 2, 0].astype(int) - colours[1]).max() <= 4
    assert (block[2 * layout.line : -2 * layout.line, layout.line :] == PAPER).all(), "words are at the ends alone"


@pytest.mark.parametrize("width", [1, 8, 40, 77, 140, 300, 1280])
def test_a_banner_fits_and_lies_in_the_middle(width):
    canvas = np.full((200, width, 3), 77, np.uint8)
    annotate.banner(canvas, "no person found", 16)
    rows, columns = marked(canvas, INK)
    assert abs(rows.start - (200 - rows.stop)) <= 1 and abs(columns.start - (width - columns.stop)) <= 1
    if width >= 40:
        assert canvas.min(-1).max() > 200 and rows.stop - rows.start >= 16
    if width >= 77:
        assert (columns.stop - columns.start > rows.stop - rows.start) == (width >= 140), "one line where it fits"


@pytest.mark.parametrize(("x", "y"), [(50, 60), (-40, 60), (180, 60), (50, 3), (50, 500)])
def test_a_plate_is_moved_inside(x, y):
    canvas = np.full((100, 200, 3), 77, np.uint8)
    annotate.plate(canvas, "0: 0.98", 16, x, y)
    inside = (canvas != 77).any(-1)
    height, width = annotate.text("0: 0.98", 16, PAPER, INK, 4).shape[:2]
    assert inside.sum() == height * width
    rows, columns = np.nonzero(inside.any(1))[0], np.nonzero(inside.any(0))[0]
    assert rows.max() + 1 == max(height, min(y, 100)) and columns.min() == max(0, min(x, 200 - width))


@pytest.mark.parametrize(("width", "height"), [(320, 240), (240, 900), (900, 60), (20, 300), (1, 1)])
@pytest.mark.parametrize("key", [0, 1500])
def test_panels_are_whole_and_lie_beside_or_above_each_other(width, height, key):
    panels = [(f"panel {number}", np.full((height, width, 3), (number, 200, 0), np.uint8)) for number in (0, 1, 2)]
    block = np.full((key, 50, 3), (3, 200, 0), np.uint8)
    picture = annotate.compose(panels, [block] if key else [])
    places = [marked(picture, (number, 200, 0)) for number in range(4 if key else 3)]
    for rows, columns in places[:3]:
        assert (rows.stop - rows.start, columns.stop - columns.start) == (height, width)
    tops, lefts = ({place[axis].start for place in places[:3]} for axis in (0, 1))
    assert (len(tops), len(lefts)) == ((3, 1) if width > 3 * height else (1, 3))
    for rows, columns in places[:3]:
        title = picture[rows.start - Layout(width, height, 3).line : rows.start, columns.start : columns.start + 40]
        assert title.min() < 128 and title.max() == 255
    assert (picture[0] == PAPER).all() and (picture[-1] == PAPER).all() and (picture[:, -1] == PAPER).all()
    if key:
        rows, columns = places[3]
        assert rows.stop - rows.start == key and columns.start > max(place[1].stop for place in places[:3])


def test_text_grows_with_the_picture_between_bounds():
    assert [Layout(width, width * 3 // 4, 2).text for width in (16, 480, 1280, 2560, 16384)] == [16, 16, 32, 64, 64]
    assert Layout(200, 1000, 2).text == 20 and Layout(1000, 60, 3).text == 16
