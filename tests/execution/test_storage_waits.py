"""What a job says while it waits for a storage, here and in its workers."""

from __future__ import annotations

import threading
import time

import pytest

from sapiens_ray.execution.cluster import start_ray
from sapiens_ray.execution.coordinator import start_coordinator
from sapiens_ray.execution.storage_waits import StorageWaits, teller_at, wait_line
from sapiens_ray.storage import retries
from sapiens_ray.storage.retries import Waiting
from tests.conftest import PATIENCE_S

PHOTOS = Waiting("s3://photos", "SlowDown", 12.0, 108.0)
LABELS = Waiting("s3://labels", "SlowDown", 12.0, 108.0)


def test_the_line_says_which_storage_since_when_and_until_when():
    noon = time.mktime((2026, 1, 31, 12, 0, 12, 0, 0, -1))
    line = "The storage s3://photos does not answer (SlowDown); trying again since 12:00:00, until 12:02:00."
    assert wait_line(PHOTOS, "", noon) == line
    assert wait_line(PHOTOS, "node-3", noon) == line.replace("answer", "answer on node-3")
    assert wait_line(Waiting("", "SlowDown", 12.0, 108.0), "", noon).startswith("A storage does not answer (SlowDown)")


@pytest.mark.parametrize(("every_s", "lines"), [(1e9, ["photos", "labels"]), (0.0, ["photos", "photos", "labels"])])
def test_each_storage_has_a_line_in_a_while_whoever_waits(every_s, lines):
    told: list[str] = []
    waits = StorageWaits(told.append, every_s)
    waits.told(PHOTOS)
    waits.told(PHOTOS, "node-3")
    waits.told(LABELS)
    assert [line.split()[2].removeprefix("s3://") for line in told] == lines


def test_waits_of_workers_are_told(cluster, monkeypatch):
    monkeypatch.setattr(retries, "SILENT_S", 0.0)
    monkeypatch.setattr(retries, "TELL_EVERY_S", 0.0)
    start_ray(cluster.address)
    import ray

    def wait_for_a_storage(teller: retries.Teller) -> str:
        """In a worker: a call that succeeds at the third try."""
        answers = [TimeoutError("one"), TimeoutError("two"), "done"]

        def call() -> str:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        retries.set_teller(teller)
        return retries.retrying(call, of="s3://photos/a.jpg")

    told: list[str] = []
    heard = threading.Event()

    def tell(line: str) -> None:
        told.append(line)
        heard.set()

    coordinator = start_coordinator()
    with StorageWaits(tell).of_workers(coordinator):
        assert ray.get(ray.remote(wait_for_a_storage).options(num_cpus=0).remote(teller_at(coordinator))) == "done"
        assert heard.wait(PATIENCE_S)
    ray.kill(coordinator)
    assert told[0].startswith("The storage s3://photos does not answer on ")
    assert "(two); trying again since " in told[0] or "(one); trying again since " in told[0]
