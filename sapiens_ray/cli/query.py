"""`sapiens-ray query`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sapiens_ray.cli.answers import print_json
from sapiens_ray.cli.arguments import (
    Subparsers,
    add_json,
    add_quiet,
    at_least_one,
    folder_of,
    storage_arguments,
    with_examples,
)
from sapiens_ray.cli.console import one_line, shortened, tell
from sapiens_ray.cli.targets import file_target

if TYPE_CHECKING:
    import pyarrow as pa

    from sapiens_ray.output.query import Query
    from sapiens_ray.storage import Folder

SHOWN = 20  # rows, unless --limit says otherwise
CELL = 40  # columns of a cell, at most


def add_query(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    query = commands.add_parser(
        "query", help="find the images whose row meets a condition in SQL, and write a list of them",

        **with_examples(
            'sapiens-ray query runs/demo "seg_confidence < 0.6 and len(persons) > 0"',
            "sapiens-ray query runs/demo true --order-by seg_confidence --limit 10",
            "sapiens-ray query runs/demo \"error_kind = 'timeout'\" --to again.csv",
            'sapiens-ray query s3://bucket/labels "len(persons) = 1" --to alone.parquet',
        ),
    )  # fmt: skip
    query.add_argument("output", help="the output folder, local or a URL")
    query.add_argument("where", metavar="SQL", help="a condition over the columns of a row, as DuckDB understands it")
    query.add_argument(
        "--to", metavar="FILE", help="write all of them to a .txt, .csv, .jsonl or .parquet, which a job takes as input"
    )
    query.add_argument("--columns", metavar="NAMES", help="more columns to show or write, separated by commas")
    query.add_argument("--order-by", metavar="SQL", help="sort by a number, the smallest first; null comes last")
    query.add_argument("--descending", action="store_true", help="with --order-by: the largest first")
    query.add_argument(
        "--limit", type=at_least_one, metavar="N", help=f"at most N rows; default: {SHOWN}, with --to all"
    )
    add_json(query)
    add_quiet(query, "print only the number of images")
    storage_arguments(query)
    query.set_defaults(command=_query)


def _query(arguments: argparse.Namespace) -> int:
    from sapiens_ray.errors import ConfigError, OutputError
    from sapiens_ray.output.query import make_query
    from sapiens_ray.storage import translate_errors

    if arguments.descending and not arguments.order_by:
        raise ConfigError("--descending: belongs to --order-by, which is not given")
    source = folder_of(arguments.output, arguments)
    columns = [name.strip() for name in (arguments.columns or "").split(",") if name.strip()]
    limit = arguments.limit or (None if arguments.to else SHOWN)
    with translate_errors(OutputError, f"cannot read {arguments.output}"):
        query = make_query(source, arguments.where, columns, arguments.order_by, arguments.descending, limit)
        if not arguments.to:
            return _show(query, arguments)
        return _write(query, *file_target(arguments, [source], "list.csv"), arguments)


def _show(query: Query, arguments: argparse.Namespace) -> int:
    met = 0

    def count(rows: int) -> None:
        nonlocal met
        met = rows

    rows = [row for table in query.tables(count) for row in table.to_pylist()]
    if arguments.json:
        print_json({"output": arguments.output, "where": arguments.where, "images": met, "rows": rows})
    elif arguments.quiet:
        print(met)
    else:
        _print_rows(query, rows)
        more = "" if met == len(rows) else f", of which {len(rows)} are shown; --limit N shows more, --to writes all"
        print(f"{met} {'image' if met == 1 else 'images'}{more}")
    return 0


def _print_rows(query: Query, rows: list[dict[str, Any]]) -> None:
    from sapiens_ray.cli.tables import print_columns

    if not rows:
        return
    names = ["image_id", *query.columns]
    cells = [[_cell(row[name]) for name in names] for row in rows]
    right = [all(isinstance(row[name], int | float | None) for row in rows) for name in names]
    print_columns(names, cells, right)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    text = json.dumps(value, default=str) if isinstance(value, list | dict) else str(value)
    return shortened(one_line(text), CELL)


def _write(query: Query, folder: Folder, name: str, arguments: argparse.Namespace) -> int:
    from sapiens_ray.errors import StorageError
    from sapiens_ray.output.lists import write_list
    from sapiens_ray.storage import translate_errors

    inside = InArchives()
    with translate_errors(StorageError, f"--to {arguments.to}: cannot be written"):
        written = write_list(folder, name, _watched(query.tables(), query.folder, inside))
    if inside.count and not arguments.quiet:
        tell(
            f"{inside.count} of them lie in tars, Parquet files or videos, such as {one_line(inside.first)}: a list "
            "cannot name these, so a job that takes this list makes error rows of them"
        )
    if arguments.json:
        about = {"output": arguments.output, "where": arguments.where, "images": written, "to": arguments.to}
        print_json({**about, "in_archives": inside.count})
    elif arguments.quiet:
        print(written)
    else:
        print(f"{written} {'image' if written == 1 else 'images'}")
        print(arguments.to)
    return 0


@dataclass
class InArchives:
    """Images that lie in tars, Parquet files or videos: how many, and the URI of the first."""

    count: int = 0
    first: str = ""

    def add(self, uris: Sequence[str]) -> None:
        if uris and not self.count:
            self.first = uris[0]
        self.count += len(uris)


def _watched(tables: Iterable[pa.Table], output: Folder, inside: InArchives) -> Iterator[pa.Table]:
    """The tables; counts the images that lie in other files."""
    from sapiens_ray.planning.plan import load_plan
    from sapiens_ray.sources import is_shard_format

    plan = load_plan(output)
    archives = {shard.number for shard in plan.shards if is_shard_format(shard.format)} if plan else set()
    for table in tables:
        if archives:
            rows = zip(table["shard"].to_pylist(), table["uri"].to_pylist(), strict=True)
            inside.add([uri for shard, uri in rows if shard in archives])
        yield table
