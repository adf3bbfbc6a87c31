"""What the confidence columns cost, against the time of the model: 0.3b with random weights, one photo, on the CPU.

    python benchmarks/confidence.py [--size 0.3b] [--repeat 5]

`model` is one forward pass with all cores; `columns` is one core, beside the model.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from models import LAYERS, photo, write_random

from sapiens_ray.engine.runner import Runner
from sapiens_ray.tasks import confidence
from sapiens_ray.tasks.argmax import network_argmax


def seconds(call: Callable[[], object], repeat: int) -> float:
    """The median time of a call."""
    spent = []
    for _ in range(repeat):
        started = perf_counter()
        call()
        spent.append(perf_counter() - started)
    return median(spent)


def of_seg(logits: torch.Tensor) -> None:
    """What is computed of 28 x h x w logits."""
    cells = network_argmax(logits)  # the class map needs it as well, but it is counted here
    probability = confidence.largest_probability(logits, cells.largest).numpy()
    confidence.of_class_map("seg", probability, cells.classes.numpy(), np.arange(28))


def of_pose(heatmaps: torch.Tensor) -> None:
    """What is computed of a person with 308 keypoints."""
    confidence.of_person(heatmaps.flatten(1)[:, 0].numpy(), None)


def of_normal(normals: torch.Tensor) -> None:
    """What is computed of 3 x h x w vectors, with a foreground."""
    vectors = normals.permute(1, 2, 0).contiguous().numpy()
    confidence.mean_length(vectors, vectors[..., 0] > 0)


COLUMNS = {"seg": of_seg, "pose": of_pose, "normal": of_normal}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=LAYERS, default="0.3b")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{'task':<8} {'model, ms':>10} {'columns, ms':>12} {'share':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for task, columns in COLUMNS.items():
            path = Path(folder) / f"{task}.pth"
            write_random(path, task, arguments.size)
            runner = Runner(path, "cpu", 1)
            image = torch.from_numpy(photo(task))
            ((_, _, output),) = runner(image)
            outputs = output[0].contiguous()
            forward = seconds(lambda: list(runner(image)), arguments.repeat)  # noqa: B023
            own = seconds(lambda: columns(outputs), arguments.repeat)  # noqa: B023
            print(f"{task:<8} {1000 * forward:10.0f} {1000 * own:12.2f} {100 * own / forward:7.2f}%", flush=True)
            path.unlink()


if __name__ == "__main__":
    main()
