"""`sapiens-ray status`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from sapiens_ray.cli.answers import print_json
from sapiens_ray.cli.arguments import (
    Subparsers,
    add_json,
    add_quiet,
    at_least_one,
    folder_of,
    positive,
    storage_arguments,
    with_examples,
)
from sapiens_ray.cli.console import tell
from sapiens_ray.errors import ConfigError

if TYPE_CHECKING:
    from sapiens_ray.planning.status import Status
    from sapiens_ray.storage import Folder
    from sapiens_ray.units import Examples

EVERY_S = 10.0  # between two looks of --watch


def add_status(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    status = commands.add_parser(
        "status", help="show the progress of an output folder, from its files alone",
        **with_examples(
            "sapiens-ray status runs/demo",
            "sapiens-ray status runs/demo --errors --json > errors.jsonl",
            "sapiens-ray status s3://bucket/labels --json",
            "sapiens-ray status s3://bucket/labels --watch",
        ),
    )  # fmt: skip
    status.add_argument("output", help="the output folder, local or a URL")
    status.add_argument(
        "--errors", action="store_true",
        help="show examples of the errors; with --json every error row, as one JSON object per line",
    )  # fmt: skip
    status.add_argument(
        "--per-kind", type=at_least_one, metavar="N",
        help="with --errors: at most N error rows of each kind; default: 2, with --json all",
    )  # fmt: skip
    status.add_argument(
        "--watch", action="store_true",
        help="show the progress until the run ends, then its state; exit code 0 if that is `done`, else 1",
    )  # fmt: skip
    status.add_argument(
        "--every", type=positive, metavar="SECONDS", help=f"with --watch: between two looks; default: {EVERY_S:g}"
    )
    add_json(status)
    add_quiet(status, "print one line, with the images and the state")
    storage_arguments(status)
    status.set_defaults(command=_status)


def _status(arguments: argparse.Namespace) -> int:
    from sapiens_ray.planning.status import output_status

    if arguments.per_kind and not arguments.errors:
        raise ConfigError("--per-kind: limits the rows of --errors, which is not given")
    if arguments.quiet and arguments.errors:
        raise ConfigError("--quiet: prints one line, without what --errors shows; give one of them")
    if arguments.every and not arguments.watch:
        raise ConfigError("--every: is the time between two looks of --watch, which is not given")
    output = folder_of(arguments.output, arguments)
    if arguments.watch:
        from sapiens_ray.cli.watch import watch

        watch(output, arguments.every or EVERY_S, quiet=arguments.quiet or arguments.json)
    status = output_status(output, tell)
    ended_badly = arguments.watch and status["state"] != "done"
    if arguments.errors and arguments.json:
        _print_error_rows(output, status["errors"], arguments.per_kind)
    elif arguments.json:
        print_json(status)
    elif arguments.quiet:
        print("; ".join([_images(status), *_state(status)]))
    else:
        examples = status["examples"]
        if arguments.errors and arguments.per_kind:
            examples = _examples(output, status["errors"], arguments.per_kind)
        _print_status(status, examples if arguments.errors else {})
    return 1 if ended_badly else 0


def _print_error_rows(output: Folder, counts: dict[str, int], limit: int | None) -> None:
    """Print the error rows as lines of JSON, as they are read: there may be millions."""
    from sapiens_ray.output.error_rows import first_errors, iterate_errors

    for row in iterate_errors(output) if limit is None else first_errors(output, counts, limit):
        print(json.dumps(row))


def _examples(output: Folder, counts: dict[str, int], limit: int) -> Examples:
    """The first error rows of each kind."""
    from sapiens_ray.output.error_rows import first_errors

    found: Examples = {kind: [] for kind in counts}
    for row in first_errors(output, counts, limit):
        found[row["error_kind"]].append({"image_id": row["image_id"], "error": row["error"] or ""})
    return found


def _print_status(status: Status, examples: Examples) -> None:
    """Print the status of an output as a table. examples: of its errors, to be shown as well."""
    from sapiens_ray.cli.errors_table import add_errors
    from sapiens_ray.cli.tables import Facts

    table = Facts()
    table.add_whole("output", status["output"])
    table.add("images", _images(status))
    add_errors(table, status["errors"], examples, whole=True)
    table.add("shards", f"{status['shards_complete']} of {status['shards']} complete")
    for place, text in enumerate(_state(status)):
        table.add("" if place else "state", text)
    table.print()


def _images(status: Status) -> str:
    """How many images have their row: of how many, unless the last run was a trial, which labels a part."""
    from sapiens_ray.output.summary import counted

    expected = None if status["subset"] else status["expected"]
    share = f" of {expected} ({100 * status['images'] / expected:.1f} %)" if expected else ""
    return f"{status['images']}{share}: {status['ok']} ok, {counted(sum(status['errors'].values()), 'error')}"


def _state(status: Status) -> list[str]:
    """What is known of the last run, in one or more lines."""
    run, last = status["run"], status["last_run"] or {}
    lines = ["complete"] if status["complete"] else []
    if status["state"] == "running":
        return [f"running since {run['since']}: process {run['pid']} on {run['host']}"]
    if status["state"] == "killed":
        when = (run or {}).get("last_seen") or last.get("written_at") or "an unknown time"
        who = f": process {run['pid']} on {run['host']}" if run and run["pid"] else ""
        lines.append(f"stopped without a word at {when}{who}")
    elif last:
        said = [text for text in (last.get("subset"), last["message"]) if text]
        if said or not status["complete"]:
            lines.append(": ".join([f"{last['state']} at {last['written_at']}", *said]))
    if not status["complete"] and not (status["subset"] and status["state"] == "done"):
        lines.append("run the job again to continue")
    return lines
