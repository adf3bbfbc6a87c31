"""docs/cli.md names every command and every option, and no other."""

from __future__ import annotations

import argparse
import re

import pytest

from sapiens_ray.cli.commands import _parser
from tests.conftest import ROOT

DOCUMENTED = (ROOT / "docs" / "cli.md").read_text()


def parsers(parser: argparse.ArgumentParser, name: str = "") -> dict[str, argparse.ArgumentParser]:
    """All commands with their parsers."""
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, below in action.choices.items():
                found |= parsers(below, f"{name} {command}".strip())
    return found or {name: parser}


# `export` has its options only if it is given.
COMMANDS = parsers(_parser([])) | {"export": parsers(_parser(["export"]))["export"]}
SECTION = re.compile(r"^## ([a-z][a-z ]*[a-z])(?: [A-Z]+)*(?: …)?\n(.*?)(?=^## |\Z)", re.M | re.S)
SECTIONS = dict(SECTION.findall(DOCUMENTED))


def test_every_command_is_documented():
    assert list(SECTIONS) == list(COMMANDS) == [
        "init", "run", "check", "preview", "status", "report", "query", "export", "evaluate", "compare",
        "checkpoints list", "checkpoints pull", "checkpoints inspect", "convert", "schema", "completion",
    ]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented(command):
    options = {option for action in COMMANDS[command]._actions for option in action.option_strings} - {"-h", "--help"}
    rows = re.findall(r"^\| (`-.*?) \|", SECTIONS[command], re.M)
    assert {option for row in rows for option in re.findall(r"`(--?[a-z-]+)", row)} == options


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_and_says_something(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        _parser(command.split()).parse_args([*command.split(), "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: sapiens-ray {command}".rstrip()) and max(map(len, lines)) <= 80
    if command:
        examples = lines[lines.index("examples:") + 1 :]
        commands = [line for line in examples if line.startswith("  s")]  # others continue one, or explain
        assert commands and all(f"{line} ".startswith(f"  sapiens-ray {command} ") for line in commands)
    for parser in COMMANDS.values():
        assert all(action.help for action in parser._actions)
