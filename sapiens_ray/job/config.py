"""The job file: one YAML file, one pydantic model; unknown keys are refused.

Imports neither ray nor torch, so that a bad file is refused in a fraction of a second.
"""

from __future__ import annotations

import functools
import hashlib
import json
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from sapiens_ray.errors import ConfigError
from sapiens_ray.job.label_files import named, resolve_label_files, with_label_files
from sapiens_ray.job.messages import explain, explain_yaml
from sapiens_ray.job.raw import RawJob, apply_override, expand_environment, read_yaml, resolve_paths
from sapiens_ray.sources import SOURCES, Reading
from sapiens_ray.sources.video_options import VideoOptions
from sapiens_ray.storage import StorageOptions
from sapiens_ray.storage.uris import without_query
from sapiens_ray.tasks import TASKS
from sapiens_ray.tasks.coco import CocoOptions
from sapiens_ray.tasks.foreground import Mask
from sapiens_ray.tasks.options import ModelOptions
from sapiens_ray.tasks.persons import DetectorOptions
from sapiens_ray.tasks.sections import (
    GpuShare,
    PoolOptions,
    PoolSize,
    Section,
    Settings,
    Visualize,
    whole_number_or_auto,
)

if TYPE_CHECKING:
    InputFormat = str
    TaskOptions = ModelOptions
else:  # with the formats and tasks of installed packages
    InputFormat = Literal[("auto", *SOURCES)]
    TaskOptions = Annotated[
        functools.reduce(operator.or_, (kind.options for kind in TASKS.values())),
        Field(discriminator="task", description="What to predict, and with which checkpoint."),
    ]


class Input(Section):
    """Which images to label."""

    uri: list[str] = Field(
        description="Folder (searched recursively), image, *.tar / *.tar.gz, *.parquet, a .txt / .csv / "
        ".jsonl list, or a video (.mp4, .mov, .mkv, .webm); globs and {000..099} ranges are expanded; one or several; "
        "local or any fsspec URL such as s3://bucket/photos. Relative paths are relative to the YAML."
    )
    format: InputFormat = Field(
        "auto", description="How to read `uri`; auto: by the suffix. Videos in folders are read only with video."
    )
    include: list[str] = Field(
        [],
        description="Only files (or tar members) whose relative path matches one of these patterns, "
        "such as '*.jpg' or 'train/*', in which * stands for slashes, too. Empty: all files with a suffix that OpenCV "
        "reads. Hidden files are left out unless a pattern with such a name asks for them, such as '.hidden/*'.",
    )
    image_column: str | None = Field(
        None,
        description="Parquet: column of image bytes or struct<bytes,path>; csv and jsonl: column of "
        "paths. Default: 'image', or the only suitable column.",
    )
    id_column: str | None = Field(
        None, description="Parquet and lists: column whose value becomes `image_id`. Default: the path."
    )
    columns: list[str] = Field(
        [],
        description="Columns to copy into the output: of Parquet files and lists, or fields of the <key>.json of tars.",
    )
    video: VideoOptions | None = Field(None, description="Videos: which frames to label. Default: all of them.")
    shard_size: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="Folders and lists: images per shard, which is one output file. A changed value applies to new "
        "images only.",
    )
    storage_options: StorageOptions = Field(
        {}, repr=False, description="Passed to fsspec, e.g. {endpoint_url: '${S3_ENDPOINT}'}. Never written or logged."
    )

    @field_validator("uri", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("uri")
    @classmethod
    def _not_empty(cls, value: list[str]) -> list[str]:
        if not value or any(not uri for uri in value):
            raise ValueError("name at least one folder, file or glob")
        return value


class Output(Section):
    """Where the labels go."""

    uri: str = Field(min_length=1, description="Folder, local or any fsspec URL. Relative to the YAML.")
    visualize: Visualize = Field(Visualize(), description="Pictures: labels drawn over photos.")

    @field_validator("visualize", mode="before")
    @classmethod
    def _say_how(cls, value: object) -> object:
        if isinstance(value, bool | int | float | str):
            raise ValueError("should be a mapping, such as {fraction: 0} for no pictures, or {fraction: 0.01}")
        return value

    storage_options: StorageOptions = Field({}, repr=False, description="Passed to fsspec. Never written or logged.")


class Job(Section):
    """One labelling job. `sapiens-ray schema` prints this as a JSON schema for editors."""

    name: str = Field("", description="Shown in reports; default: the name of the YAML file.")
    input: Input
    output: Output
    tasks: list[TaskOptions] = Field(min_length=1, description="What to predict.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the models run; auto: on GPUs if the cluster has any, else on CPUs."
    )
    actors: PoolSize | None = Field(
        None,
        description="Processes that hold the models, a number or {min: 1, max: 8}; default: one per GPU, more if the "
        "cluster gets more; without GPUs one per machine.",
    )
    num_gpus: GpuShare | None = Field(
        None,
        description="GPUs of each of these processes; default 1, or an equal share if there are fewer GPUs than "
        "pools. 0.5 puts two of them on one GPU.",
    )
    placement: Literal["together", "separate"] = Field(
        "together",
        description="together: every process holds all models, except those with `actors` or `num_gpus` of their own. "
        "separate: every model has its own processes, for models that do not fit into one GPU together.",
    )
    cache: str | None = Field(
        None,
        min_length=1,
        description="Folder, local or any fsspec URL, where compiled code (`compile:`) is kept for other nodes and "
        "later jobs; opened with the storage_options of the output. Default: each node keeps its own. Code in it is "
        "executed: only people whom you trust may have write access.",
    )
    unit_size: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = Field(
        "auto",
        description="Images that are processed, written and retried together; a multiple of the batch size keeps "
        "batches full. Fixed by the first run of an output. auto: up to 64, fewer if the job has few images for its "
        "actors, so that all of them work and progress shows.",
    )
    max_pixels: int = Field(
        134_217_728, ge=1, description="Images with more pixels than this are not decoded and become error rows."
    )
    image_timeout_s: float = Field(
        600,
        gt=0,
        description="Seconds that one image may take in one stage (for a batch: times its images). After that its "
        "worker is killed, and the image that is found to be the cause becomes an error row.",
    )
    storage_retry_s: float = Field(
        120,
        ge=0,
        description="Seconds for which a request to a remote storage is retried after transient failures.",
    )
    max_error_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description="The job ends with exit code 1 if more than this share of its rows are errors; then a setting is "
        "wrong more often than the images are. Everything written is kept.",
    )

    @field_validator("unit_size", mode="before")
    @classmethod
    def _one_message(cls, value: object) -> object:
        return whole_number_or_auto(value, 4096)

    @field_validator("tasks")
    @classmethod
    def _settle(cls, tasks: list[TaskOptions]) -> list[TaskOptions]:
        """Fill in options that depend on other tasks of the job: which task provides foreground and boxes."""
        return [task.settled(tasks, f"[{number}]") for number, task in enumerate(tasks)]

    @model_validator(mode="after")
    def _column_names(self) -> Job:
        first: dict[str, int] = {}
        for number, task in enumerate(self.tasks):
            other = first.setdefault(task.column, number)
            if other != number:
                raise ValueError(
                    f"tasks[{number}]: would write column {task.column!r}, as tasks[{other}] does; give one of them a "
                    "`name:`"
                )
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str], overrides: list[str] | tuple[str, ...] = ()) -> Job:
        """Read a YAML job file, expand `${ENV}`, apply `key.sub=value` overrides and validate.

        Relative paths in the file are relative to the file, those in overrides to the current folder.
        Raises ConfigError with one line per error.
        """
        file = Path(path)
        data = b""
        try:
            data = file.read_bytes()
            raw = read_yaml(data)
        except FileNotFoundError:
            raise ConfigError(f"{file}: no such job file") from None
        except IsADirectoryError:
            raise ConfigError(f"{file}: is a folder; name a YAML job file") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{file}: is not a YAML job file: it holds no text in UTF-8") from None
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{file}: {explain_yaml(error, data)}") from None
        if not isinstance(raw, dict):
            raise ConfigError(f"{file}: a job file is a mapping with `input`, `output` and `tasks`")
        raw = expand_environment(raw, str(file))
        raw = resolve_label_files(resolve_paths(raw, file.resolve().parent), file.resolve().parent)
        for override in overrides:
            apply_override(raw, override)
        if not raw.get("name"):
            raw["name"] = file.stem
        return cls.parse(raw, source=str(file))

    @classmethod
    def parse(cls, raw: RawJob, source: str = "job") -> Job:
        """Validate a plain dict; relative paths are relative to the current folder. Files that describe classes and
        keypoints are read now: what they say is a part of the job from here on."""
        here = Path.cwd()
        raw, files = with_label_files(resolve_label_files(resolve_paths(raw, here), here), source)
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            lines = [f"{source}: {explain(item, cls)}{named(files, item['loc'])}" for item in error.errors()]
            raise ConfigError("\n".join(lines)) from None

    @property
    def detectors(self) -> list[DetectorOptions]:
        """The distinct person detectors of the tasks: tasks with the same detector share its boxes."""
        found = [detector for task in self.tasks for detector in task.detectors]
        return list({detector.carried: detector for detector in found}.values())

    @property
    def models(self) -> list[PoolOptions]:
        """Everything that runs a model in actors: the tasks, then the detectors."""
        return [*self.tasks, *self.detectors]

    @property
    def entries(self) -> list[str]:
        """The places of `models` in the job file, for messages: tasks[1], tasks[2].boxes.detector. Of tasks that share
        a detector, the first counts."""
        asking: dict[str, str] = {}
        for number, task in enumerate(self.tasks):
            for detector in task.detectors:
                asking.setdefault(detector.carried, f"tasks[{number}].boxes.detector")
        return [*(f"tasks[{number}]" for number in range(len(self.tasks))), *asking.values()]

    @property
    def box_columns(self) -> list[str]:
        """Input columns from which tasks take boxes."""
        return list(dict.fromkeys(column for task in self.tasks for column in task.box_columns))

    @property
    def box_files(self) -> dict[str, CocoOptions]:
        """The distinct COCO files from which tasks take boxes, each by the first field of the job file that names it,
        such as tasks[1].boxes.coco."""
        fields: dict[str, str] = {}
        found: dict[str, CocoOptions] = {}
        for number, task in enumerate(self.tasks):
            for coco in task.box_files:
                field = fields.setdefault(coco.key, f"tasks[{number}].boxes.coco")
                found[field] = coco
        return found

    @property
    def masks(self) -> list[Mask]:
        """The distinct masks that the user provides."""
        return list({mask.carried: mask for task in self.tasks for mask in task.masks}.values())

    @property
    def label_fields(self) -> dict[str, str]:
        """Input columns from which tasks read boxes or masks, in addition to the passthrough columns, each with the
        first field of the job file that names it, such as tasks[1].boxes.column."""
        fields: dict[str, str] = {}
        for number, task in enumerate(self.tasks):
            for column in task.box_columns:
                fields.setdefault(column, f"tasks[{number}].boxes.column")
            for mask in task.masks:
                if mask.column:
                    fields.setdefault(mask.column, f"tasks[{number}].mask.column")
        return fields

    @property
    def reading(self) -> Reading:
        """The settings that sources need."""
        return Reading(
            self.input.image_column,
            self.input.id_column,
            tuple(self.input.columns),
            tuple(self.label_fields),
            tuple(self.input.include),
            self.input.storage_options,
            self.label_fields,
            self.input.video,
            max_pixels=self.max_pixels,
        )

    def public_dict(self) -> Settings:
        """The resolved job without storage options, which may hold credentials."""
        dump = self.model_dump(mode="json")
        dump["input"].pop("storage_options")
        dump["output"].pop("storage_options")
        dump["input"]["uri"] = [without_query(uri) for uri in dump["input"]["uri"]]
        dump["tasks"] = without_secrets(dump["tasks"])
        dump["cache"] = without_secrets(dump["cache"])
        return dump

    def result_settings(self, model_hashes: list[str], box_file_hashes: Sequence[str] = ()) -> Settings:
        """The settings that decide the content of the rows; two runs may share an output only if they are equal.

        model_hashes: SHA-256 of each of `models`, box_file_hashes: of each of `box_files`. The input may grow and
        pictures may change, so neither is included; nor are settings that only affect speed.
        """
        of_file = {coco.key: digest for coco, digest in zip(self.box_files.values(), box_file_hashes, strict=True)}
        detectors = [detector.carried for detector in self.detectors]
        of_detector = dict(zip(detectors, model_hashes[len(self.tasks) :], strict=True))
        tasks = []
        for task, digest in zip(self.tasks, model_hashes, strict=False):
            settings = {**task.result_settings(), "sha256": digest}
            for detector in task.detectors:
                settings["detector_sha256"] = of_detector[detector.carried]
            for coco in task.box_files:
                settings["coco_sha256"] = of_file[coco.key]
            tasks.append(settings)
        reading = {name: getattr(self.input, name) for name in ("include", "image_column", "id_column", "columns")}
        if self.input.video and (chosen := self.input.video.result_settings()):  # else as before there were videos
            reading["video"] = chosen
        return {"tasks": without_secrets(tasks), "max_pixels": self.max_pixels, "input": reading}


def without_secrets(value: Any) -> Any:
    """URLs without user, password and query, also inside lists and mappings."""
    if isinstance(value, dict):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return without_query(value) if isinstance(value, str) else value


def fingerprint(settings: Settings) -> str:
    """First 16 hex digits of the SHA-256 of `Job.result_settings`."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
