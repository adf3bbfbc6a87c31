"""The plan: stable numbers and growth."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.errors import InputError, JobError
from sapiens_ray.execution.preflight import prepare_job, save_job
from sapiens_ray.job.config import Job
from sapiens_ray.planning import plan as planning
from sapiens_ray.planning.plan import Shard, ShardWork
from sapiens_ray.units import Done, UnitName
from tests.archives import write_tar
from tests.conftest import write_photos


def plan_of(path):
    prepared = prepare_job(Job.load(path))
    save_job(prepared)
    shards = prepared.plan.shards
    entries = [(one.number, entry.image_id) for one in shards for entry in planning.read_entries(prepared.output, one)]
    return prepared.plan, entries


def test_numbers_stay_when_the_input_grows_and_shrinks(write_job, tmp_path):
    files = write_photos(tmp_path / "photos", 5)
    path = write_job(tmp_path / "photos", input={"shard_size": 3}, unit_size=2)
    _, first = plan_of(path)
    assert first == [(0, "000.jpg"), (0, "001.jpg"), (0, "002.jpg"), (1, "003.jpg"), (1, "004.jpg")]
    (tmp_path / "photos" / "000a.jpg").write_bytes(b"new")
    files[4].unlink()
    plan, grown = plan_of(path)
    assert grown == [*first, (2, "000a.jpg")]
    assert [shard.images for shard in plan.shards] == [3, 2, 1]
    other = write_job(tmp_path / "photos", input={"shard_size": 3}, unit_size=50)
    assert plan_of(other)[0].unit_size == 2, "the unit size is kept, since late writes would overlap otherwise"


def test_new_tars_are_new_shards(write_job, tmp_path):
    files = write_photos(tmp_path / "photos", 4)
    write_tar(tmp_path / "b.tar", files[:2])
    path = write_job(str(tmp_path / "*.tar"))
    assert [shard.shard_id for shard in plan_of(path)[0].shards] == ["b.tar"]
    write_tar(tmp_path / "a.tar", files[2:])
    assert [shard.shard_id for shard in plan_of(path)[0].shards] == ["b.tar", "a.tar"]


def test_files_in_the_output_are_not_input(write_job, tmp_path):
    photos = write_photos(tmp_path / "photos", 2)[0].parent
    write_photos(photos / "labels" / "visualizations", 3)
    path = write_job(photos, output={"uri": str(photos / "labels")})
    assert plan_of(path)[1] == [(0, "000.jpg"), (0, "001.jpg")]


def test_the_output_may_be_the_folder_of_the_photos(write_job, tmp_path):
    photos = write_photos(tmp_path / "photos", 2)[0].parent
    write_photos(photos / "visualizations", 3)
    path = write_job(photos, output={"uri": str(photos)})
    assert plan_of(path)[1] == [(0, "000.jpg"), (0, "001.jpg")]


def test_a_folder_with_several_formats_is_refused(write_job, tmp_path):
    files = write_photos(tmp_path / "photos", 2)
    write_tar(tmp_path / "photos" / "a.tar", files)
    with pytest.raises(InputError, match=r"holds several kinds of input \(images, webdataset\); say which"):
        prepare_job(Job.load(write_job(tmp_path / "photos")))
    chosen = prepare_job(Job.load(write_job(tmp_path / "photos", input={"format": "webdataset"})))
    assert [shard.shard_id for shard in chosen.plan.shards] == ["a.tar"]


def test_a_file_matched_by_several_patterns_is_planned_once(write_job, tmp_path):
    write_tar(tmp_path / "a.tar", write_photos(tmp_path / "photos", 2))
    uris = [str(tmp_path / "a.tar"), str(tmp_path / "*.tar"), str(tmp_path / "photos"), f"{tmp_path}/photos/"]
    shards = plan_of(write_job(uris))[0].shards
    assert [shard.format for shard in shards] == ["webdataset", "images"]


def test_types_of_passthrough_columns_come_from_all_of_the_input(write_job, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"path": "x.jpg", "n": null, "m": 1, "never": null}')
    (tmp_path / "b.jsonl").write_text('{"path": "y.jpg", "n": "text", "m": 1.5, "never": null}')
    path = write_job([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")], input={"columns": ["n", "m", "never"]})
    schema = prepare_job(Job.load(path)).plan.extra_schema
    assert schema == pa.schema([("key", pa.string()), ("n", pa.string()), ("m", pa.float64()), ("never", pa.string())])
    (tmp_path / "b.jsonl").write_text('{"path": "y.jpg", "n": 3, "m": "text", "never": null}')
    with pytest.raises(InputError, match="'m' is int64 in one part of the input and string in another"):
        prepare_job(Job.load(path))


def test_lists_in_two_folders_give_different_ids(write_job, tmp_path):
    for name in ("one", "two"):
        write_photos(tmp_path / name, 1)
        (tmp_path / name / "list.txt").write_text("000.jpg\n")
    path = write_job([str(tmp_path / "one" / "list.txt"), str(tmp_path / "two" / "list.txt")])
    assert [image_id for _, image_id in plan_of(path)[1]] == ["one/000.jpg", "two/000.jpg"]


def test_the_input_may_grow_by_another_format(write_job, tmp_path, cluster):
    import sapiens_ray as sr

    files = write_photos(tmp_path / "photos", 4)
    sr.run(sr.Job.load(write_job(tmp_path / "photos", unit_size=2)))
    write_tar(tmp_path / "a.tar", files)
    both = write_job([str(tmp_path / "photos"), str(tmp_path / "a.tar")], unit_size=2)
    assert sr.run(sr.Job.load(both)).images == 8
    frame = sr.read_labels(str(tmp_path / "job-out"))
    assert frame["key"].isna().tolist() == [True] * 4 + [False] * 4
    import ray.data

    assert ray.data.DataContext.get_current().target_max_block_size != 1, "the caller's settings are restored"


def test_units_are_cut_where_the_first_run_cut_them(write_job, tmp_path):
    write_photos(tmp_path / "photos", 2)
    path = write_job(tmp_path / "photos")
    prepared = prepare_job(Job.load(path))
    prepared.settle_units(32, planning.CUT_ON_CPUS)
    save_job(prepared)
    again = prepare_job(Job.load(path))
    again.settle_units(64, planning.LARGEST_CUT)
    assert (again.unit_size, again.plan.unit_bytes) == (32, planning.CUT_ON_CPUS)
    # Earlier versions did not write it.
    table = pq.read_table(tmp_path / "job-out" / "plan.parquet")
    del (metadata := dict(table.schema.metadata))[b"unit_bytes"]
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "job-out" / "plan.parquet")
    assert prepare_job(Job.load(path)).plan.unit_bytes == planning.LARGEST_CUT
    explicit = prepare_job(Job.load(write_job(tmp_path / "photos", unit_size=64, output={"uri": str(tmp_path / "o")})))
    explicit.settle_units(32, planning.CUT_ON_CPUS)
    assert (explicit.unit_size, explicit.plan.unit_bytes) == (64, planning.LARGEST_CUT)


def test_an_input_without_images_is_refused(write_job, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.md").write_text("x")
    with pytest.raises(InputError, match=r"no images with a suffix that OpenCV reads in .*photos"):
        prepare_job(Job.load(write_job(tmp_path / "photos")))
    with pytest.raises(InputError, match="nothing matches"):
        prepare_job(Job.load(write_job(str(tmp_path / "*.tar"))))


def test_a_passthrough_column_must_not_have_the_name_of_an_output_column(write_job, tmp_path):
    from sapiens_ray.errors import ConfigError

    (tmp_path / "a.csv").write_text("path,width\nx.jpg,3\n")
    with pytest.raises(ConfigError, match=r"^input\.columns: 'width' is already a column of the output \(every row"):
        prepare_job(Job.load(write_job(tmp_path / "a.csv", input={"columns": ["width"]})))
    (tmp_path / "b.csv").write_text("path,small,small_area\nx.jpg,3,4\n")
    job = Job.load(write_job(tmp_path / "b.csv", input={"columns": ["small_area"]}), ["tasks.0.name=small"])
    with pytest.raises(ConfigError, match=r"^tasks\[0\]\.name: 'small_area' is already .* \(from input\.columns\)"):
        prepare_job(job)


def test_a_lost_file_is_written_again(write_job, tmp_path, cluster):
    import sapiens_ray as sr

    write_photos(tmp_path / "photos", 4)
    path = write_job(tmp_path / "photos", unit_size=2, input={"shard_size": 2})
    sr.run(sr.Job.load(path))
    (tmp_path / "job-out" / "data" / UnitName(1, 0, 2, True).file).unlink()
    summary = sr.run(sr.Job.load(path))
    assert (summary.already_done, summary.labelled, summary.images) == (2, 2, 4)
    assert JobError.exit_code == 1


COUNTS = st.integers(0, 2**40)
SHARDS = st.builds(
    Shard,
    number=COUNTS,
    format=st.text(),
    uri=st.text(st.characters(codec=None)),  # with halves of characters, as names on a disk have them
    shard_id=st.text(),
    size=COUNTS,
    stamp=st.text(),
    images=st.none() | COUNTS,
    entries=st.none() | st.text(),
    group=st.none() | COUNTS,
)
DONE = st.builds(Done, st.lists(st.tuples(COUNTS, COUNTS), max_size=4).map(tuple), st.none() | COUNTS)


@given(SHARDS, DONE, st.dictionaries(COUNTS, st.tuples(st.text(), st.text()), max_size=4))
def test_work_travels_unchanged(shard, done, quarantined):
    work = ShardWork(shard, done, quarantined)
    assert ShardWork.from_json(work.to_json()) == work


def test_work_on_a_new_shard_travels_unchanged():
    work = ShardWork(Shard(0, "images", "/photos", "photos"))
    arrived = ShardWork.from_json(work.to_json())
    assert arrived == work and hash(arrived.done) == hash(Done())
