"""Colours that are told apart, for classes and keypoints whose job names none."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

Rgb = tuple[int, int, int]

BACKGROUND: Rgb = (50, 50, 50)  # as in Sapiens' table of body parts
LEVELS = 14  # of red, green and blue among the candidates
DARKEST, BRIGHTEST = 35, 92  # lightness in CIELAB, 0 to 100: visible on dark and on white
LEAST_CHROMA = 25  # greys are hard to see on photos


@cache
def distinct_colours(count: int) -> tuple[Rgb, ...]:
    """So many colours, always the same ones: each is as far as possible from those before it, and from the colour of
    the background. Distances are Euclidean in CIELAB (CIE 15), where equal distances look about equal."""
    levels = np.linspace(0, 255, LEVELS).round().astype(np.uint8)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    places = _lab(candidates)
    good = (places[:, 0] >= DARKEST) & (places[:, 0] <= BRIGHTEST) & (np.hypot(*places[:, 1:].T) >= LEAST_CHROMA)
    candidates, places = candidates[good], places[good]
    nearest = np.linalg.norm(places - _lab(np.array([BACKGROUND], np.uint8)), axis=1)
    found: list[Rgb] = []
    for _ in range(count):
        best = int(nearest.argmax())
        red, green, blue = candidates[best].tolist()
        found.append((red, green, blue))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[best], axis=1))
    return tuple(found)


def _lab(colours: np.ndarray) -> np.ndarray:
    """N x 3 uint8 RGB to N x 3 float32 L, a, b."""
    found: np.ndarray = cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    return found
