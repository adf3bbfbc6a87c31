"""What pictures cost: style explained against style lite, at max_side 1280, for a photo of 12 megapixels.

    python benchmarks/pictures.py

Labels are stand-ins. Milliseconds of one core, the least of several rounds, for drawing and for encoding as JPEG.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from sapiens_ray.imaging.images import encode_picture, picture_size
from sapiens_ray.tasks import AnyTask
from sapiens_ray.tasks.depth import Depth, DepthOptions
from sapiens_ray.tasks.normal import Normal, NormalOptions
from sapiens_ray.tasks.pose import Pose, PoseOptions
from sapiens_ray.tasks.sections import Visualize
from sapiens_ray.tasks.seg import Seg, SegOptions, SegResult
from sapiens_ray.units import Row

PHOTO = Path(__file__).parents[1] / "sapiens_ray" / "samples" / "astronaut.jpg"
WIDTH, HEIGHT = 4000, 3000
ROUNDS = 15


def row_of(tasks: list[AnyTask]) -> Row:
    """A row with the columns of seg, depth and normal, and a person with 308 keypoints."""
    seg, depth, normal, _ = tasks
    row: Row = {"width": WIDTH, "height": HEIGHT}
    blocks = np.repeat(np.repeat(np.arange(12, dtype=np.uint8).reshape(3, 4), HEIGHT // 3, 0), WIDTH // 4, 1)
    row |= seg.finish([SegResult(blocks, blocks, np.ones(blocks.shape, np.float32))], row)
    slope = np.linspace(0, 1, 768, dtype=np.float32)
    row |= depth.finish([np.tile(slope, (1024, 1))], row)
    row |= normal.finish([np.dstack([np.tile(slope[::2], (512, 1))] * 3)], row)
    points = np.random.default_rng(0).uniform(0.2, 0.8, (308, 2)) * (WIDTH, HEIGHT)
    person = {"box": [400, 300, 3600, 2800], "box_score": 0.9, "keypoints": points.tolist(), "scores": [0.9] * 308}
    return {**row, "persons": [person]}


def milliseconds(call: Callable[[], object]) -> float:
    """Least time of one core."""
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return 1000 * min(times)


def main() -> None:
    cv2.setNumThreads(1)
    tasks: list[AnyTask] = [
        Seg(SegOptions(task="seg", checkpoint="-")),
        Depth(DepthOptions(task="depth", checkpoint="-")),
        Normal(NormalOptions(task="normal", checkpoint="-")),
        Pose(PoseOptions(task="pose", checkpoint="-", keypoints=308)),
    ]
    row = row_of(tasks)
    sample = cv2.imread(str(PHOTO))
    assert sample is not None
    photo = cv2.resize(sample, picture_size(WIDTH, HEIGHT, 1280), interpolation=cv2.INTER_CUBIC)
    print(f"{'task':>8} {'lite, ms':>9} {'explained, ms':>14} {'JPEG, ms':>9} {'JPEG, ms':>9} {'kB':>5} {'kB':>5}")
    for task in tasks:
        drawn, encoded, sizes = [], [], []
        for style in (Visualize(style="lite"), Visualize(style="explained")):
            picture = task.draw(photo, row, style)
            assert picture is not None
            drawn.append(milliseconds(lambda: task.draw(photo, row, style)))  # noqa: B023
            encoded.append(milliseconds(lambda: encode_picture(picture, "jpg", style.quality)))  # noqa: B023
            sizes.append(len(encode_picture(picture, "jpg", style.quality)) // 1000)
        print(
            f"{task.column:>8} {drawn[0]:>9.1f} {drawn[1]:>14.1f} {encoded[0]:>9.1f} {encoded[1]:>9.1f} "
            f"{sizes[0]:>5} {sizes[1]:>5}"
        )


if __name__ == "__main__":
    main()
