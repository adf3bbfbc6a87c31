"""What is settled before the first image is read: checkpoints, output, plan, and what is done already.

Runs on the driver. `check` shows the result, `run` runs it. Nothing here writes but `save_job`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import yaml

from sapiens_ray import plan as planning
from sapiens_ray import storage
from sapiens_ray.attempts import condemned_images, forget
from sapiens_ray.config import Job, difference, fingerprint, without_secrets
from sapiens_ray.done import done_by_shard, list_units
from sapiens_ray.errors import InputError, OutputError
from sapiens_ray.growth import Growth
from sapiens_ray.models.checkpoint import (
    Checkpoint,
    container_of,
    renamed,
    resolve,
    resolve_hub,
    resolve_weights,
)
from sapiens_ray.plan import Plan, Shard
from sapiens_ray.rows import output_schema
from sapiens_ray.sources import Done
from sapiens_ray.storage import Folder
from sapiens_ray.summary import JOB_FILE
from sapiens_ray.tasks import Task, make_task
from sapiens_ray.tasks.foreground import Mask
from sapiens_ray.tasks.options import ModelOptions
from sapiens_ray.tasks.persons import DetectorOptions
from sapiens_ray.units import UnitName
from sapiens_ray.version import __version__


@dataclass
class Prepared:
    """Everything that is known before the first image is read: what `check` shows and `run` runs.

    checkpoints: those of `job.models`, the tasks first, then the detectors.
    """

    job: Job
    output: Folder
    tasks: list[Task]
    checkpoints: list[Checkpoint]
    growth: Growth
    done: dict[int, Done]
    files: list[UnitName]
    settings: dict[str, Any]
    condemned: dict[int, dict[int, tuple[str, str]]]
    restarted: bool = False  # the output holds a plan of other settings, and no rows

    @property
    def plan(self) -> Plan:
        return self.growth.plan

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the output files."""
        columns = [task.column for task in self.tasks]
        columns += [detector.carried.removeprefix("_boxes:") for detector in self.job.detectors]
        models = {
            column: {"checkpoint": checkpoint.uri.rsplit("/", 1)[-1], "sha256": checkpoint.sha256}
            for column, checkpoint in zip(columns, self.checkpoints, strict=True)
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

    def recount(self) -> None:
        """Look anew what is done: rows have been taken back."""
        self.files = [name for name in list_units(self.output) if name.shard not in self.plan.changed]
        self.done = done_by_shard(self.files)
        self.condemned = {}

    def work(self, held: Callable[[], None] = lambda: None) -> Iterator[list[dict[str, Any]]]:
        """What is to be read, in batches, to the end of the listing; the plan is extended meanwhile.

        held: raises if the output is another run's.
        """
        yield [self._work(shard, done) for shard, done in self.pending]
        for batch in self.growth.rest(held):
            yield [self._work(shard, Done()) for shard in batch]

    def _work(self, shard: Shard, done: Done) -> dict[str, Any]:
        condemned = [[index, *why] for index, why in self.condemned.get(shard.number, {}).items()]
        return {"shard": asdict(shard), "ranges": done.ranges, "total": done.total, "condemned": condemned}


def prepare_job(
    job: Job, redo_changed: bool = False, listing_s: float | None = None, restart: bool = False
) -> Prepared:
    """Resolve the checkpoints, open the output, list the input and subtract what is done. Writes nothing.

    restart: as if nothing had been written yet.
    listing_s: list for so long before the first image is read, and the rest beside it; None: all of it.
    Raises ConfigError (InputError, CheckpointError, OutputError) before any work starts.
    """
    output = open_output(job)
    checkpoints = [
        resolve_model(options, f"tasks[{position}].checkpoint", job.input.storage_options)
        for position, options in enumerate(job.tasks)
    ]
    checkpoints += [resolve_detector(detector, job.input.storage_options) for detector in job.detectors]
    for mask in job.masks:
        _refuse_missing_folder(mask, job.input.storage_options)
    settings = job.result_settings([checkpoint.sha256 for checkpoint in checkpoints])
    with storage.asking(OutputError, f"output.uri: cannot read {output.uri}"):
        written = [] if restart else list_units(output)
        # Without rows there is nothing to mix with: a run that found its job file wrong leaves no trace.
        lines = [] if restart else _other_settings(output, settings)
        if lines and written:
            raise OutputError(
                f"output.uri: {output.uri} holds results of other settings ({'; '.join(lines)}); choose another "
                "output.uri, or go back to the old settings"
            )
        restarted = bool(lines)
        old = None if restarted or restart else planning.load_plan(output)
        if written and old is None:
            raise OutputError(f"output.uri: {output.uri} holds data files but no plan.parquet; choose another folder")
        condemned = condemned_images(output) if old else {}
        growth = Growth(job, old, output, redo_changed)
    done = done_by_shard(written)
    try:
        growth.look_ahead(listing_s, lambda shard: not done.get(shard.number, Done()).complete)
    except BaseException:
        growth.discard()
        raise
    condemned = {shard: images for shard, images in condemned.items() if shard not in growth.plan.changed}
    files = [name for name in written if name.shard not in growth.plan.changed]
    done = done_by_shard(files)
    growth.plan.fill_counts(done)
    tasks = [make_task(options) for options in job.tasks]
    prepared = Prepared(job, output, tasks, checkpoints, growth, done, files, settings, condemned, restarted)
    _ = prepared.schema  # a column name that stands twice is refused now, not by the first unit
    return prepared


def resolve_model(options: ModelOptions, where: str, storage_options: dict[str, Any]) -> Checkpoint:
    """Find the checkpoint of a task, and see from the names in it that it fits. Raises CheckpointError."""
    checkpoint, path = resolve(options.checkpoint, options.sha256, where, storage_options, options.mode)
    if container_of(path) != "torchscript":  # whose names are not read without loading it
        from sapiens_ray.models.loading import refuse_unfit  # torch

        with renamed(where):
            refuse_unfit(path, options)
    return checkpoint


def resolve_detector(options: DetectorOptions, storage_options: dict[str, Any]) -> Checkpoint:
    """Find a detector's weights. Raises CheckpointError."""
    where = "tasks[].boxes.detector"
    if options.model == "torchscript":
        return resolve_weights(str(options.checkpoint), options.sha256, f"{where}.checkpoint", storage_options, True)
    from sapiens_ray.models.detectors import check_name, weights_url  # torch, only where a detector is wanted

    with renamed(f"{where}.model"):
        check_name(options.model)
    if options.checkpoint is not None:
        return resolve_weights(options.checkpoint, options.sha256, f"{where}.checkpoint", storage_options, False)
    with renamed(f"{where}.checkpoint"):
        return resolve_hub(weights_url(options.model), options.sha256, where)


def _refuse_missing_folder(mask: Mask, options: dict[str, Any]) -> None:
    """A folder of masks that is not there would look like photos without masks."""
    if mask.folder is None:
        return
    with storage.asking(InputError, f"tasks[].mask.folder: cannot look into {mask.folder}"):
        fs, path = storage.filesystem(mask.folder, options)
        if not fs.isdir(path):
            raise InputError(f"tasks[].mask.folder: {mask.folder} is not a folder that is there")


def open_output(job: Job) -> Folder:
    """The output folder. Raises OutputError if a Ray job would lose it."""
    uri = job.output.uri
    if storage.in_working_dir(uri):
        raise OutputError(
            f"output.uri: {uri} lies in the copy of --working-dir that Ray deletes after the job; "
            "give an absolute path or a URL, e.g. --set output.uri=/data/labels"
        )
    if not storage.is_remote(uri) and os.path.realpath(storage.local_path(uri)) == os.sep:
        raise OutputError(f"output.uri: {uri} is the root of this machine; give a folder for the labels")
    if uri.startswith("memory://"):
        raise OutputError(f"output.uri: {uri} is the memory of one process, and a job has many; give a folder or a URL")
    return Folder(uri.rstrip("/"), job.output.storage_options)


def _other_settings(output: Folder, settings: dict[str, Any]) -> list[str]:
    """In what the settings of an output differ from these."""
    if not output.exists(JOB_FILE):
        return []
    try:
        stored = yaml.safe_load(output.read(JOB_FILE))["result_settings"]
    except (yaml.YAMLError, TypeError, KeyError):
        raise OutputError(f"output.uri: {output.join(JOB_FILE)} was not written by sapiens-ray") from None
    return difference(stored, settings)


def versions() -> dict[str, str]:
    """Versions of what decides the labels."""
    from importlib.metadata import version

    libraries = ("torch", "torchvision", "opencv-python-headless", "numpy", "pyarrow", "ray")
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
        "models": [
            {"checkpoint": without_secrets(one.uri), "size": one.size, "sha256": one.sha256}
            for one in prepared.checkpoints
        ],
        "versions": versions(),
    }
    with storage.asking(OutputError, f"output.uri: cannot write to {output.uri}"):
        _write_job(prepared, output, record)


def _write_job(prepared: Prepared, output: Folder, record: dict[str, Any]) -> None:
    output.write(JOB_FILE, yaml.safe_dump(record, sort_keys=False, allow_unicode=True).encode())
    for file in output.files("data"):
        name = UnitName.parse(file)
        if name is not None and name.shard in prepared.plan.changed:
            output.delete(f"data/{file}")
    if prepared.restarted:
        output.delete(planning.PLAN_FILE)
    for shard in prepared.plan.changed:
        forget(output, shard)
    prepared.growth.publish()
