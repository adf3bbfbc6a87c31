"""`sapiens-ray compare`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sapiens_ray.cli.answers import print_json
from sapiens_ray.cli.arguments import (
    Subparsers,
    add_json,
    add_quiet,
    at_least_one,
    folder_of,
    from_zero,
    storage_arguments,
    where_argument,
    with_examples,
)  # fmt: skip
from sapiens_ray.cli.console import one_line, size
from sapiens_ray.cli.steps import Steps
from sapiens_ray.cli.targets import file_target

if TYPE_CHECKING:
    from sapiens_ray.comparing import Comparison

EXIT_CODES = """\
Exit codes: 0 compared, whether the labels agree or not; 1 a storage does not
answer; 2 the command line or an output is wrong."""
NAMED = 3  # of the images that differ most


def add_compare(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    compare = commands.add_parser(
        "compare", help="show how far two outputs over the same images agree",
        **with_examples(
            "sapiens-ray compare runs/float32 runs/bfloat16",
            "sapiens-ray compare runs/small runs/large --task seg --to sizes.html",
            "sapiens-ray compare runs/one runs/two --task seg:parts --images 1000",
            "sapiens-ray compare runs/a s3://bucket/b --json > agreement.json",
            after=EXIT_CODES,
        ),
    )  # fmt: skip
    compare.add_argument("a", metavar="A", help="an output folder, local or a URL")
    compare.add_argument("b", metavar="B", help="another one, which has the same images or some of them")
    compare.add_argument(
        "--task", action="append", default=[], metavar="COLUMN", dest="tasks",
        help="compare only this task; A_COLUMN:B_COLUMN if it has another name in B; may be repeated; default: all "
        "that have one name and kind",
    )  # fmt: skip
    compare.add_argument(
        "--images", type=at_least_one, metavar="N", help="compare only N images, drawn at random; default: all"
    )
    where_argument(compare, " of A")
    compare.add_argument(
        "--to", default="compare.html", metavar="FILE", help="the page, local or a URL; default: compare.html"
    )
    compare.add_argument(
        "--thumbnails", type=from_zero, default=100, metavar="N",
        help="images with pictures on the page, at most; 0 for none; default: 100",
    )  # fmt: skip
    compare.add_argument(
        "--seed", type=from_zero, default=0, metavar="S", help="another seed draws other samples; default: 0"
    )
    add_json(compare, "print the numbers as one JSON object, also for an error")
    add_quiet(compare, "print nothing but errors and the path of the page")
    storage_arguments(compare)
    compare.set_defaults(command=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from sapiens_ray.comparing import CompareOptions, compare_outputs
    from sapiens_ray.errors import OutputError
    from sapiens_ray.output.reading import chosen_rows
    from sapiens_ray.storage import translate_errors

    a, b = folder_of(arguments.a, arguments), folder_of(arguments.b, arguments)
    target, name = file_target(arguments, [a, b], "compare.html")
    options = CompareOptions(
        tasks=arguments.tasks, images=arguments.images, thumbnails=arguments.thumbnails, seed=arguments.seed,
        chosen=arguments.where or "",
    )  # fmt: skip
    reading = f"cannot read {arguments.a} and {arguments.b}"
    with Steps(arguments.quiet) as progress, translate_errors(OutputError, reading):
        found = compare_outputs(chosen_rows(a, arguments.where), b, options, progress)
    page = found.html.encode("utf-8", "backslashreplace")
    with translate_errors(OutputError, f"--to {arguments.to}: cannot be written"):
        target.write(name, page)
    if arguments.json:
        print_json({**found.statistics, "page": arguments.to})
    elif arguments.quiet:
        print(arguments.to)
    else:
        _print(found, f"{arguments.to} ({size(len(page))})")
    return 0


def _print(found: Comparison, page: str) -> None:
    from sapiens_ray.cli.tables import Facts

    images = found.statistics["images"]
    table = Facts()
    table.add("images", _images(images))
    for name, one in found.statistics["tasks"].items():
        table.add(name, f"{one['identical']} of {images['compared']} byte for byte equal")
        if found.agreements[name] and one["identical"] < images["compared"]:
            table.add("", found.agreements[name])
        most = ", ".join(one_line(image["image_id"]) for image in one["most_different"][:NAMED])
        if most:
            table.add("", f"differ most: {most}")
    for column in found.statistics["tasks_only_in_a"]:
        table.add(column, "not compared: B has no task of this name and kind")
    for column in found.statistics["tasks_only_in_b"]:
        table.add(column, "not compared: A has no task of this name and kind")
    table.add_whole("page", page)
    table.print()


def _images(images: dict[str, Any]) -> str:
    """How the rows fit together, in words."""
    failed = images["error_in_a"] + images["error_in_b"] + images["error_in_both"]
    parts = [f"{images['compared']} compared", f"{images['in_both']} in both"]
    named = (("only in A", images["only_in_a"]), ("only in B", images["only_in_b"]), ("with an error", failed))
    return ", ".join([*parts, *(f"{count} {name}" for name, count in named if count)])
