"""The straightforward program for one task: what people run on a folder when they have no other tool.

    python benchmarks/script.py seg model.pt2 photos out

`benchmarks/against_script.py` compares `sapiens-ray run` with it. Written from what programs of this kind do: workers
decode photos of one size and normalise them, a float32 model runs batch after batch, its output is enlarged to the
size of the photo, and a pool of processes turns it into `.npy` or JSON files and full-size pictures with NumPy.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import deque
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.multiprocessing
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

MEAN = np.array([123.675, 116.28, 103.53], np.float32)  # of RGB
STD = np.array([58.395, 57.12, 57.375], np.float32)
HEIGHT, WIDTH = 1024, 768
BLUR = 11  # kernel for heatmaps of 256 x 192
SCORE = 0.3
AT_ONCE = 32  # results that wait for the pool


class Photos(Dataset[tuple[str, np.ndarray, np.ndarray]]):
    """A folder of photos of one size, as (path, photo as BGR, normalised network input)."""

    def __init__(self, folder: Path, task: str) -> None:
        self.paths = sorted(str(path) for path in folder.iterdir())
        self.size = (HEIGHT, HEIGHT) if task == "features" else (WIDTH, HEIGHT)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> tuple[str, np.ndarray, np.ndarray]:
        photo = cv2.imread(self.paths[place])
        assert photo is not None
        small = cv2.resize(photo, self.size)[..., ::-1].astype(np.float32)
        return self.paths[place], photo, np.ascontiguousarray(((small - MEAN) / STD).transpose(2, 0, 1))


def enlarged(output: torch.Tensor, photo: np.ndarray) -> torch.Tensor:
    return F.interpolate(output[None], photo.shape[:2], mode="bilinear", align_corners=False)[0]


def save_seg(output: torch.Tensor, photo: np.ndarray, stem: str) -> None:
    classes = enlarged(output, photo).argmax(0).numpy()
    np.save(f"{stem}_seg.npy", classes)
    np.save(f"{stem}.npy", classes > 0)
    palette = np.random.default_rng(0).integers(0, 256, (len(output), 3), np.uint8)
    colours = np.zeros_like(photo)
    for number in np.unique(classes):
        colours[classes == number] = palette[number]
    blended = (photo * 0.5 + colours * 0.5).astype(np.uint8)
    cv2.imwrite(f"{stem}.jpg", np.concatenate([photo, blended], 1))


def save_depth(output: torch.Tensor, photo: np.ndarray, stem: str) -> None:
    depth = enlarged(output, photo)[0].numpy()
    np.save(f"{stem}.npy", depth)
    near = 1 - (depth.astype(np.float64) - depth.min()) / (depth.max() - depth.min())
    colours = cv2.applyColorMap((near * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    slopes = [cv2.Sobel(near, cv2.CV_64F, x, y, ksize=7) for x, y in ((1, 0), (0, 1))]
    normals = np.dstack([-slopes[0], -slopes[1], -np.ones_like(near)])
    normals /= np.linalg.norm(normals, axis=2, keepdims=True) + 1e-5
    shown = ((normals + 1) / 2 * 255).astype(np.uint8)[..., ::-1]
    cv2.imwrite(f"{stem}.jpg", np.concatenate([photo, colours, shown], 1))


def save_normal(output: torch.Tensor, photo: np.ndarray, stem: str) -> None:
    normals = enlarged(output, photo).numpy().transpose(1, 2, 0)
    normals = normals / (np.linalg.norm(normals, axis=2, keepdims=True) + 1e-5)
    np.save(f"{stem}.npy", normals)
    shown = ((normals + 1) / 2 * 255).astype(np.uint8)[..., ::-1]
    cv2.imwrite(f"{stem}.jpg", np.concatenate([photo, shown], 1))


def save_pose(output: torch.Tensor, photo: np.ndarray, stem: str) -> None:
    """The whole photo is the box. Places by DARK: blur, logarithm, a step by Newton's method."""
    heatmaps = output.numpy()
    height, width = heatmaps.shape[1:]
    points, scores = [], []
    for heatmap in heatmaps:
        y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
        scores.append(float(heatmap[y, x]))
        blurred = cv2.GaussianBlur(heatmap, (BLUR, BLUR), 0)
        log = np.log(np.maximum(blurred * heatmap.max() / blurred.max(), 1e-10))
        at = np.array([x, y], np.float64)
        if 1 < x < width - 2 and 1 < y < height - 2:
            step = 0.5 * np.array([log[y, x + 1] - log[y, x - 1], log[y + 1, x] - log[y - 1, x]])
            xx = 0.25 * (log[y, x + 2] - 2 * log[y, x] + log[y, x - 2])
            yy = 0.25 * (log[y + 2, x] - 2 * log[y, x] + log[y - 2, x])
            xy = 0.25 * (log[y + 1, x + 1] - log[y - 1, x + 1] - log[y + 1, x - 1] + log[y - 1, x - 1])
            if xx * yy != xy * xy:
                at -= np.linalg.inv([[xx, xy], [xy, yy]]) @ step
        points.append((at * [photo.shape[1] / width, photo.shape[0] / height]).tolist())
    Path(f"{stem}.json").write_text(json.dumps({"keypoints": points, "scores": scores}))
    picture = photo.copy()
    radius = max(2, photo.shape[0] // 200)
    shown = [tuple(map(int, point)) if score > SCORE else None for point, score in zip(points, scores, strict=True)]
    for one, other in itertools.pairwise(shown[:17]):
        if one and other:
            cv2.line(picture, one, other, (0, 255, 0), radius)
    for one in shown:
        if one:
            cv2.circle(picture, one, radius, (0, 0, 255), -1)
    cv2.imwrite(f"{stem}.jpg", picture)


def save_features(output: torch.Tensor, photo: np.ndarray, stem: str) -> None:
    np.save(f"{stem}.npy", output.numpy())


SAVE = {"seg": save_seg, "depth": save_depth, "normal": save_normal, "features": save_features}


def settle_worker() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", help="seg, depth, normal, features, or pose with the number of keypoints")
    parser.add_argument("model", help="a TorchScript file")
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2, help="that decode, and as many that save")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    model: Any = torch.jit.load(arguments.model).eval()
    save = SAVE.get(arguments.task, save_pose)
    batches = DataLoader(Photos(arguments.photos, arguments.task), arguments.batch, num_workers=arguments.workers)
    waiting: deque[Any] = deque()
    with torch.multiprocessing.Pool(arguments.workers, settle_worker) as pool, torch.inference_mode():
        for paths, photos, inputs in batches:
            output = model(inputs)
            output = output[0] if isinstance(output, tuple) else output
            for path, photo, one in zip(paths, photos, output, strict=True):
                stem = str(arguments.out / Path(path).stem)
                waiting.append(pool.apply_async(save, (one.clone(), photo.numpy(), stem)))
            while len(waiting) > AT_ONCE:
                waiting.popleft().get()
        for one in waiting:
            one.get()


if __name__ == "__main__":
    main()
