"""Merges the files of complete shards while the job runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sapiens_ray.errors import JobError
from sapiens_ray.execution.failures import ray_reason
from sapiens_ray.output.done import done_by_shard
from sapiens_ray.output.writing import merge_shard
from sapiens_ray.storage import Folder
from sapiens_ray.units import UnitName

MergeRef = Any  # Ray's reference to a merge under way
LEAST_AT_ONCE = 4


class Merger:
    """Knows the files of every shard. When a shard is complete, its files are merged in a Ray task."""

    def __init__(self, output: Folder, files: Iterable[UnitName], run: str) -> None:
        self.output, self.run = output, run
        self.parts: dict[int, set[UnitName]] = defaultdict(set)
        self.running: list[MergeRef] = []
        for name in files:
            self.parts[name.shard].add(name)

    def ready(self) -> list[int]:
        """Complete shards with more than one file."""
        return [shard for shard in self.parts if self._is_ready(shard)]

    def _is_ready(self, shard: int) -> bool:
        parts = self.parts[shard]
        return len(parts) > 1 and done_by_shard(parts)[shard].complete

    def add(self, file: str) -> None:
        """Note a written unit; starts the merge if the shard is complete now."""
        name = UnitName.parse(file)
        assert name is not None, file
        self.parts[name.shard].add(name)
        if self._is_ready(name.shard):
            self.start(name.shard)

    def start(self, shard: int) -> None:
        """Start to merge a shard. Waits if too many merges are running."""
        import ray

        at_once = max(LEAST_AT_ONCE, len(ray.nodes()))  # a merge only copies files: larger clusters run more at once
        if len(self.running) >= at_once:
            finished, self.running = ray.wait(self.running, num_returns=1)
            self._check(finished)
        # No CPU is reserved: a merge mostly waits for storage, and must not starve on a machine with one CPU.
        merge: Any = ray.remote(num_cpus=0, max_retries=3)(merge_shard)
        self.running.append(merge.remote(self.output, sorted(self.parts.pop(shard)), self.run))

    def wait(self) -> None:
        """Wait for the running merges."""
        if self.running:
            self._check(self.running)
            self.running = []

    def _check(self, merges: list[MergeRef]) -> None:
        """Raise JobError if a merge failed. No rows are lost: the unmerged files remain."""
        import ray

        try:
            ray.get(merges)
        except ray.exceptions.RayError as error:
            raise JobError(
                f"merging the files of a shard failed: {ray_reason(error)}; run again to continue"
            ) from error
