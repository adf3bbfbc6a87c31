"""Lists that changed after images of them were planned: what they say of these images is not read again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sapiens_ray import storage
from sapiens_ray.errors import InputError
from sapiens_ray.planning.plan import Shard
from sapiens_ray.sources import is_shard_format
from sapiens_ray.storage import StorageOptions
from sapiens_ray.storage.uris import redact_uri


class ListStamps:
    """What changes when a list does: now, and when images of it were planned."""

    def __init__(self, planned: Iterable[Shard], options: StorageOptions) -> None:
        self._options = options
        self._now: dict[str, str] = {}
        self._planned: dict[str, set[str]] = {}
        for shard in planned:
            if shard.stamp and not is_shard_format(shard.format):
                self._planned.setdefault(redact_uri(shard.uri), set()).add(shard.stamp)

    def now(self, uri: str) -> str:
        """The stamp of a list that was looked at; empty for folders and images."""
        return self._now.get(uri, "")

    def look(self, uri: str, columns: Sequence[str]) -> list[str]:
        """Look at a list before it is read. Returns a note for the user if planned images may have other values there
        now, else nothing. columns: that the job reads. Raises InputError if the storage cannot be read."""
        with storage.translate_errors(InputError, f"input.uri: cannot read {redact_uri(uri)}"):
            size, stamp = storage.stamp(uri, self._options)
        self._now[uri] = f"{size}:{stamp}"
        planned = self._planned.get(redact_uri(uri), set())
        if not planned or not columns or self._now[uri] in planned:
            return []
        return [
            f"{redact_uri(uri)} has changed: images that were planned before keep the {', '.join(columns)} that it "
            "held then; to take the new values, label all again with --restart"
        ]
