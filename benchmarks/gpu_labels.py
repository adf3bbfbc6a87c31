"""How far the labels of two models are apart, for `gpu.py`."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np


def difference(task: str, wanted: list[dict[str, Any]], found: list[dict[str, Any]]) -> dict[str, Any]:
    """How far labels are from those of a CPU in strict float32: the share that is equal, and the distances."""
    pairs = [(values(task, one), values(task, other)) for one, other in zip(wanted, found, strict=True)]
    equal = statistics.mean(float(np.mean(one == other)) for one, other in pairs)
    apart = np.concatenate([distance(task, one, other).ravel() for one, other in pairs])
    unit = {"seg": "pixels differ, %", "depth": "of the range, %", "normal": "degrees", "features": "% of the vector"}
    row = {"equal %": 100 * equal, "mean": float(apart.mean()), "most": float(apart.max())}
    return {**row, "differs by": unit.get(task, "pixels")}


def values(task: str, row: dict[str, Any]) -> np.ndarray:
    """What is compared: class map, depth, normals, features, or keypoints (K x 2)."""
    if task.startswith("pose"):
        return np.asarray(row["persons"][0]["keypoints"], np.float64)
    return np.asarray(row[task])


def distance(task: str, wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    if task == "seg":
        return np.array([100 * np.mean(wanted != found)])
    wanted, found = wanted.astype(np.float64), found.astype(np.float64)
    if task == "depth":
        return np.asarray(100 * np.abs(wanted - found) / (wanted.max() - wanted.min()))
    if task == "features":
        return np.array([100 * np.linalg.norm(wanted - found) / np.linalg.norm(wanted)])
    if task == "normal":
        one, other = (each / np.linalg.norm(each, axis=-1, keepdims=True).clip(1e-9) for each in (wanted, found))
        return np.asarray(np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(one - other, axis=-1) / 2, 0, 1))))
    return np.asarray(np.linalg.norm(wanted - found, axis=-1))
