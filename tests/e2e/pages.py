"""Runs the blocks of a page of docs/ in their order, in this process where they call `sapiens-ray`.

A process for each command would take seconds to import torch.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import PATIENCE_S, Finished

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


@dataclass
class Block:
    language: str
    code: str
    printed: str = ""


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    return [Block(language, code) for language, code in BLOCK.findall(page.read_text())]


def run_page(page: Path, folder: Path, command: Callable[..., Finished]) -> list[Block]:
    """Run the bash and Python blocks in a folder, which is the current one, and write YAML blocks that begin with the
    name of their file. Returns all blocks with what they printed."""
    found, names = blocks(page), {}
    for block in found:
        if block.language == "bash":
            block.printed = "".join(run_line(line, folder, command) for line in lines_of(block.code))
        elif block.language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(block.code, str(page), "exec"), names)
            block.printed = out.getvalue()
        elif block.language == "yaml" and (named := re.match(r"# (\S+\.yaml)\n", block.code)):
            (folder / named[1]).write_text(block.code)
    return found


def lines_of(code: str) -> list[str]:
    """The commands of a block: lines that go on after a backslash, and here-documents, are one."""
    commands, until = [""], ""
    for line in code.splitlines(keepends=True):
        commands[-1] += line
        if opened := re.search(r"<<'(\w+)'$", line.rstrip()):
            until = opened[1]
        elif line.rstrip() == until:
            until = ""
        if not until and not line.endswith("\\\n"):
            commands.append("")
    return [command for command in commands if command]


def run_line(line: str, folder: Path, command: Callable[..., Finished]) -> str:
    """Run one command, and return what it printed. What should fail is followed by `|| echo "exit $?"`."""
    if not line.startswith("sapiens-ray "):
        done = subprocess.run(
            ["bash", "-euc", line], cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout
    called, failing, _ = line.replace("\\\n", "").partition(' || echo "exit $?"')
    done = command(*shlex.split(called, comments=True)[1:])
    assert (done.code != 0) == bool(failing), f"{line}\n{done.text}"
    return done.text + (f"exit {done.code}\n" if failing else "")
