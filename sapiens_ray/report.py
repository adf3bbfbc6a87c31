"""What `check`, `status` and the end of `run` print."""

from __future__ import annotations

import json
import shutil
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from sapiens_ray import plan as planning
from sapiens_ray.cluster import Cluster, Placement, connected_cluster, place, start_ray, this_machine
from sapiens_ray.config import Job
from sapiens_ray.done import done_by_shard, with_units
from sapiens_ray.errors import CheckpointError, OutputError
from sapiens_ray.models.checkpoint import Checkpoint
from sapiens_ray.preflight import Prepared, prepare_job
from sapiens_ray.sources import Done
from sapiens_ray.storage import Folder, asking
from sapiens_ray.summary import SUMMARY_FILE, Summary, duration, errors_in_files
from sapiens_ray.tasks import Task
from sapiens_ray.tasks.dense import FloatMapOptions
from sapiens_ray.tasks.options import ModelOptions
from sapiens_ray.tasks.persons import DetectorOptions
from sapiens_ray.tasks.pose import PoseOptions

# Order of magnitude, seen with small stand-in models: pictures at max_side 1280 have 200 to 340 kB.
PICTURE_BYTES = 250_000


def _grid(title: str) -> Table:
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify, table.title_style = title, "left", "bold"
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _print(table: Table) -> None:
    plain: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False}  # paths may hold [brackets]
    console = Console(**plain)
    if not console.is_terminal:
        console = Console(width=200, **plain)  # no terminal, no width: do not break paths in logs
    console.print(table)


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def print_summary(summary: Summary) -> None:
    """The end of a run."""
    table = _grid("")
    finished = "done" if summary.labelled else "done: every image had its row already"
    what = {"done": finished, "failed": "not finished", "stopped": "stopped"}.get(summary.state, summary.state)
    table.add_row("state", what)
    table.add_row("images", f"{summary.images} ({summary.images - summary.failed} ok, {summary.failed} errors)")
    for kind, count in sorted(summary.errors.items()):
        table.add_row("", f"{count} {kind}")
    if summary.already_done:
        table.add_row("already done", str(summary.already_done))
    if summary.repeated:
        table.add_row("repeated", f"{summary.repeated} times a unit or shard, because its worker died")
    if summary.labelled:
        table.add_row("time", f"{duration(summary.elapsed)}, {summary.rate:.2f} images/s")
        stages = ", ".join(f"{stage} {1000 * spent:.0f}" for stage, spent in summary.stages.items())
        table.add_row("ms an image", stages)
    table.add_row("labels", f"{summary.output}/data/*.parquet")
    table.add_row("pictures", f"{summary.output}/visualizations/")
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    code = f"import sapiens_ray as sr; print(sr.read_labels({summary.output!r}).iloc[0])"
    if summary.images and "://" not in summary.output:  # a store may want options that are not to be printed
        table.add_row("read a row", f'{python} -c "{code}"')
    _print(table)


def print_plan(job: Job, address: str | None, load: bool) -> None:
    """What `run` would do. Raises what `run` would raise before it starts."""
    prepared = prepare_job(job)
    prepared.growth.discard()
    cluster = _cluster(address)
    placement = place(job, cluster)
    expected = planning.expected_images(prepared.plan, job.input)
    table = _grid(f"{job.name}: ready to run" if prepared.pending else f"{job.name}: nothing left to do")
    table.add_row("input", "\n".join(job.input.uri))
    shards = len(prepared.plan.shards)
    formats = ", ".join(sorted({shard.format for shard in prepared.plan.shards}))
    count = str(expected) if expected is not None else "counted when read"
    table.add_row("images", f"{count} in {shards} shard{'s' if shards != 1 else ''} ({formats})")
    table.add_row("already done", f"{prepared.already_done} images, {shards - len(prepared.pending)} whole shards")
    for task, checkpoint in zip(prepared.tasks, prepared.checkpoints, strict=False):
        table.add_row("task", f"{task.column}: {task.options.task}, {_mode(task.options)}{_about(task.options)}")
        _add_file(table, checkpoint)
        if load:
            table.add_row("", _load(task, checkpoint))
    for detector, checkpoint in zip(job.detectors, prepared.checkpoints[len(prepared.tasks) :], strict=True):
        table.add_row("detector", f"{detector.model}, label {detector.label}, score from {detector.score:g}")
        _add_file(table, checkpoint)
        if load:
            table.add_row("", _load_detector(detector, checkpoint))
    for line in _needs(placement, cluster, prepared):
        table.add_row("actors", line)
    table.add_row("output", prepared.output.uri)
    table.add_row("", _output_estimate(job, prepared, expected))
    _print(table)


def _add_file(table: Table, checkpoint: Checkpoint) -> None:
    table.add_row("  checkpoint", checkpoint.uri)
    table.add_row("", f"{size(checkpoint.size)}, sha256 {checkpoint.sha256}")


def _mode(options: ModelOptions) -> str:
    return f"mode {options.mode}" + (f", compile {options.compile}" if options.compile != "none" else "")


def _about(options: Any) -> str:
    """Where a task looks for persons, for `check`."""
    if isinstance(options, PoseOptions):
        boxes = options.boxes
        named = boxes.column or boxes.seg or (boxes.detector.model if boxes.detector else "the whole image is one")
        return f", {options.keypoints} keypoints, persons: {boxes.source} ({named}), crop {options.crop}"
    if isinstance(options, FloatMapOptions):
        mask = options.mask
        where = mask.seg or mask.column or mask.folder
        return f", foreground: {mask.source}" + (f" ({where})" if where else "")
    return ""


def _cluster(address: str | None) -> Cluster:
    import os

    if address or os.environ.get("RAY_ADDRESS"):
        start_ray(address)
        return connected_cluster()
    return this_machine()


def _needs(placement: Placement, cluster: Cluster, prepared: Prepared) -> list[str]:
    lines = []
    for model, pool in zip(prepared.job.models, placement.pools, strict=True):
        gpu = f"{pool.num_gpus:g} GPU and " if pool.num_gpus else ""
        lines.append(f"{model.column}: {pool.actors} x ({gpu}{pool.num_cpus:g} CPU)")
    cpus = sum(pool.actors * pool.num_cpus for pool in placement.pools)
    gpus = sum(pool.actors * pool.num_gpus for pool in placement.pools)
    lines.append(
        f"need {gpus:g} GPUs and {cpus + placement.work_cpus:g} CPUs or more; "
        f"{cluster.where} has {cluster.gpus:g} and {cluster.cpus:g}"
    )
    return lines


def _output_estimate(job: Job, prepared: Prepared, expected: int | None) -> str:
    drawn = sum(options.task != "features" for options in job.tasks)
    pictures = PICTURE_BYTES * drawn * job.output.visualize.fraction
    labels_each = sum(options.stored_bytes(2_000_000) for options in job.tasks)
    an_image = labels_each + pictures
    if expected is None:
        return f"about {size(an_image)} an image with its pictures"
    left = max(0, expected - prepared.already_done)
    labels = left * labels_each
    return f"about {size(labels)} of labels and {size(left * pictures)} of pictures to come"


def _load(task: Task, checkpoint: Checkpoint) -> str:
    """Run the model once on a black image."""
    from sapiens_ray.models.runner import Runner

    started = time.perf_counter()
    runner = Runner(checkpoint.local_file(), "auto", 1, mode=task.options.mode)
    loaded = time.perf_counter() - started
    height, width = task.options.network_size
    started = time.perf_counter()
    try:
        output = task.check_output(*runner.warm_up(height, width))
    except RuntimeError as error:
        last = str(error).splitlines()[-1]
        raise CheckpointError(f"{checkpoint.uri} cannot run a {height} x {width} image: {last}") from None
    shape = " x ".join(map(str, output.shape))
    spent = time.perf_counter() - started
    return f"loads in {loaded:.1f} s on {runner.device.type}, one image gives {shape} in {spent:.2f} s"


def _load_detector(options: DetectorOptions, checkpoint: Checkpoint) -> str:
    """Run the detector once on a black photo."""
    import numpy as np

    from sapiens_ray.models.detectors import Detector

    started = time.perf_counter()
    detector = Detector(options, checkpoint.local_file(), "auto")
    loaded = time.perf_counter() - started
    started = time.perf_counter()
    try:
        found = detector(np.zeros((480, 640, 3), np.uint8))
    except Exception as error:
        last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise CheckpointError(f"{checkpoint.uri} cannot run a 480 x 640 x 3 photo: {last[0]}") from None
    spent = time.perf_counter() - started
    return f"loads in {loaded:.1f} s, finds {len(found)} persons in a black photo in {spent:.2f} s"


def output_status(output: Folder) -> dict[str, Any]:
    """The state of an output folder from its files alone, also while a job writes to it."""
    with asking(OutputError, f"cannot read {output.uri}"):
        plan = planning.load_plan(output)
    if plan is None:
        raise OutputError(f"{output.uri} is not an output folder of sapiens-ray: it has no {planning.PLAN_FILE}")
    done, errors = with_units(output, lambda files: (done_by_shard(files), errors_in_files(output, files)))
    plan.fill_counts(done)
    rows = sum(one.rows for one in done.values())
    counts = [shard.images for shard in plan.shards]
    complete = sum(done.get(shard.number, Done()).complete for shard in plan.shards)
    last = json.loads(output.read(SUMMARY_FILE)) if output.exists(SUMMARY_FILE) else {}
    return {
        "output": output.uri,
        "images": rows,
        "expected": None if None in counts else sum(count for count in counts if count is not None),
        "ok": rows - sum(errors.values()),
        "errors": dict(sorted(errors.items())),
        "shards": len(plan.shards),
        "shards_complete": complete,
        "complete": complete == len(plan.shards),
        "last_run": {key: last.get(key) for key in ("state", "message", "images_per_s", "written_at")}
        if last
        else None,
    }


def print_status(status: dict[str, Any]) -> None:
    """`output_status` for people."""
    table = _grid(status["output"])
    expected = status["expected"]
    share = f" of {expected} ({100 * status['images'] / expected:.1f} %)" if expected else ""
    table.add_row("images", f"{status['images']}{share}: {status['ok']} ok, {sum(status['errors'].values())} errors")
    for kind, count in status["errors"].items():
        table.add_row("", f"{count} {kind}")
    table.add_row("shards", f"{status['shards_complete']} of {status['shards']} complete")
    last = status["last_run"]
    if status["complete"]:
        table.add_row("state", "complete")
    elif last:
        message = f" ({last['message']})" if last["message"] else ""
        table.add_row("state", f"{last['state']}{message}, last word {last['written_at']}")
    _print(table)
