"""Points in the space of the camera, in metres: x to the right, y down, z forward."""

from __future__ import annotations

import cv2
import numpy as np

from sapiens_ray.imaging import maps

BLURS, KERNEL, SIGMA = 4, (3, 3), 0.8  # what Sapiens2 does to points before it enlarges them

# The view from another place: to the right of the camera and above it, towards the middle of the points.
TURN, TILT = 30, 15  # degrees
FILLED = 0.9  # of the picture, by all points but the outermost hundredth on each side
BEHIND = 0.05  # points nearer to the new camera than this share of the distance to the middle are not drawn
WIDEST = 4  # pixels of a point


def at_photo_size(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """h x w x 3 to height x width x 3 float32, as Sapiens2 does: blurred four times if that is higher or wider, then
    resized bilinearly."""
    smooth: np.ndarray = np.asarray(points, np.float32)
    if height > points.shape[0] or width > points.shape[1]:
        for _ in range(BLURS):
            smooth = cv2.GaussianBlur(smooth, KERNEL, SIGMA, borderType=cv2.BORDER_REFLECT_101)
    return maps.resize(smooth, width, height)


def focal_length(points: np.ndarray, inside: np.ndarray, width: int, height: int) -> float | None:
    """The focal length in pixels of a width x height photo, which fits the points best; None if none does.

    points: h x w x 3, of the whole photo. inside: h x w bool, the points that count; those with z > 0 do. A pinhole
    camera sees the point (x, y, z) at u = f x/z + cx, v = f y/z + cy. Least squares of the distances to the pixels
    (u, v) that the points belong to, over f, cx and cy together, with means taken off:

        f = sum(x/z (u - mean u) + y/z (v - mean v)) / sum((x/z - mean x/z)^2 + (y/z - mean y/z)^2)

    cx and cy are free, so that a part that was cut out of a photo has the focal length of the photo.
    """
    rows, columns = np.nonzero(inside & (points[..., 2] > 0))
    if not rows.size:
        return None
    chosen = points[rows, columns].astype(np.float64)
    slopes = chosen[:, :2] / chosen[:, 2:]
    slopes -= slopes.mean(0)
    cells = np.stack([(columns + 0.5) * (width / points.shape[1]), (rows + 0.5) * (height / points.shape[0])], 1)
    spread = np.square(slopes).sum()
    focal = float((slopes * (cells - cells.mean(0))).sum() / spread) if spread > 0 else 0.0
    return focal if focal > 0 else None  # points that no camera sees so have none


def nearness(z: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, tuple[float, float] | None]:
    """h x w float32, 1 for near and 0 for far, linear in 1/z, and the z of 1 and of 0: the nearest and the farthest
    hundredth of the foreground have the colours of the ends, as in the pictures of Sapiens2. None, and 0, without
    foreground."""
    near = np.zeros(z.shape, np.float32)
    if not inside.any():
        return near, None
    inverse = 1 / np.maximum(z[inside], np.float32(1e-3))
    far_end, near_end = np.quantile(inverse, (0.01, 0.99))
    near[inside] = np.clip((inverse - far_end) / (near_end - far_end), 0, 1) if near_end > far_end else 0.5
    return near, (float(1 / near_end), float(1 / far_end))


def turned_view(points: np.ndarray, colours: np.ndarray, paper: np.ndarray) -> np.ndarray:
    """Points as a camera to the right and above sees them, on a copy of `paper`, h x w x 3 uint8 BGR.

    points: N x 3. colours: N x 3 uint8 BGR. Near points hide far ones. The camera turns around the median of the
    points, at the distance that this has from the real one.
    """
    picture = paper.copy()
    if not len(points):
        return picture
    middle = np.median(points, 0).astype(np.float64)
    seen = (points - middle) @ _rotation().T
    distance = max(float(middle[2]), 1e-3)
    depth = seen[:, 2] + distance
    front = depth > BEHIND * distance
    if not front.any():
        return picture
    seen, depth, colours = seen[front], depth[front], colours[front]
    places = seen[:, :2] / depth[:, None]
    low, high = np.quantile(places, (0.01, 0.99), axis=0)
    height, width = paper.shape[:2]
    extent = np.maximum(high - low, 1e-9)
    zoom = FILLED * min(width / extent[0], height / extent[1])
    pixels = np.floor((places - (low + high) / 2) * zoom + (width / 2, height / 2))
    # A point is as large as points are apart: the view is closed where the photo was.
    side = int(np.clip(np.ceil(np.sqrt(1.5 * np.prod(extent * zoom) / len(places))), 1, WIDEST))
    shown = ((pixels > -side) & (pixels < (width, height))).all(1)
    order = np.argsort(-depth[shown], kind="stable")  # from far to near: what is written last stays
    across, down = pixels[shown][order].astype(np.intp).T
    steps = np.arange(side)
    rows = (down[:, None, None] + steps[:, None]).clip(0, height - 1)
    columns = (across[:, None, None] + steps).clip(0, width - 1)
    picture[rows, columns] = colours[shown][order][:, None, None]
    return picture


def _rotation() -> np.ndarray:
    """3 x 3, float64: from the axes of the real camera to those of one that is to the right and above."""
    turn, tilt = np.radians(TURN), np.radians(TILT)
    sideways = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    downwards = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    rotation: np.ndarray = downwards @ sideways
    return rotation
