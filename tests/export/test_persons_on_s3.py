"""Exports of persons with labels, photos and target on S3."""

from __future__ import annotations

import pytest

from sapiens_ray import storage
from sapiens_ray.planning.plan import EntriesFile, Shard
from sapiens_ray.sources import Entry
from tests.archives import write_tar
from tests.export.made import write_planned
from tests.reporting.made import labelled_photo
from tests.s3_server import s3_server


@pytest.fixture(scope="module")
def s3():
    with s3_server() as server:
        yield server


def test_photos_are_copied_from_s3_to_s3(command, s3, tmp_path):
    """A photo of its own, the second and third photos of a tar, and one that is gone."""
    names = ["photos/0", "photos/gone", "a.tar/1", "a.tar/2"]
    made = [labelled_photo(tmp_path / "loose", f"{name}.png", seed) for seed, name in enumerate(names)]
    files = [tmp_path / "loose" / f"{name}.png" for name in names]
    write_tar(tmp_path / "a.tar", files[2:])
    direct = s3.direct
    direct.mkdir("persons")
    direct.put_file(str(files[0]), "persons/photos/0.png")
    direct.put_file(str(tmp_path / "a.tar"), "persons/a.tar")
    rows = [{**row, "uri": f"s3://persons/{row['image_id']}"} for row in made]
    for row in rows[2:]:
        row["uri"] = row["uri"].replace("tar/", "tar#")
    entries = EntriesFile(0)
    group = entries.add([Entry(row["uri"], row["image_id"]) for row in rows[:2]])
    size, stamp = storage.stamp("s3://persons/a.tar", s3.options)
    folder = Shard(0, "images", "s3://persons", "s3://persons#0", images=2, entries=entries.name, group=group)
    tar = Shard(1, "webdataset", "s3://persons/a.tar", "a.tar", size, stamp, 2)
    output = write_planned(tmp_path / "out", "s3://persons", [(folder, rows[:2]), (tar, rows[2:])], entries)
    direct.put(output.uri, "persons/labels", recursive=True)
    options = [part for key, value in s3.options.items() for part in ("--storage-option", f"{key}={value}")]

    def export(name: str, *more: str) -> tuple[set[str], str]:
        done = command("export", "s3://persons/labels", "--to", f"s3://persons/{name}", *more, *options)
        assert done.code == 0 and "4 images exported" in done.out, done.text
        direct.invalidate_cache()
        return {path.removeprefix(f"persons/{name}/") for path in direct.find(f"persons/{name}")}, done.err

    found, said = export("yolo", "--format", "yolo-seg", "--persons", "--images", "copy", "--val", "0")
    there = [name for name in names if name != "photos/gone"]
    assert found == {"data.yaml", *(f"labels/train/{name}.txt" for name in names),
                     *(f"images/train/{name}.png" for name in there)}  # fmt: skip
    assert "photos left out, gone or changed: 1, such as photos/gone.png\n" in said
    for file, name in zip(files, names, strict=True):
        if name in there:
            assert direct.cat_file(f"persons/yolo/images/train/{name}.png") == file.read_bytes()
    assert direct.cat_file("persons/yolo/labels/train/a.tar/2.txt").count(b"\n") == 1

    found, _ = export("panoptic", "--format", "coco-panoptic")
    assert found == {"panoptic_seg.json", *(f"panoptic_seg/{name}.png" for name in names)}
