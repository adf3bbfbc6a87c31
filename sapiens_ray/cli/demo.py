"""`python -m sapiens_ray.demo FOLDER`: the models of `make demo`."""

from __future__ import annotations

import sys
from pathlib import Path

from sapiens_ray.models.stand_ins import TASKS, write_checkpoint, write_model


def main() -> None:
    """Write the models that are missing in the folder."""
    folder = Path(sys.argv[1])
    missing = [task for task in TASKS if not (folder / f"{task}_random_torchscript.pt2").exists()]
    for task in missing:
        write_model(folder / f"{task}_random_torchscript.pt2", task)
    if not (folder / "seg_random.pth").exists():
        write_checkpoint(folder / "seg_random.pth")
        missing.append("a small Sapiens seg model")
    if missing:
        print(
            f"Wrote models with RANDOM weights to {folder}, to try the pipeline: {', '.join(missing)}.\n"
            "Their labels mean nothing. README, 'Real weights', says where to get real ones.",
            file=sys.stderr,
        )
