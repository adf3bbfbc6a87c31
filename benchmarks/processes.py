"""What a command and all processes below it use: CPU seconds, peak memory, and both until its first result."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil

EVERY_S = 0.05
MEMORY_EVERY_S = 0.5  # the kernel walks all pages for it


@dataclass(frozen=True)
class Used:
    """cpu_s: of all processes. first_s, first_cpu_s: when the first result was there. peak_mb: of the proportional set
    size, in which shared pages count once. by_title: cpu_s by the title that a process had when it used them; Ray's
    workers have that of their task."""

    seconds: float
    cpu_s: float
    first_s: float
    first_cpu_s: float
    peak_mb: float
    by_title: dict[str, float] = field(default_factory=dict)


def measure(command: Sequence[str], has_result: Callable[[], bool]) -> Used:
    """Run a command. A process is asked every 50 ms, so what it used last before it ended is not known. Raises
    SystemExit with what it printed if it fails."""
    used: dict[tuple[int, float], float] = {}
    by_title: dict[str, float] = {}
    first: tuple[float, float] | None = None
    peak, memory_at = 0.0, 0.0
    with tempfile.TemporaryFile("w+") as said:
        started = time.perf_counter()
        process = psutil.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(EVERY_S)
            now = time.perf_counter() - started
            family = _family(process)
            for one in family:
                _note(one, used, by_title)
            if first is None and has_result():
                first = now, sum(used.values())
            if now - memory_at > MEMORY_EVERY_S:
                memory_at = now
                peak = max(peak, sum(map(_megabytes, family)))
        seconds = time.perf_counter() - started
        if first is None and has_result():  # since the last look
            first = seconds, sum(used.values())
        if process.returncode or first is None:
            said.seek(0)
            sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{said.read()}")
    return Used(seconds, sum(used.values()), *first, peak, by_title)


def _family(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _note(process: psutil.Process, used: dict[tuple[int, float], float], by_title: dict[str, float]) -> None:
    try:
        times = process.cpu_times()
        key = process.pid, process.create_time()
        title = _title(process.cmdline())
    except psutil.Error:
        return
    spent = times.user + times.system
    by_title[title] = by_title.get(title, 0.0) + spent - used.get(key, 0.0)
    used[key] = spent


def _title(command: Sequence[str]) -> str:
    """`ray::Read` and the like, else the program, or the script or module of a Python."""
    words = [word for word in command if not word.startswith("-")] or ["?"]
    if words[0].startswith("ray::"):
        return words[0].split("(")[0]
    return "/".join(words[len(words) > 1 and "python" in words[0]].split("/")[-2:])


def _megabytes(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / 1e6
    except psutil.Error:
        return 0.0
