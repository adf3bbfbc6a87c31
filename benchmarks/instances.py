"""The foreground split by persons: milliseconds per photo, by its size and the number of persons.

    python benchmarks/instances.py

Persons stand in a row, half of each behind the next one, so that most pixels lie in two boxes. One core. PNG is the
time to encode the map, decode that to decode the class map, which other tasks need as well.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np

from sapiens_ray.imaging.images import decode_map, encode_png
from sapiens_ray.labels import keypoints
from sapiens_ray.tasks.instances import areas, split

REPEATS = 9
SIZES = ((1280, 960), (3264, 2448), (4096, 3072))
BODY = np.array([  # x and y of 17 keypoints as shares of the box
    (.5, .1), (.55, .08), (.45, .08), (.6, .1), (.4, .1), (.75, .22), (.25, .22), (.9, .38), (.1, .38), (.85, .5),
    (.15, .5), (.65, .52), (.35, .52), (.65, .75), (.35, .75), (.65, .95), (.35, .95),
])  # fmt: skip


def group(width: int, height: int, count: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """A class map, H x W uint8, and its persons."""
    classes = np.zeros((height, width), np.uint8)
    across, top, down = width / (count + 1), 0.1 * height, 0.8 * height
    persons = []
    for number in range(count):
        left = number * across
        points = BODY * (2 * across, down) + (left, top)
        for start, end in keypoints(17).links:
            ends = (points[[start, end]]).round().astype(int).tolist()
            cv2.line(classes, ends[0], ends[1], 1 + number % 27, max(1, round(0.3 * across)))
        box = [left, top, left + 2 * across, top + down]
        persons.append({"box": box, "keypoints": points, "scores": np.full(17, 0.9, np.float32)})
    return classes, persons


def median_ms(call: Callable[[], Any]) -> float:
    call()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def main() -> None:
    cv2.setNumThreads(1)
    print(f"{'megapixels':>10}{'persons':>9}{'split':>8}{'areas':>8}{'PNG':>8}{'decode':>8}")
    for width, height in SIZES:
        for count in (1, 4, 16, 64):
            classes, persons = group(width, height, count)
            foreground, png = classes > 0, encode_png(classes)
            found = split(foreground, persons, keypoints(17).links)
            times = [
                median_ms(partial(split, foreground, persons, keypoints(17).links)),
                median_ms(partial(areas, found, count)),
                median_ms(partial(encode_png, found)),
                median_ms(partial(decode_map, png)),
            ]
            shown = "".join(f"{ms:8.1f}" for ms in times)
            print(f"{width * height / 1e6:10.1f}{count:9}{shown}")


if __name__ == "__main__":
    main()
