"""`python -m sapiens_ray.demo FOLDER`: the models of `make demo`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    """Write the models that are missing in the folder."""
    parser = argparse.ArgumentParser(
        prog="python -m sapiens_ray.demo",
        description="Write small models with random weights, one per task, to try the pipeline. Their labels mean "
        "nothing. Models that are in the folder already stay as they are.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write them, such as checkpoints/demo")
    folder: Path = parser.parse_args().folder

    from sapiens_ray.models.stand_ins import TASKS, write_checkpoint, write_model  # imports torch, which takes seconds

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
