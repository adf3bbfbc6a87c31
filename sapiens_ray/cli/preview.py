"""`sapiens-ray preview`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sapiens_ray.cli.answers import print_json
from sapiens_ray.cli.arguments import Subparsers, add_json, add_quiet, at_least_one, overrides_argument, with_examples
from sapiens_ray.cli.console import one_line, tell

if TYPE_CHECKING:
    from sapiens_ray.execution.preview import Preview

REASONS = 10  # images without labels that are named


def add_preview(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    preview = commands.add_parser(
        "preview", help="label a few images of a job and look at them; writes nothing to its output",

        **with_examples(
            "sapiens-ray preview job.yaml",
            "sapiens-ray preview job.yaml -n 8 --seed 1 --to look",
            "sapiens-ray preview job.yaml --images photos/one.jpg photos/other.jpg",
            "sapiens-ray preview job.yaml --set tasks.0.mode=bfloat16",
        ),
    )  # fmt: skip
    preview.add_argument("job", help="the YAML job file")
    overrides_argument(preview)
    which = preview.add_mutually_exclusive_group()
    which.add_argument("-n", type=at_least_one, default=16, metavar="N", dest="count",
                       help="images, drawn at random; default: 16")  # fmt: skip
    which.add_argument("--images", nargs="+", default=[], metavar="IMAGE",
                       help="these images: files, URLs, or names below the input folder")  # fmt: skip
    preview.add_argument("--seed", type=int, default=0, help="of the sample; default: 0")
    preview.add_argument("--to", metavar="DIR", help="where to write, a local folder; default: a new temporary one")
    add_json(preview)
    add_quiet(preview, "print nothing but errors and the paths")
    preview.set_defaults(command=_preview)


def _preview(arguments: argparse.Namespace) -> int:
    from sapiens_ray.job.config import Job

    job = Job.load(arguments.job, arguments.overrides)  # before the imports below: a wrong file is refused at once
    from sapiens_ray.execution.preview import preview

    def told(what: str, done: int, of: int | None) -> None:
        tell(f"{what} …" if not done else f"{what}: {done}{f' of {of}' if of else ''}")

    quiet = arguments.quiet or arguments.json
    told_of = (lambda *_: None) if quiet else told
    found = preview(job, arguments.count, arguments.seed, arguments.images, arguments.to or None, told_of)
    if arguments.json:
        print_json(_answer(found))
        return 0
    if not arguments.quiet:
        failed = f", {sum(found.errors.values())} without labels" if found.errors else ""
        print(f"{found.images} images{failed}")
        for image_id, reason in list(found.failed.items())[:REASONS]:
            print(f"  {one_line(image_id)}: {one_line(reason)}")
        for note in found.notes:
            tell(note)
    for path in (found.sheet, found.page):
        if path:
            print(path)
    return 0


def _answer(found: Preview) -> dict[str, object]:
    return {
        "folder": str(found.folder),
        "page": str(found.page),
        "contact_sheet": str(found.sheet) if found.sheet else None,
        "images": found.images,
        "errors": dict(found.errors),
        "first_picture_s": found.first_s and round(found.first_s, 2),
    }
