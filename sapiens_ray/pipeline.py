"""The journey of one image, top to bottom. Read this file first.

    job.yaml -> plan -> read -> prepare -> infer (one actor pool a model) -> draw and write
                (driver) (tasks)  (tasks)   (actors)                          (tasks)

A unit of consecutive images is one row of the Ray dataset from `read` on, and one file in the end. Ray Data
streams, schedules, holds back and retries; the plan, the stages and the sink are ours. The last stage returns
a small report for each unit, which the driver consumes as they come: that is the progress, the summary, and
what tells when a shard is complete and its files can be merged.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sapiens_ray import errors, inference, stages
from sapiens_ray import plan as planning
from sapiens_ray.attempts import forget
from sapiens_ray.blocks import Guard, ModelBlock, prepare_block, read_block, shard_blocks, write_block
from sapiens_ray.cluster import ActorNeeds, Placement, connected_cluster, last_line, place, start_ray
from sapiens_ray.config import Job
from sapiens_ray.coordinator import Feeder, attempts_at, start_coordinator
from sapiens_ray.done import current, done_by_shard
from sapiens_ray.errors import JobFailed, SapiensRayError, StorageFailed, TooManyErrors
from sapiens_ray.lock import OutputLock
from sapiens_ray.merging import Merger
from sapiens_ray.models.checkpoint import Checkpoint
from sapiens_ray.preflight import Prepared, open_output, prepare_job, save_job
from sapiens_ray.redo import delete_results, drop_error_rows
from sapiens_ray.retries import once, set_patience
from sapiens_ray.sources import Done
from sapiens_ray.storage import Folder
from sapiens_ray.summary import Summary, errors_in_files
from sapiens_ray.units import PHOTO, UnitName
from sapiens_ray.uris import shown, shown_in

if TYPE_CHECKING:
    import ray.data


# Ray Data tries for ever what kills its worker. Stages count by themselves (`attempts.py`); these bound what happens
# before they do. A call of an actor counts as tried whenever the actor dies, whichever image was the cause.
TASK_RETRIES = 1000
ACTOR_TASK_RETRIES = -1
LISTING_S = 10.0  # the input is listed for so long before the first image is read, and beside the work after that
FEED_CPUS = 0.001


def run(
    job: Job,
    *,
    address: str | None = None,
    redo_changed: bool = False,
    retry_errors: bool = False,
    restart: bool = False,
    on_progress: Callable[[Summary], None] | None = None,
    on_ray_ready: Callable[[], None] | None = None,
) -> Summary:
    """Label everything that has no row yet, and return the summary that is also `summary.json`.

    address: Ray cluster to use; default: the one this process is connected to or runs in, else a local one.
    redo_changed: label tars and Parquet files again that changed since they were planned.
    retry_errors: label the images of error rows again. restart: delete what earlier runs wrote, and begin anew.
    on_progress: called with the summary after every unit, and at least once.
    Raises ConfigError before any work, also if another run holds the output, JobFailed if the job could not finish,
    TooManyErrors if it finished with more error rows than `max_error_fraction`.
    """
    set_patience(job.storage_retry_s)
    output = open_output(job)
    with OutputLock(output) as lock, contextlib.ExitStack() as cleanup:
        prepared = prepare_job(job, redo_changed, LISTING_S, restart)
        cleanup.callback(prepared.growth.discard)
        if restart:
            delete_results(output)
        elif retry_errors:
            drop_error_rows(output)
            prepared.recount()
        save_job(prepared)
        summary = Summary(
            name=job.name,
            output=output.uri,
            expected=planning.expected_images(prepared.plan, job.input) if prepared.growth.ended else None,
            already_done=prepared.already_done,
            errors=errors_in_files(output, prepared.files),
        )
        progress = on_progress or (lambda _: None)
        try:
            summary.write(output)
            progress(summary)
            merger = Merger(output, prepared.files, lock.run)
            if prepared.pending or merger.ready() or not prepared.growth.ended:
                _label(prepared, summary, merger, progress, address, on_ray_ready, lock)
            lock.check()
            _finish(prepared, summary)
        except BaseException as error:
            if not isinstance(error, TooManyErrors):  # every image has its row: the state stays "done"
                summary.state = "failed" if isinstance(error, Exception) else "stopped"
            summary.message = shown_in(str(error))
            with contextlib.suppress(Exception), once():  # what went wrong matters more
                if not lock.lost:
                    summary.write(output)
            raise
        else:
            summary.write(output)
        finally:
            progress(summary)
    return summary


def _label(
    prepared: Prepared,
    summary: Summary,
    merger: Merger,
    progress: Callable[[Summary], None],
    address: str | None,
    on_ray_ready: Callable[[], None] | None,
    lock: OutputLock,
) -> None:
    """Run the Ray part: label the pending shards, merge the complete ones."""
    start_ray(address)
    if on_ray_ready:
        on_ray_ready()
    for shard in merger.ready():
        merger.start(shard)
    if prepared.pending or not prepared.growth.ended:
        placement = place(prepared.job, connected_cluster())
        last_write = 0.0
        counted = prepared.growth.ended
        for report in execute(prepared, placement, lock):
            lock.check()
            if not counted and prepared.growth.ended:
                counted = True
                summary.expected = planning.expected_images(prepared.plan, prepared.job.input)
            summary.add(report)
            merger.add(report["file"])
            if summary.elapsed - last_write > 5:
                last_write = summary.elapsed
                summary.write(prepared.output)
            progress(summary)
    merger.wait()


def execute(prepared: Prepared, placement: Placement, lock: OutputLock) -> Iterator[dict[str, Any]]:
    """Build the dataset and yield the report of every unit when it is written.

    Raises JobFailed, the CheckpointError an actor met, or what ended the listing that goes on meanwhile.
    """
    import ray

    coordinator = start_coordinator()
    feeder = Feeder(coordinator, prepared.work(lock.check))
    try:
        with settings_of_ray_data():
            dataset = build_dataset(prepared, placement, coordinator, lock.run)
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for text in pa.table(block)["report"].to_pylist():
                yield {**json.loads(text), "repeated": feeder.repeated}
    except ray.exceptions.RayError as error:
        raise _explain(error) from error
    finally:
        prepared.growth.stop()
        feeder.stop()
    if feeder.failed is not None:
        raise feeder.failed


def build_dataset(prepared: Prepared, placement: Placement, coordinator: Any, run_id: str) -> ray.data.Dataset:
    """The pipeline as a lazy Ray dataset of one-row blocks: a row is a shard first, then a unit, then a report."""
    import ray

    job, tasks, output = prepared.job, prepared.tasks, prepared.output
    guard = Guard(output, attempts_at(coordinator), job.image_timeout_s, job.storage_retry_s)
    one: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}
    task_stage = {**one, "ray_remote_args_fn": partial(dict, max_retries=TASK_RETRIES)}
    dataset: ray.data.Dataset = ray.data.from_items([{"coordinator": 0}], override_num_blocks=1)
    dataset = dataset.map_batches(partial(shard_blocks, coordinator=coordinator), num_cpus=FEED_CPUS, **task_stage)
    dataset = dataset.map_batches(
        partial(
            read_block,
            settings=job.input,
            unit_size=prepared.plan.unit_size,
            extra=prepared.plan.extra_schema,
            wanted=stages.Wanted.of(job),
            guard=guard,
        ),
        num_cpus=placement.read_cpus,
        **task_stage,
    )
    dataset = dataset.map_batches(
        partial(prepare_block, tasks=tasks, max_pixels=job.max_pixels, guard=guard),
        num_cpus=placement.work_cpus,
        **task_stage,
    )
    models = in_order(prepared, placement)
    for position, model in enumerate(models):
        last_of_kind = all(later.input_kind != model.input_kind for later in models[position + 1 :])
        pool = model.pool
        dataset = dataset.map_batches(
            ModelBlock,
            fn_constructor_args=(
                guard,
                model.stage,
                model.what,
                model.checkpoint,
                pool.device,
                pool.threads,
                last_of_kind,
                cache_of(job),
            ),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
            compute=ray.data.ActorPoolStrategy(
                size=pool.actors,
                max_concurrent_calls_per_actor=2,  # builds one unit's rows while the other's batches run
                max_tasks_in_flight_per_actor=4,
            ),
            ray_remote_args_fn=partial(dict, max_task_retries=ACTOR_TASK_RETRIES, max_restarts=-1),
            **one,
        )
    return dataset.map_batches(
        partial(
            write_block,
            tasks=tasks,
            visualize=job.output.visualize,
            unique_ids=job.input.id_column is None,
            schema=prepared.schema,
            run=run_id,
            guard=guard,
        ),
        num_cpus=placement.work_cpus,
        **task_stage,
    )


@dataclass(frozen=True)
class Model:
    """One actor pool: what its actors are made of."""

    stage: type[inference.Infer] | type[inference.Detect]
    what: Any  # the task, or the options of the detector
    input_kind: str
    checkpoint: Checkpoint
    pool: ActorNeeds


def in_order(prepared: Prepared, placement: Placement) -> list[Model]:
    """The models of a job in the order in which a unit meets them: detectors, then tasks by `inference.rank`."""
    tasks, detectors = prepared.tasks, prepared.job.detectors
    models = [
        *(Model(inference.Infer, task, task.input_kind, checkpoint, pool)
          for task, checkpoint, pool in zip(tasks, prepared.checkpoints, placement.pools, strict=False)),
        *(Model(inference.Detect, options, PHOTO, checkpoint, pool) for options, checkpoint, pool in zip(
            detectors, prepared.checkpoints[len(tasks):], placement.pools[len(tasks):], strict=True)),
    ]  # fmt: skip
    return sorted(models, key=lambda model: -1 if model.stage is inference.Detect else inference.rank(model.what))


def cache_of(job: Job) -> Folder | None:
    """Where compiled code is kept for all nodes."""
    return Folder(job.cache.rstrip("/"), job.output.storage_options) if job.cache else None


@contextlib.contextmanager
def settings_of_ray_data() -> Iterator[None]:
    """Settings of Ray Data for datasets made inside; those of the process are put back."""
    import ray.data

    before = ray.data.DataContext.get_current()
    context = before.copy()
    # Smaller than any unit: every unit is a block of its own, sent downstream as soon as it is made.
    context.target_max_block_size = 1
    context.max_consecutive_actor_init_deaths = 5  # by default the first death while a model loads ends the job
    context.execution_no_progress_timeout_s = 7200  # by default a job that waits half an hour for GPUs fails
    context.enable_progress_bars = False  # ours counts images
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # failures reach the user as exceptions
    ray.data.DataContext._set_current(context)
    try:
        with warnings.catch_warnings():
            # The named parameters that are to replace it know no retries; pyproject.toml keeps Ray below 2.64.
            warnings.filterwarnings("ignore", message=".*ray_remote_args_fn.*")
            yield
    finally:
        ray.data.DataContext._set_current(before)


def _finish(prepared: Prepared, summary: Summary) -> None:
    """Check from the files that every image has its row, and settle the summary."""
    output = prepared.output
    parsed = [UnitName.parse(file) for file in output.files("data")]
    counted, inside = current([name for name in parsed if name is not None])
    for folder in ("", "visualizations") if summary.labelled or inside else ("",):
        output.sweep(folder)
    for name in inside:  # left by a merge that was killed, or a late write of a dead driver's worker
        output.delete(f"data/{name.file}")
    done = done_by_shard(counted)
    if not prepared.growth.ended:
        raise JobFailed("the input was not listed to its end; run again to go on")
    missing = [shard for shard in prepared.plan.shards if not done.get(shard.number, Done()).complete]
    if missing:
        raise JobFailed(
            f"{len(missing)} shards are not complete, the first is {shown(missing[0].uri)}; run again to go on"
        )
    forget(output)
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
    import ray

    ours = _our_own(error)
    if isinstance(ours, StorageFailed):
        return StorageFailed(f"{ours}; what is written stays, run again to go on")
    if ours is not None:
        return ours
    if isinstance(error, ray.exceptions.WorkerCrashedError | ray.exceptions.OutOfMemoryError):
        return JobFailed(
            f"a worker died {TASK_RETRIES + 1} times before it began ({last_line(error)}); what is written stays, "
            "`sapiens-ray status` shows it, run again to go on"
        )
    return JobFailed(f"{shown_in(last_line(error))}; what is written stays, run again to go on")


def _our_own(error: Exception) -> SapiensRayError | None:
    """The exception of ours behind one of Ray's."""
    import ray

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, SapiensRayError) and not isinstance(seen, ray.exceptions.RayError):  # some are both
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    for line in reversed(str(error).splitlines()):  # Ray keeps no more than the text of some
        said = re.search(r"sapiens_ray\.errors\.(\w+): (.+)", line)
        kind = getattr(errors, said[1], None) if said else None
        if said and isinstance(kind, type) and issubclass(kind, SapiensRayError):
            return kind(said[2])
    return None
