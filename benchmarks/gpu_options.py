"""The options of `gpu.py`."""

from __future__ import annotations

import argparse
from pathlib import Path

from gpu_parts import TASKS, TINY
from models import LAYERS

MODES = ("bfloat16", "tf32", "strict", "torchscript")
# And the share of the minutes after which each must end.
SECTIONS = {"ceiling": 0.02, "choices": 0.08, "equality": 0.25, "split": 0.4, "job": 0.65, "models": 1.0}
PHOTOS = {"0.9 MP": (1280, 720), "8 MP": (3264, 2448)}  # width and height
SMALL_PHOTOS = {"0.1 MP": (384, 288), "0.3 MP": (640, 480)}


def parsed(about: str) -> argparse.Namespace:
    """The options of the command. about: what it does."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--small", action="store_true", help="tiny models and few images: tries this command anywhere")
    parser.add_argument("--minutes", type=float, help="rows that would begin later are skipped; default 10")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="important ones first")
    parser.add_argument("--sizes", nargs="+", choices=[*LAYERS, *TINY], help="the first one is that of the job")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="likewise")
    parser.add_argument("--compile", nargs="+", choices=["none", "default", "max-autotune"])
    parser.add_argument("--batches", type=int, nargs="+", help="images per forward pass, ascending")
    parser.add_argument("--images", type=int, help="photos of a job")
    parser.add_argument("--seconds", type=float, help="for how long a speed is measured")
    parser.add_argument("--repeat", type=int, help="how often a batch is split into its steps")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--folder", type=Path, help="for models and photos: a disk with 30 GB, or /dev/shm")
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    asked = parser.parse_args()
    full = {"sizes": list(LAYERS), "batches": [1, 2, 4, 8, 16, 32, 64], "images": 1024, "seconds": 0.4, "repeat": 9}
    full |= {"compile": ["none", "default"], "minutes": 10.0}
    tiny = {"sizes": ["small"], "batches": [1, 2], "images": 48, "seconds": 0.0, "repeat": 1, "compile": ["none"]}
    for name, value in (full | tiny if asked.small else full).items():
        if getattr(asked, name) is None:
            setattr(asked, name, value)
    asked.photos = SMALL_PHOTOS if asked.small else PHOTOS
    asked.samples = ["crops/hopper_face.webp"] if asked.small else ["astronaut.jpg", "grace_hopper.jpg"]
    return asked
