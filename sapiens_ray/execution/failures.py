"""What failures inside Ray mean to a user."""

from __future__ import annotations

import re
from typing import cast

from sapiens_ray import errors
from sapiens_ray.errors import ImageError, JobError, SapiensRayError, StorageError, error_lines
from sapiens_ray.storage.uris import redact_uris_in

# Ray Data tries for ever what kills its worker. Stages count by themselves (`attempts.py`); these bound what happens
# before they do. A call of an actor counts as tried whenever the actor dies, whichever image was the cause.
TASK_RETRIES = 1000
ACTOR_TASK_RETRIES = -1


def explain(error: Exception) -> SapiensRayError:
    """What a failure inside Ray means: our own exception if one caused it, else JobError with the reason."""
    import ray

    ours = _our_own(error)
    if isinstance(ours, StorageError):
        return StorageError(f"{ours}; what is written stays, run again to continue")
    if ours is not None:
        return ours
    if isinstance(error, ray.exceptions.WorkerCrashedError | ray.exceptions.OutOfMemoryError):
        return JobError(
            f"a worker died {TASK_RETRIES + 1} times before it started ({ray_reason(error)}); what is written stays, "
            "`sapiens-ray status` shows it, run again to continue"
        )
    return JobError(f"{redact_uris_in(ray_reason(error))}; what is written stays, run again to continue")


def _our_own(error: Exception) -> SapiensRayError | None:
    """The exception of ours behind one of Ray's."""
    import ray

    seen: BaseException | None = error
    while seen is not None:
        ours = isinstance(seen, SapiensRayError) and not isinstance(seen, ImageError)
        if ours and not isinstance(seen, ray.exceptions.RayError):  # some are both
            return cast(SapiensRayError, seen)
        seen = getattr(seen, "cause", None) or seen.__cause__
    for line in reversed(str(error).splitlines()):  # Ray keeps no more than the text of some
        said = re.search(r"sapiens_ray\.errors\.(\w+): (.+)", line)
        kind = getattr(errors, said[1], None) if said else None
        if said and isinstance(kind, type) and issubclass(kind, SapiensRayError) and kind is not ImageError:
            return kind(said[2])
    return None


# What Ray Data writes below the exception that a stage raised.
_ADVICE = ("Failed to apply UDF transform", "To change retry attempts", "ray.exceptions.UserCodeException", "The above")


def ray_reason(error: Exception) -> str:
    """What a Ray exception says at the end, below its stack traces; without Ray Data's advice below that."""
    said = [
        line for line in error_lines(error) if not line.startswith(("\x1b", *_ADVICE)) and "DataContext" not in line
    ]
    return said[-1][:500] if said else type(error).__name__
