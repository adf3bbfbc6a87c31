"""Plans of large inputs: streamed to disk, compared by digests, split into many files."""

from __future__ import annotations

import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapiens_ray import storage
from sapiens_ray.errors import InputError
from sapiens_ray.execution.preflight import prepare_job, save_job
from sapiens_ray.job.config import Job
from sapiens_ray.planning import growth
from sapiens_ray.planning.growth import KnownUris
from sapiens_ray.planning.plan import load_plan, read_entries
from tests.conftest import write_photos


@given(st.lists(st.binary(max_size=30), max_size=60), st.lists(st.binary(max_size=30), max_size=60))
@settings(max_examples=100, deadline=None)
def test_known_uris_behave_like_a_set(known, asked):
    uris = KnownUris([known[:7], known[7:]])
    if uris.count and asked:
        assert uris.among(asked).tolist() == [uri in set(known) for uri in asked]


@pytest.fixture
def many(monkeypatch):
    """A list of names that replaces the listing of the input folder."""
    names: list[str] = []
    monkeypatch.setattr(storage, "walk", lambda folder, enter: iter([(name, True) for name in names]))
    return names


def entries_of(prepared) -> list[tuple[int, str]]:
    plan = load_plan(prepared.output)
    return [(shard.number, entry.image_id) for shard in plan.shards for entry in read_entries(prepared.output, shard)]


def test_files_of_entries_are_never_rewritten(many, monkeypatch, write_job, tmp_path):
    monkeypatch.setattr(growth, "SHARDS_PER_FILE", 3)
    (tmp_path / "photos").mkdir()
    path = write_job(tmp_path / "photos", input={"shard_size": 2})
    many += [f"{number:03d}.jpg" for number in range(0, 40, 2)]
    first = prepare_job(Job.load(path))
    save_job(first)
    folder = tmp_path / "job-out" / "plan"
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert sorted(before) == [f"entries-{number:06d}.parquet" for number in (0, 3, 6, 9)]
    expected = [(number // 2, name) for number, name in enumerate(many)]
    assert entries_of(first) == expected
    many[:] = [f"{number:03d}.jpg" for number in range(41)]
    second = prepare_job(Job.load(path))
    save_job(second)
    new = [f"{number:03d}.jpg" for number in range(1, 40, 2)] + ["040.jpg"]
    assert entries_of(second) == expected + [(10 + number // 2, name) for number, name in enumerate(new)]
    assert before.items() <= {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}.items()


def test_a_discarded_plan_leaves_nothing_behind(many, write_job, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    (tmp_path / "photos").mkdir()
    many += ["a.jpg", "b.jpg"]
    prepared = prepare_job(Job.load(write_job(tmp_path / "photos")))
    prepared.growth.discard()
    assert not list((tmp_path / "t").iterdir()) and not (tmp_path / "job-out").exists()


def test_another_format_late_in_the_listing_is_refused(many, write_job, tmp_path, monkeypatch):
    from sapiens_ray.planning import discovery

    monkeypatch.setattr(discovery, "LOOK", 5)
    (tmp_path / "photos").mkdir()
    many += [f"{number}.jpg" for number in range(8)] + ["z.tar"]
    with pytest.raises(InputError, match=r"several kinds of input \(images, webdataset\)"):
        prepare_job(Job.load(write_job(tmp_path / "photos")))


def test_listing_stops_when_there_is_enough_and_continues_later(many, write_job, tmp_path):
    (tmp_path / "photos").mkdir()
    many += [f"{number:02d}.jpg" for number in range(20)]
    path = write_job(tmp_path / "photos", input={"shard_size": 5})
    prepared = prepare_job(Job.load(path), listing_s=0.0)
    assert len(prepared.plan.shards) == 1 and not prepared.growth.ended
    save_job(prepared)
    assert [shard.images for shard in load_plan(prepared.output).shards] == [5]
    work = [item.shard.number for batch in prepared.work() for item in batch]
    assert work == [0, 1, 2, 3] and prepared.growth.ended
    assert entries_of(prepared) == [(number // 5, name) for number, name in enumerate(many)]


def test_planning_the_same_folder_twice_finds_nothing_new(write_job, tmp_path):
    """With real files instead of a list of names."""
    write_photos(tmp_path / "photos", 3)
    path = write_job(tmp_path / "photos")
    save_job(prepare_job(Job.load(path)))
    assert len(prepare_job(Job.load(path)).plan.shards) == 1


def test_values_of_a_list_that_changed_are_said_to_stay(write_job, tmp_path):
    """A list with boxes is edited after its images were planned, or continued."""
    write_photos(tmp_path / "photos", 3)
    rows = tmp_path / "rows.csv"

    def write(*captions: str) -> None:
        lines = [f"photos/{number:03d}.jpg,{caption}" for number, caption in enumerate(captions)]
        rows.write_text("\n".join(["path,caption", *lines]) + "\n")

    write("a", "b")
    path = write_job(rows, input={"columns": ["caption"]})

    def notes() -> list[str]:
        ready = prepare_job(Job.load(path))
        ready.settle_units(1, 512 << 20)
        save_job(ready)
        return ready.notes

    assert notes() == notes() == []
    write("a", "other")
    said = (
        f"{rows} has changed: images that were planned before keep the caption that it held then; to take the new "
        "values, label all again with --restart"
    )
    assert notes() == notes() == [said]
    write("a", "other", "c")
    assert notes() == [said] and notes() == [], "the list is as it was when its last image was planned"
    ready = prepare_job(Job.load(path), restart=True)
    assert ready.notes == []
