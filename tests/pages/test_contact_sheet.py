from __future__ import annotations

import base64

import cv2
import numpy as np
import pytest

from sapiens_ray.pages import contact_sheet, data_uri, fitted


def plain(width: int, height: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def test_pictures_lie_in_rows_at_their_aspect():
    pictures = [
        ("red.jpg", plain(30, 60, (0, 0, 255))),
        ("green.jpg", plain(300, 100, (0, 255, 0))),
        ("blue.jpg", plain(600, 800, (255, 0, 0))),
    ]
    sheet = contact_sheet(pictures, columns=2, width=424)
    assert sheet.shape[1] == 424 and sheet.dtype == np.uint8
    cell, tall = 194, 259  # (424 - 12) // 2 - 12; 4:3, since most are upright
    for colour, left, width, height in (((0, 0, 255), 12, 130, 259), ((0, 255, 0), 218, 194, 65)):
        ys, xs = np.nonzero((sheet == colour).all(2))
        assert abs(np.ptp(xs) + 1 - width) <= 1 and abs(np.ptp(ys) + 1 - height) <= 1
        assert left <= xs.min() and xs.max() < left + cell and ys.max() == 12 + tall - 1
    _, blue = np.nonzero((sheet == (255, 0, 0)).all(2))
    assert blue.min() >= 12 and blue.max() < 12 + cell
    assert (sheet[:12] == 255).all() and (sheet[:, -12:] == 255).all()


def test_long_names_stay_inside_their_cell():
    name = "a/very/long/folder/with/many/parts/" * 4 + "photo_000123.jpg"
    sheet = contact_sheet([(name, plain(10, 10, (0, 0, 0)))] * 3, columns=3, width=400)
    short = contact_sheet([("a.jpg", plain(10, 10, (0, 0, 0)))] * 3, columns=3, width=400)
    assert sheet.shape == short.shape
    assert (sheet[:, 130:141] == 255).all(), "the gap between the cells is free"


def test_too_narrow_or_empty_is_refused():
    with pytest.raises(ValueError, match="0 pictures"):
        contact_sheet([], 2, 400)
    with pytest.raises(ValueError, match="in 20 columns of 7 pixels"):
        contact_sheet([("a", plain(8, 8, (0, 0, 0)))], 20, 400)


def test_data_uris_hold_the_picture():
    picture = plain(64, 32, (40, 90, 200))
    kind, _, data = data_uri(picture).partition(",")
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert kind == "data:image/webp;base64" and decoded.shape == picture.shape
    assert np.abs(decoded.astype(int) - picture).max() <= 10


@pytest.mark.parametrize(
    ("size", "expected"), [((640, 320), (320, 160)), ((100, 50), (100, 50)), ((5, 4000), (1, 320))]
)
def test_fitted(size, expected):
    assert fitted(plain(*size, (0, 0, 0)), 320).shape[1::-1] == expected
