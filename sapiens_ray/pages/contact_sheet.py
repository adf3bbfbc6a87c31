"""Many small pictures with their titles, as one picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from sapiens_ray.imaging import annotate

TEXT, GAP = 16, 12  # pixels


def contact_sheet(pictures: Sequence[tuple[str, np.ndarray]], columns: int, width: int) -> np.ndarray:
    """Pictures in rows, each with its title below it; h x width x 3 uint8 BGR on white.

    pictures: title and h x w x 3 uint8 BGR, of any sizes. Each is fitted into a cell, which is at most 4 high for 3
    wide; a row is as high as its highest picture. Titles that are too long lose their middle. Raises ValueError without
    pictures, or if a cell would have less than 32 pixels.
    """
    cell = (width - GAP) // columns - GAP
    if not pictures or cell < 32:
        raise ValueError(f"{len(pictures)} pictures in {columns} columns of {cell} pixels: no contact sheet")
    line = annotate.text(" ", TEXT).shape[0]
    small = [_filling(picture, cell, round(cell * 4 / 3)) for _, picture in pictures]
    starts = range(0, len(pictures), columns)
    heights = [max(one.shape[0] for one in small[start : start + columns]) for start in starts]
    sheet = annotate.blank(width, GAP + sum(tall + line + GAP for tall in heights))
    top = GAP
    for start, tall in zip(starts, heights, strict=True):
        for place, picture in enumerate(small[start : start + columns]):
            x = GAP + place * (cell + GAP)
            annotate.paste(sheet, picture, x + (cell - picture.shape[1]) // 2, top + tall - picture.shape[0])
            words = _shortened(pictures[start + place][0], cell)
            annotate.paste(sheet, words, x + (cell - words.shape[1]) // 2, top + tall)
        top += tall + line + GAP
    return sheet


def _filling(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """The picture at the largest size that fits."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _shortened(title: str, width: int) -> np.ndarray:
    """The title as a picture of at most `width` pixels: the ends of file names differ more than their middles."""
    plain = title.encode("ascii", "replace").decode()
    kept = len(plain)
    while True:
        words = plain if kept >= len(plain) else f"{plain[: kept // 3]}...{plain[len(plain) - (kept - kept // 3) :]}"
        drawn = annotate.text(words, TEXT, annotate.MUTED)
        if drawn.shape[1] <= width or kept <= 3:
            return drawn[:, :width]
        kept -= max(1, kept // 20)
