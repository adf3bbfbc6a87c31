"""Photos of a real job, read again from every kind of input for an export."""

from __future__ import annotations

import webdataset

from tests.archives import write_parquet, write_tar
from tests.conftest import write_photos


def test_photos_from_every_format_are_those_that_were_labelled(cluster, command, write_job, tmp_path):
    import sapiens_ray as sr

    names = ("photos", "others", "in_tar", "in_table")
    folder, listed, inner, table = (write_photos(tmp_path / name, 3) for name in names)
    folder[1].write_bytes(folder[1].read_bytes()[:500])  # an error row
    write_tar(tmp_path / "a.tar", inner)
    write_parquet(tmp_path / "b.parquet", table, row_group_size=2)
    (tmp_path / "list.txt").write_text("".join(f"others/{path.name}\n" for path in listed))
    uris = [str(tmp_path / name) for name in ("photos", "list.txt", "a.tar", "b.parquet")]
    job = write_job(uris, input={"shard_size": 2})
    assert sr.run(sr.Job.load(job)).images == 12

    done = command("export", tmp_path / "job-out", "--format", "webdataset", "--to", tmp_path / "to", "--photos")
    assert done.code == 0 and not done.err, done.text
    assert done.out.startswith("11 images exported, 1 error row skipped\n")
    tars = sorted(map(str, (tmp_path / "to").iterdir()))
    assert [tar.rpartition("/")[2] for tar in tars] == ["a.tar", "labels-000000.tar", "labels-000001.tar"]
    found = {one["json"]["image_id"]: one for one in webdataset.WebDataset(tars, shardshuffle=False).decode()}
    wanted = {
        **{f"photos/{path.name}": path for path in (folder[0], folder[2])},
        **{f"others/{path.name}": path for path in listed},
        **{f"a.tar/{path.name}": path for path in inner},
        **{f"b.parquet/{number:08d}/{path.name}": path for number, path in enumerate(table)},
    }
    assert set(found) == set(wanted)
    for image_id, path in wanted.items():
        assert found[image_id]["jpg"] == path.read_bytes(), image_id
    assert [one["__key__"] for one in found.values() if one["json"]["key"]] == ["000", "001", "002"]

    where = ("--where", f"image_id like 'b.parquet/%{table[2].name}'")
    options = ("--to", tmp_path / "part", "--photos", "--name", "part", *where)
    part = command("export", tmp_path / "job-out", "--format", "webdataset", *options)
    assert part.code == 0 and not part.err, part.text
    (one,) = webdataset.WebDataset(str(tmp_path / "part" / "part-000000.tar"), shardshuffle=False)
    assert one["jpg"] == table[2].read_bytes()
