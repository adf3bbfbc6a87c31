"""Trial runs: which images `--limit` and `--sample` choose, for every format, and how a full run goes on."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.errors import ClusterError, ConfigError
from sapiens_ray.execution import pipeline
from sapiens_ray.execution.preflight import prepare_job, save_job
from sapiens_ray.job.config import Job
from sapiens_ray.planning import growth
from sapiens_ray.planning.plan import read_entries
from sapiens_ray.planning.shards import open_shard
from sapiens_ray.planning.status import output_status
from sapiens_ray.planning.subset import Drawing, Subset, as_ranges, make_subset
from sapiens_ray.sources import Entry
from sapiens_ray.storage import Folder
from sapiens_ray.units import Done
from tests.archives import write_parquet, write_tar
from tests.conftest import read_output, write_photos

COUNT = 12
RANGES = st.sets(st.integers(0, 40)).map(lambda chosen: as_ranges(sorted(chosen)))


def positions(ranges):
    return {position for start, stop in ranges for position in range(start, stop)}


@given(st.sets(st.integers(0, 40)))
def test_ranges_hold_the_positions(chosen):
    ranges = as_ranges(sorted(chosen))
    assert positions(ranges) == chosen
    assert all(stop < start for (_, stop), (start, _) in itertools.pairwise(ranges))


@given(RANGES, RANGES)
def test_missing_images_are_those_that_are_wanted_and_not_done(done, wanted):
    assert positions(Done(done).missing(wanted)) == positions(wanted) - positions(done)


@given(RANGES, RANGES.filter(bool))
def test_a_reader_sees_all_others_as_done(done, wanted):
    left = Done(done, 99).outside(wanted)
    assert left.total == 99
    assert {index for index in range(wanted[-1][1]) if not left.has(index)} == positions(Done(done).missing(wanted))


def draw(count, seed, files, entries=()):
    drawing = Drawing(Subset(count, seed))
    drawing.add_entries(0, enumerate(entries))
    for holder, (uri, images) in enumerate(files, 1):
        drawing.add_file(holder, uri, images)
    return {(holder, position) for holder, found in drawing.drawn().items() for position, _ in found}


@given(st.integers(1, 30), st.integers(0, 5), st.lists(st.integers(0, 20), max_size=4), st.randoms())
def test_a_sample_does_not_depend_on_the_order_of_the_input(count, seed, sizes, random):
    files = [(f"{number}.tar", size) for number, size in enumerate(sizes)]
    drawn = draw(count, seed, files)
    assert len(drawn) == min(count, sum(sizes))
    shuffled = random.sample(files, len(files))
    names = {holder: uri for holder, (uri, _) in enumerate(shuffled, 1)}
    again = {(names[holder], position) for holder, position in draw(count, seed, shuffled)}
    assert again == {(files[holder - 1][0], position) for holder, position in drawn}


def test_every_image_is_drawn_equally_often():
    """Of 20 entries, and 20 images in files, 10 are drawn: every one in a quarter of 4,000 draws."""
    entries = [Entry("", f"{number}.jpg") for number in range(20)]
    hits = np.zeros((3, 20))
    for seed in range(4000):
        for holder, position in draw(10, seed, [("a.tar", 5), ("b.tar", 15)], entries):
            hits[holder, position] += 1
    counts = np.concatenate([hits[0], hits[1, :5], hits[2, :15]])
    assert counts.sum() == 40_000
    assert abs(counts - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)  # five standard deviations


def test_a_sample_does_not_depend_on_where_the_images_are():
    drawn = [draw(3, 0, [], [Entry(f"{folder}/{number}.jpg", f"{number}.jpg") for number in range(20)])
             for folder in ("/data", "s3://bucket/photos")]  # fmt: skip
    assert drawn[0] == drawn[1]


def test_a_larger_sample_holds_the_smaller_one():
    files = [("a.tar", 30), ("b.parquet", 30)]
    assert draw(5, 1, files) < draw(20, 1, files)
    assert draw(5, 1, files) != draw(5, 2, files)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="limit and sample: give one of them"):
        make_subset(1, 1, None)
    with pytest.raises(ConfigError, match="--sample 0: give a number of images, 1 or more"):
        make_subset(None, 0, None)
    with pytest.raises(ConfigError, match="--seed 3: it belongs to --sample, which is not given"):
        make_subset(4, None, 3)
    assert make_subset(None, None, None) is None


@pytest.fixture
def inputs(tmp_path):
    files = write_photos(tmp_path / "photos", COUNT)
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", files[4 * number : 4 * number + 4])
        write_tar(tmp_path / f"{number}.tar.gz", files[4 * number : 4 * number + 4], "w:gz")
        write_parquet(tmp_path / f"{number}.parquet", files[4 * number : 4 * number + 4], row_group_size=3)
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(f"photos/{file.name}") + "\n" for file in files))
    return {
        "folder": "photos", "tar": "{0..2}.tar", "packed": "*.tar.gz", "parquet": "*.parquet", "list": "list.jsonl",
    }  # fmt: skip


FORMATS = ["folder", "tar", "packed", "parquet", "list"]


def chosen_ids(prepared):
    """The ids of the images that a run would label, read as its first stage reads them. Writes the plan."""
    save_job(prepared)
    ids = []
    for work in [work for batch in prepared.work() for work in batch]:
        left = work.done if work.wanted is None else work.done.outside(work.wanted)
        stop = None if work.wanted is None else work.wanted[-1][1]
        for image in open_shard(work.shard, left, prepared.job.reading, prepared.output):
            if stop is not None and image.index >= stop:
                break
            ids.append(image.image_id)
    return ids


@pytest.mark.parametrize("format", FORMATS)
def test_the_first_images(write_job, tmp_path, inputs, format):
    def job(name):
        return Job.load(write_job(str(tmp_path / inputs[format]), name=name, input={"shard_size": 5}))

    everything = chosen_ids(prepare_job(job("all")))
    assert len(everything) == COUNT
    for count in (1, 5, 11, 12, 50):
        prepared = prepare_job(job(f"first{count}"), subset=Subset(count))
        assert prepared.expected == min(count, COUNT)
        assert chosen_ids(prepared) == everything[:count]


@pytest.mark.parametrize("format", FORMATS)
def test_a_sample_is_the_same_in_every_run_and_grows_to_the_whole(write_job, tmp_path, inputs, format):
    everything = chosen_ids(prepare_job(Job.load(write_job(str(tmp_path / inputs[format]), name="all"))))
    job = Job.load(write_job(str(tmp_path / inputs[format]), input={"shard_size": 5}))
    first = prepare_job(job, subset=Subset(5, 7))
    ids = chosen_ids(first)
    assert len(ids) == 5 and set(ids) < set(everything) and ids == sorted(ids, key=everything.index)
    assert ids != everything[:5]
    again = prepare_job(job, subset=Subset(5, 7))
    assert chosen_ids(again) == ids and again.expected == 5
    more = prepare_job(job, subset=Subset(8, 7))
    assert set(ids) < set(chosen_ids(more)) < set(everything)
    assert sorted(chosen_ids(prepare_job(job))) == sorted(everything), "a full run has every image once"


def test_a_limit_does_not_list_all_of_the_input(write_job, tmp_path, monkeypatch):
    from sapiens_ray import storage

    seen = []

    def walk(folder, enter):
        for number in range(1_000_000):
            seen.append(number)
            yield f"{number:07d}.jpg", True

    (tmp_path / "photos").mkdir()
    monkeypatch.setattr(storage, "walk", walk)
    prepared = prepare_job(Job.load(write_job(tmp_path / "photos")), subset=Subset(20))
    assert prepared.growth.ended and prepared.expected == 20
    assert len(seen) <= 11_000


@pytest.mark.parametrize(
    "format", ["folder", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("packed", "parquet"))]
)
def test_a_trial_and_then_the_whole_job(cluster, write_job, tmp_path, inputs, format):
    """In one output: a sample, the first images, all. Every image has one row; the labels are those of one run."""
    import sapiens_ray as sr

    uri = str(tmp_path / inputs[format])
    path = write_job(uri, input={"shard_size": 5}, output={"visualize": {"fraction": 0}})
    job = sr.Job.load(path)
    summary = sr.run(job, sample=3, seed=1)
    assert (summary.images, summary.expected, summary.state) == (3, 3, "done")
    assert summary.to_dict()["subset"] == "a sample of 3 images, seed 1"
    sampled = sr.read_labels(str(tmp_path / "job-out"))
    assert len(sampled) == 3
    summary = sr.run(job, sample=3, seed=1)
    assert (summary.labelled, summary.images) == (0, 3)
    summary = sr.run(job, limit=4)
    assert summary.images == summary.expected
    assert summary.images in (4, 5, 6, 7)
    summary = sr.run(job)
    assert (summary.images, summary.to_dict()["subset"]) == (COUNT, "")
    whole = sr.run(sr.Job.load(write_job(uri, name="whole", output={"visualize": {"fraction": 0}})))
    assert whole.images == COUNT
    names = ["image_id", "width", "height", "seg", "seg_classes", "seg_area"]
    pieces = sorted(read_output(tmp_path / "job-out").select(names).to_pylist(), key=lambda row: row["image_id"])
    expected = read_output(tmp_path / "whole-out").select(names).to_pylist()
    assert pieces == sorted(expected, key=lambda row: row["image_id"])


def test_outputs_of_trials_below_the_photos_are_not_input(write_job, tmp_path):
    """Not for the whole job, not for another trial, and not if the output is the folder of the photos."""
    photos = write_photos(tmp_path / "photos", 3)[0].parent
    for name in ("labels", "labels-limit-5", "labels-sample-4-seed-7", "labels-limit", "labels-more"):
        write_photos(photos / name / "visualizations", 1)
    expected = [
        "000.jpg",
        "001.jpg",
        "002.jpg",
        *(f"labels-{name}/visualizations/000.jpg" for name in ("limit", "more")),
    ]
    for number, output in enumerate(("labels", "labels-limit-2", "labels-sample-1-seed-0")):
        job = Job.load(write_job(photos, name=str(number), output={"uri": str(photos / output)}))
        prepared = prepare_job(job)
        entries = [entry.image_id for entry in planned(prepared)]
        assert sorted(entries) == expected, output


def planned(prepared):
    save_job(prepared)
    return [entry for shard in prepared.plan.shards for entry in read_entries(prepared.output, shard)]


def test_a_limit_looks_at_files_that_changed_or_are_gone(write_job, tmp_path):
    files = write_photos(tmp_path / "photos", COUNT)
    for name in ("a", "b", "c"):
        write_tar(tmp_path / f"{name}.tar", files[:4])
    job = Job.load(write_job(str(tmp_path / "*.tar")))
    save_job(prepare_job(job))
    write_tar(tmp_path / "b.tar", files[4:6])
    (tmp_path / "a.tar").unlink()
    prepared = prepare_job(job, redo_changed=True, subset=Subset(5))
    assert prepared.plan.changed == [1]
    assert prepared.growth.chosen == {2: ((0, 4),), 1: ((0, 1),)}


def test_a_sample_does_not_open_every_tar(write_job, tmp_path, monkeypatch):
    files = write_photos(tmp_path / "photos", 2)
    for number in range(40):
        write_tar(tmp_path / f"{number:02d}.tar.gz", files, "w:gz")
    opened = []
    original = growth.images_in
    monkeypatch.setattr(growth, "images_in", lambda shard, *rest: opened.append(shard) or original(shard, *rest))
    prepared = prepare_job(Job.load(write_job(str(tmp_path / "*.tar.gz"))), subset=Subset(3, 0))
    assert len(opened) == 16 and prepared.expected == 3
    assert len(prepared.plan.shards) <= 3


def test_a_run_that_fails_before_it_plans_leaves_a_trial_a_trial(cluster, write_job, tmp_path, monkeypatch):
    import sapiens_ray as sr

    write_photos(tmp_path / "photos", 3)
    job = sr.Job.load(write_job(tmp_path / "photos"))
    sr.run(job, limit=1)

    def refuse(address: object) -> None:
        raise ClusterError("Ray did not start")

    monkeypatch.setattr(pipeline, "start_ray", refuse)
    with pytest.raises(ClusterError):
        sr.run(job)
    status = output_status(Folder(str(tmp_path / "job-out")))
    assert (status["state"], status["complete"], status["subset"]) == ("failed", False, "the first 1 images")
    monkeypatch.undo()
    assert sr.run(job).images == 3
    status = output_status(Folder(str(tmp_path / "job-out")))
    assert (status["state"], status["complete"], status["subset"]) == ("done", True, "")
