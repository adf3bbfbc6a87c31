"""What `run` prints when it ends."""

from __future__ import annotations

import shlex
import shutil
import sys
from typing import TextIO

from sapiens_ray.cli.console import DIM, styled
from sapiens_ray.cli.errors_table import add_errors
from sapiens_ray.cli.tables import Facts
from sapiens_ray.output.layout import DATA, PICTURES
from sapiens_ray.output.summary import Summary, counted, duration, three_digits


def print_result(summary: Summary, pictures: bool, out: TextIO | None = None) -> None:
    """Print the result of a run as a table, and a command that reads a row. pictures: whether the output has some."""
    out = out or sys.stdout
    table = Facts()
    table.add("state", _state(summary))
    table.add("images", f"{summary.images} ({_outcome(summary)})")
    add_errors(table, summary.errors, summary.examples)
    if summary.already_done:
        table.add("already done", str(summary.already_done))
        if summary.failed_before:
            table.add("", "error rows count as done; --retry-errors labels them again")
    if summary.repeated:
        what = "1 unit or shard" if summary.repeated == 1 else f"{summary.repeated} units or shards"
        table.add("repeated", f"{what}, because a worker died")
    if summary.labelled:
        table.add("time", f"{duration(summary.elapsed)} with the start, {three_digits(summary.rate)} images/s")
        stages = ", ".join(f"{stage} {three_digits(1000 * spent)}" for stage, spent in summary.stages.items())
        table.add("ms per image", stages)
    for place, line in enumerate(_device_lines(summary)):
        table.add("" if place else "device", line)
    table.add_whole("labels", f"{summary.output}/{DATA}/*.parquet")
    if pictures:
        table.add_whole("pictures", f"{summary.output}/{PICTURES}/")
    table.print(out)
    if summary.images and "://" not in summary.output:  # object stores may need options that must not be printed
        print(f"{styled('read a row:', DIM, out)}\n{_read_command(summary.output)}", file=out)


def _device_lines(summary: Summary) -> list[str]:
    """What the devices did: how busy they were, and each model on them."""
    device = summary.device
    if not device:
        return []
    waiting = f", {100 * device['waiting_for_input']:.0f} % waiting for input" if device["busy"] < 0.95 else ""
    lines = [f"{100 * device['busy']:.0f} % busy{waiting}"]
    for name, model in device["models"].items():
        rate = f"{three_digits(model['inputs_per_s'])} inputs/s" if model["inputs_per_s"] else "no inputs"
        fill = f", batches {100 * model['batch_fill']:.0f} % full" if model["batch_fill"] is not None else ""
        lines.append(f"{name}: {rate}{fill}")
    return lines


def result_line(summary: Summary) -> str:
    """The result of a run in one line."""
    return f"{_state(summary)}; {counted(summary.images, 'image')} ({_outcome(summary)}) in {summary.output}"


def _state(summary: Summary) -> str:
    finished = "done" if summary.labelled else "done: every image already had its row"
    failed = "not finished" if summary.images != summary.expected else "failed: too many images are errors"
    return {"done": finished, "failed": failed}.get(summary.state, summary.state)


def _outcome(summary: Summary) -> str:
    return f"{summary.images - summary.failed} ok, {counted(summary.failed, 'error')}"


def _read_command(output: str) -> str:
    """A command to paste that prints a row."""
    python = "python" if shutil.which("python") == sys.executable else shlex.quote(sys.executable)
    code = f"import sapiens_ray as sr; print(sr.read_labels({output!r}).iloc[0])"
    # Quotes inside quotes are hard to read, so they are only used where the shell would change something.
    return f'{python} -c "{code}"' if not set('"$`\\!') & set(code) else f"{python} -c {shlex.quote(code)}"
