"""Reading labels, and the in-process labeler compared with a job."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import sapiens_ray as sr
from sapiens_ray.errors import CheckpointError, ConfigError, ImageError, OutputError
from sapiens_ray.imaging.images import decode_map
from sapiens_ray.tasks.sections import Visualize
from tests.conftest import photo, write_photos


def test_labeler_pandas_and_ray_agree(cluster, write_job, tmp_path, model):
    files = write_photos(tmp_path / "photos", 5)
    files[2].write_bytes(b"broken")
    sr.run(sr.Job.load(write_job(tmp_path / "photos", unit_size=2, input={"shard_size": 3})))
    output = str(tmp_path / "job-out")

    frame = sr.read_labels(output)
    assert frame["image_id"].tolist() == [file.name for file in files]
    assert frame["index"].tolist() == [0, 1, 2, 0, 1] and frame["shard"].tolist() == [0, 0, 0, 1, 1]
    decoded = sr.read_labels(output, decode=True, columns=["image_id", "seg"])
    assert list(decoded.columns) == ["image_id", "seg"]
    assert decoded["seg"][2] is None
    assert np.array_equal(decoded["seg"][0], decode_map(frame["seg"][0]))

    rows = sorted(sr.read_labels(output, engine="ray", decode=True).take_all(), key=lambda row: row["image_id"])
    assert [row["image_id"] for row in rows] == frame["image_id"].tolist()
    for row, png in zip(rows, frame["seg"], strict=True):
        assert row["seg"].size == 0 if not isinstance(png, bytes) else np.array_equal(row["seg"], decode_map(png))
    assert sr.read_labels(output, engine="ray", columns=["image_id"]).count() == 5

    for wrong in ({"engine": "polars"}, {"size": "full"}, {"columns": "seg"}, {"columns": ["nope"]}):
        with pytest.raises((ValueError, TypeError, OutputError), match=r"polars|full|list of names|no column 'nope'"):
            sr.read_labels(output, **wrong)

    direct = sr.Labeler(task="seg", checkpoint=model)([str(file) for file in files], decode=False)
    for row, (_, written) in zip(direct, frame.iterrows(), strict=True):
        assert row["error_kind"] == (None if isinstance(written["seg"], bytes) else written["error_kind"])
        assert row["seg"] == (written["seg"] if isinstance(written["seg"], bytes) else None)


def test_labeler_takes_arrays_bytes_and_paths(model):
    labeler = sr.Labeler(task="seg", checkpoint=model, unit_size=2)
    image = photo(40, 30)
    png = cv2.imencode(".png", image)[1].tobytes()
    rows = labeler([image, png, "/no/such/file.jpg", np.zeros((0, 4, 3), np.uint8), b""])
    assert np.array_equal(rows[0]["seg"], rows[1]["seg"]) and rows[0]["seg"].shape == (30, 40)
    assert [row["error_kind"] for row in rows] == [None, None, "missing", "zero_size", "empty"]
    assert [row["index"] for row in rows] == [0, 1, 2, 3, 4]
    picture = labeler.preview(image, Visualize(style="lite"))
    assert picture.shape == (30, 80, 3) and np.array_equal(picture[:, :40], image)
    explained = labeler.preview(image, Visualize(max_side=40))
    panel = [(y, x) for y in range(explained.shape[0] - 29) for x in range(explained.shape[1] - 39)
             if np.array_equal(explained[y : y + 30, x : x + 40], image)]  # fmt: skip
    assert len(panel) == 1, "the photo is in it, unchanged"
    with pytest.raises(ImageError, match="no bytes"):
        labeler.preview(b"")
    with pytest.raises(TypeError, match="H x W x 3 uint8 BGR"):
        labeler(np.zeros((4, 4), np.float32))


def test_labeler_refuses_wrong_options_with_clear_messages(tmp_path, model):
    with pytest.raises(CheckpointError, match="does not exist"):
        sr.Labeler(task="seg", checkpoint=tmp_path / "none.pt2")
    with pytest.raises(ConfigError, match="bath_size: unknown key"):
        sr.Labeler(task="seg", checkpoint=model, bath_size=3)


def test_reading_a_folder_without_labels(tmp_path):
    with pytest.raises(OutputError, match="holds no labels"):
        sr.read_labels(str(tmp_path))
