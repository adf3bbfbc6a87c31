"""Merges the files of complete shards while the job runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any

from sapiens_ray.errors import JobError
from sapiens_ray.execution.failures import ray_reason
from sapiens_ray.output.done import done_by_shard
from sapiens_ray.output.writing import merge_shard
from sapiens_ray.storage import Folder
from sapiens_ray.units import UnitName

LEAST_AT_ONCE = 4


class Merger:
    """Knows the files of every shard. When a shard is complete, its files are merged.

    On one machine a thread of the driver does it: Ray would start another worker process, which imports everything
    while the device waits. On a cluster Ray tasks do it, so that not all labels pass through one machine.
    """

    def __init__(self, output: Folder, files: Iterable[UnitName], run: str) -> None:
        self.output, self.run = output, run
        self.parts: dict[int, set[UnitName]] = defaultdict(set)
        self.running: set[Future[UnitName]] = set()
        self.threads: ThreadPoolExecutor | None = None
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

        nodes = len(ray.nodes())
        while len(self.running) >= max(LEAST_AT_ONCE, nodes):  # a merge only copies files: larger clusters run more
            self._check(wait_for(self.running, return_when=FIRST_COMPLETED).done)
        work = (self.output, sorted(self.parts.pop(shard)), self.run)
        if nodes > 1:
            # No CPU is reserved: a merge mostly waits for storage, and must not starve on a machine with one CPU.
            merge: Any = ray.remote(num_cpus=0, max_retries=3)(merge_shard)
            self.running.add(merge.remote(*work).future())
        else:
            self.threads = self.threads or ThreadPoolExecutor(LEAST_AT_ONCE, "merge")
            self.running.add(self.threads.submit(merge_shard, *work))

    def wait(self) -> None:
        """Wait for the running merges."""
        self._check(set(self.running))
        if self.threads:
            self.threads.shutdown()
            self.threads = None

    def _check(self, merges: set[Future[UnitName]]) -> None:
        """Wait for merges. Raises JobError if one failed. No rows are lost: the unmerged files remain."""
        self.running -= merges
        for merge in merges:
            try:
                merge.result()
            except Exception as error:  # of the storage, or of Ray
                raise JobError(
                    f"merging the files of a shard failed: {ray_reason(error)}; run again to continue"
                ) from error
