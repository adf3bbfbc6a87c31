"""Draws persons: as Sapiens-Lite does, or with links by body part, boxes, indices and scores. Keypoints of a user's own
have no known body parts: each has its colour, and a link that of its second end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from sapiens_ray.imaging import annotate
from sapiens_ray.imaging.annotate import Colour, Layout
from sapiens_ray.labels import KeypointTable, known_keypoints
from sapiens_ray.units import Row

SHIFT = 3  # fractional bits of coordinates: OpenCV draws at eighths of a pixel
WHITE, BLACK = (255, 255, 255), (0, 0, 0)

# RGB; cold colours for the left of the person, warm ones for the right. From the middle of the body outwards: a link
# belongs to the outer one of its two ends.
PARTS: dict[str, tuple[int, int, int]] = {
    "torso": (178, 132, 255),
    "head": (255, 230, 80),
    "face": (80, 240, 60),
    "left arm": (70, 215, 255),
    "right arm": (255, 160, 40),
    "left leg": (40, 110, 255),
    "right leg": (235, 45, 60),
    "left hand": (0, 255, 200),
    "right hand": (255, 120, 200),
    "left foot": (0, 120, 110),
    "right foot": (160, 70, 20),
}
LIMB = {"elbow": "arm", "wrist": "arm", "olecranon": "arm", "fossa": "arm", "knee": "leg", "ankle": "leg"}
TORSO = ("shoulder", "acromion", "hip")
LARGE = ("body", "feet")  # groups whose dots are large: faces have hundreds of points and hands dozens


@dataclass(frozen=True)
class Look:
    """How the keypoints and links of a table are drawn: the entry of the legend of each, and which links are thin.

    colours: of the entries, RGB, in the order of the legend.
    """

    points: tuple[str, ...]
    links: tuple[str, ...]
    thin: tuple[bool, ...]
    colours: Mapping[str, tuple[int, int, int]]

    def bgr(self, entry: str) -> Colour:
        red, green, blue = self.colours[entry]
        return blue, green, red


@cache
def look_of(table: KeypointTable) -> Look:
    """Published keypoints are drawn by body part, others each by itself."""
    if table != known_keypoints(table.names):
        ends = tuple(table.names[end] for _, end in table.links)
        thin = tuple(not any(table.groups[end] in LARGE for end in link) for link in table.links)
        return Look(table.names, ends, thin, dict(zip(table.names, table.colours, strict=True)))
    points = tuple(_part(name, group) for name, group in zip(table.names, table.groups, strict=True))
    outwards = list(PARTS)
    links = tuple(outwards[max(outwards.index(points[end]) for end in link)] for link in table.links)
    return Look(points, links, tuple(part.endswith("hand") for part in links), PARTS)


def _part(name: str, group: str) -> str:
    side, joint = name.partition("_")[0], name.rpartition("_")[2]
    if group == "face":
        return "face"
    if group == "feet":
        return f"{side} foot"
    if group.endswith("_hand"):
        return f"{side} hand"
    if joint in LIMB:
        return f"{side} {LIMB[joint]}"
    return "torso" if joint in TORSO else "head"


@dataclass(frozen=True)
class Person:
    """A person in pixels of a canvas.

    corners: of each keypoint, in eighths of a pixel. seen: whether each is drawn. size: side of the box.
    """

    corners: list[tuple[int, int]]
    seen: np.ndarray
    size: float

    @classmethod
    def of(cls, person: Row, scale: np.ndarray, canvas: np.ndarray, least: float) -> Person:
        """scale: pixels of the canvas per pixel of the photo, across and down. least: the lowest score to draw."""
        points = np.array(person["keypoints"], np.float64).reshape(-1, 2) * scale
        x1, y1, x2, y2 = np.array(person["box"], np.float64)
        size = min(math.sqrt(max(1.0, (x2 - x1) * scale[0] * (y2 - y1) * scale[1])), max(canvas.shape[:2]))
        # Far outside the canvas, OpenCV's fixed-point numbers overflow.
        seen = (np.array(person["scores"]) >= least) & (np.abs(points) < 4.0 * max(canvas.shape)).all(1)
        places = np.where(seen[:, None], points, 0) * (1 << SHIFT)
        return cls([(round(x), round(y)) for x, y in places], seen, size)


def draw_lite(canvas: np.ndarray, person: Person, table: KeypointTable) -> None:
    """Keypoints, then links over them, in the colours of the table."""
    thickness = max(1, round(person.size / 220))
    for number in np.flatnonzero(person.seen):
        radius = person.size / 110 if table.groups[number] in LARGE else person.size / 260
        _dot(canvas, person.corners[number], max(0.75, radius), table.colours[number][::-1])
    for (start, end), colour in zip(table.links, table.link_colours, strict=True):
        if person.seen[start] and person.seen[end]:
            _line(canvas, person.corners[start], person.corners[end], thickness, colour[::-1])


def draw_parts(canvas: np.ndarray, person: Person, table: KeypointTable, look: Look) -> set[str]:
    """Links and keypoints by body part, with dark edges. Returns the entries of the legend that were drawn."""
    thick, thin = max(2, round(person.size / 130)), max(1, round(person.size / 260))
    shown = [number for number, link in enumerate(table.links) if person.seen[list(link)].all()]
    # All edges first: no line then darkens another one.
    for outline in (True, False):
        for number in shown:
            start, end = (person.corners[end] for end in table.links[number])
            width = thin if look.thin[number] else thick
            colour = BLACK if outline else look.bgr(look.links[number])
            _line(canvas, start, end, width + 2 if outline else width, colour)
    for point in np.flatnonzero(person.seen):
        large = table.groups[point] in LARGE
        radius = max(2.0, person.size / 110) if large else max(0.75, person.size / 400)
        if large:
            _dot(canvas, person.corners[point], radius + 1, BLACK)
        _dot(canvas, person.corners[point], radius, look.bgr(look.points[point]))
    return {look.points[point] for point in np.flatnonzero(person.seen)} | {look.links[number] for number in shown}


def draw_box(
    canvas: np.ndarray, box: Sequence[float], scale: np.ndarray, index: int, score: float | None, size: int
) -> None:
    """The box of a person in white with dark edges; on its upper left corner the index and, if it is wide enough for
    both, the score. size: of the text."""
    edge = np.array(canvas.shape[1::-1])
    corners = np.clip(np.array(box, np.float64).reshape(2, 2) * scale, -8, edge + 8).round().astype(int)
    (x1, y1), (x2, y2) = corners.tolist()
    width = max(1, size // 10)
    for colour, thickness in ((BLACK, width + 2), (WHITE, width)):
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thickness)
    words = f"{index}" if score is None else f"{index}: {score:.2f}"
    if annotate.text(words, size).shape[1] > x2 - x1:  # in a crowd, plates would hide the photo
        words = f"{index}"
    annotate.plate(canvas, words, size, x1 - width // 2 - 1, y1, annotate.INK, WHITE)


def tint(canvas: np.ndarray, instances: np.ndarray, opacity: float) -> None:
    """Lay a colour over the pixels of each person. instances: H x W, 0 for nobody, i for person i - 1.

    Hues are a golden angle apart, so those of persons with near indices differ.
    """
    height, width = canvas.shape[:2]
    shown = cv2.resize(instances, (width, height), interpolation=cv2.INTER_NEAREST)
    hues = (np.arange(int(shown.max()) + 1) * (180 * 0.381966)).astype(int) % 180  # OpenCV's hues end at 180
    colours = np.column_stack([hues, np.full(len(hues), 200), np.full(len(hues), 255)]).astype(np.uint8)
    palette = cv2.cvtColor(colours[None], cv2.COLOR_HSV2BGR)[0]
    over = cv2.addWeighted(canvas, 1 - opacity, palette[shown], opacity, 0)
    cv2.copyTo(over, (shown > 0).view(np.uint8), canvas)


def part_legend(layout: Layout, look: Look, drawn: set[str]) -> np.ndarray:
    """The colours of what was drawn."""
    return annotate.legend(layout, [(look.bgr(entry), entry, "") for entry in look.colours if entry in drawn])


def _dot(canvas: np.ndarray, place: tuple[int, int], radius: float, colour: Colour) -> None:
    cv2.circle(canvas, place, round(radius * (1 << SHIFT)), colour, -1, cv2.LINE_AA, SHIFT)


def _line(canvas: np.ndarray, start: tuple[int, int], end: tuple[int, int], thickness: int, colour: Colour) -> None:
    cv2.line(canvas, start, end, colour, thickness, cv2.LINE_AA, SHIFT)
