"""What several commands share: their parser, and options of the same name and meaning."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from sapiens_ray.storage import Folder

Subparsers = argparse._SubParsersAction  # argparse has no public name for it


class UsageError(Exception):
    """The command line has an unknown option or lacks an argument. `usage`: how it should look."""

    def __init__(self, usage: str, prog: str, message: str) -> None:
        super().__init__(message)
        self.usage, self.prog = usage, prog


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(self.format_usage(), self.prog, message)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As argparse's, but what a sub-command does not know is its own error: with its usage, not that of all."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown and self._subparsers is None:
            options = [option for option in self._option_string_actions if option.startswith("--")]
            named = (one.partition("=")[0] for one in unknown if one.startswith("--"))
            hints = [hint for one in named if (hint := did_you_mean(one, options))]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{''.join(hints)}")
        return known, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse's, with a suggestion: for commands, formats and everything else that is chosen from a list."""
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            hint = did_you_mean(str(value), choices) or f" (choose from {', '.join(choices)})"
            raise argparse.ArgumentError(action, f"invalid choice: {str(value)!r}{hint}")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A hint with the choice that a word was probably meant to be; empty if none is similar."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def with_examples(*lines: str, after: str = "") -> dict[str, Any]:
    """Arguments of a parser whose help ends with examples, one per line, and what is to be said after them."""
    text = "\n".join(["examples:", *(f"  {line}" for line in lines)])
    return {"epilog": f"{text}\n\n{after}" if after else text, "formatter_class": argparse.RawDescriptionHelpFormatter}


def add_json(parser: argparse.ArgumentParser, text: str = "print one JSON object, also for an error") -> None:
    """Add `--json`. docs/cli.md documents what it prints."""
    parser.add_argument("--json", action="store_true", help=text)


def add_quiet(parser: argparse.ArgumentParser, text: str = "print nothing but errors and the result") -> None:
    """Add `--quiet`."""
    parser.add_argument("--quiet", "-q", action="store_true", help=text)


def at_least_one(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"should be a whole number from 1 on (got {text!r})")
    return int(text)


def from_zero(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"should be a whole number from 0 on (got {text!r})")
    return int(text)


def positive(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"should be a number above 0 (got {text!r})")
    return value


def storage_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `folder_of` reads."""
    parser.add_argument(
        "--storage-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="storage_options",
        help="passed to fsspec for the output, such as endpoint_url=http://minio:9000",
    )


def overrides_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--set`."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override a field, such as output.uri=/data/labels or tasks.0.batch_size=4; "
        "relative paths given here are relative to the current folder",
    )  # fmt: skip


def where_argument(parser: argparse.ArgumentParser, of: str = "") -> None:
    """Add `--where`. of: whose rows."""
    parser.add_argument(
        "--where", metavar="SQL",
        help=f"only images whose row{of} meets a condition, such as 'seg_confidence < 0.6 and len(persons) > 0'",
    )  # fmt: skip


def folder_of(uri: str, arguments: argparse.Namespace) -> Folder:
    """A folder that was named on the command line."""
    from sapiens_ray.storage import Folder

    options = dict(option.partition("=")[::2] for option in arguments.storage_options)
    return Folder(uri.rstrip("/") or "/", options)
