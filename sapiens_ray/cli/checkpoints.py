"""`sapiens-ray checkpoints list | pull | inspect` and `sapiens-ray convert`."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from sapiens_ray.cli.arguments import Subparsers
from sapiens_ray.cli.console import grid, show
from sapiens_ray.errors import CheckpointError
from sapiens_ray.models import catalogue

if TYPE_CHECKING:
    from sapiens_ray.models.inspection import Inspected
    from sapiens_ray.tasks.sections import Settings


def add_commands(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    checkpoints = commands.add_parser("checkpoints", help="list, download or inspect checkpoints")
    actions = checkpoints.add_subparsers(required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="list Meta's published checkpoints, and show which are on this machine")
    listing.add_argument(
        "--mode",
        type=catalogue.file_mode,
        choices=catalogue.MODES,
        help="only files of this mode; float32: torchscript",
    )
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(command=_list)

    pull = actions.add_parser("pull", help="download checkpoints from the Hugging Face hub")
    pull.add_argument("names", nargs="+", metavar="NAME", help="such as seg-1b")
    pull.add_argument(
        "--mode", type=catalogue.file_mode, choices=catalogue.MODES, default="torchscript",
        help="mode of the file; default: torchscript, which is the file for float32",
    )  # fmt: skip
    pull.add_argument(
        "--to", metavar="DIR", type=Path,
        help=f"root of Sapiens-Lite's folder tree; default: ${catalogue.ROOT_VARIABLE}, else the hub's cache",
    )  # fmt: skip
    pull.set_defaults(command=_pull)

    inspect = actions.add_parser("inspect", help="show what a checkpoint file holds, and in which modes it runs here")
    inspect.add_argument("file", metavar="FILE", help="a path, or a catalogue name whose file is on this machine")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.set_defaults(command=_inspect)

    convert = commands.add_parser("convert", help="write a checkpoint in another file format, and verify it")
    convert.add_argument("file", type=Path, metavar="FILE", help="a checkpoint in any format")
    convert.add_argument(
        "--to", required=True, choices=["torchscript", "bfloat16", "safetensors"],
        help="torchscript: float32 program; bfloat16: program of torch.export; safetensors: only the weights",
    )  # fmt: skip
    convert.add_argument(
        "--out", type=Path, metavar="FILE", help="default: next to FILE, with the name that Sapiens-Lite would give it"
    )
    convert.set_defaults(command=_convert)


def _list(arguments: argparse.Namespace) -> int:
    modes = [arguments.mode] if arguments.mode else list(catalogue.MODES)
    files: list[Settings] = [
        {
            "name": model.name,
            "task": model.folder,
            "size": model.size,
            "mode": mode,
            "repository": model.on_hub(mode)[0],
            "file": model.on_hub(mode)[1],
            "gigabytes": round(model.file_bytes(mode) / 1e9, 2),
            "licence": catalogue.LICENCE,
            "accuracy": model.accuracy,
            "here": str(catalogue.here(model, mode) or ""),
        }
        for model in catalogue.CATALOGUE.values()
        for mode in modes
    ]
    if arguments.json:
        print(json.dumps(files, indent=2))
        return 0
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("NAME", "MODE", "GB", "ACCURACY", "HERE", "REPOSITORY / FILE"):
        table.add_column(title, no_wrap=title != "REPOSITORY / FILE", justify="right" if title == "GB" else "left",
                         overflow="fold")  # fmt: skip
    last = ""
    for file in files:
        first = file["name"] != last
        table.add_row(
            file["name"] if first else "", file["mode"], f"{file['gigabytes']:.2f}", file["accuracy"] if first else "",
            "yes" if file["here"] else "", f"{file['repository']} / {Path(file['file']).name}",
        )  # fmt: skip
        last = file["name"]
    show(table)
    print(
        f"\nLicence of all: {catalogue.LICENCE}, not for commercial use. Accuracy as published: mIoU of 28 classes and "
        "AP of 308\nkeypoints on Goliath (in the file names), AP of 17 and 133 on COCO val2017 with flip test."
        "\nNot released: seg-2b, pose308-2b."
    )
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    root = os.environ.get(catalogue.ROOT_VARIABLE)
    to = arguments.to or (Path(root) if root else None)
    models = [catalogue.published(name) for name in arguments.names]
    for model in models:
        there = catalogue.in_tree(to, model, arguments.mode) if to else None
        print(there or catalogue.download(model, arguments.mode, to))
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    path = Path(arguments.file)
    if catalogue.is_name(arguments.file):
        model = catalogue.published(arguments.file)
        found = next((one for mode in catalogue.MODES if (one := catalogue.here(model, mode))), None)
        if found is None:
            raise CheckpointError(f"{model.name} is not on this machine: sapiens-ray checkpoints pull {model.name}")
        path = found
    from sapiens_ray.models.inspection import inspect

    seen = inspect(path)
    if arguments.json:
        print(json.dumps(_as_json(seen), indent=2))
        return 1 if seen.problem else 0
    table = grid()
    table.add_row("file", f"{path}, {seen.bytes / 1e6:.1f} MB")
    table.add_row("sha256", seen.sha256)
    table.add_row("format", seen.format)
    if seen.architecture is None:
        table.add_row("model", "not a known Sapiens model")
    else:
        table.add_row("model", str(seen.architecture).removeprefix("a "))
        for line in seen.architecture.details:
            table.add_row("", line)
    types = ", ".join(f"{count} {dtype}" for dtype, count in seen.dtypes.items())
    table.add_row("tensors", f"{sum(seen.dtypes.values())} ({types}), {seen.parameters / 1e6:.1f} million values")
    for mode, how in seen.modes.items():
        table.add_row(f"mode {mode}", how)
    if seen.problem:
        table.add_row("problem", seen.problem)
    show(table)
    return 1 if seen.problem else 0


def _as_json(seen: Inspected) -> Settings:
    """The values as JSON, also under their older names, which scripts read: `container`, and mode torchscript."""
    values = {**asdict(seen), "path": str(seen.path), "modes": {**seen.modes, "torchscript": seen.modes["float32"]}}
    return {("container" if key == "format" else key): value for key, value in values.items()}


def _convert(arguments: argparse.Namespace) -> int:
    from sapiens_ray.models.conversion import convert, default_target

    source = arguments.file
    if not source.is_file():
        raise CheckpointError(f"{source} {'is not a file' if source.exists() else 'does not exist'}")
    target = arguments.out or default_target(source, arguments.to)
    if target.is_dir():
        target = target / default_target(source, arguments.to).name
    done = convert(source, arguments.to, target)
    print(f"wrote {done.path}, {done.path.stat().st_size / 1e6:.1f} MB: {str(done.architecture).removeprefix('a ')}")
    print(
        "loaded again, its outputs for batches of 1 and 2 differ from those of the source by at most "
        f"{done.largest:.2g} of the largest value, rms {done.rms:.2g} of the standard deviation"
    )
    return 0
