"""The plan: stable numbers, growth, what counts as done, and merging."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapiens_ray.errors import InputError, JobError
from sapiens_ray.execution.preflight import prepare_job, save_job
from sapiens_ray.job.config import Job
from sapiens_ray.output.done import current, done_by_shard
from sapiens_ray.output.writing import merge_shard
from sapiens_ray.planning import plan as planning
from sapiens_ray.storage import Folder
from sapiens_ray.units import UnitName
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
    with pytest.raises(ConfigError, match="'width' is already a column of the output"):
        prepare_job(Job.load(write_job(tmp_path / "a.csv", input={"columns": ["width"]})))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data())
def test_files_that_a_merged_one_covers_do_not_count_twice(lengths, data):
    stops = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    starts = [0, *stops[:-1]]
    parts = [UnitName(4, start, stop, stop == stops[-1]) for start, stop in zip(starts, stops, strict=True)]
    merged = UnitName(4, 0, stops[-1], True)
    left = data.draw(st.lists(st.sampled_from(parts), unique=True))
    for found, rows in ((parts, stops[-1]), ([*left, merged], stops[-1])):
        counted, inside = current(data.draw(st.permutations(found)))
        assert sum(name.stop - name.start for name in counted) == rows
        assert sorted([*counted, *inside]) == sorted(found)
        assert done_by_shard(counted)[4].complete
    some = [name for name in parts if name not in left]
    done = done_by_shard(current(some)[0])
    assert (not some) or done[4].complete == (not left)


def _part(output: Folder, name: UnitName, errors: str) -> None:
    indices = pa.array(range(name.start, name.stop), pa.int32())
    table = pa.table({"index": indices, "seg": pa.array([b"x"] * len(indices), pa.binary())})
    table = table.replace_schema_metadata({"sapiens_ray.errors": errors, "other": "kept"})
    with output.replacing(f"data/{name.file}") as temporary:
        pq.write_table(table, temporary)


def test_merging_keeps_rows_order_and_counts(tmp_path):
    output = Folder(str(tmp_path))
    parts = [UnitName(0, 4, 8, False), UnitName(0, 0, 4, False), UnitName(0, 8, 8, True)]
    for name, errors in zip(parts, ['{"empty": 1}', '{"empty": 2, "corrupt": 1}', "{}"], strict=True):
        _part(output, name, errors)
    merged = merge_shard(output, parts)
    assert output.files("data") == [merged.file] == ["s000000-00000000-00000008-end.parquet"]
    with pq.ParquetFile(tmp_path / "data" / merged.file) as file:
        assert file.read()["index"].to_pylist() == list(range(8))
        assert file.schema_arrow.metadata[b"sapiens_ray.errors"] == b'{"empty": 3, "corrupt": 1}'
        assert file.schema_arrow.metadata[b"other"] == b"kept"
    _part(output, parts[2], "{}")  # killed after publishing, before all parts were deleted: tried again
    assert merge_shard(output, parts) == merged
    assert output.files("data") == [merged.file]


def test_a_merge_that_was_interrupted_is_cleaned_up(write_job, tmp_path, cluster):
    import sapiens_ray as sr

    write_photos(tmp_path / "photos", 6)
    path = write_job(tmp_path / "photos", unit_size=2)
    sr.run(sr.Job.load(path))
    data = tmp_path / "job-out" / "data"
    (merged,) = data.iterdir()
    # a part that was not deleted, and an unfinished file, as a kill in the middle leaves them
    part = pq.read_table(merged).slice(2, 2)
    pq.write_table(part, data / UnitName(0, 2, 4, False).file)
    (data / ".tmp-0123").write_bytes(b"half a fi")
    assert len(sr.read_labels(str(tmp_path / "job-out"))) == 6, "readers do not see its rows twice"
    sr.run(sr.Job.load(path))
    assert list(data.iterdir()) == [merged]


def test_a_lost_file_is_written_again(write_job, tmp_path, cluster):
    import sapiens_ray as sr

    write_photos(tmp_path / "photos", 4)
    path = write_job(tmp_path / "photos", unit_size=2, input={"shard_size": 2})
    sr.run(sr.Job.load(path))
    (tmp_path / "job-out" / "data" / UnitName(1, 0, 2, True).file).unlink()
    summary = sr.run(sr.Job.load(path))
    assert (summary.already_done, summary.labelled, summary.images) == (2, 2, 4)
    assert JobError.exit_code == 1


def test_units_that_two_attempts_cut_differently_are_merged_without_duplicates(cluster, write_job, tmp_path):
    """Two attempts at one shard may cut units at different places; images that both labelled count once."""
    import shutil

    import sapiens_ray as sr

    write_photos(tmp_path / "photos", 6)
    for name, size in (("one", 4), ("two", 3)):
        sr.run(sr.Job.load(write_job(tmp_path / "photos", name=name, unit_size=size)))
    whole = sr.read_labels(str(tmp_path / "one-out"))
    from sapiens_ray.execution import redo

    data = tmp_path / "one-out" / "data"
    (merged,) = data.iterdir()
    folder = Folder(str(tmp_path / "one-out"))
    with folder.open(f"data/{merged.name}") as stream, pq.ParquetFile(stream) as file:
        for start, stop, last in ((0, 4, False), (3, 6, True)):
            redo._copy_rows(file, start, stop, file.schema_arrow, folder, UnitName(0, start, stop, last))
    merged.unlink()
    shutil.rmtree(tmp_path / "two-out")
    path = write_job(tmp_path / "photos", name="one", unit_size=4)
    summary = sr.run(sr.Job.load(path))
    assert (summary.images, summary.already_done, summary.labelled) == (6, 6, 0)
    assert sr.read_labels(str(tmp_path / "one-out")).equals(whole)
