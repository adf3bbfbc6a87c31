"""Merging the files of finished shards beside the work."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from sapiens_ray.errors import JobError
from sapiens_ray.execution import merging
from sapiens_ray.execution.cluster import start_ray
from sapiens_ray.execution.merging import Merger
from sapiens_ray.storage import Folder
from sapiens_ray.storage.retries import retry_deadline
from sapiens_ray.units import UnitName

RUN = "this run"


def parts_of(shard: int) -> list[UnitName]:
    """Seven images in three files."""
    return [UnitName(shard, 0, 3, False), UnitName(shard, 3, 6, False), UnitName(shard, 6, 7, True)]


@pytest.fixture(autouse=True)
def own_retries():
    """A run that fails retries no more; the tests after these do."""
    with retry_deadline(120.0):
        yield


@pytest.fixture
def output(tmp_path):
    folder = Folder(str(tmp_path))
    folder.write("lock.json", b'{"run": "this run", "pid": 1}')
    return folder


def write(output: Folder, name: UnitName) -> None:
    table = pa.table({"index": pa.array(range(name.start, name.stop), pa.int32())})
    with output.replacing(f"data/{name.file}") as temporary:
        pq.write_table(table.replace_schema_metadata({"sapiens_ray.errors": "{}"}), temporary)


class Noting(Merger):
    """Notes which shards it would merge."""

    def start(self, shard: int) -> None:
        self.begun = [*getattr(self, "begun", []), (shard, sorted(self.parts.pop(shard)))]


def test_complete_shards_in_several_files_are_ready(output):
    whole = UnitName(1, 0, 7, True)
    gap = [UnitName(3, 0, 3, False), UnitName(3, 4, 7, True)]
    merger = Merger(output, [*parts_of(0), whole, *parts_of(2)[:2], *gap], RUN)
    assert merger.ready() == [0]
    assert Merger(output, [], RUN).ready() == []


def test_a_shard_is_merged_when_its_last_file_is_written(output):
    merger = Noting(output, parts_of(0)[:1], RUN)
    for name in (parts_of(0)[2], *parts_of(5)[:2], parts_of(0)[1]):
        assert not hasattr(merger, "begun")
        merger.add(name.file)
    assert merger.begun == [(0, parts_of(0))]
    merger.add(parts_of(5)[2].file)
    assert merger.begun == [(0, parts_of(0)), (5, parts_of(5))]
    assert merger.ready() == [], "none is merged twice"


def test_a_shard_in_one_file_is_left_alone(output):
    merger = Noting(output, [], RUN)
    merger.add(UnitName(0, 0, 7, True).file)
    assert not hasattr(merger, "begun") and merger.ready() == []


def test_nothing_under_way_is_not_waited_for(cluster, output):
    Merger(output, parts_of(0)[:1], RUN).wait()


@pytest.fixture(params=["in threads", "on Ray"])
def place(request, cluster, monkeypatch):
    """Where merges run: a cluster of several nodes runs them as Ray tasks."""
    start_ray()
    if request.param == "on Ray":
        nodes = 2 * ray.nodes()
        monkeypatch.setattr(ray, "nodes", lambda: nodes)
    return request.param


def test_shards_are_merged(place, output, tmp_path, monkeypatch):
    """More of them than may be under way at a time."""
    monkeypatch.setattr(merging, "LEAST_AT_ONCE", 1)
    names = [name for shard in range(3) for name in parts_of(shard)]
    for name in names:
        write(output, name)
    merger = Merger(output, parts_of(0), RUN)
    for shard in merger.ready():
        merger.start(shard)
    for name in names[3:]:
        merger.add(name.file)
    merger.wait()
    assert not merger.running and merger.threads is None and merger.ready() == [], "none is merged twice"
    merged = [UnitName(shard, 0, 7, True).file for shard in range(3)]
    assert output.files("data") == merged
    for file in merged:
        assert pq.read_table(tmp_path / "data" / file)["index"].to_pylist() == list(range(7))


def test_a_merge_that_fails_shows_at_the_next_one(place, output):
    write(output, parts_of(0)[1])
    merger = Merger(output, [*parts_of(0), *parts_of(1)], RUN)
    merger.start(0)
    next(iter(merger.running)).exception()
    with pytest.raises(JobError, match="No such file"):
        merger.start(1)
    merger.stop()


def test_a_run_that_fails_waits_for_the_merge_under_way(place, output, monkeypatch):
    """It holds the lock until then: another run must not find a merge that is still writing."""
    began, ended = threading.Event(), threading.Event()

    def slow(self, parts):
        began.set()
        time.sleep(0.3)
        ended.set()

    monkeypatch.setattr(Merger, "_merge", slow)
    merger = Merger(output, parts_of(0), RUN)
    merger.start(0)
    began.wait()
    merger.stop()
    assert ended.is_set() and merger.threads is None


def test_merges_that_wait_for_a_place_do_not_begin_after_a_failure(output, monkeypatch):
    monkeypatch.setattr(merging, "LEAST_AT_ONCE", 1)
    monkeypatch.setattr(merging, "_machines", lambda: 1)
    began, merged = threading.Event(), []

    def slow(folder, parts, run):
        merged.append(parts[0].shard)
        began.set()
        time.sleep(0.3)

    monkeypatch.setattr(merging, "merge_shard", slow)
    merger = Merger(output, [*parts_of(0), *parts_of(1), *parts_of(2)], RUN)
    for shard in range(3):
        merger.start(shard)
    began.wait()
    merger.stop()
    assert len(merged) == 1


def test_no_more_merges_than_machines_are_under_way(output, monkeypatch):
    monkeypatch.setattr(merging, "LEAST_AT_ONCE", 1)
    machines = 3
    monkeypatch.setattr(merging, "_machines", lambda: machines)
    merger = Merger(output, [], RUN)
    inside: list[int] = []

    def work(_: int) -> None:
        with merger._place():
            inside.append(merger._merging)
            time.sleep(0.02)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(24)))
    assert max(inside) == machines and merger._merging == 0


@pytest.mark.parametrize("run", ["this run", "another run"])
def test_a_merge_that_fails_ends_the_job_and_keeps_the_rows(place, output, run):
    """A file is gone, or another run holds the output by now."""
    written = parts_of(0)[1:] if run == "this run" else parts_of(0)
    for name in written:
        write(output, name)
    merger = Merger(output, parts_of(0), run)
    merger.start(0)
    with pytest.raises(JobError, match=r"^merging the files of a shard failed: .*; run again to continue$") as caught:
        merger.wait()
    assert ("No such file" if run == "this run" else "was taken over by another run") in str(caught.value)
    assert output.files("data") == [name.file for name in written]
