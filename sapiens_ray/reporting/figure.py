"""A neutral standing figure with a value at every keypoint, as SVG: it faces the reader, so its right is on the left.

Positions are our own, found from the names of the keypoints: a body, and beside it an enlarged face and hands where the
table has them. Inside a row of points of the face, such as the upper lash line, they are only evenly spaced.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence

from markupsafe import Markup, escape

Place = tuple[float, float]

# For the left of the person, in units of the drawing; the right is mirrored at x = 60.
BODY: dict[str, Place] = {
    "eye": (64, 14), "ear": (71, 16), "shoulder": (79, 46), "elbow": (88, 78), "wrist": (93, 108), "hip": (71, 108),
    "knee": (73, 152), "ankle": (74, 196), "big_toe": (79, 210), "small_toe": (86, 208), "heel": (72, 205),
    "acromion": (77, 41), "olecranon": (92, 78), "cubital_fossa": (85, 81),
}  # fmt: skip
MIDDLE: dict[str, Place] = {"nose": (60, 20), "neck": (60, 34)}

FACE_AT, FACE_SIZE = (222.0, 62.0), 46.0
HANDS_AT, HAND_SIZE = {"right": (178.0, 178.0), "left": (266.0, 178.0)}, 38.0

# Fingers of the right hand, palm to the reader: base and tip, in half sizes of the hand. The left one is mirrored.
FINGERS: dict[str, tuple[Place, Place]] = {
    "thumb": ((0.35, 0.55), (0.95, 0.0)), "forefinger": ((0.30, 0.05), (0.45, -0.8)),
    "middle_finger": ((0.08, 0.0), (0.10, -0.95)), "ring_finger": ((-0.15, 0.05), (-0.22, -0.8)),
    "pinky_finger": ((-0.36, 0.15), (-0.52, -0.5)),
}  # fmt: skip
HAND_ROOT: Place = (0.0, 0.9)

# Rows of points of the face: how their names end, start, bulge and end for the left of the person.
CURVES: dict[str, tuple[Place, Place, Place]] = {
    "upper_eyebrow": ((0.14, -0.46), (0.40, -0.68), (0.66, -0.42)),
    "lower_eyebrow": ((0.14, -0.40), (0.40, -0.56), (0.62, -0.40)),
    "upper_crease_line": ((0.19, -0.22), (0.40, -0.46), (0.62, -0.22)),
    "upper_eyelid_line": ((0.20, -0.19), (0.40, -0.38), (0.60, -0.19)),
    "upper_lash_line": ((0.21, -0.16), (0.40, -0.32), (0.58, -0.16)),
    "lower_lash_line": ((0.22, -0.14), (0.40, -0.02), (0.57, -0.14)),
    "lower_eyelid_line": ((0.22, -0.10), (0.40, 0.06), (0.57, -0.10)),
}
MOUTH: dict[str, tuple[Place, Place, Place]] = {  # from the right of the person to the left
    "upper_outer_lip": ((-0.28, 0.52), (0.0, 0.34), (0.28, 0.52)),
    "lower_outer_lip": ((-0.28, 0.54), (0.0, 0.76), (0.28, 0.54)),
    "upper_inner_lip": ((-0.24, 0.525), (0.0, 0.46), (0.24, 0.525)),
    "lower_inner_lip": ((-0.24, 0.535), (0.0, 0.62), (0.24, 0.535)),
}
CENTRE: dict[str, Place] = {
    "center_of_glabella": (0, -0.44), "center_of_nose_root": (0, -0.3), "midpoint_1_of_nose_bridge": (0, -0.2),
    "midpoint_2_of_nose_bridge": (0, -0.1), "midpoint_3_of_nose_bridge": (0, 0.0), "tip_of_nose_bridge": (0, 0.1),
    "tip_of_nose": (0, 0.19), "bottom_center_of_nose": (0, 0.28), "center_of_labiomental_groove": (0, 0.79),
    "tip_of_chin": (0, 0.98),
}  # fmt: skip
SIDES: dict[str, Place] = {  # of the left
    "outer_corner_of_nose": (0.16, 0.22), "inner_corner_of_nostril": (0.04, 0.26),
    "outer_corner_of_nostril": (0.12, 0.26), "upper_corner_of_nostril": (0.08, 0.20),
    "outer_corner_of_mouth": (0.33, 0.53), "inner_corner_of_mouth": (0.28, 0.53),
}  # fmt: skip
EYE: Place = (0.40, -0.17)
RINGS = {"iris": 0.065, "pupil": 0.032}
EAR: Place = (1.02, -0.05)
SIDE = re.compile(r"(?:^|_)([lr])_")


def places(names: Sequence[str]) -> dict[int, Place]:
    """Where each keypoint is drawn, by its number; x from 0 to 310, y from 0 to 220. Unknown names have no place."""
    found = {**_of_body(names), **_of_hands(names), **_of_68(names), **_of_face(names)}
    return dict(sorted(found.items()))


def _of_body(names: Sequence[str]) -> dict[int, Place]:
    found: dict[int, Place] = {}
    for number, name in enumerate(names):
        side, _, joint = name.partition("_")
        if name in MIDDLE:
            found[number] = MIDDLE[name]
        elif side in ("left", "right") and joint in BODY:
            x, y = BODY[joint]
            found[number] = (x if side == "left" else 120 - x, y)
    return found


def _of_hands(names: Sequence[str]) -> dict[int, Place]:
    """Fingers are numbered from the palm to the tip; in tables of 308 the joint at the palm is the third joint."""
    found: dict[int, Place] = {}
    for number, name in enumerate(names):
        match = re.fullmatch(r"(left|right)_(hand_root|[a-z_]*?(?:thumb|finger))(?:([1-4])|_third_joint)?", name)
        if match is None:
            continue
        side, finger, level = match.groups()
        x, y = HAND_ROOT
        if finger != "hand_root":
            (x1, y1), (x2, y2) = FINGERS[finger]
            share = (int(level or 1) - 1) / 3
            x, y = x1 + share * (x2 - x1), y1 + share * (y2 - y1)
        centre = HANDS_AT[side]
        found[number] = (centre[0] + HAND_SIZE * (x if side == "right" else -x), centre[1] + HAND_SIZE * y)
    return found


def _of_68(names: Sequence[str]) -> dict[int, Place]:
    """The 68 points of a face as iBUG numbers them: jaw, brows, nose, eyes, lips, each from the reader's left."""
    first = next((number for number, name in enumerate(names) if name == "face-0"), None)
    if first is None:
        return {}
    jaw = [(-0.85 * math.cos(math.pi * k / 16), -0.2 + 1.18 * math.sin(math.pi * k / 16)) for k in range(17)]
    brows = [
        *_curve((-0.68, -0.42), (-0.42, -0.68), (-0.14, -0.46), 5),
        *_curve((0.14, -0.46), (0.42, -0.68), (0.68, -0.42), 5),
    ]
    nose = [*((0.0, -0.3 + 0.14 * k) for k in range(4)), *_curve((-0.18, 0.24), (0.0, 0.34), (0.18, 0.24), 5)]
    eyes = [place for x in (-0.4, 0.4) for place in _ring((x, -0.2), 0.17, 0.08, 6)]
    lips = [*_ring((0, 0.6), 0.36, 0.15, 12), *_ring((0, 0.6), 0.26, 0.05, 8)]
    all_places = [*jaw, *brows, *nose, *eyes, *lips]
    return {first + k: _on_face(place) for k, place in enumerate(all_places) if first + k < len(names)}


def _of_face(names: Sequence[str]) -> dict[int, Place]:
    """The detailed face of the table of 308."""
    found: dict[int, Place] = {}
    rows: dict[tuple[str, int], list[int]] = defaultdict(list)  # feature and side -> keypoints in their order
    for number, name in enumerate(names):
        if name in CENTRE:
            found[number] = _on_face(CENTRE[name])
            continue
        match = SIDE.search(name)
        side = 0 if match is None else 1 if match[1] == "l" else -1
        plain = SIDE.sub(lambda found: "_" if found.start() else "", name, count=1)
        if plain in SIDES:
            x, y = SIDES[plain]
            found[number] = _on_face((x * side, y))
        else:
            rows[_feature(plain), side].append(number)
    for (feature, side), numbers in rows.items():
        ordered = sorted(numbers, key=lambda number: _along(names[number]))
        for number, place in zip(ordered, _row(feature, len(ordered)), strict=False):
            found[number] = _on_face((place[0] * (side or 1), place[1]))
    return found


def _feature(name: str) -> str:
    """The row of points to which a keypoint of the face belongs; empty if it is none of the face."""
    if name.endswith("eyebrow"):
        return "lower_eyebrow" if name.startswith("lower") else "upper_eyebrow"
    for feature in (*CURVES, *MOUTH):
        if name.endswith(feature):
            return feature
    if name in ("center_of_cupid_bow", "center_of_lower_outer_lip"):
        return "upper_outer_lip" if "cupid" in name else "lower_outer_lip"
    for ring in RINGS:
        if ring in name:
            return ring
    return "ear" if re.search(r"helix|crus|tragus|concha|ear_lobe|between_22_15", name) else ""


def _along(name: str) -> tuple[int, int]:
    """Where in its row a keypoint is: from the inner to the outer end, from the first midpoint to the last."""
    if re.search(r"inner_end|startpoint|iris_|pupil_|helix|crus|tragus|concha|lobe|between", name):
        return 0, 0
    if re.search(r"outer_end|(?<!inner_)(?<!outer_)end_of", name):
        return 2, 0
    number = re.search(r"point_(\d)", name)
    return 1, 2 * int(number[1]) if number else 7  # the centre after the third of six


def _row(feature: str, count: int) -> list[Place]:
    curve = CURVES.get(feature) or MOUTH.get(feature)
    if curve:
        if feature in MOUTH:  # the corners are points of their own
            return _curve(*curve, count + 2)[1:-1]
        return _curve(*curve, count)
    if feature in RINGS:
        centre = (EYE[0], EYE[1] - (0.02 if feature == "iris" else 0))  # that of the pupil would cover that of the iris
        return [*_ring(EYE, RINGS[feature], RINGS[feature], count - 1), centre]
    if feature == "ear":  # a spiral from the top inwards
        turns = [(2.6 * math.pi * k / max(1, count - 1), 1 - 0.7 * k / max(1, count - 1)) for k in range(count)]
        return [(EAR[0] + 0.13 * r * math.sin(a), EAR[1] - 0.34 * r * math.cos(a)) for a, r in turns]
    return []


def _curve(start: Place, bulge: Place, end: Place, count: int) -> list[Place]:
    """Points on a quadratic Bézier curve."""
    shares = [k / max(1, count - 1) for k in range(count)]
    weights = [((1 - t) ** 2, 2 * t * (1 - t), t**2) for t in shares]
    points = (start, bulge, end)
    return [
        (
            sum(weight * x for weight, (x, _) in zip(at, points, strict=True)),
            sum(weight * y for weight, (_, y) in zip(at, points, strict=True)),
        )
        for at in weights
    ]


def _ring(centre: Place, across: float, down: float, count: int) -> list[Place]:
    """Points on an ellipse, from the reader's left and clockwise."""
    angles = [math.pi + 2 * math.pi * k / max(1, count) for k in range(count)]
    return [(centre[0] + across * math.cos(angle), centre[1] + down * math.sin(angle)) for angle in angles]


def _on_face(place: Place) -> Place:
    return FACE_AT[0] + FACE_SIZE * place[0], FACE_AT[1] + FACE_SIZE * place[1]


def draw_figure(names: Sequence[str], links: Sequence[Sequence[int]], values: Sequence[float | None]) -> Markup:
    """The figure as SVG. values: by keypoint, 0 (orange) to 1 (the accent of the page); None is left out.

    Names and values are in tooltips.
    """
    at = places(names)
    parts = []
    for start, end in links:
        if start in at and end in at and math.dist(at[start], at[end]) < 70:  # not from the body to an enlarged part
            (x1, y1), (x2, y2) = at[start], at[end]
            parts.append(f'<path class="bone" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>')
    for number, (x, y) in at.items():
        value = values[number]
        if value is None:
            continue
        share = 100 * min(1.0, max(0.0, value))
        fill = f"color-mix(in oklab, var(--accent) {share:.0f}%, var(--low))"
        radius = 2.6 if x <= 120 else 1.5 if y > 120 else 1.1
        title = f"{escape(names[number])}: {value:.2f}"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" style="fill:{fill}"><title>{title}</title></circle>'
        )
    enlarged = any(x > 120 for x, _ in at.values())
    outlines = [(60, 16, 14, 16)] + ([(*FACE_AT, 0.9 * FACE_SIZE, 1.02 * FACE_SIZE)] if enlarged else [])
    ellipse = '<ellipse class="outline" cx="{}" cy="{}" rx="{:.1f}" ry="{:.1f}"/>'
    heads = "".join(ellipse.format(*outline) for outline in outlines)
    box = "0 0 310 224" if enlarged else "-95 0 310 224"
    label = 'role="img" aria-label="Mean score of every keypoint"'
    return Markup(f'<svg viewBox="{box}" {label}>{heads}{"".join(parts)}</svg>')
