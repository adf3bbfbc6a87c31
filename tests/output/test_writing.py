"""Files of labels: written whole, and merged without losing or doubling a row."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from sapiens_ray.models.stand_ins import write_model
from sapiens_ray.output import writing
from sapiens_ray.output.writing import merge_shard
from sapiens_ray.storage import Folder
from sapiens_ray.units import UnitName
from tests.conftest import write_photos


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


def test_files_with_large_rows_stay_unless_a_row_is_in_two_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "LARGE_ROW", 10)
    output = Folder(str(tmp_path))
    parts = [UnitName(0, 0, 4, False), UnitName(0, 4, 8, True)]
    for name in parts:
        _part(output, name, "{}")
    assert merge_shard(output, parts) is None
    assert output.files("data") == [name.file for name in parts]
    twice = UnitName(0, 2, 6, False)
    _part(output, twice, "{}")
    merged = merge_shard(output, [*parts, twice])
    assert merged is not None and output.files("data") == [merged.file]
    with output.open(f"data/{merged.file}") as stream:
        assert pq.read_table(stream)["index"].to_pylist() == list(range(8))
    _part(output, parts[1], "{}")  # killed before it was deleted
    assert merge_shard(output, parts) == merged
    assert output.files("data") == [merged.file]


def test_a_job_of_feature_maps_keeps_the_files_of_its_units(write_job, tmp_path, cluster, monkeypatch):
    import sapiens_ray as sr

    monkeypatch.setattr(writing, "LARGE_ROW", 10_000)
    write_photos(tmp_path / "photos", 5)
    write_model(tmp_path / "model.pt2", "features")
    tasks = [{"task": "features", "checkpoint": str(tmp_path / "model.pt2"), "save": "map"}]
    job = sr.Job.load(write_job(tmp_path / "photos", unit_size=2, tasks=tasks))
    for already_done in (0, 5):
        summary = sr.run(job)
        assert (summary.images, summary.already_done) == (5, already_done)
        assert len(list((tmp_path / "job-out" / "data").iterdir())) == 3
    labels = sr.read_labels(tmp_path / "job-out", decode=True)
    assert labels["image_id"].is_unique and {one.shape[1:] for one in labels["features_map"]} == {(64, 64)}


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
