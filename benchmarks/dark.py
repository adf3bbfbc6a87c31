"""DARK decoding: our function against blurring every map with OpenCV, as in the published decoding.

    python benchmarks/dark.py

Times are medians within one run with two threads of torch. Machines are noisy: compare the ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch

from sapiens_ray.tasks.dark import decode_heatmaps

REPEATS = 5


def heatmaps(count: int) -> np.ndarray:
    """count x 256 x 192 float32: in each map a Gaussian of sigma 6, with a little noise."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:256, :192]
    x, y = random.uniform(10, 180, count), random.uniform(10, 245, count)
    squared = (columns - x[:, None, None]) ** 2 + (rows - y[:, None, None]) ** 2
    maps: np.ndarray = (0.8 * np.exp(-squared / 72) + random.normal(0, 1e-3, squared.shape)).astype(np.float32)
    return maps


def blur_everything(maps: np.ndarray) -> np.ndarray:
    """K x h x w to K x 2 positions: blur, scale, clip and logarithm of whole maps, then the step."""
    places = np.empty((len(maps), 2))
    for number, heatmap in enumerate(maps):
        y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
        blurred = cv2.GaussianBlur(heatmap, (11, 11), 0, borderType=cv2.BORDER_CONSTANT)
        blurred *= heatmap[y, x] / blurred.max()
        logs = np.pad(np.log(np.clip(blurred, 1e-3, 50)), 1, mode="edge").astype(np.float64)
        near = logs[y : y + 3, x : x + 3]
        gradient = np.array([near[1, 2] - near[1, 0], near[2, 1] - near[0, 1]]) / 2
        dxx, dyy = near[1, 2] - 2 * near[1, 1] + near[1, 0], near[2, 1] - 2 * near[1, 1] + near[0, 1]
        dxy = (near[2, 2] - near[1, 2] - near[2, 1] + 2 * near[1, 1] - near[1, 0] - near[0, 1] + near[0, 0]) / 2
        hessian = np.array([[dxx, dxy], [dxy, dyy]]) + np.finfo(np.float32).eps * np.eye(2)
        places[number] = np.array([x, y]) - np.linalg.solve(hessian, gradient)
    return places


def median_ms(call: Callable[[], Any]) -> float:
    call()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def main() -> None:
    torch.set_num_threads(2)
    cv2.setNumThreads(2)
    print(f"{'keypoints':>9} {'whole maps, ms':>15} {'ours, ms':>9} {'ratio':>6} {'differ by':>10}")
    for count in (17, 133, 308):
        maps = heatmaps(count)
        tensor = torch.from_numpy(maps)[None]
        whole, ours = median_ms(partial(blur_everything, maps)), median_ms(partial(decode_heatmaps, tensor))
        differ = np.abs(blur_everything(maps) - decode_heatmaps(tensor)[0, :, :2].numpy()).max()
        print(f"{count:>9} {whole:>15.1f} {ours:>9.1f} {whole / ours:>6.1f} {differ:>10.1g}")


if __name__ == "__main__":
    main()
