"""The path of an image through a job. Read this file first.

    job.yaml -> plan -> read -> prepare -> all models -> draw and write
                (driver) (tasks)  (tasks)   (actors)      (tasks)

A unit of consecutive images is one row of the Ray dataset from `read` on, and one file at the end. Ray Data
streams, schedules, applies backpressure and retries; this package plans, implements the stages, and writes. The last
stage returns a small report per unit. From these reports the driver updates the progress and the summary, and learns
when a shard is complete and its files can be merged.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sapiens_ray.errors import DeviceFailedError, ErrorLimitError, JobError
from sapiens_ray.execution.attempts import forget
from sapiens_ray.execution.blocks import REPORT
from sapiens_ray.execution.cluster import Cluster, connected_cluster, start_ray
from sapiens_ray.execution.coordinator import CoordinatorHandle, Feeder, start_coordinator
from sapiens_ray.execution.devices import RebuildError, usable
from sapiens_ray.execution.failures import explain
from sapiens_ray.execution.left_out import LeftOut
from sapiens_ray.execution.lost_nodes import LostNodes
from sapiens_ray.execution.merging import Merger
from sapiens_ray.execution.metrics import RunMetrics
from sapiens_ray.execution.placement import (
    LARGEST_UNIT,
    ResourcePlan,
    auto_unit_bytes,
    auto_unit_size,
    plan_resources,
    plan_what_is_left,
)
from sapiens_ray.execution.preflight import PreparedJob, open_output, prepare_job, save_job
from sapiens_ray.execution.redo import delete_results, drop_error_rows
from sapiens_ray.execution.stages import job_stages
from sapiens_ray.execution.storage_waits import StorageWaits
from sapiens_ray.job.config import Job
from sapiens_ray.output.done import current, done_by_shard
from sapiens_ray.output.error_rows import errors_in_files
from sapiens_ray.output.layout import data_file, data_units, sweep
from sapiens_ray.output.lock import OutputLock
from sapiens_ray.output.summary import Summary, is_done, planned_subset
from sapiens_ray.planning.plan import LARGEST_CUT
from sapiens_ray.planning.subset import make_subset
from sapiens_ray.storage.retries import no_retries, retry_deadline, telling
from sapiens_ray.storage.uris import redact_uri, redact_uris_in
from sapiens_ray.units import UnitReport

if TYPE_CHECKING:
    import ray.data

LOG = logging.getLogger("sapiens_ray")
LISTING_S = (
    10.0  # the input is listed for this long before the first image is read, and in parallel with the work after that
)
WRITE_SUMMARY_EVERY_S = 5.0

OnStart = Callable[[PreparedJob, ResourcePlan | None, Cluster | None], None]


def run(
    job: Job | str | os.PathLike[str] | Mapping[str, Any],
    *,
    address: str | None = None,
    redo_changed: bool = False,
    retry_errors: bool = False,
    restart: bool = False,
    limit: int | None = None,
    sample: int | None = None,
    seed: int | None = None,
    on_progress: Callable[[Summary], None] | None = None,
    on_ray_ready: Callable[[], None] | None = None,
    on_wait: Callable[[str], None] = LOG.warning,
    on_start: OnStart = lambda prepared, resources, cluster: None,
) -> Summary:
    """Label all images that have no row yet. Returns the summary, which is also written to `summary.json`.

    job: a job, the path of its YAML file, or what is in one, as a dict.
    address: Ray cluster to use; default: the cluster that this process is connected to or runs in, else a local one.
    redo_changed: label tars and Parquet files again if they changed since they were planned.
    retry_errors: label the images of error rows again. restart: delete what earlier runs wrote, and start from
        scratch.
    limit: label only the first images of the input. sample: label only this many, drawn at random with `seed`. A later
        run without them labels the others; give a job with another `output.uri` to keep a trial apart.
    on_progress: called with the summary after every unit, and at least once. on_wait: called with a line for the user
        while the run waits for the lock of the output, or for a storage that does not answer; any thread may call it.
        on_start: called once with what will be done, before the first image is read; without resources and cluster if
        no image is left.
    Raises ConfigError before any work, also if another run holds the lock of the output; JobError if the job could not
    finish; ErrorLimitError if it finished with a larger share of error rows than `max_error_fraction`.
    """
    subset = make_subset(limit, sample, seed)
    if isinstance(job, Mapping):
        job = Job.parse(dict(job))
    job = job if isinstance(job, Job) else Job.load(job)
    output = open_output(job)
    waits = StorageWaits(on_wait)
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(retry_deadline(job.storage_retry_s))
        cleanup.enter_context(telling(waits.told))
        lock = cleanup.enter_context(OutputLock(output, on_wait))
        prepared = prepare_job(job, redo_changed, LISTING_S, restart, subset)
        cleanup.callback(lambda: prepared.growth.discard())
        if restart:
            delete_results(output)
        elif retry_errors:
            drop_error_rows(output)
            prepared.recount()
        left_out = LeftOut()
        cleanup.callback(left_out.release)
        this = _Run(prepared, lock, on_progress or (lambda summary: None), waits)
        cleanup.callback(lambda: this.merger.stop())
        with this.writing_summary():
            while broken := this.label(address, on_ray_ready, on_start, left_out):
                this.go_on_without(broken, left_out)
                prepared.growth.discard()
                prepared = prepare_job(job, listing_s=LISTING_S, subset=subset)
                this.go_on_with(prepared)
            lock.check()
            this.finish()
    return this.summary


class _Run:
    """The state of a run: its prepared job, and what it has done."""

    def __init__(
        self, prepared: PreparedJob, lock: OutputLock, report_progress: Callable[[Summary], None], waits: StorageWaits
    ) -> None:
        self.prepared, self.lock, self.report_progress, self.waits = prepared, lock, report_progress, waits
        self.merger = Merger(prepared.output, prepared.files, lock.run)
        self._listed = False
        self._repeated = 0  # by the pipelines before this one
        self._rebuilt = False
        errors, examples = errors_in_files(prepared.output, prepared.files)
        self.summary = Summary(
            name=prepared.job.name,
            output=redact_uri(prepared.output.uri),
            expected=None,
            already_done=prepared.already_done,
            subset=planned_subset(prepared.output),  # until this run has written its plan
            failed_before=errors.total(),
            errors=errors,
            examples=examples,
            notes=list(prepared.notes),
        )
        self._note_listing()

    def go_on_without(self, broken: RebuildError, left_out: LeftOut) -> None:
        """Note what is lost, and occupy broken GPUs. Raises JobError if no GPU is left to go on with."""
        devices = broken.devices
        self.summary.notes += [f"{device} is left out: {reason}" for device, reason in devices.items()]
        if not devices:
            self.summary.notes.append("a node was lost and did not come back; the run goes on without it")
        elif not usable(connected_cluster(), {*devices, *left_out.devices}).limit_gpus:
            raise JobError(f"{broken}; no other GPU is there; everything written is kept, run again to continue")
        left_out.add(devices)

    def go_on_with(self, prepared: PreparedJob) -> None:
        """Go on with the images that are left, after the pipeline broke down. Some reports of units were lost."""
        summary = self.summary
        self.prepared = prepared
        self.merger = Merger(prepared.output, prepared.files, self.lock.run)
        summary.labelled = prepared.already_done - summary.already_done
        summary.errors, summary.examples = errors_in_files(prepared.output, prepared.files)
        self._repeated = summary.repeated
        self._rebuilt = True
        self._listed = False
        self._note_listing()

    def _note_listing(self) -> None:
        """Once all of the input has been listed, note how many images it has, and what was left out."""
        growth = self.prepared.growth
        if growth.ended and not self._listed:
            self._listed = True
            self.summary.expected = self.prepared.expected
            self.summary.notes += [str(growth.left_out)] if growth.left_out else []
            dropped = [name for name in self.prepared.job.input.columns if name not in growth.plan.extra_schema.names]
            if dropped:
                self.summary.notes.append(
                    f"input.columns: {', '.join(dropped)} are not copied: an earlier version began this output without"
                )

    @contextlib.contextmanager
    def writing_summary(self) -> Iterator[None]:
        """Write the summary before and after the block, with the reason if the block failed."""
        summary, output = self.summary, self.prepared.output
        subset = str(self.prepared.subset or "")
        kept = self._nothing_to_do() and is_done(output, subset)  # what that run said of its speed stays
        try:
            if not kept:
                summary.write(output)
            self.report_progress(summary)
            yield
        except BaseException as error:
            summary.state = "failed" if isinstance(error, Exception) else "stopped"
            summary.message = redact_uris_in(str(error))
            with contextlib.suppress(Exception), no_retries():  # the error of the block matters more
                if not self.lock.lost:
                    summary.write(output)
            raise
        else:
            if not kept:
                summary.write(output)
        finally:
            self.report_progress(summary)

    def _nothing_to_do(self) -> bool:
        prepared = self.prepared
        return prepared.growth.ended and not prepared.pending and not self.merger.ready()

    def label(
        self, address: str | None, on_ray_ready: Callable[[], None] | None, on_start: OnStart, left_out: LeftOut
    ) -> RebuildError | None:
        """The work on Ray: label the pending shards and merge the complete ones. Without work, Ray is not started.

        Returns why the pipeline has to be built again, if it has.
        """
        prepared = self.prepared
        pending = prepared.pending or not prepared.growth.ended
        if pending or self.merger.ready():
            start_ray(address)
            if on_ray_ready:
                on_ray_ready()
        cluster = usable(connected_cluster(), left_out.devices) if pending else None
        plan = plan_what_is_left if self._rebuilt else plan_resources
        resources = plan(prepared.job, prepared.models, cluster) if cluster else None
        images = prepared.expected if prepared.growth.ended else None
        if resources:
            prepared.settle_units(auto_unit_size(images, prepared.job, resources), auto_unit_bytes(resources))
        else:
            prepared.settle_units(LARGEST_UNIT, LARGEST_CUT)
        notes = resources.notes if resources else ()
        self.summary.notes += [note for note in notes if note not in self.summary.notes]
        if not self._rebuilt:
            on_start(prepared, resources, cluster)
        save_job(prepared)
        self.summary.subset = str(prepared.subset or "")
        for shard in self.merger.ready():
            self.merger.start(shard)
        broken: RebuildError | None = None
        if resources:
            metrics = RunMetrics(self.summary)
            try:
                with metrics.shown():
                    for report in execute(prepared, resources, self.lock, self.waits):
                        self._count(report, metrics)
            except RebuildError as error:
                broken = error.with_traceback(None)  # it would keep the actors alive
        self.merger.wait()
        return broken

    def _count(self, report: UnitReport, metrics: RunMetrics) -> None:
        """Count a written unit."""
        self.lock.check()
        summary = self.summary
        self._note_listing()
        report = replace(report, repeated=report.repeated + self._repeated)
        summary.add(report)
        metrics.add(report)
        self.merger.add(report.file)
        if summary.elapsed - summary.written_at > WRITE_SUMMARY_EVERY_S:
            summary.write(self.prepared.output)
        self.report_progress(summary)

    def finish(self) -> None:
        """Check in the files that every image has its row, and complete the summary."""
        prepared, summary, output = self.prepared, self.summary, self.prepared.output
        counted, inside = current(data_units(output))
        sweep(output, pictures=bool(summary.labelled or inside))
        for unit in inside:  # left by a killed merge, or by a late write of a worker whose driver died
            output.delete(data_file(unit))
        done = done_by_shard(counted)
        if not prepared.growth.ended:
            raise JobError("the listing of the input did not finish; run again to continue")
        incomplete = prepared.incomplete(done)
        if incomplete:
            first, _ = incomplete[0]
            raise JobError(
                f"{len(incomplete)} shards are not complete, the first is {redact_uri(first.uri)}; run again to "
                "continue"
            )
        forget(output)
        summary.expected = sum(one.rows for one in done.values())
        fraction = summary.failed / max(1, summary.images)
        if fraction > prepared.job.max_error_fraction:
            raise ErrorLimitError(
                f"{summary.failed} of {summary.images} images are error rows, more than max_error_fraction = "
                f"{prepared.job.max_error_fraction:g}; everything written is kept in {output.uri}"
            )
        summary.state = "done"


def execute(
    prepared: PreparedJob, resources: ResourcePlan, lock: OutputLock, waits: StorageWaits
) -> Iterator[UnitReport]:
    """Build the dataset and yield the report of every unit when it is written. waits: told of those of the workers.

    Raises JobError, the CheckpointError of an actor, RebuildError, or the exception that ended the listing, which
    runs in parallel.
    """
    import ray

    coordinator = start_coordinator()
    feeder = Feeder(coordinator, prepared.work(lock.check))
    lost_nodes = LostNodes(coordinator)
    broken: RebuildError | None = None
    try:
        with settings_of_ray_data():
            dataset = build_dataset(prepared, resources, coordinator, lock.run)
        with waits.of_workers(coordinator), warnings.catch_warnings():
            # Said of every job with few shards or units.
            warnings.filterwarnings("ignore", "The m(ax|in)imum number of concurrent")
            for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                lost_nodes.written()
                for text in pa.table(block)[REPORT].to_pylist():
                    yield replace(UnitReport.from_json(text), repeated=feeder.repeated)
    except Exception as error:  # of Ray's core, or of Ray Data
        reason = explain(error)
        devices = ray.get(coordinator.broken_devices.remote()) if isinstance(reason, DeviceFailedError) else {}
        actors_ended = bool(lost_nodes.ended) and isinstance(error, ray.exceptions.RayActorError)
        if not devices and not actors_ended:
            raise reason from error
        broken = RebuildError(devices)
    finally:
        lost_nodes.stop()
        prepared.growth.stop()
        feeder.stop()
    if broken is not None:  # not inside `except`: the traceback of Ray's error keeps the actors alive, and their GPUs
        raise broken
    if feeder.failed is not None:
        raise feeder.failed


def build_dataset(
    prepared: PreparedJob, resources: ResourcePlan, coordinator: CoordinatorHandle, run_id: str
) -> ray.data.Dataset:
    """The pipeline as a lazy Ray dataset of one-row blocks. A row is first a shard, then a unit, then a report."""
    import ray.data

    dataset: ray.data.Dataset = ray.data.from_items([{"start": 0}], override_num_blocks=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")  # see `stages._spread`
        for stage in job_stages(prepared, resources, coordinator, run_id):
            dataset = dataset.map_batches(stage.call, **stage.ray_arguments())
    return dataset


@contextlib.contextmanager
def settings_of_ray_data() -> Iterator[None]:
    """Settings of Ray Data for datasets created inside the block. Afterwards the previous settings are restored."""
    import ray.data

    from sapiens_ray.execution.statistics import ForgetBlocks  # imports Ray

    before = ray.data.DataContext.get_current()
    context = before.copy()
    # Smaller than any unit: every unit is a separate block, sent downstream as soon as it is made.
    context.target_max_block_size = 1
    context.max_consecutive_actor_init_deaths = 5  # by default the job ends at the first death while a model loads
    # By default pools shrink while the input is slow. Then models would be loaded, and compiled, again and again.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    context.autoscaling_config.actor_pool_util_downscaling_threshold = -1.0
    context.execution_no_progress_timeout_s = 7200  # by default a job fails after waiting half an hour for GPUs
    context.enable_progress_bars = False  # our progress bar counts images
    context.memory_usage_poll_interval_s = None  # a thread in each worker, for statistics
    context.print_on_execution_start = False
    context.custom_execution_callback_classes = [*before.custom_execution_callback_classes, ForgetBlocks]
    context.enable_auto_log_stats = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # failures reach the user as exceptions
    ray.data.DataContext._set_current(context)
    try:
        yield
    finally:
        ray.data.DataContext._set_current(before)
