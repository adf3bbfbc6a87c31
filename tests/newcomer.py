"""A new user of this machine: an empty home folder, no variable of the test suite, a terminal of 80 columns.

What the user types runs as it is written. Only `ray` is told which ports are free and which processes are the user's,
since `ray stop` stops those of the whole machine, and `ssh` and `scp` lead to a second home folder instead of a second
machine.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.conftest import PATIENCE_S, RAY_PATIENCE, Finished, free_port

RAY = """#!{python}
import sys
import psutil
every = psutil.process_iter
def own(attributes=None):
    for process in every(attributes):
        try:
            if process.environ().get("HOME", "").startswith({folder!r}):
                yield process
        except psutil.Error:
            pass
psutil.process_iter = own
given = [one.replace("node-1:6379", {head!r}) for one in sys.argv[1:]]
if given[:1] == ["start"]:
    given += {start!r} + ({start_head!r} if "--head" in given else [])
sys.argv[1:] = given
from ray.scripts.scripts import main
main()
"""
SSH = """#!/bin/bash
shift
cd "{folder}/node-2"
exec env -u RAY_AUTH_MODE HOME="{folder}/node-2" bash -c "$*"
"""
SCP = """#!/bin/bash
arguments=("${{@/#node-2:/{folder}/node-2/}}")
exec cp "${{arguments[@]}}"
"""


class Newcomer:
    """folder: holds everything of the user, with the home folder in `home`. head: host:port of a started cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.head = f"127.0.0.1:{free_port()}"
        port = self.head.rpartition(":")[2]
        start = ["--num-cpus=2", f"--object-store-memory={1 << 30}"]
        ports = ("dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
        start_head = [f"--port={port}", *(f"--{option}={free_port()}" for option in ports)]
        tools = folder / "bin"
        for each in (self.home, folder / "node-2", tools):
            each.mkdir()
        texts = {"ray": RAY, "ssh": SSH, "scp": SCP}
        for name, text in texts.items():
            values = {"python": sys.executable, "head": self.head, "start": start, "start_head": start_head}
            (tools / name).write_text(text.format(folder=str(folder), **values))
            (tools / name).chmod(stat.S_IRWXU)
        self.env = {
            "HOME": str(self.home),
            "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.defpath]),
            "LANG": "C.UTF-8",
            "COLUMNS": "80",
            "RAY_TMPDIR": str(folder),  # instead of /tmp/ray, where Ray notes the cluster that was started last
            **RAY_PATIENCE,
        }
        if "PYTHONPATH" in os.environ:  # where the package is not installed in the environment that tests it
            self.env["PYTHONPATH"] = os.environ["PYTHONPATH"]

    def run(self, *command: str, cwd: Path) -> Finished:
        done = subprocess.run(
            command, cwd=cwd, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        return Finished(done.returncode, done.stdout, done.stderr)


def processes_of(folder: str) -> Iterator[psutil.Process]:
    """All processes with a home folder inside this folder."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("HOME", "").startswith(folder):
                yield process


@contextlib.contextmanager
def newcomer() -> Iterator[Newcomer]:
    """A new user, whose processes end with the block, whatever happened."""
    # Not pytest's folder: Ray's sockets lie below it, and a socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="sr-", ignore_cleanup_errors=True) as folder:
        try:
            yield Newcomer(Path(folder))
        finally:
            while left := list(processes_of(folder)):  # a dying raylet may still start a worker
                for process in left:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                psutil.wait_procs(left, timeout=PATIENCE_S)
