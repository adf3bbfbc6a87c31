"""A dataset folder for FiftyOne, by the rules of its importer; nightly by FiftyOne itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sapiens_ray
from sapiens_ray.labels import keypoint_links, keypoint_names
from tests.export.made import folder_output, tar_output

NAMES = ["a.png", "b/c.x.png", "d.png"]
# What the dataset says to someone who opens it. FiftyOne downloads its MongoDB, from elsewhere than PyPI:
# mongomock stands in for it.
OPEN = """
import json, sys
import mongomock, mongomock.codec_options, mongomock.store, pymongo
kind, store = mongomock.codec_options.CodecOptions, mongomock.store.ServerStore()
default = kind()
mongomock.codec_options.is_supported = lambda given: given if isinstance(given, kind) else default

class Client(mongomock.MongoClient):
    _closed = False

    def __init__(self, *places, appname=None, compressors=None, **options):
        super().__init__(*places, **{**options, "_store": store})

pymongo.MongoClient = Client
import fiftyone as fo
dataset = fo.Dataset.from_dir(dataset_dir=sys.argv[1], dataset_type=fo.types.FiftyOneDataset)
first = dataset.first()
print(json.dumps({
    "count": len(dataset), "fields": sorted(dataset.get_field_schema()), "targets": dataset.mask_targets["seg"],
    "skeleton": [len(dataset.skeletons["persons"].labels), len(dataset.skeletons["persons"].edges)],
    "mask": first.seg.get_mask().sum().item(), "depth": list(first.depth.get_map().shape),
    "points": len(first.persons.keypoints[0].points), "box": first.persons_boxes.detections[0].bounding_box,
    "persons": dataset.count("persons.keypoints"), "far": first.depth.far, "confidence": first.seg_confidence,
    "photos": [sample.filepath for sample in dataset],
}))
"""


@pytest.fixture
def output(tmp_path):
    return folder_output(tmp_path / "out", tmp_path / "photos", NAMES)


def export(command, output, to, *options):
    done = command("export", output.uri, "--format", "fiftyone", "--to", to, *options)
    assert done.code == 0, done.text
    return done, json.loads((Path(to) / "samples.json").read_text())["samples"]


def test_samples_are_the_rows(command, output, tmp_path):
    done, samples = export(command, output, tmp_path / "to")
    assert done.err == "normal left out: FiftyOne has no field for normal\n"
    rows = sapiens_ray.read_labels(output.uri, decode=True, where="error_kind is null").to_dict("records")
    assert len(samples) == 3
    for sample, row, name in zip(samples, rows, NAMES, strict=True):
        assert sample["filepath"] == str(tmp_path / "photos" / name) and sample["image_id"] == name
        assert sample["metadata"] == {"_cls": "ImageMetadata", "width": 120, "height": 160}
        assert (sample["seg"]["_cls"], sample["depth"]["_cls"]) == ("Segmentation", "Heatmap")
        classes = cv2.imread(str(tmp_path / "to" / sample["seg"]["mask_path"]), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(classes, row["seg"])
        depth = cv2.imread(str(tmp_path / "to" / sample["depth"]["map_path"]), cv2.IMREAD_UNCHANGED)
        assert depth.dtype == np.uint16 and depth.shape == row["depth"].shape and sample["depth"]["range"] == [0, 65535]
        (person,), (points,), (box,) = (
            row["persons"], sample["persons"]["keypoints"], sample["persons_boxes"]["detections"]
        )  # fmt: skip
        assert np.allclose(np.array(points["points"]) * [120, 160], person["keypoints"], atol=1e-4)
        assert box["bounding_box"] == pytest.approx([10 / 120, 10 / 160, 100 / 120, 140 / 160])
        assert points["confidence"] == pytest.approx(person["scores"]) and points["index"] == box["index"] == 0
        assert sample["seg_classes"] == [3, 21] and "key" not in sample, "null is no field"


def test_the_folder_is_of_the_older_layout(command, output, tmp_path):
    export(command, output, tmp_path / "to")
    about = json.loads((tmp_path / "to" / "metadata.json").read_text())
    assert "version" not in about, "with it, FiftyOne takes the layout of its own exports"
    assert about["media_type"] == "image"
    names = sapiens_ray.class_names("seg")
    assert about["info"]["mask_targets"] == {"seg": {str(number): name for number, name in enumerate(names)}}
    skeleton = about["info"]["skeletons"]["persons"]
    assert skeleton["labels"] == keypoint_names(17) and skeleton["edges"] == [list(one) for one in keypoint_links(17)]


def test_a_background_of_another_number_becomes_0(command, tmp_path):
    """It changes places with class 0: in the masks, in their names, and in the list of classes."""
    names = [f"c{number}" for number in range(28)]
    tasks = [{"task": "seg", "checkpoint": "/m.pth", "classes": {"names": names, "background": "c3"}}]
    output = folder_output(tmp_path / "out", tmp_path / "photos", NAMES[:1], tasks=tasks)
    done, (sample,) = export(command, output, tmp_path / "to")
    assert "seg: FiftyOne's background is 0, so classes 0 and 3 have changed places\n" in done.err
    mask = cv2.imread(str(tmp_path / "to" / sample["seg"]["mask_path"]), cv2.IMREAD_UNCHANGED)
    assert np.unique(mask).tolist() == sample["seg_classes"] == [0, 21]
    targets = json.loads((tmp_path / "to" / "metadata.json").read_text())["info"]["mask_targets"]["seg"]
    assert targets == {str(n): name for n, name in enumerate(["c3", "c1", "c2", "c0", *names[4:]])}


def test_photos_can_be_written(command, tmp_path):
    """Then those in tars have paths."""
    output = tar_output(tmp_path / "out", tmp_path / "in", {"t": ["a.png", "b.png"]})
    done = command("export", output.uri, "--format", "fiftyone", "--to", tmp_path / "to")
    assert done.code == 2 and not list((tmp_path / "to").glob("*.json"))
    assert "which this format cannot name: give --photos: 2, such as t.tar/a.png, t.tar/b.png" in done.err
    _, samples = export(command, output, tmp_path / "photos", "--photos")
    assert [one["filepath"] for one in samples] == ["data/t.tar/a.png", "data/t.tar/b.png"]
    for name in ("a", "b"):
        copied = (tmp_path / "photos" / "data" / "t.tar" / f"{name}.png").read_bytes()
        assert copied == (tmp_path / "in" / "loose" / f"{name}.png").read_bytes()


def test_a_photo_that_is_gone_leaves_valid_json(command, output, tmp_path):
    (tmp_path / "photos" / "a.png").unlink()
    done, samples = export(command, output, tmp_path / "to", "--photos")
    assert [one["image_id"] for one in samples] == NAMES[1:]
    assert "images left out, their photos cannot be read again: 1, such as a.png\n" in done.err


def with_columns(output: Path, columns: dict[str, tuple[pa.DataType, object]]) -> None:
    """Give every row of the only file of an output these cells."""
    (file,) = (output / "data").iterdir()
    table = pq.read_table(file)
    for name, (kind, value) in columns.items():
        table = table.append_column(pa.field(name, kind), pa.array([value] * table.num_rows, kind))
    pq.write_table(table, file)


HOSTILE = {
    "exif.iso": (pa.int64(), 100), "_split": (pa.string(), "a"), "$x": (pa.string(), "x"), "_cls": (pa.string(), "c"),
    "phash": (pa.uint64(), 2**64 - 1), "hashes": (pa.list_(pa.uint64()), [2**63, None]), "id_": (pa.string(), "two"),
    "id": (pa.string(), "one"), "persons_boxes": (pa.string(), "mine"), "caption": (pa.large_string(), "hi"),
    "kind": (pa.dictionary(pa.int8(), pa.string()), "k"), "_": (pa.int8(), 1), "x": (pa.int8(), 2),
}  # fmt: skip
LOST = {"taken": (pa.timestamp("us"), 0), "camera": (pa.struct([("iso", pa.int16())]), {"iso": 1})}


def test_columns_of_the_input_are_fields_or_named(command, output, tmp_path):
    """It refuses `exif.iso`, `_split`, `$x` and numbers above 2^63; the nightly test opens these columns."""
    with_columns(tmp_path / "out", HOSTILE | LOST)
    done, samples = export(command, output, tmp_path / "to")
    renamed = {"exif.iso": "exif_iso", "_split": "split", "$x": "x_", "_cls": "cls", "id": "id__", "_": "column",
               "persons_boxes": "persons_boxes_"}  # fmt: skip
    assert done.err.splitlines() == [
        "normal left out: FiftyOne has no field for normal",
        "taken left out: FiftyOne has no field for timestamp[us]",
        "camera left out: FiftyOne has no field for struct<iso: int16>",
        *(f"column {name!r} is the field {renamed[name]}: FiftyOne does not take its name"
          for name in HOSTILE if name in renamed),
        *(f"{name}: whole numbers above 2^63 do not fit into FiftyOne: they are text" for name in ("hashes", "phash")),
    ]  # fmt: skip
    for sample in samples:
        cells = {name: value for name, (_, value) in HOSTILE.items()}
        cells |= {"phash": str(2**64 - 1), "hashes": [str(2**63), None]}
        assert {name: sample[renamed.get(name, name)] for name in cells} == cells
        assert sample["persons_boxes"]["_cls"] == "Detections"


@pytest.mark.nightly  # a venv of 100 packages
def test_fiftyone_opens_it(command, output, tmp_path):
    with_columns(tmp_path / "out", HOSTILE)
    export(command, output, tmp_path / "to", "--photos")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    packages = ["fiftyone==1.22.1", "mongomock==4.3.0"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, timeout=1100)
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "FIFTYONE_DO_NOT_TRACK": "true"}
    env |= {"FIFTYONE_DATABASE_URI": "mongodb://localhost", "FIFTYONE_DISABLE_SERVICES": "1"}
    env |= {"FIFTYONE_DATABASE_VALIDATION": "false", "FIFTYONE_DATABASE_ADMIN": "false"}
    done = subprocess.run(
        [python, "-c", OPEN, str(tmp_path / "to")], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["count"] == found["persons"] == 3 and found["far"] == 1.0 and found["mask"] == 160 * 60 * (3 + 21)
    assert {"persons", "persons_boxes", "seg", "depth", "seg_confidence", "seg_classes"} <= set(found["fields"])
    assert found["targets"]["3"] == "Hair" and found["skeleton"] == [17, len(keypoint_links(17))]
    assert found["depth"] == [64, 48] and found["points"] == 17
    assert found["photos"][0] == str(tmp_path / "to" / "data" / "a.png")
