"""Photos of rows, read again from every kind of input."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from sapiens_ray.errors import InputError, OutputError
from sapiens_ray.imaging import images
from sapiens_ray.job.config import Job
from sapiens_ray.planning.photos import PlannedPhotos, is_photo_of
from sapiens_ray.planning.plan import EntriesFile, Plan, Shard, save_plan
from sapiens_ray.sources import Entry, video
from sapiens_ray.sources.video import COLUMNS
from sapiens_ray.sources.video_table import read_table
from sapiens_ray.storage import Folder, stamp
from tests.conftest import photo, write_photos
from tests.reporting.made import error_row, write_rows
from tests.videos import read, write_video


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Folder, list[bytes]]:
    """An output whose plan names a folder, a tar and a Parquet file with the same ten photos."""
    paths = write_photos(tmp_path / "photos", 10)
    photos = [path.read_bytes() for path in paths]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path, data in zip(paths, photos, strict=True):
            for name, content in ((f"{path.stem}.json", b"{}"), (path.name, data)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    pq.write_table(pa.table({"picture": photos, "thumb": photos[::-1]}), tmp_path / "b.parquet", row_group_size=3)
    output = Folder(str(tmp_path / "out"))
    entries = EntriesFile(0)
    group = entries.add([Entry(str(path), path.name) for path in paths])
    entries.publish(output)
    shards = [Shard(0, "images", str(tmp_path / "photos"), "photos", images=10, entries=entries.name, group=group)]
    for number, (name, kind) in enumerate((("a.tar", "webdataset"), ("b.parquet", "parquet")), 1):
        size, mark = stamp(str(tmp_path / name))
        shards.append(Shard(number, kind, str(tmp_path / name), name, size, mark))
    save_plan(Plan(shards, 64, pa.schema([])), output)
    job = Job.parse({
        "input": {"uri": str(tmp_path), "image_column": "picture"}, "output": {"uri": output.uri},
        "tasks": [{"task": "seg", "checkpoint": "/m.pt2"}],
    })  # fmt: skip
    output.write("job.yaml", yaml.safe_dump({"job": job.public_dict()}).encode())
    return output, photos


@pytest.mark.parametrize("shard", [0, 1, 2])
def test_photos_of_a_shard_by_their_numbers(inputs, shard):
    output, photos = inputs
    reader = PlannedPhotos(output)
    for wanted in ([0], [9], [2, 3, 7], list(range(10)), [], [1, 8]):
        found = list(reader.of_shard(shard, wanted))
        assert [one.index for one in found] == wanted
        assert [one.data for one in found] == [photos[number] for number in wanted]


def test_photos_that_are_gone_or_changed(inputs, tmp_path):
    output, photos = inputs
    (tmp_path / "photos" / "003.jpg").unlink()
    found = list(PlannedPhotos(output).of_shard(0, [2, 3, 4]))
    assert [one.data for one in found] == [photos[2], None, photos[4]]
    assert found[1].error.kind == "missing"
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.tar has changed since it was planned"):
        list(PlannedPhotos(output).of_shard(1, [2]))
    (tmp_path / "out" / "plan.parquet").unlink()
    with pytest.raises(OutputError, match=r"has no plan\.parquet or no job\.yaml"):
        PlannedPhotos(output)


def test_which_bytes_are_the_photo_of_a_row():
    data = cv2.imencode(".jpg", photo(30, 20))[1].tobytes()
    assert is_photo_of(data, 30, 20) and not is_photo_of(data, 20, 30)
    assert not any((is_photo_of(data, 30, 21), is_photo_of(None, 30, 20), is_photo_of(b"text", 30, 20)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_of_a_turned_photo_is_that_of_its_pixels(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(photo(30, 20)).save(file, kind, exif=exif)
    height, width = images.decode(file.getvalue(), 600).shape[:2]
    assert is_photo_of(file.getvalue(), width, height) and not is_photo_of(file.getvalue(), height, width)


def test_the_times_of_a_video_are_read_once(tmp_path, monkeypatch):
    """Matroska has them between its frames: each part of the rows would cost the whole file."""
    path = write_video(tmp_path / "a.mkv", 20)
    output = write_rows(tmp_path / "out", [error_row("a.mkv/00000000")])
    size, mark = stamp(str(path))
    save_plan(Plan([Shard(0, "video", str(path), path.name, size, mark)], 64, pa.schema(COLUMNS)), output)
    calls = []
    monkeypatch.setattr(video, "read_table", lambda *given: calls.append(1) or read_table(*given))
    photos = PlannedPhotos(output)
    expected = [image.data for image in read(path)[0]]
    calls.clear()
    for part in ([0, 1], [2, 15], [3]):
        assert [image.data for image in photos.of_shard(0, part)] == [expected[number] for number in part]
    assert len(calls) == 1
