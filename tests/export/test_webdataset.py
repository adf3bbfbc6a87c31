"""WebDataset tars, read by webdataset itself."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

import sapiens_ray
from sapiens_ray.export.json_text import json_text
from sapiens_ray.storage import Folder
from tests.conftest import ROOT
from tests.export.made import folder_output, members_of, parquet_output, tar_output

NAMES = ["a.png", "sub/b.c.png", "d.png"]
SPECIAL = ("__key__", "__url__", "__local_path__")


def read(*paths: Path, decode: bool = True) -> list[dict[str, Any]]:
    """The samples of tars, as training reads them."""
    dataset = webdataset.WebDataset(list(map(str, paths)), shardshuffle=False)
    return list(dataset.decode() if decode else dataset)


def fields(sample: dict[str, Any]) -> set[str]:
    return set(sample) - set(SPECIAL)


@pytest.fixture
def output(tmp_path):
    return folder_output(tmp_path / "out", tmp_path / "photos", NAMES)


def export(command, output, to, *options):
    done = command("export", output.uri, "--format", "webdataset", "--to", to, *options)
    assert done.code == 0, done.text
    return done


def test_labels_and_photos_are_those_of_the_rows(command, output, tmp_path):
    done = export(command, output, tmp_path / "to", "--photos", "--name", "train", "--shard-size", 2)
    assert done.out.startswith("3 images exported, 1 error row skipped\n") and not done.err
    tars = [tmp_path / "to" / f"train-{number:06d}.tar" for number in range(2)]
    assert sorted((tmp_path / "to").iterdir()) == tars
    samples = read(*tars, decode=False)
    assert [sample["__key__"] for sample in samples] == ["000000-00000000", "000000-00000002", "000000-00000003"]
    for sample, name in zip(samples, NAMES, strict=True):
        assert fields(sample) == {"png", "json", "seg.png", "depth.npy", "normal.npy"}
        assert sample["png"] == (tmp_path / "photos" / name).read_bytes()
    rows = sapiens_ray.read_labels(output.uri, decode=True, where="error_kind is null").to_dict("records")
    for sample, row in zip(read(*tars), rows, strict=True):
        assert np.array_equal(cv2.imdecode(np.frombuffer(sample["seg.png"], np.uint8), -1), row["seg"])
        assert np.array_equal(sample["depth.npy"], row["depth"])
        assert np.array_equal(sample["normal.npy"], row["normal"])
        about = sample["json"]
        assert {name: about[name] for name in ("image_id", "width", "height", "index", "key")} == {
            "image_id": row["image_id"], "width": 120, "height": 160, "index": row["index"], "key": None,
        }  # fmt: skip
        assert about["seg_classes"] == [3, 21] and "error_kind" not in about and "visualization" not in about
        assert np.array_equal(np.array(about["persons"][0]["keypoints"], np.float32), row["persons"][0]["keypoints"])


def test_the_same_labels_give_the_same_bytes(command, output, tmp_path):
    for to in ("one", "two"):
        export(command, output, tmp_path / to)
    one, two = (tmp_path / to / "labels-000000.tar" for to in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert {(member.mtime, member.uid, member.uname) for member in members_of(one).values()} == {(0, 0, "")}


def test_only_photos_of_the_chosen_rows_are_read(command, output, tmp_path):
    """Others may be gone."""
    (tmp_path / "photos" / "a.png").unlink()
    done = export(command, output, tmp_path / "to", "--photos", "--where", "image_id > 'b'")
    assert not done.err
    samples = read(tmp_path / "to" / "labels-000000.tar")
    assert [sample["json"]["image_id"] for sample in samples] == NAMES[1:]


def test_photos_that_are_gone_or_others_are_left_out(command, output, tmp_path):
    (tmp_path / "photos" / "a.png").unlink()
    (tmp_path / "photos" / "d.png").write_bytes(cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes())
    done = export(command, output, tmp_path / "to", "--photos")
    assert done.out.startswith("1 image exported, 1 error row skipped\n")
    assert done.err == (
        "images left out, their photos cannot be read again: 1, such as a.png\n"
        "images left out, their photos are others than were labelled: 1, such as d.png\n"
    )
    assert [sample["json"]["image_id"] for sample in read(tmp_path / "to" / "labels-000000.tar")] == ["sub/b.c.png"]


TARS = {"00000": ["a.png", "x/b.png", "bad.png"], "00001": ["c.left.png", "c.right.png", "d.001.png"]}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_tars_beside_those_of_the_input(command, tmp_path, suffix):
    """Both are read side by side: every key of the input has its sample, that of a broken photo, too."""
    output = tar_output(tmp_path / "out", tmp_path / "in", TARS, suffix)
    done = export(command, output, tmp_path / "to")
    assert done.out.startswith("5 images exported, 1 error row skipped\n") and not done.err
    tars = [tmp_path / "in" / f"{name}{suffix}" for name in TARS]
    beside = [tmp_path / "to" / tar.name for tar in tars]
    if suffix != ".tar":
        assert all(gzip.decompress(path.read_bytes()) for path in beside)
    photos, labels = read(*tars, decode=False), read(*beside)
    assert [one["__key__"] for one in photos] == [one["__key__"] for one in labels] == ["a", "x/b", "bad", "c", "d"]
    a, b, bad, c, d = labels
    assert fields(a) == fields(b) == {"json", "seg.png", "depth.npy", "normal.npy"}
    assert a["json"]["image_id"] == f"00000{suffix}/a.png" and a["json"]["key"] == "a"
    assert fields(bad) == {"json"} and bad["json"]["error_kind"] == "corrupt" and bad["json"]["persons"] is None
    assert fields(c) == {f"{side}.{name}" for side in ("left", "right") for name in fields(a)}
    assert c["right.json"]["image_id"] == f"00001{suffix}/c.right.png" and "001.seg.png" in d


def test_photos_of_tars_keep_their_names(command, tmp_path):
    output = tar_output(tmp_path / "out", tmp_path / "in", TARS)
    done = export(command, output, tmp_path / "to", "--photos", "--where", "image_id not like '%/x/%'")
    assert done.err == "tars of the input have samples that --where leaves out: pair them by key, not by position\n"
    a, c, d = read(tmp_path / "to" / "00000.tar", tmp_path / "to" / "00001.tar", decode=False)
    assert a["png"] == (tmp_path / "in/loose/a.png").read_bytes() and fields(a) > {"json", "seg.png"}
    assert c["right.png"] == (tmp_path / "in/loose/c.right.png").read_bytes()
    assert d["001.png"] == (tmp_path / "in/loose/d.001.png").read_bytes()


def test_two_images_of_one_name_and_key_have_files_of_their_own(command, tmp_path):
    output = tar_output(tmp_path / "out", tmp_path / "in", {"t": ["a.png", "a.png.png", "a.jpeg"]})
    export(command, output, tmp_path / "to")
    names = [name for name in members_of(tmp_path / "to" / "t.tar") if name.endswith("json")]
    assert names == ["a.json", "a.png.json", "a.2.json"]


def test_files_of_a_key_have_names_of_their_own(command, tmp_path):
    """The photo k.seg.png has the name of the class map of k.jpg."""
    output = tar_output(tmp_path / "out", tmp_path / "in", {"t": ["k.png", "k.seg.png", "k.SEG.png", "k.json.png"]})
    export(command, output, tmp_path / "to", "--photos")
    with tarfile.open(tmp_path / "to" / "t.tar") as tar:
        names = tar.getnames()
        assert len({name.lower() for name in names}) == len(names) == 4 * 5
        photos = {name: tar.extractfile(name).read() for name in names if name in ("k.png", "k.seg.2.png")}
    loose = tmp_path / "in" / "loose"
    assert photos == {"k.png": (loose / "k.png").read_bytes(), "k.seg.2.png": (loose / "k.seg.png").read_bytes()}


def pairs_of(photos: Path, labels: Path) -> list[tuple[str, str]]:
    """The keys that the function of docs/exports.md pairs."""
    page = (ROOT / "docs" / "exports.md").read_text()
    code = next(block for block in page.split("```python\n") if "def pairs(" in block).partition("\nphotos, labels =")[
        0
    ]
    names: dict[str, Any] = {}
    exec(compile(code, "docs/exports.md", "exec"), names)
    tars = (webdataset.WebDataset(str(path), shardshuffle=False) for path in (photos, labels))
    opened, decoded = tars
    return [(one["__key__"], two["__key__"]) for one, two in names["pairs"](opened, decoded.decode())]


def test_names_that_tar_begins_with_a_dot_are_paired(command, tmp_path):
    """`tar -C folder .` packs `./a.png`; others climb, or begin with a slash."""
    output = tar_output(tmp_path / "out", tmp_path / "in", {"t": ["./a.png", "x/../b.png", "c.png", "./bad.png"]})
    done = export(command, output, tmp_path / "to")
    assert done.err == "keys with `..`, which are written as `__`: 1, such as t.tar/x/../b.png\n"
    found = pairs_of(tmp_path / "in" / "t.tar", tmp_path / "to" / "t.tar")
    assert found == [("./a", "a"), ("x/../b", "x/__/b"), ("c", "c")]
    tar_output(tmp_path / "other", tmp_path / "others", {"t": ["z.png"]})
    with pytest.raises(ValueError, match="none of the photos has a key of the labels"):
        pairs_of(tmp_path / "others" / "t.tar", tmp_path / "to" / "t.tar")


def test_a_column_called_key_makes_no_tar_of_a_parquet_file(command, tmp_path):
    output = parquet_output(tmp_path / "out", tmp_path / "in.parquet", ["a.png", "b.png"])
    export(command, output, tmp_path / "to", "--photos")
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["labels-000000.tar"]
    samples = read(tmp_path / "to" / "labels-000000.tar", decode=False)
    assert [sample["__key__"] for sample in samples] == ["000000-00000000", "000000-00000001"]
    assert [json.loads(sample["json"])["key"] for sample in samples] == ["a.png", "b.png"]
    assert samples[1]["png"] == (tmp_path / "loose" / "b.png").read_bytes()


def forget_key(output: Path, shard: int) -> None:
    """Make a shard of one image look as if its image had not been in a tar."""
    (path,) = (output / "data").glob(f"s{shard:06d}-*")
    table = pq.read_table(path)
    at = table.column_names.index("key")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array([None], pa.string())), path)


def test_images_around_tars_are_all_written(command, tmp_path):
    """Tars are written one after the other: what comes after one of the input goes into a tar of its own."""
    output = tar_output(tmp_path / "out", tmp_path / "in", {"t": ["a.png"], "u": ["b.png"], "v": ["c.png"]})
    for number in (0, 2):
        forget_key(tmp_path / "out", number)
    export(command, output, tmp_path / "to")
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == [
        "labels-000000.tar", "labels-000001.tar", "u.tar"
    ]  # fmt: skip


def test_a_tar_is_never_written_over_another(command, tmp_path):
    output = tar_output(tmp_path / "out", tmp_path / "in", {"labels-000000": ["a.png"], "u": ["b.png"]})
    forget_key(tmp_path / "out", 1)
    done = command("export", output.uri, "--format", "webdataset", "--to", tmp_path / "to")
    assert done.code == 2 and "--name labels: the input has a tar labels-000000.tar" in done.err
    export(command, output, tmp_path / "to", "--name", "new")
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["labels-000000.tar", "new-000000.tar"]


def test_no_file_leaves_its_folder(command, tmp_path):
    output = tar_output(tmp_path / "out", tmp_path / "in", {"t": ["x/../../a.png"]})
    export(command, output, tmp_path / "to")
    assert next(iter(members_of(tmp_path / "to" / "t.tar"))) == "x/__/__/a.json"


def test_a_tar_that_changed_is_refused(command, tmp_path):
    output = tar_output(tmp_path / "out", tmp_path / "in", {"t": ["a.png"]})
    (tmp_path / "in" / "t.tar").write_bytes(b"\0" * 10240)
    done = command("export", output.uri, "--format", "webdataset", "--photos", "--to", tmp_path / "to")
    assert done.code == 2 and "has changed since it was planned" in done.err
    assert not list((tmp_path / "to").glob("*"))


def test_numbers_that_json_lacks_are_null():
    row = {"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": float("-inf")}, "e": "x"}
    assert json.loads(json_text(row), parse_constant=pytest.fail) == {
        "a": None,
        "b": [1.5, None],
        "c": {"d": None},
        "e": "x",
    }


def test_an_output_on_a_remote_storage(command, output, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    folder_output(tmp_path / "remote", tmp_path / "photos", NAMES, uri="memory://bucket/photos")
    for name, local in (("out", tmp_path / "remote"), ("photos", tmp_path / "photos")):
        memory.put(str(local), f"/bucket/{name}", recursive=True)
    done = export(command, Folder("memory://bucket/out"), "memory://bucket/to", "--photos")
    assert not done.err
    export(command, output, tmp_path / "to", "--photos")
    with memory.open("/bucket/to/labels-000000.tar") as file, tarfile.open(fileobj=file) as one:
        found = {member.name: one.extractfile(member).read() for member in one}
    assert list(found) == list(members_of(tmp_path / "to" / "labels-000000.tar"))
    photos = [data for name, data in found.items() if name.count(".") == 1 and name.endswith(".png")]
    assert photos == [(tmp_path / "photos" / name).read_bytes() for name in NAMES]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard-size", "0"], "--shard-size 0: should be a whole number of at least 1"),
        (["--name", "a/b"], "--name a/b: should be a word without dots and slashes"),
    ],
)
def test_wrong_options_are_refused(command, output, tmp_path, options, message):
    done = command("export", output.uri, "--format", "webdataset", "--to", tmp_path / "to", *options)
    assert (done.code, done.err) == (2, f"sapiens-ray: {message}\n")


def test_an_output_without_its_plan_has_no_photos(command, output, tmp_path):
    (tmp_path / "out" / "plan.parquet").unlink()
    done = command("export", output.uri, "--format", "webdataset", "--to", tmp_path / "to", "--photos")
    assert done.code == 2 and "has no plan.parquet or no job.yaml, which say where its photos are" in done.err
