"""Images that a Python program holds: every kind that a `Labeler` takes, rows, and the values of columns."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from sapiens_ray.errors import ConfigError
from sapiens_ray.imaging.images import decode, encode_png
from sapiens_ray.sources import Encoded, objects
from tests.conftest import photo

LIMIT = 1 << 20
ARRAY = photo(30, 20)
PNG = encode_png(ARRAY)
PILLOW = Image.fromarray(ARRAY[:, :, ::-1])
ROW = {"image": PNG, "boxes": []}


def read(images, columns=None, wanted=()) -> list[Encoded]:
    return list(objects.read(images, columns or {}, wanted, LIMIT))


def shown(encoded: Encoded) -> tuple[str, str, str | None]:
    """The id, the URI, and 'pixels' where they are those of ARRAY, else the kind of the error."""
    if encoded.error:
        return encoded.image_id, encoded.uri, encoded.error.kind
    return encoded.image_id, encoded.uri, "pixels" if np.array_equal(decode(encoded.data, LIMIT), ARRAY) else None


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    (tmp_path / "a.png").write_bytes(PNG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_one_image_of_every_kind(files):
    written = io.BytesIO()
    written.write(PNG)  # and left at its end
    with (files / "a.png").open("rb") as file:
        for image in (PNG, bytearray(PNG), memoryview(PNG), ARRAY, ARRAY[:, ::-1][:, ::-1], PILLOW, file, written):
            (one,) = read(image)
            assert shown(one) == ("image-0", "", "pixels"), type(image)
            assert shown(read([PNG, image])[1]) == ("image-1", "", "pixels")
    for path in ("a.png", Path("a.png"), "~/a.png", files / "a.png", f"file://{files}/a.png"):
        (one,) = read(path)
        assert shown(one) == (str(path), str(path), "pixels")


def test_iterables_of_images(files):
    many = [PNG, Path("a.png"), PILLOW]
    frame = pd.DataFrame({"path": ["a.png"] * 3})
    for images in (many, tuple(many), iter(many), (image for image in many), frame["path"], np.stack([ARRAY] * 3)):
        assert [shown(one)[2] for one in read(images)] == ["pixels"] * 3, type(images)
    assert [one.index for one in read(many)] == [0, 1, 2]
    assert read([]) == []


def test_a_bad_image_is_an_error_of_its_own(files):
    broken = Image.open(io.BytesIO(PNG[:-90]))
    images = ["none.png", files, "a\0b", broken, np.zeros((0, 4, 3), np.uint8), Image.new("L", (0, 3)), PNG]
    kinds = ["missing", "unreadable", "unreadable", "corrupt", "zero_size", "zero_size", "pixels"]
    assert [shown(one)[2] for one in read(images)] == kinds
    assert read(b"")[0].data == b"", "the decoder says that it is empty"


@pytest.mark.parametrize(
    "images, message",
    [
        (7, "cannot read int; an image is a path or URL, the bytes"),
        (None, "cannot read NoneType"),
        ([PNG, None], "image 1: cannot read NoneType; an image is a path"),
        ([[PNG]], "image 0: cannot read list"),
        (torch.zeros(3, 4, 4), "image 0: cannot read Tensor"),
        (np.zeros((4, 5), np.uint8), "array must be H x W x 3 uint8 BGR, as OpenCV reads it; this one is 4 x 5 uint8"),
        (np.zeros((4, 5, 4), np.uint8), "this one is 4 x 5 x 4 uint8"),
        (np.zeros((4, 5, 3)), "this one is 4 x 5 x 3 float64"),
        (io.StringIO("text"), "image 0: a file that was opened as text; open it with mode 'rb'"),
        (pd.DataFrame({"image": [PNG]}), "a DataFrame is no list of images; give its rows, frame.to_dict('records')"),
        ({"train": [1], "test": [2]}, "row 0 has no image: train: list, test: list"),
        ({"image": ARRAY}, "row 0 has no image: image: ndarray; an array in a row could be RGB or BGR"),
        ([ROW, {"image": ARRAY}], "row 1: column 'image' is an array; an array in a row could be RGB or BGR"),
        ({"image": [PILLOW] * 2, "n": [1, 2]}, "this is a dict of columns, as dataset[:9] gives: take dataset.select"),
        ({"one": PNG, "two": PILLOW}, "row 0 could be one or two; give the images themselves, such as [row['one'"),
        ({}, "row 0 has no image"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused_by_name(images, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        read(images)


def test_the_image_of_a_row(files):
    rows = {
        ("image-0", "", "pixels"): [
            {"image": PILLOW, "label": 3},
            {"image": {"bytes": PNG, "path": None}},
            {"picture": memoryview(PNG), "caption": "a.png", "width": 30},
            {"other": PNG, "image": PNG},
            {"image": PNG, "path": "none.png"},
        ],
        ("a.png", "", "pixels"): [{"image": {"bytes": PNG, "path": "a.png"}}],
        ("a.png", "a.png", "pixels"): [
            {"image": {"bytes": None, "path": "a.png"}},
            {"path": "a.png", "n": 1},
            {"file_name": "a.png", "caption": "none.png"},
        ],
        ("image-0", "", "missing"): [
            {"image": None, "n": 1},
            {"picture": None, "n": 1},
            {"image": {"bytes": None, "path": None}},
        ],
        ("none.png", "none.png", "missing"): [{"image": {"bytes": None, "path": "none.png"}}],
    }
    for wanted, given in rows.items():
        for row in given:
            (one,) = read(row)
            assert shown(one) == wanted, row
    assert read({"image": {"bytes": b"", "path": None}})[0].data == b""


def test_all_rows_have_their_image_in_the_same_column():
    rows = [{"photo": PILLOW, "n": 1}, {"photo": None, "n": 2}, {"photo": PNG, "n": PNG}]
    assert [shown(one)[2] for one in read(rows)] == ["pixels", "missing", "pixels"]
    with pytest.raises(ConfigError, match=r"the row of image 1 has no column 'photo', as earlier rows have"):
        read([{"photo": PILLOW}, {"picture": PILLOW}])
    assert [shown(one)[2] for one in read([{"photo": PILLOW}, PNG, PILLOW])] == ["pixels"] * 3


def test_values_of_columns_come_from_rows_or_from_columns():
    boxes, mask = [[0, 0, 9, 9]], Image.new("1", (30, 20))
    assert [one.extra for one in read([PNG, PNG], {"boxes": [boxes, None]}, ["boxes"])] == [
        {"boxes": boxes}, {"boxes": None},
    ]  # fmt: skip
    rows = [{"photo": PNG, "boxes": boxes, "mask": mask, "n": 1}, {"photo": PNG, "boxes": [], "mask": None, "n": 2}]
    found = read(rows, wanted=["boxes", "mask"])
    assert [one.extra for one in found] == [{"boxes": boxes, "mask": mask}, {"boxes": [], "mask": None}]
    assert [shown(one)[2] for one in found] == ["pixels"] * 2, "the mask is not taken for the image"
    both = read([{"image": PNG, "boxes": boxes}] * 2, {"m": pd.Series([5, 6], index=[7, 8])}, ["boxes", "m"])
    assert [one.extra for one in both] == [{"boxes": boxes, "m": 5}, {"boxes": boxes, "m": 6}]


@pytest.mark.parametrize(
    "images, columns, wanted, message",
    [
        ([PNG], {}, ["boxes"], "the tasks read column 'boxes'; give it in `columns`, or in rows"),
        ([ROW, {"image": PNG}], {}, ["boxes"], "or in rows; the row of image 1 has only image"),
        ([ROW], {"boxes": [[]]}, ["boxes"], "image 0 has two values of 'boxes', in its row and in `columns`"),
        ([PNG] * 3, {"boxes": [[], []]}, ["boxes"], "column 'boxes' has 2 values for 3 images; give one per image"),
        ([PNG] * 2, {"boxes": [[], [], []]}, ["boxes"], "column 'boxes' has 3 values for 2 images; give one per image"),
        (PNG, {"boxes": [[], []]}, ["boxes"], "2 values for 1 image; give one per image; for one image, write [value]"),
        (iter([PNG] * 3), {"boxes": [[]]}, ["boxes"], "column 'boxes' has 1 value, but there are more images"),
        (iter([PNG]), {"boxes": [[], []]}, ["boxes"], "column 'boxes' has 2 values for 1 image"),
        ([PNG], {"boxs": [[]], "boxes": [[]]}, ["boxes"], "the tasks read no column 'boxs'; they read boxes"),
        ([PNG], {"boxes": [[]]}, [], "the tasks read no column 'boxes'; they read none"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_are_refused(images, columns, wanted, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(images, columns, wanted)
