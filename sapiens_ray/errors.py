"""All errors that this package raises on purpose.

    SapiensRayError
    ├── ConfigError           the job file, or a path it names, is wrong        exit 2
    │   ├── InputError            nothing to label, or a shard changed          exit 2
    │   ├── CheckpointError       a checkpoint is missing, altered, or unfit    exit 2
    │   ├── OutputError           the output belongs to another job, or run     exit 2
    │   └── ClusterError          the cluster can never run the job             exit 2
    ├── JobError              the job could not finish; written rows are kept   exit 1
    │   ├── StorageError          a storage does not answer                     exit 1
    │   └── DeviceFailedError     a GPU fails again and again                   exit 1
    ├── ErrorLimitError       every image has a row, too many are error rows    exit 1
    └── ImageError            one image has no labels: becomes an error row, never ends a job

`ImageError` carries the `error_kind` of its row; docs/outputs.md lists the kinds.
"""

from __future__ import annotations


class SapiensRayError(Exception):
    """Base of all errors of this package. `exit_code` is the exit code of the command line."""

    exit_code = 1


class ConfigError(SapiensRayError):
    """The job cannot start as it is written. The message names the field and the fix."""

    exit_code = 2


class InputError(ConfigError):
    """The input is empty, ambiguous, or no longer what was planned."""


class CheckpointError(ConfigError):
    """A checkpoint file is missing, altered, or does not fit its task."""


class OutputError(ConfigError):
    """The output folder holds results that this job must not mix with."""


class ClusterError(ConfigError):
    """The cluster can never provide the resources that the job asks for."""


class JobError(SapiensRayError):
    """The job stopped before every image had its row. Run it again to continue."""


class StorageError(JobError):
    """A storage does not answer, or no longer grants access. The files are fine; run the job again to continue."""


class DeviceFailedError(JobError):
    """A GPU fails again and again, or cannot be used. The job goes on without it if there are others."""


class ErrorLimitError(SapiensRayError):
    """Every image has a row, but more of them are errors than `max_error_fraction` allows."""


class ImageError(SapiensRayError):
    """Why one image has no labels. Becomes `error_kind` and `error` of its row."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return ImageError, (self.kind, self.message)


def error_lines(error: BaseException) -> list[str]:
    """The lines of an exception's text that are not empty; its class name where there is no text."""
    lines = [line.strip() for line in str(error).splitlines()]
    return [line for line in lines if line] or [type(error).__name__]


def first_line(error: BaseException) -> str:
    """The first line of a library's error, for messages."""
    return error_lines(error)[0][:200]


def last_line(error: BaseException) -> str:
    """The last line of a library's error, for messages: torch puts the reason there."""
    return error_lines(error)[-1][:500]
