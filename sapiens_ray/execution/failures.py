"""Translates failures inside Ray into messages for users."""

from __future__ import annotations

import re
from typing import cast

from sapiens_ray import errors
from sapiens_ray.errors import ImageError, JobError, SapiensRayError, StorageError, error_lines
from sapiens_ray.storage.uris import redact_uris_in


def explain(error: Exception) -> SapiensRayError:
    """The exception for a failure inside Ray: our own if one caused the failure, else a JobError with the reason."""
    import ray

    ours = _our_own(error)
    if isinstance(ours, StorageError):
        return StorageError(f"{_without_advice(str(ours))}; everything written is kept, run again to continue")
    if ours is not None:
        return ours
    if isinstance(error, ray.exceptions.WorkerCrashedError | ray.exceptions.OutOfMemoryError):
        return JobError(
            f"a worker died and was not replaced ({ray_reason(error)}); everything written is kept, `sapiens-ray "
            "status` shows it, run again to continue"
        )
    return JobError(f"{redact_uris_in(ray_reason(error))}; everything written is kept, run again to continue")


def _our_own(error: Exception) -> SapiensRayError | None:
    """Our own exception that caused an exception of Ray, if there is one."""
    import ray

    seen: BaseException | None = error
    while seen is not None:
        ours = isinstance(seen, SapiensRayError) and not isinstance(seen, ImageError)
        if ours and not isinstance(seen, ray.exceptions.RayError):  # some are both
            return cast(SapiensRayError, seen)
        seen = getattr(seen, "cause", None) or seen.__cause__
    for line in reversed(str(error).splitlines()):  # of some exceptions Ray keeps only the text
        said = re.search(r"sapiens_ray\.errors\.(\w+): (.+)", line)
        kind = getattr(errors, said[1], None) if said else None
        if said and isinstance(kind, type) and issubclass(kind, SapiensRayError) and kind is not ImageError:
            return kind(said[2])
    return None


# Lines that Ray Data adds below the exception of a stage.
_ADVICE = ("Failed to apply UDF transform", "To change retry attempts", "ray.exceptions.UserCodeException", "The above")


def _without_advice(text: str) -> str:
    """A text without what Ray Data appends to it."""
    return min((text.partition(advice)[0] for advice in _ADVICE), key=len).strip() or text


def ray_reason(error: Exception) -> str:
    """The last line of a Ray exception, below its stack traces and without Ray Data's advice."""
    said = [
        line for line in error_lines(error) if not line.startswith(("\x1b", *_ADVICE)) and "DataContext" not in line
    ]
    return said[-1][:500] if said else type(error).__name__
