"""`sapiens-ray checkpoints list | pull | inspect` and `sapiens-ray convert`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sapiens_ray.cli.answers import print_json
from sapiens_ray.cli.arguments import Subparsers, add_json, add_quiet, with_examples
from sapiens_ray.cli.console import columns_of, size, wrap
from sapiens_ray.cli.tables import Facts, print_columns
from sapiens_ray.errors import CheckpointError
from sapiens_ray.models import catalogue, repositories
from sapiens_ray.tasks.repositories import DETECTORS, is_repository, on_hub

if TYPE_CHECKING:
    from sapiens_ray.models.inspection import Inspected
    from sapiens_ray.tasks.sections import Settings


def add_commands(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    checkpoints = commands.add_parser("checkpoints", help="list, download or inspect checkpoints")
    actions = checkpoints.add_subparsers(title="actions", required=True, metavar="ACTION")

    listing = actions.add_parser(
        "list", help="list Meta's published checkpoints, and show which are on this machine",
        **with_examples("sapiens-ray checkpoints list", "sapiens-ray checkpoints list --mode bfloat16 --long"),
    )  # fmt: skip
    listing.add_argument(
        "--mode",
        type=catalogue.file_mode,
        choices=catalogue.MODES,
        help="only files of this mode; float32: torchscript",
    )
    listing.add_argument("--long", action="store_true", help="show repository, file name and path of every file")
    add_json(listing, "print JSON: a list with one object per file")
    listing.set_defaults(command=_list)

    pull = actions.add_parser(
        "pull", help="download checkpoints from the Hugging Face hub",
        **with_examples("sapiens-ray checkpoints pull seg-0.3b pose17-1b --to /data/checkpoints"),
    )  # fmt: skip
    pull.add_argument(
        "names", nargs="+", metavar="NAME",
        help="such as seg-1b; or a person detector, such as rtdetr_v2_r50vd or OWNER/NAME",
    )  # fmt: skip
    pull.add_argument(
        "--mode", type=catalogue.file_mode, choices=catalogue.MODES, default="torchscript",
        help="mode of the file; default: torchscript, which is the file for float32",
    )  # fmt: skip
    pull.add_argument(
        "--to", metavar="DIR", type=Path,
        help=f"root of Sapiens-Lite's folder tree; default: ${catalogue.ROOT_VARIABLE}, else the hub's cache",
    )  # fmt: skip
    add_json(pull, "print one JSON object per file, as a line, when the file is there")
    add_quiet(pull, "print nothing but errors and the paths")
    pull.set_defaults(command=_pull)

    inspect = actions.add_parser(
        "inspect", help="show what a checkpoint file holds, and in which modes it runs here",
        **with_examples("sapiens-ray checkpoints inspect seg-0.3b", "sapiens-ray checkpoints inspect file.pth --json"),
    )  # fmt: skip
    inspect.add_argument("file", metavar="FILE", help="a path, or a catalogue name whose file is on this machine")
    add_json(inspect)
    inspect.set_defaults(command=_inspect)

    convert = commands.add_parser(
        "convert", help="write a checkpoint in another file format, and verify it",
        **with_examples("sapiens-ray convert model.pth --to safetensors"),
    )  # fmt: skip
    convert.add_argument("file", type=Path, metavar="FILE", help="a checkpoint in any format")
    convert.add_argument(
        "--to", required=True, choices=["torchscript", "bfloat16", "safetensors"],
        help="torchscript: float32 program; bfloat16: program of torch.export; safetensors: only the weights",
    )  # fmt: skip
    convert.add_argument(
        "--out", type=Path, metavar="FILE", help="default: next to FILE, with the name that Sapiens-Lite would give it"
    )
    add_json(convert)
    add_quiet(convert, "print nothing but errors and the path of the new file")
    convert.set_defaults(command=_convert)


def _list(arguments: argparse.Namespace) -> int:
    modes: list[catalogue.Mode] = [arguments.mode] if arguments.mode else list(catalogue.MODES)
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
        print_json(files)
        return 0
    columns = columns_of(sys.stdout)
    if arguments.long:
        _print_files(files)
    else:
        _print_models(files, modes)
        print("\n".join(wrap("\nSizes in GB; * means that the file is on this machine.", columns)))
        _print_detectors()
    print("\n".join(wrap(f"\n{_ABOUT}", columns)))
    return 0


_ABOUT = (
    f"Licence of all but the detectors: {catalogue.LICENCE}, not for commercial use. Accuracy as published: mIoU of 28 "
    "classes and AP of 308 keypoints on Goliath (in the file names), AP of 17 and 133 on COCO val2017 with flip test. "
    "Not released: seg-2b, pose308-2b."
)


def _print_models(files: list[Settings], modes: list[catalogue.Mode]) -> None:
    """One line per model, with the size of its file for each mode."""
    by_model: dict[str, dict[str, Settings]] = {}
    for file in files:
        by_model.setdefault(file["name"], {})[file["mode"]] = file
    rows = []
    for name, of_mode in by_model.items():
        sizes = [f"{of_mode[mode]['gigabytes']:.2f} {'*' if of_mode[mode]['here'] else ' '}" for mode in modes]
        rows.append([name, of_mode[modes[0]]["accuracy"], *sizes])
    titles = ["NAME", "ACCURACY", *(f"{mode.upper()}  " for mode in modes)]
    print_columns(titles, rows, right=[False, False, *(True for _ in modes)])


def _print_detectors() -> None:
    """One line per published person detector."""
    here = {one.name: repositories.find_repository(one.place)[0] for one in DETECTORS.values()}
    rows = [
        [
            one.name,
            f"COCO box AP {one.accuracy}",
            one.licence,
            f"{one.megabytes / 1000:.2f} {'*' if here[name] else ' '}",
        ]
        for name, one in DETECTORS.items()
    ]
    print()
    print_columns(["DETECTOR", "ACCURACY", "LICENCE", "SIZE  "], rows, right=[False, False, False, True])


def _print_files(files: list[Settings]) -> None:
    """One paragraph per file, with its repository on the hub and its path on this machine."""
    for number, file in enumerate(files):
        if number:
            print()
        accuracy = f", {file['accuracy']}" if file["accuracy"] else ""
        table = Facts(f"{file['name']}, {file['mode']}, {file['gigabytes']:.2f} GB{accuracy}")
        table.add_whole("  repository", file["repository"])
        table.add_whole("  file", file["file"])
        if file["here"]:
            table.add_whole("  here", file["here"])
        table.print()


def _pull(arguments: argparse.Namespace) -> int:
    root = os.environ.get(catalogue.ROOT_VARIABLE)
    to = arguments.to or (Path(root) if root else None)
    detectors = [name for name in arguments.names if is_repository(name)]
    models = [catalogue.published(name) for name in arguments.names if name not in detectors]
    for name in detectors:
        path = _pull_detector(name, to)
        print(json.dumps({"name": name, "mode": None, "path": str(path)}) if arguments.json else path, flush=True)
    for model in models:
        there = catalogue.in_tree(to, model, arguments.mode) if to else None
        path = there or catalogue.download(model, arguments.mode, to)
        if arguments.json:  # line by line: the next download may fail
            print(json.dumps({"name": model.name, "mode": arguments.mode, "path": str(path)}), flush=True)
        else:
            print(path, flush=True)
    return 0


def _pull_detector(name: str, to: Path | None) -> Path:
    """The folder of a person detector, downloaded if it is not there."""
    place, revision = on_hub(name)
    if to is None:
        return repositories.find_repository(place, revision)[0] or repositories.download_repository(place, revision)
    pulled = repositories.in_tree(to, place)
    return pulled if repositories.is_complete(pulled) else repositories.download_repository(place, revision, to)


def _inspect(arguments: argparse.Namespace) -> int:
    path = Path(arguments.file)
    if catalogue.is_name(arguments.file):
        model = catalogue.published(arguments.file)
        found = next((one for mode in catalogue.MODES if (one := catalogue.here(model, mode))), None)
        if found is None:
            raise CheckpointError(f"{model.name} is not on this machine: sapiens-ray checkpoints pull {model.name}")
        path = found
    elif not path.exists():
        raise CheckpointError(f"{path} does not exist{catalogue.suggestion(arguments.file)}")
    from sapiens_ray.models.inspection import inspect

    seen = inspect(path)
    if arguments.json:
        print_json(_as_json(seen))
        return 1 if seen.problem else 0
    table = Facts()
    table.add_whole("file", str(path))
    table.add("size", size(seen.bytes))
    table.add_whole("sha256", seen.sha256)
    table.add("format", seen.format)
    if seen.architecture is None:
        table.add("model", "not a known Sapiens model")
    else:
        table.add("model", str(seen.architecture).removeprefix("a "))
        for line in seen.architecture.details:
            table.add("", line)
    types = ", ".join(f"{count} {dtype}" for dtype, count in seen.dtypes.items())
    table.add("tensors", f"{sum(seen.dtypes.values())} ({types}), {seen.parameters / 1e6:.1f} million values")
    for place, (mode, how) in enumerate(seen.modes.items()):
        table.add("" if place else "modes", f"{mode}: {how}")
    if seen.problem:
        table.add("problem", seen.problem)
    table.print()
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
    written, model = done.path.stat().st_size, str(done.architecture).removeprefix("a ")
    if arguments.json:
        print_json({
            "source": str(source), "path": str(done.path), "to": arguments.to, "bytes": written, "model": model,
            "largest_difference": done.largest, "rms_difference": done.rms,
        })  # fmt: skip
    elif arguments.quiet:
        print(done.path)
    else:
        table = Facts()
        table.add_whole("wrote", str(done.path))
        table.add("size", size(written))
        table.add("model", model)
        table.add(
            "verified",
            "loaded again, its outputs for batches of 1 and 2 differ from those of the source by at most "
            f"{done.largest:.2g} of the largest value, rms {done.rms:.2g} of the standard deviation",
        )
        table.print()
    return 0
