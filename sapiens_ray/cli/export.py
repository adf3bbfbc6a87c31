"""`sapiens-ray export`."""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from typing import TYPE_CHECKING

from sapiens_ray.cli.answers import print_json
from sapiens_ray.cli.arguments import (
    Subparsers,
    add_json,
    add_quiet,
    folder_of,
    storage_arguments,
    where_argument,
    with_examples,
)
from sapiens_ray.cli.console import one_line
from sapiens_ray.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from sapiens_ray.export import Export, Option
    from sapiens_ray.storage import Folder


def add_export(commands: Subparsers[argparse.ArgumentParser], is_given: bool) -> None:
    """Add the command to the parser. Its formats and options need imports, so they are added only if it was given."""
    export = commands.add_parser(
        "export", help="write labels in the format of other tools",
        **with_examples(
            "sapiens-ray export runs/demo --format coco --to runs/coco",
            "sapiens-ray export runs/demo --format masks --to masks --where 'width > 640'",
            "sapiens-ray export s3://bucket/labels --format lite --to /data/lite",
            "sapiens-ray export runs/demo --format webdataset --to wds --photos",
        ),
    )  # fmt: skip
    export.set_defaults(command=_export)
    if not is_given:
        return
    from sapiens_ray.export import EXPORTS

    export.add_argument("output", help="the output folder, local or a URL")
    formats = export.add_argument("--format", required=True, choices=list(EXPORTS), metavar="FORMAT", help="")
    export.add_argument("--to", required=True, metavar="DIR", help="where to write, local or a URL")
    where_argument(export)
    add_json(export)
    add_quiet(export, "print nothing but errors and one line with the result")
    storage_arguments(export)
    about: list[str] = []
    options: dict[str, dict[str, list[str]]] = defaultdict(dict)  # flag -> help text -> the formats that have it
    switches: dict[str, bool] = {}  # flag -> whether it has no value, as the first format has it
    for name in EXPORTS:
        try:
            format = EXPORTS[name]
        except ConfigError:  # of a package that is broken: reported if this format is chosen
            about.append(f"{name}: cannot be used here")
            continue
        about.append(f"{name}: {format.help}")
        for option in format.options:
            options[_flag(option)].setdefault(option.help, []).append(name)
            if switches.setdefault(_flag(option), option.flag) != option.flag:
                others, here = ("a value", "none") if option.flag else ("no value", "one")
                raise ConfigError(f"export option {_flag(option)} has {others} in some formats, and {here} in {name}")
    formats.help = _text(about)
    for flag, formats_of in options.items():
        texts = [f"{', '.join(names)}: {text}" for text, names in formats_of.items()]
        try:
            if switches[flag]:
                export.add_argument(flag, action="store_true", help=_text(texts))
            else:
                export.add_argument(flag, metavar="VALUE", help=_text(texts))  # parsed by the chosen format
        except argparse.ArgumentError:
            raise ConfigError(f"export option {flag} ({_text(texts)}) has the name of an option of `export`") from None
    export.set_defaults(
        formats_of={flag: [name for names in by_text.values() for name in names] for flag, by_text in options.items()}
    )


def _flag(option: Option) -> str:
    return f"--{option.name.replace('_', '-')}"


def _text(parts: list[str]) -> str:
    """Help text for argparse, which formats it with %."""
    return "; ".join(parts).replace("%", "%%")


def _export(arguments: argparse.Namespace) -> int:
    from sapiens_ray.export import EXPORTS
    from sapiens_ray.output.reading import chosen_rows, iterate_rows
    from sapiens_ray.output.summary import counted
    from sapiens_ray.planning.status import missing_rows
    from sapiens_ray.storage import translate_errors
    from sapiens_ray.storage.uris import absolute, redact_uri

    source, target = folder_of(arguments.output, arguments), folder_of(arguments.to, arguments)
    to = redact_uri(arguments.to)
    _refuse_output(source, target)
    if arguments.quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # of uploads
    format = EXPORTS[arguments.format]
    _refuse_others(arguments)
    options = _option_values(format, arguments)
    with translate_errors(OutputError, f"cannot export {redact_uri(arguments.output)} to {redact_uri(arguments.to)}"):
        photos, left = _input_around(source, target), missing_rows(source)
        held_files = _holds_files(target)
        rows = chosen_rows(source, arguments.where)
        if arguments.where and next(iterate_rows(rows, ["index"]), None) is None:  # earlier files in the target stay
            raise OutputError(f"no row of {redact_uri(arguments.output)} meets --where {arguments.where!r}")
        done = format.write(rows, target, options)
    if photos and not arguments.quiet:
        print(f"{to} lies in the input folder {photos}: its pictures will count as photos", file=sys.stderr)
    if held_files and not arguments.quiet:
        print(f"{to} held files before; those that were not written again are still there", file=sys.stderr)
    if left and not arguments.quiet:
        print(
            f"{redact_uri(arguments.output)} is not complete: {left} without a row; run the job again, then export",
            file=sys.stderr,
        )
    is_expected = format.of_one_kind and done.images  # nobody looks for persons among depth maps
    for column, reason in {} if arguments.quiet or is_expected else done.left_out.items():
        print(f"{column} left out: {reason}", file=sys.stderr)
    for note in () if arguments.quiet else done.all_notes():
        print(one_line(note), file=sys.stderr)
    if not done.images and not done.skipped:
        raise OutputError(f"format {arguments.format} cannot hold any of the labels in {redact_uri(arguments.output)}")
    if arguments.json:
        print_json({
            "output": redact_uri(absolute(source.uri)), "to": redact_uri(absolute(target.uri)),
            "format": arguments.format,
            "images": done.images, "skipped": done.skipped, "renamed": done.renamed,
            "unmatched": done.unmatched, "left_out": done.left_out,
        })  # fmt: skip
        return 0
    print(f"{counted(done.images, 'image')} exported, {counted(done.skipped, 'error row')} skipped")
    if not arguments.quiet:
        if done.renamed:
            print(f"{done.renamed} of them under their full names, since another image has the same stem")
        print(to)
    return 0


def _refuse_output(source: Folder, target: Folder) -> None:
    """Raise ConfigError for a target among the labels themselves."""
    from sapiens_ray.output.layout import is_in_output
    from sapiens_ray.storage.uris import absolute, redact_uri

    if absolute(target.uri) == absolute(source.uri) or is_in_output(source, target.uri):
        raise ConfigError(f"--to {redact_uri(target.uri)}: holds the labels themselves; name another folder")


def _holds_files(target: Folder) -> bool:
    from sapiens_ray.storage import walk

    try:
        return any(is_file for _, is_file in walk(target))
    except FileNotFoundError:
        return False


def _input_around(source: Folder, target: Folder) -> str | None:
    """The input folder of the job that made these labels, if the target is that folder or lies in it."""
    from sapiens_ray.output.record import input_uris
    from sapiens_ray.storage.uris import absolute

    place = absolute(target.uri)
    return next((uri for uri in input_uris(source) if f"{place}/".startswith(f"{uri}/")), None)


def _refuse_others(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for an option that only other formats have."""
    for flag, names in arguments.formats_of.items():
        if arguments.format not in names and getattr(arguments, flag[2:].replace("-", "_")) not in (None, False):
            raise ConfigError(f"{flag}: format {arguments.format} has no such option; it belongs to {', '.join(names)}")


def _option_values(format: Export, arguments: argparse.Namespace) -> dict[str, object]:
    """The values of the options of a format. Raises ConfigError for one that it cannot parse."""
    values: dict[str, object] = {}
    for option in format.options:
        text = getattr(arguments, option.name)
        if option.flag:
            values[option.name] = text
            continue
        try:
            values[option.name] = option.default if text is None else option.parse(text)
        except ValueError as error:
            raise ConfigError(f"{_flag(option)} {text}: {error}") from None
    return values
