"""The journey of one image, top to bottom. Read this file first.

    job.yaml -> plan -> read -> prepare -> infer (one actor pool a task) -> draw and write
                (driver) (tasks)  (tasks)   (actors)                         (tasks)

A unit of consecutive images is one row of the Ray dataset from `read` on, and one file in the end. Ray Data
streams, schedules, holds back and retries; the plan, the stages and the sink are ours. The last stage returns
a small report for each unit, which the driver consumes as they come: that is the progress, the summary, and
what tells when a shard is complete and its files can be merged.
"""

from __future__ import annotations

import json
import logging
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml

from sapiens_ray import plan as planning
from sapiens_ray import stages
from sapiens_ray.config import Job, difference, fingerprint
from sapiens_ray.errors import (
    CheckpointError,
    ConfigError,
    JobFailed,
    OutputError,
    SapiensRayError,
    TooManyErrors,
)
from sapiens_ray.models.checkpoint import Checkpoint, resolve
from sapiens_ray.placement import Placement, connected_cluster, place
from sapiens_ray.plan import Plan, Shard
from sapiens_ray.rows import output_schema
from sapiens_ray.sink import merge_shard, write_unit
from sapiens_ray.sources import Done
from sapiens_ray.storage import Folder
from sapiens_ray.summary import JOB_FILE, Summary, errors_in_files
from sapiens_ray.tasks.seg import Seg
from sapiens_ray.units import Unit, UnitName
from sapiens_ray.version import __version__

if TYPE_CHECKING:
    import ray.data

log = logging.getLogger("sapiens_ray")

MERGES_AT_ONCE = 4


@dataclass
class Prepared:
    """Everything that is known before the first image is read: what `check` shows and `run` runs."""

    job: Job
    output: Folder
    tasks: list[Seg]
    checkpoints: list[Checkpoint]
    plan: Plan
    done: dict[int, Done]
    files: list[UnitName]
    settings: dict[str, Any]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the output files."""
        models = {
            task.column: {"checkpoint": checkpoint.uri.rsplit("/", 1)[-1], "sha256": checkpoint.sha256}
            for task, checkpoint in zip(self.tasks, self.checkpoints, strict=True)
        }
        about = {"fingerprint": fingerprint(self.settings), "models": models, "versions": versions()}
        return output_schema(self.tasks, self.plan.extra_schema, about)

    @property
    def already_done(self) -> int:
        return sum(done.rows for done in self.done.values())

    @property
    def pending(self) -> list[tuple[Shard, Done]]:
        """The shards that are not complete, with what of them is."""
        pairs = ((shard, self.done.get(shard.number, Done())) for shard in self.plan.shards)
        return [(shard, done) for shard, done in pairs if not done.complete]


def prepare_job(job: Job, redo_changed: bool = False) -> Prepared:
    """Resolve the checkpoints, open the output, list the input and subtract what is done. Writes nothing.

    Raises ConfigError (InputError, CheckpointError, OutputError) before any work starts.
    """
    output = open_output(job)
    checkpoints = [
        resolve(options, f"tasks[{position}].checkpoint", job.input.storage_options)
        for position, options in enumerate(job.tasks)
    ]
    settings = job.result_settings([checkpoint.sha256 for checkpoint in checkpoints])
    _refuse_other_results(output, settings)
    old = planning.load_plan(output)
    entries = planning.read_entries(output, [shard.number for shard in old.shards]) if old else ()
    plan = planning.make_plan(job, old, entries, redo_changed)
    files = [name for name in planning.list_units(output) if name.shard not in plan.changed]
    if files and old is None:
        raise OutputError(f"output.uri: {output.uri} holds data files but no plan.parquet; choose another folder")
    done = planning.done_by_shard(files)
    tasks = [Seg(options) for options in job.tasks]
    prepared = Prepared(job, output, tasks, checkpoints, plan, done, files, settings)
    _ = prepared.schema  # a column name that stands twice is refused now, not by the first unit
    prepared.plan = planning.with_counts(plan, done)
    return prepared


def open_output(job: Job) -> Folder:
    """The output folder. Raises OutputError if a Ray job would lose it."""
    uri = job.output.uri
    if "/runtime_resources/working_dir_files/" in uri:
        raise OutputError(
            f"output.uri: {uri} lies in the copy of --working-dir that Ray deletes after the job; "
            "give an absolute path or a URL, e.g. --set output.uri=/data/labels"
        )
    return Folder(uri.rstrip("/"), job.output.storage_options)


def _refuse_other_results(output: Folder, settings: dict[str, Any]) -> None:
    if not output.exists(JOB_FILE):
        return
    try:
        stored = yaml.safe_load(output.read(JOB_FILE))["result_settings"]
    except (yaml.YAMLError, TypeError, KeyError):
        raise OutputError(f"output.uri: {output.join(JOB_FILE)} was not written by sapiens-ray") from None
    if fingerprint(stored) != fingerprint(settings):
        lines = "; ".join(difference(stored, settings))
        raise OutputError(
            f"output.uri: {output.uri} holds results of other settings ({lines}); choose another output.uri, "
            "or go back to the old settings"
        )


def versions() -> dict[str, str]:
    """Versions of what decides the labels."""
    from importlib.metadata import version

    libraries = ("torch", "opencv-python-headless", "numpy", "pyarrow", "ray")
    return {
        "sapiens_ray": __version__,
        "python": platform.python_version(),
        **{library: version(library) for library in libraries},
    }


def save_job(prepared: Prepared) -> None:
    """Write `job.yaml` (resolved, without credentials) and `plan.parquet`; drop what changed shards had."""
    job, output = prepared.job, prepared.output
    record = {
        "job": job.public_dict(),
        "fingerprint": fingerprint(prepared.settings),
        "result_settings": prepared.settings,
        "models": [{"checkpoint": one.uri, "size": one.size, "sha256": one.sha256} for one in prepared.checkpoints],
        "versions": versions(),
    }
    output.write(JOB_FILE, yaml.safe_dump(record, sort_keys=False, allow_unicode=True).encode())
    for file in output.list("data"):
        name = UnitName.parse(file)
        if name is not None and name.shard in prepared.plan.changed:
            output.delete(f"data/{file}")
    planning.save_plan(prepared.plan, output)


# --- the run -----------------------------------------------------------------------------------------------


def run(
    job: Job,
    *,
    address: str | None = None,
    redo_changed: bool = False,
    on_progress: Callable[[Summary], None] | None = None,
    on_ray_ready: Callable[[], None] | None = None,
) -> Summary:
    """Label everything that has no row yet, and return the summary that is also `summary.json`.

    address: Ray cluster to use; default: the one this process is connected to or runs in, else a local one.
    on_progress: called with the summary after every unit, and at least once.
    Raises ConfigError before any work, JobFailed if the job could not finish, TooManyErrors if it finished
    with more error rows than `max_error_fraction`.
    """
    prepared = prepare_job(job, redo_changed)
    save_job(prepared)
    output = prepared.output
    for folder in ("data", "visualizations"):
        output.sweep(folder)
    summary = Summary(
        name=job.name,
        output=output.uri,
        expected=planning.expected_images(prepared.plan, job.input),
        already_done=prepared.already_done,
        errors=errors_in_files(output, prepared.files),
    )
    progress = on_progress or (lambda _: None)
    try:
        summary.write(output)
        progress(summary)
        if prepared.pending or _unmerged(prepared.files):
            _label(prepared, summary, progress, address, on_ray_ready)
        _finish(prepared, summary)
    except BaseException as error:
        summary.state = "stopped" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"
        summary.message = str(error)
        raise
    finally:
        summary.write(output)
        progress(summary)
    return summary


def _unmerged(files: list[UnitName]) -> dict[int, list[UnitName]]:
    """Complete shards that still lie in several files."""
    parts: dict[int, list[UnitName]] = defaultdict(list)
    for name in files:
        parts[name.shard].append(name)
    done = planning.done_by_shard(files)
    return {shard: names for shard, names in parts.items() if len(names) > 1 and done[shard].complete}


def _label(
    prepared: Prepared,
    summary: Summary,
    progress: Callable[[Summary], None],
    address: str | None,
    on_ray_ready: Callable[[], None] | None,
) -> None:
    """Run the Ray part: label the pending shards, merge the complete ones."""
    start_ray(address)
    if on_ray_ready:
        on_ray_ready()
    merger = Merger(prepared.output, prepared.done)
    for parts in _unmerged(prepared.files).values():
        merger.start(parts)
    for name in prepared.files:
        merger.know(name)
    if prepared.pending:
        placement = place(prepared.job, connected_cluster())
        last_write = 0.0
        for report in execute(prepared, placement):
            summary.add(report)
            merger.add(report["file"])
            summary.tick()
            if summary.elapsed - last_write > 5:
                last_write = summary.elapsed
                summary.write(prepared.output)
            progress(summary)
    merger.wait()


def start_ray(address: str | None = None) -> None:
    """Connect to the cluster this process belongs to, or start one on this machine."""
    # Ray's C++ side writes advice about its own actors to the terminal, at the level of errors.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address or os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, **quiet)
    else:
        ray.init(address="local", include_dashboard=False, **quiet)


def execute(prepared: Prepared, placement: Placement) -> Iterator[dict[str, Any]]:
    """Build the dataset and yield the report of every unit when it is written.

    Raises JobFailed, or the CheckpointError an actor met.
    """
    import ray

    dataset = build_dataset(prepared, placement)
    try:
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for text in block["report"].to_pylist():
                yield json.loads(text)
    except ray.exceptions.RayError as error:
        raise _explain(error) from error


def build_dataset(prepared: Prepared, placement: Placement) -> ray.data.Dataset:
    """The pipeline as a lazy Ray dataset of one-row blocks: a row is a shard first, then a unit, then a report."""
    import ray

    configure_ray_data()
    job, tasks, schema = prepared.job, prepared.tasks, prepared.schema
    work = [
        {"shard": asdict(shard), "ranges": [list(span) for span in done.ranges], "total": done.total}
        for shard, done in prepared.pending
    ]
    dataset = ray.data.from_items(work, override_num_blocks=len(work))
    one = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}
    dataset = dataset.map_batches(
        partial(
            _read_block,
            settings=job.input,
            output=prepared.output,
            unit_size=prepared.plan.unit_size,
            extra=prepared.plan.extra_schema,
        ),
        num_cpus=placement.read_cpus,
        **one,
    )
    dataset = dataset.map_batches(
        partial(_prepare_block, tasks=tasks, max_pixels=job.max_pixels), num_cpus=placement.work_cpus, **one
    )
    for position, (task, checkpoint, pool) in enumerate(
        zip(tasks, prepared.checkpoints, placement.pools, strict=True)
    ):
        needed_later = any(later.input_kind == task.input_kind for later in tasks[position + 1 :])
        dataset = dataset.map_batches(
            _InferBlock,
            fn_constructor_args=(task, checkpoint, pool.device, pool.threads, not needed_later),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
            compute=ray.data.ActorPoolStrategy(
                size=pool.actors,
                max_concurrent_calls_per_actor=2,  # builds one unit's rows while the other's batches run
                max_tasks_in_flight_per_actor=4,
            ),
            **one,
        )
    return dataset.map_batches(
        partial(_write_block, tasks=tasks, visualize=job.output.visualize, schema=schema, output=prepared.output),
        num_cpus=placement.work_cpus,
        **one,
    )


def configure_ray_data() -> None:
    """Settings of Ray Data for this job."""
    import ray

    context = ray.data.DataContext.get_current()
    # Smaller than any unit: every unit is a block of its own, written downstream as soon as it is made.
    context.target_max_block_size = 1
    context.max_consecutive_actor_init_deaths = 5  # by default the first death while a model loads ends the job
    context.execution_no_progress_timeout_s = 7200  # by default a job that waits half an hour for GPUs fails
    context.enable_progress_bars = False  # ours counts images
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _read_block(
    block: pa.Table, settings: Any, output: Folder, unit_size: int, extra: pa.Schema
) -> Iterator[pa.Table]:
    row = block.to_pylist()[0]
    shard = Shard(**row["shard"])
    done = Done(tuple((start, stop) for start, stop in row["ranges"]), row["total"])
    for unit in stages.read_units(shard, done, settings, output, unit_size, extra):
        yield unit.to_block()


def _prepare_block(block: pa.Table, tasks: list[Seg], max_pixels: int) -> pa.Table:
    import cv2

    cv2.setNumThreads(1)  # one task a core; more threads would only fight
    return stages.prepare(Unit.from_block(block), tasks, max_pixels).to_block()


class _InferBlock:
    def __init__(self, *args: Any) -> None:
        self.infer = stages.Infer(*args)

    def __call__(self, block: pa.Table) -> pa.Table:
        return self.infer(Unit.from_block(block)).to_block()


def _write_block(block: pa.Table, tasks: list[Seg], visualize: Any, schema: pa.Schema, output: Folder) -> pa.Table:
    import cv2

    cv2.setNumThreads(1)
    unit, pictures = stages.draw(Unit.from_block(block), tasks, visualize)
    return pa.table({"report": [json.dumps(write_unit(unit, pictures, schema, output))]})


class Merger:
    """Merges the files of a shard as soon as it is complete, in Ray tasks beside the pipeline."""

    def __init__(self, output: Folder, done: dict[int, Done]) -> None:
        self.output = output
        self.parts: dict[int, set[UnitName]] = defaultdict(set)
        self.running: list[Any] = []

    def know(self, name: UnitName) -> None:
        self.parts[name.shard].add(name)

    def add(self, file: str) -> None:
        """Take note of a written unit; starts the merge if it was the last one missing."""
        name = UnitName.parse(file)
        assert name is not None
        self.know(name)
        parts = sorted(self.parts[name.shard])
        if parts[-1].last and planning.done_by_shard(parts)[name.shard].complete:
            self.start(parts)

    def start(self, parts: list[UnitName]) -> None:
        import ray

        if len(parts) < 2:
            return
        if len(self.running) >= MERGES_AT_ONCE:
            _, self.running = ray.wait(self.running, num_returns=1)
        # No CPU reserved: it mostly waits for storage, and must not starve on a machine with one CPU.
        merge = ray.remote(num_cpus=0, max_retries=3)(merge_shard)
        self.running.append(merge.remote(self.output, parts))

    def wait(self) -> None:
        """Wait for the merges. Raises JobFailed if one could not be done; its rows are all there, in parts."""
        import ray

        try:
            ray.get(self.running)
        except ray.exceptions.RayError as error:
            raise JobFailed(f"merging the files of a shard failed: {_last_line(error)}; run again to go on") from error


def _finish(prepared: Prepared, summary: Summary) -> None:
    """Check from the files that every image has its row, and settle the summary."""
    output = prepared.output
    parsed = [UnitName.parse(file) for file in output.list("data")]
    counted, inside = planning.current([name for name in parsed if name is not None])
    for name in inside:  # left by a merge that was killed, or a late write of a dead driver's worker
        output.delete(f"data/{name.file}")
    done = planning.done_by_shard(counted)
    missing = [shard for shard in prepared.plan.shards if not done.get(shard.number, Done()).complete]
    if missing:
        raise JobFailed(f"{len(missing)} shards are not complete, the first is {missing[0].uri}; run again to go on")
    summary.expected = sum(one.rows for one in done.values())
    summary.state = "done"
    fraction = summary.failed / max(1, summary.images)
    if fraction > prepared.job.max_error_fraction:
        raise TooManyErrors(
            f"{summary.failed} of {summary.images} images are error rows, more than max_error_fraction = "
            f"{prepared.job.max_error_fraction:g}; everything written is kept in {output.uri}"
        )


def _explain(error: Exception) -> SapiensRayError:
    """What a failure inside Ray means: our own exception if one caused it, else JobFailed with the last line."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, SapiensRayError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    for line in reversed(str(error).splitlines()):
        if "CheckpointError:" in line:
            return CheckpointError(line.split("CheckpointError:", 1)[1].strip())
        if "ConfigError:" in line:
            return ConfigError(line.split("ConfigError:", 1)[1].strip())
    return JobFailed(f"{_last_line(error)}; what is written stays, run again to go on")


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__
