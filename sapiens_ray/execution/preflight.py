"""Everything that is decided before the first image is read: checkpoints, output, plan, and what is already done.

Runs on the driver. `check` shows the result, `run` runs it. Only `save_job` writes.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version

import pyarrow as pa
import yaml

from sapiens_ray import storage
from sapiens_ray.engine.assemble import resolve_box_files
from sapiens_ray.engine.models import PreparedModel, TaskModel, resolve_models, with_recipes
from sapiens_ray.errors import InputError, OutputError
from sapiens_ray.execution.attempts import forget, quarantined_images
from sapiens_ray.execution.placement import LARGEST_UNIT
from sapiens_ray.job.changes import changes
from sapiens_ray.job.config import Job, fingerprint, without_secrets
from sapiens_ray.output.done import done_by_shard, list_units
from sapiens_ray.output.layout import JOB_FILE, PLAN_FILE, data_file, data_units
from sapiens_ray.output.reading import schema_of
from sapiens_ray.output.record import Record, foreign, read_record
from sapiens_ray.output.schema import output_schema
from sapiens_ray.planning.columns import readable_columns
from sapiens_ray.planning.growth import Growth
from sapiens_ray.planning.plan import Plan, Shard, ShardWork, expected_images, load_plan
from sapiens_ray.planning.subset import Subset
from sapiens_ray.sources import Reading
from sapiens_ray.storage import Folder, StorageOptions
from sapiens_ray.storage.uris import redact_uri, without_query
from sapiens_ray.tasks import AnyTask
from sapiens_ray.tasks.coco_boxes import BoxFile, notes_of
from sapiens_ray.tasks.foreground import Mask
from sapiens_ray.tasks.network import LITE, Recipe
from sapiens_ray.tasks.sections import Settings, Visualize
from sapiens_ray.units import Done, Errors, Ranges, UnitName
from sapiens_ray.version import __version__

ALL_DRAWN = 1000  # images: with `fraction: auto`, a job of up to so many draws all of them
SMALL_PHOTO = 50_000  # bytes: tells whether files whose images cannot be counted hold many
FRACTION_OF_MANY = 0.01
PICTURES_RECORD = "visualize_fraction"  # the key in `job.yaml`: what `fraction: auto` became


@dataclass
class PreparedJob:
    """Everything that is known before the first image is read: what `check` shows and `run` runs.

    models: of the tasks, then of the detectors. box_files: COCO files with boxes of persons. files: the valid label
    files. settings: all settings that decide the labels. quarantined: per shard, images that killed their worker in an
    earlier run. restarted: whether the output holds a plan of other settings, and no rows.
    """

    job: Job
    output: Folder
    models: list[PreparedModel]
    box_files: list[BoxFile]
    growth: Growth
    done: dict[int, Done]
    files: list[UnitName]
    settings: Settings
    quarantined: dict[int, Errors]
    subset: Subset | None = None
    restarted: bool = False
    notes: list[str] = field(default_factory=list)
    unit_size: int = 0  # of this run; see `settle_unit_size`
    recorded_pictures: float | None = None  # what `fraction: auto` means for this output
    begun: pa.Schema | None = None  # of the files that the output holds

    @property
    def plan(self) -> Plan:
        return self.growth.plan

    @property
    def reading(self) -> Reading:
        """How this output reads its input."""
        return readable_columns(self.job.reading, self.plan.extra_schema)

    @property
    def chosen(self) -> dict[int, Ranges] | None:
        """In a trial run, the images to label of each shard that has any; else None."""
        return None if self.subset is None else self.growth.chosen

    @property
    def tasks(self) -> list[AnyTask]:
        return [model.task for model in self.models if isinstance(model, TaskModel)]

    @cached_property
    def visualize(self) -> Visualize:
        """The pictures of this run, with `fraction: auto` settled. Needed from the end of the first listing on."""
        wanted = self.job.output.visualize
        fraction = wanted.share if wanted.fraction != "auto" else self.recorded_pictures
        if fraction is None:
            fraction = 1.0 if self._is_small() else FRACTION_OF_MANY
        if not any(task.options.draws for task in self.tasks):
            fraction = 0.0  # else photos would be kept, and decoded, for nothing
        return wanted.model_copy(update={"fraction": fraction})

    def _is_small(self) -> bool:
        """Whether the job has few images, as far as that is known without reading them."""
        if not self.growth.ended:
            return False
        if self.expected is not None:
            return self.expected <= ALL_DRAWN
        counted = sum(shard.images or 0 for shard in self.plan.shards)
        return counted <= ALL_DRAWN and sum(shard.size for shard in self.plan.shards) <= ALL_DRAWN * SMALL_PHOTO

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the output files."""
        models = {
            model.record_name: {
                "checkpoint": model.checkpoint.uri.rsplit("/", 1)[-1],
                "sha256": model.checkpoint.sha256,
            }
            for model in self.models
        }
        about = {"fingerprint": fingerprint(self.settings), "models": models, "versions": versions()}
        return output_schema(self.tasks, self.plan.extra_schema, about, self.begun)

    @property
    def already_done(self) -> int:
        return sum(done.rows for done in self.done.values())

    @property
    def pending(self) -> list[tuple[Shard, Done]]:
        """The shards that are not complete, with the ranges that are done."""
        return self.incomplete(self.done)

    def incomplete(self, done: dict[int, Done]) -> list[tuple[Shard, Done]]:
        """The shards in which images to label are not done, with the ranges that are."""
        pairs = [(shard, done.get(shard.number, Done())) for shard in self.plan.shards]
        if self.chosen is None:
            return [(shard, one) for shard, one in pairs if not one.complete]
        chosen = self.chosen
        return [(shard, one) for shard, one in pairs if not one.complete and one.missing(chosen.get(shard.number, ()))]

    @cached_property
    def expected(self) -> int | None:
        """How many rows the output has at the end, if it is known without reading the images. Known from the end of the
        listing on; computed once, since uncompressed tars are opened for it."""
        if self.chosen is None:
            return expected_images(self.plan, self.reading)
        left = [one.missing(self.chosen.get(shard.number, ())) for shard, one in self.pending]
        return self.already_done + sum(stop - start for ranges in left for start, stop in ranges)

    def settle_units(self, automatic: int, unit_bytes: int) -> None:
        """Decide the unit size of this run, and that of a new output, if the job does not say it. automatic: the best
        size for this run. unit_bytes: the estimated size at which units are cut, if the output is new.

        A trial run may have smaller units than its output, which the run of the whole job then continues.
        """
        if not self.plan.unit_size:
            self.plan.unit_size = automatic if self.subset is None else LARGEST_UNIT
            self.plan.unit_bytes = unit_bytes
        is_trial = self.subset is not None and self.job.unit_size == "auto"
        self.unit_size = min(automatic, self.plan.unit_size) if is_trial else self.plan.unit_size

    def recount(self) -> None:
        """Find again what is done, after rows were removed."""
        self.files = [name for name in list_units(self.output) if name.shard not in self.plan.changed]
        self.done = done_by_shard(self.files)
        self.quarantined = {}
        self.__dict__.pop("expected", None)

    def work(self, held: Callable[[], None] = lambda: None) -> Iterator[list[ShardWork]]:
        """The shards to read, in batches, until the listing ends. The plan grows meanwhile.

        held: raises if another run holds the lock of the output.
        """
        yield [self._work(shard, done) for shard, done in self.pending]
        for batch in self.growth.rest(held):
            yield [self._work(shard, Done()) for shard in batch]

    def _work(self, shard: Shard, done: Done) -> ShardWork:
        wanted = None if self.chosen is None else self.chosen[shard.number]
        return ShardWork(shard, done, self.quarantined.get(shard.number, {}), wanted)


def prepare_job(
    job: Job,
    redo_changed: bool = False,
    listing_s: float | None = None,
    restart: bool = False,
    subset: Subset | None = None,
    download: bool = True,
) -> PreparedJob:
    """Open the output, find the checkpoints, list the input and subtract what is done. Writes nothing there.

    restart: prepare as if nothing had been written yet.
    listing_s: list for this long before the first image is read, and the rest in parallel; None: list everything first.
    subset: of the images to label in a trial run. download: if not, checkpoints that are not on this machine are not
    fetched, and only their names are compared with those of an output.
    Raises ConfigError (InputError, CheckpointError, OutputError) before any work starts.
    """
    output = open_output(job)
    box_files = resolve_box_files(job)
    for number, task in enumerate(job.tasks):
        for mask in task.masks:
            _refuse_missing_folder(mask, f"tasks[{number}].mask.folder", job.input.storage_options)

    def prepare(models: list[PreparedModel], listing_s: float | None, subset: Subset | None) -> PreparedJob:
        known = with_recipes(job, models)
        return _prepare(known, output, models, box_files, redo_changed, listing_s, restart, subset)

    models = resolve_models(job, download=False)
    if download and not all(model.checkpoint.is_here for model in models):
        prepare(models, 0, None).growth.discard()  # refuses a wrong input or output before gigabytes are downloaded
        models = resolve_models(job)
    return prepare(models, listing_s, subset)


def _prepare(
    job: Job,
    output: Folder,
    models: list[PreparedModel],
    box_files: list[BoxFile],
    redo_changed: bool,
    listing_s: float | None,
    restart: bool,
    subset: Subset | None,
) -> PreparedJob:
    """See `prepare_job`."""
    digests = [model.checkpoint.sha256 for model in models]
    settings = job.result_settings(digests, [file.sha256 for file in box_files])
    with storage.translate_errors(OutputError, f"output.uri: cannot read {output.uri}"):
        written = [] if restart else list_units(output)
        # Other settings are fine if there are no rows: a run with a wrong job file does not block the output.
        record = None if restart else read_record(output)
        lines = _changed_settings(output, record, settings, models, box_files) if record else []
        if lines and written:
            raise OutputError(
                f"output.uri: {output.uri} holds labels that were made with other settings: {'; '.join(lines)}. Give "
                "this job another output.uri, delete these labels with --restart, or go back to the old settings"
            )
        restarted = bool(lines)
        old = None if restarted or restart else load_plan(output)
        if written and old is None:
            raise OutputError(f"output.uri: {output.uri} holds data files but no {PLAN_FILE}; choose another folder")
        begun = schema_of(output, written[0]) if written else None
        quarantined = quarantined_images(output) if old else {}
        growth = Growth(job, old, output, redo_changed, subset)
    done = done_by_shard(written)
    try:
        growth.look_ahead(listing_s, lambda shard: not done.get(shard.number, Done()).complete)
        notes = [*growth.notes, *(note for file in box_files for note in _notes_of_boxes(file, growth, subset))]
    except BaseException:
        growth.discard()
        raise
    quarantined = {shard: images for shard, images in quarantined.items() if shard not in growth.plan.changed}
    files = [name for name in written if name.shard not in growth.plan.changed]
    done = done_by_shard(files)
    growth.plan.fill_counts(done)
    notes += _changed_pictures(record, job) if record and written else []
    pictures = _recorded_fraction(record) if record and written else None
    prepared = PreparedJob(
        job, output, models, box_files, growth, done, files, settings, quarantined, subset, restarted, notes,
        recorded_pictures=pictures, begun=begun,
    )  # fmt: skip
    _ = prepared.schema  # columns with the same name are refused now, not by the first unit
    return prepared


def _refuse_missing_folder(mask: Mask, where: str, options: StorageOptions) -> None:
    """Raise InputError if a folder of masks does not exist. Else all photos would seem to have no mask."""
    if mask.folder is None:
        return
    with storage.translate_errors(InputError, f"{where}: cannot read {mask.folder}"):
        fs, path = storage.filesystem(mask.folder, options)
        if not fs.isdir(path):
            raise InputError(f"{where}: {mask.folder} is not an existing folder")


def _notes_of_boxes(file: BoxFile, growth: Growth, subset: Subset | None) -> list[str]:
    """What to tell about a file of boxes, as far as the names of images are known. Raises InputError if it names none
    of the images."""
    names = [(entry.image_id, redact_uri(entry.uri)) for entry in growth.first_entries]
    shards = growth.plan.shards
    are_listed = all(shard.entries is not None for shard in shards)
    is_all = growth.ended and subset is None and are_listed and sum(shard.images or 0 for shard in shards) == len(names)
    return notes_of(file, names, is_all)


def open_output(job: Job) -> Folder:
    """The output folder. Raises OutputError if its location cannot hold an output."""
    uri = job.output.uri
    if storage.in_working_dir(uri):
        raise OutputError(
            f"output.uri: {uri} is in the copy of --working-dir that Ray deletes after the job; "
            "give an absolute path or a URL, e.g. --set output.uri=/data/labels"
        )
    if not storage.is_remote(uri) and os.path.realpath(storage.local_path(uri)) == os.sep:
        raise OutputError(f"output.uri: {uri} is the root folder of this machine; give a folder for the labels")
    if uri.startswith("memory://"):
        raise OutputError(
            f"output.uri: {uri} is the memory of one process, but a job has several; give a folder or a URL"
        )
    return Folder(uri.rstrip("/"), job.output.storage_options)


def _changed_settings(
    output: Folder, record: Record, settings: Settings, models: list[PreparedModel], box_files: list[BoxFile]
) -> list[str]:
    """What differs between the settings of an output and these, one line each."""
    try:
        # An earlier version may have kept more of a URL.
        stored, files = without_secrets(record["result_settings"]), without_secrets(record["models"])
        old_files = {one["sha256"]: one["checkpoint"] for one in files}
        new_files = {model.checkpoint.sha256: without_query(model.checkpoint.uri) for model in models}
        old_files |= {one["sha256"]: one["file"] for one in record.get("box_files", [])}
        new_files |= {file.sha256: file.name for file in box_files}
        names = [without_query(model.checkpoint.uri) for model in models if isinstance(model, TaskModel)]
        return changes(stored, settings, old_files, new_files, names)
    except (TypeError, KeyError):
        raise foreign(output) from None


def _recorded_fraction(record: Record) -> float | None:
    """The share of the images that got a picture in the runs before; None if that was not settled."""
    try:
        fraction = record.get(PICTURES_RECORD, record["job"]["output"]["visualize"]["fraction"])
    except (TypeError, KeyError):  # of another version
        return None
    return float(fraction) if isinstance(fraction, int | float) else None


def _changed_pictures(record: Record, job: Job) -> list[str]:
    """A note if the pictures of an output were made with other settings."""
    try:
        before = Visualize.model_validate(record["job"]["output"]["visualize"])
    except (ValueError, TypeError, KeyError):  # of another version
        return []
    now = job.output.visualize
    if now.fraction == "auto":
        before = before.model_copy(update={"fraction": "auto"})  # what it was is kept
    elif before.fraction == "auto":
        before = before.model_copy(update={"fraction": _recorded_fraction(record)})
    changed = [name for name in Visualize.model_fields if getattr(before, name) != getattr(now, name)]
    if not changed:
        return []
    return [
        f"output.visualize: {', '.join(changed)} changed; images that have their row keep the pictures that they have. "
        "For others, name another output.uri, or label all again with --restart"
    ]


def versions() -> dict[str, str]:
    """Versions of the libraries that decide the labels."""
    libraries = ("torch", "torchvision", "opencv-python-headless", "numpy", "pyarrow", "ray")
    return {
        "sapiens_ray": __version__,
        "python": platform.python_version(),
        **{library: version(library) for library in libraries},
    }


def save_job(prepared: PreparedJob) -> None:
    """Write `job.yaml` (resolved, without credentials) and the plan; delete the rows of changed shards."""
    job, output = prepared.job, prepared.output
    checkpoints = [model.checkpoint for model in prepared.models]
    record: Record = {
        "job": job.public_dict(),
        "fingerprint": fingerprint(prepared.settings),
        "result_settings": prepared.settings,
        "models": [
            {"checkpoint": without_query(one.uri), "size": one.size, "sha256": one.sha256, **_recipe(one.recipe)}
            for one in checkpoints
        ],
        "versions": versions(),
    }
    if prepared.box_files:
        record["box_files"] = [{"file": file.name, "sha256": file.sha256} for file in prepared.box_files]
    settled = prepared.visualize.share if prepared.subset is None else prepared.recorded_pictures
    if settled is not None and job.output.visualize.fraction == "auto":  # a trial settles nothing
        record[PICTURES_RECORD] = settled
    with storage.translate_errors(OutputError, f"output.uri: cannot write to {output.uri}"):
        _write_job(prepared, record)


def _recipe(recipe: Recipe) -> Settings:
    """The recipe of a checkpoint for `job.yaml`, where it is not that of Sapiens-Lite."""
    return {} if recipe.name == LITE else {"recipe": recipe.name, "input_size": list(recipe.size or ())}


def _write_job(prepared: PreparedJob, record: Record) -> None:
    output = prepared.output
    output.write(JOB_FILE, yaml.safe_dump(record, sort_keys=False, allow_unicode=True).encode())
    for unit in data_units(output):
        if unit.shard in prepared.plan.changed:
            output.delete(data_file(unit))
    if prepared.restarted:
        output.delete(PLAN_FILE)
    for shard in prepared.plan.changed:
        forget(output, shard)
    prepared.growth.publish()
