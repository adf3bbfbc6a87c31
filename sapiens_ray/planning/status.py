"""The state of an output folder, from its files alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

from sapiens_ray.errors import OutputError
from sapiens_ray.output.done import done_by_shard, list_units, with_units
from sapiens_ray.output.error_rows import errors_in_files
from sapiens_ray.output.layout import PLAN_FILE, SUMMARY_FILE
from sapiens_ray.output.lock import Writer, find_writer
from sapiens_ray.output.summary import counted
from sapiens_ray.planning.plan import Plan, load_plan
from sapiens_ray.storage import Folder, translate_errors
from sapiens_ray.storage.uris import redact_uri
from sapiens_ray.tasks.sections import Settings
from sapiens_ray.units import Done

Status = Settings  # what `sapiens-ray status --json` prints


def output_status(output: Folder, tell: Callable[[str], None] = lambda line: None) -> Status:
    """The state of an output folder from its files alone, also while a job writes to it.

    tell: called with a line for the user if it takes long to see whether the run of another machine is alive.
    """
    with translate_errors(OutputError, f"cannot read {output.uri}"):
        plan = load_plan(output)
        writer = find_writer(output, tell)
        last = json.loads(output.read(SUMMARY_FILE)) if output.exists(SUMMARY_FILE) else {}
    if plan is None and writer is None and not last:
        raise OutputError(f"{output.uri} is not an output folder of sapiens-ray: it has no {PLAN_FILE}")
    done, (errors, examples) = with_units(output, lambda files: (done_by_shard(files), errors_in_files(output, files)))
    rows = sum(one.rows for one in done.values())
    complete, expected = _coverage(plan, done) if plan else (0, None)
    shards = len(plan.shards) if plan else 0  # none of a run that ended before it had a plan
    subset = last.get("subset") or ""
    return {
        "output": redact_uri(output.uri),
        "state": _state(writer, last.get("state")),
        "subset": subset,
        "complete": plan is not None and complete == shards and not subset,
        "images": rows,
        "expected": expected,
        "ok": rows - sum(errors.values()),
        "errors": dict(sorted(errors.items())),
        "examples": dict(sorted(examples.items())),
        "shards": shards,
        "shards_complete": complete,
        "run": asdict(writer) if writer else None,
        "last_run": {key: last.get(key) for key in ("state", "message", "subset", "images_per_s", "written_at")}
        if last
        else None,
    }


def missing_rows(output: Folder) -> str:
    """How many images have no row yet, in words; empty for a complete output, and for one of a trial run."""
    plan = load_plan(output)
    if plan is None or (output.exists(SUMMARY_FILE) and json.loads(output.read(SUMMARY_FILE)).get("subset")):
        return ""
    done = done_by_shard(list_units(output))
    complete, expected = _coverage(plan, done)
    if complete == len(plan.shards):
        return ""
    return "some images" if expected is None else counted(expected - sum(one.rows for one in done.values()), "image")


def _coverage(plan: Plan, done: dict[int, Done]) -> tuple[int, int | None]:
    """How many shards are complete, and how many images the plan has; None while some tar is not counted."""
    plan.fill_counts(done)
    counts = [shard.images for shard in plan.shards]
    complete = sum(done.get(shard.number, Done()).complete for shard in plan.shards)
    return complete, None if None in counts else sum(count for count in counts if count is not None)


def _state(writer: Writer | None, last: str | None) -> str | None:
    """running, done, failed, stopped, or killed: the run ended without writing why. None if nothing says.

    last: the state in `summary.json`, which a killed run leaves as it was when it was written last.
    """
    if writer is not None:
        return "running" if writer.alive else "killed"
    return "killed" if last == "running" else last
