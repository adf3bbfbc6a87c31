"""What a command answers to a script: JSON on stdout, also for its error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sapiens_ray.tasks.sections import Settings


def print_json(value: object) -> None:
    """Print one answer as JSON, readable for people as well."""
    print(json.dumps(value, indent=2))


def error_message(error: BaseException) -> str:
    """The message of an error, without credentials in its URLs."""
    from sapiens_ray.storage.uris import redact_uris_in

    return redact_uris_in(str(error)) or type(error).__name__


def error_fields(error: BaseException) -> Settings:
    """An error for a script: its message, and its class in `sapiens_ray.errors`."""
    return {"error": error_message(error), "kind": type(error).__name__}
