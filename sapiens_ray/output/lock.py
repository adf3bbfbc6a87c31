"""One run at a time on an output: a lease in `lock.json`, which works on any file system.

The holder rewrites the file every few seconds. Another run that finds it watches whether it changes. No clocks are
compared, so a clock that is wrong or jumps does no harm. On the same machine a dead holder is recognised at once, on
others after half a minute. `status` finds out in the same way whether a run is alive.

Workers read the file too before they publish a unit: late results of a dead run must not appear among the files of
the next run.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapiens_ray.errors import JobError, OutputError
from sapiens_ray.output.clock import utc_now
from sapiens_ray.output.layout import LOCK_FILE
from sapiens_ray.storage import TEMPORARY, Folder, local_path, translate_errors
from sapiens_ray.storage.retries import no_retries

Holder = dict[str, Any]  # what `lock.json` says about its run

BEAT_S = 5.0
DEAD_AFTER_S = 30.0  # without a beat
LOOK_S = 0.5


class OutputLock:
    """Context manager. Raises OutputError, which names the holder, if another run holds the output."""

    def __init__(self, output: Folder, tell: Callable[[str], None] = lambda line: None) -> None:
        """tell: called with a line for the user if taking the lock takes long."""
        self.run = uuid.uuid4().hex
        self.lost = False
        self._output = output
        self._tell = tell
        self._me = _this_process()
        self._beats = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._made: list[Path] = []

    def __enter__(self) -> OutputLock:
        with translate_errors(OutputError, f"output.uri: cannot write to {self._output.uri}"):
            self._made = _missing_folders(self._output)
            if not self._output.create(LOCK_FILE, self._content()):
                self._take_over()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Release the output. Folders that were created for the lock and are empty are removed again."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(Exception), no_retries():  # if this fails, the next run finds a dead holder
            if holder(self._output) == self.run:
                self._output.delete(LOCK_FILE)
        _remove_empty(self._made)

    def check(self) -> None:
        """Raise JobError if another run has taken the output over."""
        if self.lost:
            raise JobError(
                f"{self._output.uri} was taken over by another run, since this one gave no sign of life for "
                f"{DEAD_AFTER_S:g} s, or its {LOCK_FILE} was removed; everything written is kept"
            )

    def _content(self) -> bytes:
        self._beats += 1
        return json.dumps({"run": self.run, "beat": self._beats, **self._me, "at": utc_now()}).encode()

    def _take_over(self) -> None:
        """Wait until the holder gives a sign of life, or has given none for long enough."""
        found = read_lock(self._output)
        if found is not None and found["run"] == self.run:
            return  # the response to our own request was lost, and the request was repeated
        if found is not None and not _is_gone(found):
            self._tell(
                f"{self._output.uri} is held by {_who(found)}; waiting up to {DEAD_AFTER_S:g} s to see if it is alive"
            )
            now = _watch(self._output, found)
            if now is not None and now != found:
                raise OutputError(
                    f"output.uri: {self._output.uri} is being written by another run: {_who(now)}; wait until it "
                    "ends, stop it, or choose another output.uri"
                )
        self._output.write(LOCK_FILE, self._content())
        time.sleep(LOOK_S)  # if two runs take over, the later one keeps the output
        last = read_lock(self._output)
        if last is None or last["run"] != self.run:
            raise OutputError(f"output.uri: {self._output.uri} was taken by another run at the same moment; try again")

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with contextlib.suppress(Exception), no_retries():  # a storage that fails for a moment
                if holder(self._output) != self.run:
                    self.lost = True
                    return
                self._output.write(LOCK_FILE, self._content(), durable=False)


def try_to_write(output: Folder) -> None:
    """Raise OutputError unless a run could create the folder, and create, replace and delete files in it. Leaves no
    trace."""
    name = f"{TEMPORARY}{uuid.uuid4().hex}"
    if not output.remote and Path(local_path(output.uri)).is_file():
        raise OutputError(f"output.uri: {output.uri} is a file; name a folder")
    with translate_errors(OutputError, f"output.uri: cannot write to {output.uri}"):
        made = _missing_folders(output)
        try:
            output.create(name, b"1")
            output.write(name, b"2")
            output.delete(name)
        except BaseException:
            with contextlib.suppress(Exception), no_retries():
                output.delete(name)
            raise
        finally:
            _remove_empty(made)


def _missing_folders(output: Folder) -> list[Path]:
    """The folders that a local output needs and that do not exist, the deepest first."""
    if output.remote:
        return []
    folder = Path(local_path(output.uri))
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def read_lock(output: Folder) -> Holder | None:
    """What `lock.json` says; None if there is none."""
    try:
        found = json.loads(output.read(LOCK_FILE))
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if isinstance(found, dict) and isinstance(found.get("run"), str) and isinstance(found.get("pid"), int):
        return found
    return {"run": ""}  # not a lock of any run


@dataclass(frozen=True)
class Writer:
    """The run that `lock.json` names. alive: whether it still runs; else it was killed, or its machine was lost.

    since, last_seen: when it started and when it beat last, by its own clock; None if the file does not say so.
    """

    host: str | None
    pid: int | None
    since: str | None
    last_seen: str | None
    alive: bool


def find_writer(output: Folder, tell: Callable[[str], None] = lambda line: None) -> Writer | None:
    """The run that holds the output, or that held it when it died; None if the last run has ended properly.

    A holder on this machine is alive if its process exists. Of others only the beat is known: it is watched until it
    changes (5 s), or has not changed for so long that a new run would take over (30 s). tell: called with a line for
    the user before that.
    """
    found = read_lock(output)
    if found is None:
        return None
    alive = not _is_gone(found)
    if alive and not _is_here(found):
        tell(f"{output.uri} is held by {_who(found)}; watching up to {DEAD_AFTER_S:g} s to see if it is alive")
        now = _watch(output, found)
        if now is None:
            return None
        found, alive = now, now != found
    return Writer(found.get("host"), found.get("pid"), found.get("since"), found.get("at"), alive)


class Pulse:
    """Whether the run that holds an output is alive, from look to look: without the wait of `find_writer`.

    found: what `lock.json` said at the last look.
    """

    def __init__(self, output: Folder) -> None:
        self.found: Holder | None = None
        self._output = output
        self._changed = time.monotonic()

    def beats(self) -> bool:
        """Look. A holder elsewhere counts as alive until its lock has not changed for DEAD_AFTER_S."""
        found = read_lock(self._output)
        if found != self.found:
            self.found, self._changed = found, time.monotonic()
        if found is None or _is_gone(found):
            return False
        return _is_here(found) or time.monotonic() - self._changed <= DEAD_AFTER_S


def holder(output: Folder) -> str | None:
    """Which run holds the output; None if none does."""
    found = read_lock(output)
    return found["run"] if found else None


def require_held(output: Folder, run: str) -> None:
    """Raise JobError unless the run still holds the output."""
    if holder(output) != run:
        raise JobError(f"{output.uri} was taken over by another run; this one must not write to it any more")


def _this_process() -> Holder:
    """Who holds the lock, with the facts from which a process on the same machine sees whether it still exists."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": _machine(),
        "process_start": _start_of(os.getpid()),
        "since": utc_now(),
    }


def _machine() -> str | None:
    """An id of this boot of the machine and of the namespace of its process ids; None where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _start_of(pid: int) -> str | None:
    """When a process was started, in ticks since boot; None if there is no process with this id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _is_here(found: Holder) -> bool:
    """Whether a holder was started on this machine since its last boot, so that its process can be looked up."""
    here = found.get("machine")
    return here is not None and here == _machine()


def _is_gone(found: Holder) -> bool:
    """Whether a holder on this machine has ended; False for holders elsewhere, where this cannot be known."""
    if not found["run"]:
        return True
    return _is_here(found) and _start_of(found["pid"]) != found.get("process_start")


def _watch(output: Folder, found: Holder) -> Holder | None:
    """Watch a holder: its lock after the next beat, None if it ends, the same lock if it does not beat."""
    end = time.monotonic() + DEAD_AFTER_S
    while time.monotonic() < end:
        time.sleep(LOOK_S)
        now = read_lock(output)
        if now != found:
            return now
    return found


def _who(found: Holder) -> str:
    return f"process {found.get('pid')} on {found.get('host')}, since {found.get('since')}"
