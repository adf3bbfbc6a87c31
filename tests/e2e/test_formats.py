"""The same photos as folder, tar, Parquet and list give the same labels, byte for byte."""

from __future__ import annotations

import json

import pytest

from tests.archives import write_parquet, write_tar
from tests.conftest import read_output, write_photos

COUNT = 10
LABELS = ["width", "height", "error_kind", "error", "seg", "seg_classes", "seg_area"]


@pytest.fixture
def photos(tmp_path):
    files = write_photos(tmp_path / "photos", COUNT)
    files[4].write_bytes(files[4].read_bytes()[:500])  # the same error in every format
    return files


def test_same_labels_from_every_format(cluster, write_job, tmp_path, photos):
    import sapiens_ray as sr

    write_tar(tmp_path / "plain.tar", photos)
    write_tar(tmp_path / "packed.tar.gz", photos, "w:gz")
    write_parquet(tmp_path / "struct.parquet", photos, row_group_size=4)
    write_parquet(tmp_path / "bytes.parquet", photos, struct=False)
    (tmp_path / "list.txt").write_text("".join(f"photos/{file.name}\n" for file in photos))
    (tmp_path / "list.csv").write_text(
        "path,tag\n" + "".join(f'photos/{file.name},"tag {file.stem}"\n' for file in photos)
    )
    lines = [json.dumps({"uri": str(file), "tag": f"tag {file.stem}"}) for file in photos]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))

    inputs = [
        (["photos"], {}),
        (["plain.tar", "packed.tar.gz", "list.txt"], {}),
        (["struct.parquet"], {"columns": ["caption", "score"]}),
        (["bytes.parquet"], {"id_column": "name"}),
        (["list.csv", "list.jsonl"], {"columns": ["tag"]}),
    ]
    tables = {}
    for names, settings in inputs:
        job = write_job([str(tmp_path / name) for name in names], name=names[0], unit_size=4, input=settings)
        summary = sr.run(sr.Job.load(job))
        assert (summary.images, dict(summary.errors)) == (COUNT * len(names), {"corrupt": len(names)}), names
        table = read_output(tmp_path / f"{names[0]}-out")
        for number, name in enumerate(names):
            tables[name] = table.slice(number * COUNT, COUNT)

    expected = tables["photos"].select(LABELS).to_pylist()
    for name, table in tables.items():
        assert table.select(LABELS).to_pylist() == expected, name

    names = [file.name for file in photos]
    ids = {name: table["image_id"].to_pylist() for name, table in tables.items()}
    assert ids["photos"] == names
    assert ids["plain.tar"] == [f"plain.tar/{name}" for name in names]
    assert ids["struct.parquet"] == [f"struct.parquet/{number:08d}/{name}" for number, name in enumerate(names)]
    assert ids["bytes.parquet"] == [file.stem for file in photos]
    assert ids["list.txt"] == ids["list.csv"] == [f"photos/{name}" for name in names]
    assert ids["list.jsonl"] == [str(file) for file in photos]
    assert tables["plain.tar"]["key"].to_pylist() == [file.stem for file in photos]
    assert tables["struct.parquet"]["caption"].to_pylist() == [f"caption of {name}" for name in names]
    assert tables["struct.parquet"]["score"].to_pylist() == [number / 10 for number in range(COUNT)]
    for name in ("list.csv", "list.jsonl"):
        assert tables[name]["tag"].to_pylist() == [f"tag {file.stem}" for file in photos]


def test_several_inputs_of_several_formats_in_one_job(cluster, write_job, tmp_path, photos):
    import sapiens_ray as sr

    (tmp_path / "tars").mkdir()
    for number in range(3):
        write_tar(tmp_path / "tars" / f"{number:03d}.tar", photos[number::3])
    write_parquet(tmp_path / "table.parquet", photos[:3])
    uris = [str(tmp_path / "photos"), str(tmp_path / "tars" / "{000..002}.tar"), str(tmp_path / "*.parquet")]
    summary = sr.run(sr.Job.load(write_job(uris, unit_size=3, input={"shard_size": 6})))
    assert summary.images == 2 * COUNT + 3
    table = read_output(tmp_path / "job-out")
    ids = table["image_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    assert ids[:2] == ["photos/000.jpg", "photos/001.jpg"]
    assert "tars/001.tar/004.jpg" in ids and "table.parquet/00000002/002.jpg" in ids
    keys = dict(zip(ids, table["key"].to_pylist(), strict=True))
    assert keys["tars/001.tar/004.jpg"] == "004" and keys["photos/000.jpg"] is None
    files = sorted(path.name for path in (tmp_path / "job-out" / "data").iterdir())
    assert len(files) == len(set(table["shard"].to_pylist())) == 6, "one file per shard in the end"
    assert all("-00000000-" in name and name.endswith("-end.parquet") for name in files)
