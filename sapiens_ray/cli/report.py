"""`sapiens-ray report`."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from sapiens_ray.cli.answers import print_json
from sapiens_ray.cli.arguments import Subparsers, add_json, add_quiet, folder_of, storage_arguments, where_argument
from sapiens_ray.cli.console import is_live, size, tell

if TYPE_CHECKING:
    from sapiens_ray.storage import Folder

EXAMPLES = """\
examples:
  sapiens-ray report runs/demo
  sapiens-ray report runs/demo --to demo.html --thumbnails 1000
  sapiens-ray report runs/demo --where "seg_confidence < 0.6"
  sapiens-ray report s3://bucket/labels --to labels.html --json > labels.json
"""
QUIET_S, EVERY_S = 2.0, 10.0  # before the first line of progress; between lines in a pipe


def add_report(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    report = commands.add_parser(
        "report", help="write a page that shows what an output holds, and how good it is",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    report.add_argument("output", help="the output folder, local or a URL")
    report.add_argument(
        "--to", default="report.html", metavar="FILE", help="the page, local or a URL; default: report.html"
    )
    report.add_argument(
        "--thumbnails", type=_count, default=300, metavar="N",
        help="images with a picture on the page, at most; 0 for none; default: 300",
    )  # fmt: skip
    report.add_argument(
        "--seed", type=_count, default=0, metavar="S", help="another seed draws other samples; default: 0"
    )
    where_argument(report)
    add_json(report, "print the statistics as one JSON object, also for an error")
    add_quiet(report, "print nothing but errors and the path of the page")
    storage_arguments(report)
    report.set_defaults(command=_report)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"should be a whole number from 0 on (got {text!r})")
    return int(text)


def _report(arguments: argparse.Namespace) -> int:
    from sapiens_ray.errors import OutputError
    from sapiens_ray.output.reading import chosen_rows
    from sapiens_ray.output.summary import counted
    from sapiens_ray.reporting import ReportOptions, make_report
    from sapiens_ray.storage import translate_errors

    source = folder_of(arguments.output, arguments)
    target, name = _target(arguments)
    options = ReportOptions(arguments.thumbnails, seed=arguments.seed)
    with _Progress(arguments.quiet) as progress, translate_errors(OutputError, f"cannot read {arguments.output}"):
        report = make_report(chosen_rows(source, arguments.where), options, progress.update)
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


def _target(arguments: argparse.Namespace) -> tuple[Folder, str]:
    """The folder of the page, and its name there. Raises ConfigError if it names a folder, or a part of the output."""
    from pathlib import Path

    from sapiens_ray.errors import ConfigError
    from sapiens_ray.output.layout import PARTS
    from sapiens_ray.storage import is_remote
    from sapiens_ray.storage.uris import absolute

    uri = str(arguments.to)
    folder, _, name = uri.rpartition("/")
    if not name or (not is_remote(uri) and Path(uri).is_dir()):
        raise ConfigError(f"--to {uri}: is a folder; name a file, such as {uri.rstrip('/')}/report.html")
    place, labels = absolute(uri), absolute(arguments.output)
    if place.startswith(tuple(f"{labels}/{part}" for part in PARTS)):
        raise ConfigError(f"--to {uri}: lies among the labels themselves; name another place")
    return folder_of(folder or ("/" if uri.startswith("/") else "."), arguments), name


class _Progress:
    """Lines on stderr for a report that takes long: one that is rewritten on a terminal, else one every ten seconds."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.live = quiet, is_live(sys.stderr)
        self.next = time.monotonic() + QUIET_S
        self.shown = False

    def update(self, what: str, done: int, of: int | None) -> None:
        """what: what is counted. done, of: how many of how many."""
        now = time.monotonic()
        if self.quiet or now < self.next:
            return
        line = f"reading: {done}{f'/{of}' if of else ''} {what}"
        if self.live:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        else:
            tell(line)
        self.shown, self.next = True, now + (0.2 if self.live else EVERY_S)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.shown and self.live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
