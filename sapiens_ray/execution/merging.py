"""Merges the files of complete shards while the job runs."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sapiens_ray.errors import JobError
from sapiens_ray.execution.failures import ray_reason
from sapiens_ray.output.done import done_by_shard
from sapiens_ray.output.writing import merge_shard
from sapiens_ray.storage import Folder
from sapiens_ray.storage.retries import set_retry_deadline
from sapiens_ray.units import UnitName

LEAST_AT_ONCE, MOST_AT_ONCE = 4, 256


class Merger:
    """Knows the files of every shard. When a shard is complete, its files are merged in a thread of the driver, so
    that the loop which reads reports never waits."""

    def __init__(self, output: Folder, files: Iterable[UnitName], run: str) -> None:
        self.output, self.run = output, run
        self.parts: dict[int, set[UnitName]] = defaultdict(set)
        self.running: set[Future[None]] = set()
        self.threads: ThreadPoolExecutor | None = None
        self._places = threading.Condition()
        self._merging = 0
        self._stopping = False
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
        """Start to merge a shard. Raises JobError if an earlier merge failed."""
        self.threads = self.threads or ThreadPoolExecutor(MOST_AT_ONCE, "merge")
        self.running.add(self.threads.submit(self._merge, sorted(self.parts.pop(shard))))
        self._check({merge for merge in self.running if merge.done()})

    def wait(self) -> None:
        """Wait for all merges."""
        self._check(set(self.running))
        if self.threads is not None:
            self.threads.shutdown()
            self.threads = None

    def stop(self) -> None:
        """After an error: begin no further merge, and wait for those under way. They need the lock of the output, which
        the run still holds."""
        if self.threads is not None:
            with self._places:
                self._stopping = True
                self._places.notify_all()
            set_retry_deadline(0.0)  # else an exit could take minutes if the storage is down
            self.threads.shutdown(cancel_futures=True)
            self.threads = None

    def _merge(self, parts: list[UnitName]) -> None:
        """Merge here if the cluster is one machine: Ray would start another worker process, which imports everything
        while the device waits. Else in a Ray task, so that not all labels pass through one machine."""
        import ray

        with self._place():
            if _machines() == 1:
                merge_shard(self.output, parts, self.run)
                return
            # No CPU is reserved: a merge mostly waits for storage, and must not starve on a machine with one CPU.
            merge: Any = ray.remote(num_cpus=0, max_retries=3)(merge_shard)
            ray.get(merge.remote(self.output, parts, self.run))

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """Wait until fewer merges are under way than the cluster may run: as many as it has machines now."""
        with self._places:
            self._places.wait_for(lambda: self._stopping or self._merging < max(LEAST_AT_ONCE, _machines()))
            if self._stopping:
                raise JobError("the run ended before this merge began")  # nobody waits for it any more
            self._merging += 1
        try:
            yield
        finally:
            with self._places:
                self._merging -= 1
                self._places.notify()

    def _check(self, merges: set[Future[None]]) -> None:
        """Wait for merges. Raises JobError if one failed. No rows are lost: the unmerged files remain."""
        self.running -= merges
        for merge in merges:
            try:
                merge.result()
            except Exception as error:  # of the storage, or of Ray
                raise JobError(
                    f"merging the files of a shard failed: {ray_reason(error)}; run again to continue"
                ) from error


def _machines() -> int:
    import ray

    return sum(bool(node["Alive"]) for node in ray.nodes())
