"""The task seg against the steps of Sapiens-Lite, and the outputs that it refuses."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from sapiens_ray.errors import CheckpointError
from sapiens_ray.imaging.images import decode_map
from sapiens_ray.labels import body_parts
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.tasks.seg import Seg, SegOptions
from tests.conftest import photo
from tests.outputs import certain


@pytest.fixture
def task():
    return Seg(SegOptions(task="seg", checkpoint="x"))


def plain_pipeline(model: torch.nn.Module, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """BGR photo to (class map, float64 logits at original size) by the documented steps; shares no code."""
    resized = cv2.resize(image, (768, 1024), interpolation=cv2.INTER_LINEAR)
    rgb = resized[:, :, ::-1].astype(np.float32)
    mean, std = np.float32([123.5, 116.5, 103.5]), np.float32([58.5, 57.0, 57.5])
    tensor = torch.from_numpy(np.ascontiguousarray(((rgb - mean) / std).transpose(2, 0, 1)))[None]
    with torch.inference_mode():
        logits = model(tensor)
    full = torch.nn.functional.interpolate(logits.double(), image.shape[:2], mode="bilinear", align_corners=False)[0]
    return full.argmax(0).numpy(), full.numpy()


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (3, 700), (33, 47), (299, 401), (768, 1024), (1801, 1203)])
def test_labels_equal_the_plain_pipeline(model, size):
    import sapiens_ray as sr

    width, height = size
    image = photo(width, height, 3)
    (row,) = sr.Labeler(task="seg", checkpoint=model)([image])
    expected, logits = plain_pipeline(torch.jit.load(str(model)), image)
    assert row["seg"].shape == (height, width)
    differ = row["seg"] != expected
    top = np.sort(logits, 0)[-2:]
    assert ((top[1] - top[0])[differ] < 1e-4).all(), "a label differs although it is not a tie"
    assert differ.mean() <= 1e-4


def test_results_do_not_depend_on_neighbours_or_batch_size(model):
    import sapiens_ray as sr

    images = [photo(60 + 7 * number, 90, number) for number in range(7)]
    alone = [row for image in images for row in sr.Labeler(task="seg", checkpoint=model)([image], decode=False)]
    for batch_size in (1, 3, 8):
        together = sr.Labeler(task="seg", checkpoint=model, batch_size=batch_size)(images, decode=False)
        assert [row["seg"] for row in together] == [row["seg"] for row in alone]


def test_finish_and_reduce(task):
    class_map = np.zeros((4, 8), np.uint8)
    class_map[0] = 27
    class_map[1, :4] = 5
    row = task.finish([certain(class_map)], {})
    assert np.array_equal(decode_map(row["seg"]), class_map)
    assert row["seg_classes"] == [0, 5, 27]
    assert row["seg_area"] == [20 / 32, 4 / 32, 8 / 32]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(2, 17, 256, 192), "Is this the checkpoint of another task"),
        (torch.zeros(1, 28, 8, 6), "1 x 28 x 8 x 6 for 2 images"),
        ({"logits": 1}, "returns dict, not a tensor"),
    ],
)
def test_the_output_of_another_model_is_refused(task, output, message):
    with pytest.raises(CheckpointError, match=message):
        task.check_output(output, 2)


def test_style_lite_blends_every_class_with_its_colour(task):
    image = np.full((40, 60, 3), 100, np.uint8)
    class_map = np.repeat(np.arange(28, dtype=np.uint8), 100).reshape(28, 100)
    row = task.finish([certain(class_map)], {})
    panel = task.draw(cv2.resize(image, (100, 28)), row, Visualize(opacity=0.5, style="lite"))[:, 100:]
    for index, (red, green, blue) in enumerate(body_parts().colours):
        expected = [(100 + blue) / 2, (100 + green) / 2, (100 + red) / 2]
        assert np.abs(panel[index].mean(0) - expected).max() <= 1, index
