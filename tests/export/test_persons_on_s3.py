"""Exports of persons with labels, photos and target on S3."""

from __future__ import annotations

import cv2
import pytest

from tests.archives import write_tar
from tests.conftest import photo
from tests.export.groups import HEIGHT, WIDTH, row, write_group
from tests.export.test_yolo import patch_index
from tests.s3_server import s3_server


@pytest.fixture(scope="module")
def s3():
    with s3_server() as server:
        yield server


def test_photos_are_copied_from_s3_to_s3(command, s3, tmp_path):
    """A photo of its own, the second and third photos of a tar, and one that is gone."""
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.jpg")
        files[-1].write_bytes(cv2.imencode(".jpg", photo(WIDTH, HEIGHT, number))[1].tobytes())
    write_tar(tmp_path / "a.tar", files)
    places = {"photos/0.jpg": "photos/0.jpg", "a.tar/1.jpg": "a.tar#1.jpg", "a.tar/2.jpg": "a.tar#2.jpg",
              "photos/gone.jpg": "photos/gone.jpg"}  # fmt: skip
    rows = [{**row(name, [10, 60]), "uri": f"s3://persons/{place}"} for name, place in places.items()]
    output = write_group(tmp_path / "out", rows)
    patch_index(output.uri, [0, 1, 2, 3])
    direct = s3.direct
    direct.mkdir("persons")
    direct.put(output.uri, "persons/labels", recursive=True)
    for file, place in ((files[0], "photos/0.jpg"), (tmp_path / "a.tar", "a.tar")):
        direct.put_file(str(file), f"persons/{place}")
    options = [part for key, value in s3.options.items() for part in ("--storage-option", f"{key}={value}")]

    def export(name: str, *more: str) -> tuple[set[str], str]:
        done = command("export", "s3://persons/labels", "--to", f"s3://persons/{name}", *more, *options)
        assert done.code == 0 and "4 images exported" in done.out, done.text
        direct.invalidate_cache()
        return {path.removeprefix(f"persons/{name}/") for path in direct.find(f"persons/{name}")}, done.err

    found, said = export("yolo", "--format", "yolo-seg", "--persons", "--images", "copy", "--val", "0")
    names = ["photos/0", "a.tar/1", "a.tar/2", "photos/gone"]
    assert found == {"data.yaml", *(f"labels/train/{name}.txt" for name in names),
                     *(f"images/train/{name}.jpg" for name in names[:3])}  # fmt: skip
    assert "photos left out, gone or changed: 1, such as photos/gone.jpg\n" in said
    for file, name in zip(files, names, strict=False):
        assert direct.cat_file(f"persons/yolo/images/train/{name}.jpg") == file.read_bytes()
    assert direct.cat_file("persons/yolo/labels/train/a.tar/2.txt").count(b"\n") == 2

    found, _ = export("panoptic", "--format", "coco-panoptic")
    assert found == {"panoptic_seg.json", *(f"panoptic_seg/{name}.png" for name in names)}
