"""`sapiens-ray report`."""

from __future__ import annotations

import argparse

from sapiens_ray.cli.answers import print_json
from sapiens_ray.cli.arguments import (
    Subparsers,
    add_json,
    add_quiet,
    folder_of,
    from_zero,
    storage_arguments,
    where_argument,
    with_examples,
)
from sapiens_ray.cli.console import size
from sapiens_ray.cli.steps import Steps
from sapiens_ray.cli.targets import file_target


def add_report(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    report = commands.add_parser(
        "report", help="write a page that shows what an output holds, and how good it is",

        **with_examples(
            "sapiens-ray report runs/demo",
            "sapiens-ray report runs/demo --to demo.html --thumbnails 1000",
            'sapiens-ray report runs/demo --where "seg_confidence < 0.6"',
            "sapiens-ray report s3://bucket/labels --to labels.html --json > labels.json",
        ),
    )  # fmt: skip
    report.add_argument("output", help="the output folder, local or a URL")
    report.add_argument(
        "--to", default="report.html", metavar="FILE", help="the page, local or a URL; default: report.html"
    )
    report.add_argument(
        "--thumbnails", type=from_zero, default=300, metavar="N",
        help="images with a picture on the page, at most; 0 for none; default: 300",
    )  # fmt: skip
    report.add_argument(
        "--seed", type=from_zero, default=0, metavar="S", help="another seed draws other samples; default: 0"
    )
    where_argument(report)
    add_json(report, "print the statistics as one JSON object, also for an error")
    add_quiet(report, "print nothing but errors and the path of the page")
    storage_arguments(report)
    report.set_defaults(command=_report)


def _report(arguments: argparse.Namespace) -> int:
    from sapiens_ray.errors import OutputError
    from sapiens_ray.output.reading import chosen_rows
    from sapiens_ray.output.summary import counted
    from sapiens_ray.reporting import ReportOptions, make_report
    from sapiens_ray.storage import translate_errors

    source = folder_of(arguments.output, arguments)
    target, name = file_target(arguments, [source], "report.html")
    options = ReportOptions(arguments.thumbnails, seed=arguments.seed)
    with Steps(arguments.quiet) as progress, translate_errors(OutputError, f"cannot read {arguments.output}"):
        report = make_report(chosen_rows(source, arguments.where), options, progress)
    page = report.html.encode("utf-8", "backslashreplace")
    with translate_errors(OutputError, f"--to {arguments.to}: cannot be written"):
        target.write(name, page)
    if arguments.json:
        print_json({**report.statistics, "page": arguments.to})
    elif arguments.quiet:
        print(arguments.to)
    else:
        images, errors = report.statistics["images"], sum(report.statistics["errors"].values())
        print(f"{counted(images, 'image')}, {counted(errors, 'error')}: {arguments.to} ({size(len(page))})")
    return 0
