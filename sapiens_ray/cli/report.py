"""The output of `check` and `status`, and the final output of `run`."""

from __future__ import annotations

import os
import shutil
import sys

from rich.table import Table

from sapiens_ray.cli.console import grid, show, size
from sapiens_ray.engine.models import DetectorModel, TaskModel
from sapiens_ray.engine.trial import try_model
from sapiens_ray.execution.cluster import Cluster, connected_cluster, start_ray, this_machine
from sapiens_ray.execution.placement import ResourcePlan, plan_resources
from sapiens_ray.execution.preflight import PreparedJob, open_output, prepare_job
from sapiens_ray.job.config import Job
from sapiens_ray.models.checkpoint import Checkpoint
from sapiens_ray.output.layout import DATA, PICTURES
from sapiens_ray.output.lock import try_to_write
from sapiens_ray.output.summary import Summary, duration
from sapiens_ray.planning.status import Status
from sapiens_ray.planning.subset import Subset

# Order of magnitude, measured on a photo of 12 megapixels: pictures at max_side 1280 take 230 to 440 kB.
PICTURE_BYTES = 350_000


def print_summary(summary: Summary) -> None:
    """Print the result of a run."""
    table = grid("")
    finished = "done" if summary.labelled else "done: every image already had its row"
    what = {"done": finished, "failed": "not finished", "stopped": "stopped"}.get(summary.state, summary.state)
    table.add_row("state", what)
    table.add_row("images", f"{summary.images} ({summary.images - summary.failed} ok, {summary.failed} errors)")
    for kind, count in sorted(summary.errors.items()):
        table.add_row("", f"{count} {kind}")
    if summary.already_done:
        table.add_row("already done", str(summary.already_done))
    if summary.repeated:
        table.add_row("repeated", f"{summary.repeated} units or shards, because their worker died")
    if summary.labelled:
        table.add_row("time", f"{duration(summary.elapsed)}, {summary.rate:.2f} images/s")
        stages = ", ".join(f"{stage} {1000 * spent:.0f}" for stage, spent in summary.stages.items())
        table.add_row("ms per image", stages)
    table.add_row("labels", f"{summary.output}/{DATA}/*.parquet")
    table.add_row("pictures", f"{summary.output}/{PICTURES}/")
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    code = f"import sapiens_ray as sr; print(sr.read_labels({summary.output!r}).iloc[0])"
    if summary.images and "://" not in summary.output:  # object stores may need options that must not be printed
        table.add_row("read a row", f'{python} -c "{code}"')
    show(table)


def print_plan(job: Job, address: str | None, load: bool, subset: Subset | None = None) -> None:
    """Print what `run` would do. Raises the errors that `run` would raise before it starts."""
    try_to_write(open_output(job))
    prepared = prepare_job(job, subset=subset, download=load)
    prepared.growth.discard()
    cluster = _cluster(address)
    resources = plan_resources(job, cluster)
    expected = prepared.expected
    table = grid(f"{job.name}: ready to run" if prepared.pending else f"{job.name}: nothing left to do")
    table.add_row("input", "\n".join(job.input.uri))
    shards = len(prepared.plan.shards)
    formats = ", ".join(sorted({shard.format for shard in prepared.plan.shards}))
    count = str(expected) if expected is not None else "counted when read"
    which = f"; {subset}" if subset else ""
    table.add_row("images", f"{count} in {shards} shard{'s' if shards != 1 else ''} ({formats}){which}")
    if prepared.growth.left_out.hidden:
        table.add_row("", str(prepared.growth.left_out))
    table.add_row("already done", f"{prepared.already_done} images, {shards - len(prepared.pending)} whole shards")
    for model in prepared.models:
        table.add_row(*(_task(model) if isinstance(model, TaskModel) else _detector(model)))
        table.add_row("  checkpoint", model.checkpoint.uri)
        table.add_row("", _file(model.checkpoint))
        if load:
            table.add_row("", try_model(model))
    missing = {model.checkpoint.uri: model.checkpoint for model in prepared.models if not model.checkpoint.is_here}
    if missing:
        total = size(sum(checkpoint.size for checkpoint in missing.values()))
        count = f"{len(missing)} checkpoint{'s' if len(missing) > 1 else ''}"
        table.add_row("downloads", f"{count}, about {total}, when the job runs (--load: now)")
    _add_resources(table, resources, cluster, prepared)
    table.add_row("output", prepared.output.uri)
    table.add_row("", _output_estimate(job, prepared, expected))
    show(table)


def _file(checkpoint: Checkpoint) -> str:
    if checkpoint.is_here:
        return f"{size(checkpoint.size)}, sha256 {checkpoint.sha256}"
    return f"about {size(checkpoint.size)}, not on this machine" if checkpoint.size else "not on this machine"


def _task(model: TaskModel) -> tuple[str, str]:
    options = model.options
    compiled = f", compile {options.compile}" if options.compile != "none" else ""
    description = f", {options.description}" if options.description else ""
    return "task", f"{model.column}: {options.task}, mode {options.mode}{compiled}{description}"


def _detector(model: DetectorModel) -> tuple[str, str]:
    options = model.options
    return "detector", f"{options.model}, label {options.label}, score at least {options.score:g}"


def _cluster(address: str | None) -> Cluster:
    if address or os.environ.get("RAY_ADDRESS"):
        start_ray(address)
        return connected_cluster()
    return this_machine()


def _add_resources(table: Table, resources: ResourcePlan, cluster: Cluster, prepared: PreparedJob) -> None:
    for model, pool in zip(prepared.job.models, resources.pools, strict=True):
        gpu = f"{pool.num_gpus:g} GPU and " if pool.num_gpus else ""
        table.add_row("actors", f"{model.column}: {pool.actors} x ({gpu}{pool.num_cpus:g} CPU)")
    cpus = sum(pool.actors * pool.num_cpus for pool in resources.pools)
    gpus = sum(pool.actors * pool.num_gpus for pool in resources.pools)
    table.add_row(
        "actors",
        f"need {gpus:g} GPUs and at least {cpus + resources.work_cpus:g} CPUs; "
        f"{cluster.where} has {cluster.gpus:g} and {cluster.cpus:g}",
    )


def _output_estimate(job: Job, prepared: PreparedJob, expected: int | None) -> str:
    drawn = sum(options.draws for options in job.tasks)
    pictures = PICTURE_BYTES * drawn * job.output.visualize.fraction
    per_image = sum(options.stored_bytes(2_000_000) for options in job.tasks)
    if expected is None:
        return f"about {size(per_image + pictures)} per image with its pictures"
    left = max(0, expected - prepared.already_done)
    return f"about {size(left * per_image)} of labels and {size(left * pictures)} of pictures still to write"


def print_status(status: Status) -> None:
    """Print the status of an output as a table."""
    table = grid(status["output"])
    expected = status["expected"]
    share = f" of {expected} ({100 * status['images'] / expected:.1f} %)" if expected else ""
    table.add_row("images", f"{status['images']}{share}: {status['ok']} ok, {sum(status['errors'].values())} errors")
    for kind, count in status["errors"].items():
        table.add_row("", f"{count} {kind}")
    table.add_row("shards", f"{status['shards_complete']} of {status['shards']} complete")
    last = status["last_run"]
    if status["complete"] and not (last and last["subset"]):
        table.add_row("state", "complete")
    elif last:
        why = ", ".join(text for text in (last["subset"], last["message"]) if text)
        message = f" ({why})" if why else ""
        table.add_row("state", f"{last['state']}{message}, last written {last['written_at']}")
    show(table)
