"""An unfinished output of commit 3a36c3a can be resumed: names, columns, plan, fingerprint, records of deaths.

tests/data/begun_by_3a36c3a holds the photos, the models and the output of a job that was killed when one of its two
shards was complete. The photos are read from S3, whose URIs are the same on every machine.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import sapiens_ray as sr
from sapiens_ray.execution.redo import delete_results
from sapiens_ray.imaging.images import decode_map
from sapiens_ray.imaging.maps import decode_npy
from sapiens_ray.planning.status import output_status
from sapiens_ray.storage import Folder
from tests.conftest import ROOT, read_output
from tests.s3_server import s3_server

BEGUN = ROOT / "tests" / "data" / "begun_by_3a36c3a"
TASKS = [
    {"task": "seg"},
    {"task": "depth", "resolution": "original", "mode": "torchscript"},  # as it was called then
    {"task": "normal", "resolution": "original", "mode": "float32", "mask": "none"},
    {"task": "pose", "keypoints": 17, "boxes": "seg"},
]
COLUMNS = ("seg", "depth", "normal", "persons")
LATER = ("seg_confidence", "seg_confidence_p05", "seg_class_confidence", "normal_length")
PICTURES = {"max_side": 32, "quality": 60, "fraction": 0.6}


@pytest.fixture(scope="module")
def job():
    """The job of that output, as a function of the folder to write to; pictures may differ."""
    files = {"seg": "seg", "depth": "depth", "normal": "normal", "pose": "pose17"}
    tasks = [{**task, "checkpoint": str(BEGUN / "models" / f"{files[task['task']]}.pt2")} for task in TASKS]
    with s3_server() as s3:
        s3.direct.mkdir("begun")
        for photo in sorted((BEGUN / "photos").iterdir()):
            s3.direct.put_file(str(photo), f"begun/photos/{photo.name}")

        def at(output: Path, **pictures: object) -> sr.Job:
            return sr.Job.parse({
                "name": "begun",
                "input": {"uri": "s3://begun/photos/", "shard_size": 4, "storage_options": s3.options},
                "output": {"uri": str(output), "visualize": {**PICTURES, **pictures}},
                "unit_size": 2,
                "tasks": tasks,
            })  # fmt: skip

        yield at


def test_it_is_resumed_without_an_error(cluster, job, tmp_path):
    output = tmp_path / "output"
    shutil.copytree(BEGUN / "output", output)
    before = {file.name: file.read_bytes() for file in (output / "data").iterdir()}
    status = output_status(Folder(str(output)))
    assert (status["images"], status["expected"], status["errors"]) == (6, 8, {"not_an_image": 1})

    summary = sr.run(job(output, fraction=1))
    assert (summary.already_done, summary.labelled, summary.images) == (6, 2, 8)
    files = {file.name: file.read_bytes() for file in (output / "data").iterdir()}
    assert sorted(files) == ["s000000-00000000-00000004-end.parquet", "s000001-00000000-00000004-end.parquet"]
    complete = "s000000-00000000-00000004-end.parquet"
    assert files[complete] == before[complete], "a complete shard is not touched"

    table = read_output(output)
    old = pq.read_schema(BEGUN / "output" / "data" / complete)
    assert table.schema.names == old.names, "an output keeps the columns with which it was begun"
    assert table["image_id"].to_pylist() == [f"{number}.jpg" for number in range(8)]
    kinds = dict(enumerate(table["error_kind"].to_pylist()))
    assert kinds.pop(1) == "not_an_image"
    assert kinds.pop(7) == "crashed", "image 3 of shard 1 is not tried again: it killed its worker"
    assert set(kinds.values()) == {None}
    assert not list((output / "attempts").iterdir()), "the records of a finished job are deleted"

    names = {number: f"{number}.jpg.jpg" for number in (0, 2, 5)} | {6: "6.jpg"}  # the old version's, and ours
    named = [names.get(number) and f"visualizations/seg/{names[number]}" for number in range(8)]
    assert table["visualization"].to_pylist() == named
    assert pictures(output) == sorted(f"{column}/{name}" for column in COLUMNS for name in names.values())
    delete_results(Folder(str(output)))
    assert pictures(output) == []


def test_labels_schema_and_settings_are_unchanged(cluster, job, tmp_path):
    """A new run gives the same columns, types, metadata and settings, and with the same torch the same labels but for
    the last bit, since CPUs of other kinds add in another order; and columns that came later."""
    output = tmp_path / "output"
    sr.run(job(output, style="lite"))
    old = pq.read_table(BEGUN / "output" / "data" / "s000000-00000000-00000004-end.parquet")
    new = pq.read_table(output / "data" / "s000000-00000000-00000004-end.parquet")
    assert [name for name in new.schema.names if name not in LATER] == old.schema.names
    assert set(LATER) <= set(new.schema.names)
    persons = new.schema.field("persons").type.value_type
    assert [persons.field(place).name for place in range(persons.num_fields)][-2:] == ["score", "visible"]
    new = new.select(old.schema.names)
    new = new.set_column(new.schema.get_field_index("persons"), old.schema.field("persons"), as_before(new, old))
    assert new.schema.equals(old.schema), "names and types"
    about_old, about_new = (json.loads(table.schema.metadata[b"sapiens_ray.job"]) for table in (old, new))
    versions = about_old.pop("versions"), about_new.pop("versions")
    assert about_new == about_old, "fingerprint, models, tasks"
    assert versions[0].keys() == versions[1].keys()
    record_old, record_new = (yaml.safe_load((one / "job.yaml").read_text()) for one in (BEGUN / "output", output))
    assert record_new.keys() == record_old.keys()
    assert record_new["result_settings"] == record_old["result_settings"]
    head = [name for name in old.schema.names if name not in ("error", "visualization")]
    if (
        versions[0]["torch"] == versions[1]["torch"]
        and versions[0]["opencv-python-headless"] == (versions[1]["opencv-python-headless"])
    ):
        for name in head:
            for ours, theirs in zip(numbers(cells(new, name)), numbers(cells(old, name)), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3, err_msg=name)
        for name in pictures(BEGUN / "output"):  # style lite draws the same pictures
            ours, theirs = (
                cv2.imread(str(path)).astype(int)
                for path in (output / "visualizations" / name.removesuffix(".jpg"),
                             BEGUN / "output" / "visualizations" / name)
            )  # fmt: skip
            assert abs(ours - theirs).mean() < 0.1, name
    assert pictures(output) == sorted(f"{column}/{number}.jpg" for column in COLUMNS for number in (0, 2, 5, 7))


def as_before(new: pa.Table, old: pa.Table) -> pa.ChunkedArray:
    """The column of persons without the fields that came later."""
    return new["persons"].cast(old.schema.field("persons").type)


def cells(table: pa.Table, name: str) -> list[Any]:
    """The values of a column; of maps the pixels."""
    values: list[Any] = table[name].to_pylist()
    decode = {"seg": decode_map, "depth": decode_npy, "normal": decode_npy}.get(name)
    return [one and decode(one) for one in values] if decode else values


def numbers(value: Any) -> Iterator[np.ndarray]:
    """The numbers in a nested value, as arrays; texts and what is missing must be equal, and are given as a hash."""
    if isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers(one)
    elif isinstance(value, np.ndarray | float | int):
        yield np.asarray(value, np.float64)
    else:
        yield np.asarray(zlib.crc32(repr(value).encode()), np.float64)


def pictures(output: Path) -> list[str]:
    """The names of all pictures of an output."""
    root = output / "visualizations"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
