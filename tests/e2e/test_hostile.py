"""Malicious names and bytes: nothing is written outside the output, no picture is lost, ids are kept."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import sapiens_ray as sr
from tests.conftest import photo, read_output, write_photos

NAMES = [
    "../../escape.jpg", "/etc/absolute.jpg", "a/../../b.jpg", "nul\0byte.jpg", "new\nline.jpg", "A.jpg", "a.jpg",
    "dup.jpg", "dup.jpg", "dup.jpg#2",
    "x" * 5000 + ".jpg", "x" * 5000 + "y.jpg", "semi:colon.jpg", "semi*colon.jpg", "semi_colon.jpg", "./dot.jpg",
    "dot.jpg", "..", "folder.jpg/inside.jpg", "folder.jpg", "con.jpg", "\udce9.jpg", " .jpg", "-rf.jpg", "~/home.jpg",
    "\u202egpj.exe.jpg", "visualizations/../../data/s000000-00000000-00000001-end.parquet.jpg",
]  # fmt: skip


def jpeg(number: int) -> bytes:
    return cv2.imencode(".jpg", photo(24, 32, number))[1].tobytes()


def everything_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_names_of_tar_members_and_ids(cluster, write_job, tmp_path):
    work = tmp_path / "deep" / "er"
    work.mkdir(parents=True)
    with tarfile.open(work / "bad.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for number, name in enumerate(NAMES):
            info = tarfile.TarInfo(name)
            data = jpeg(number)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with_nul = [name.encode("utf-8", "backslashreplace").decode() for name in NAMES]
    table = pa.table({"image": [jpeg(100 + number) for number in range(len(NAMES))], "id": with_nul})
    pq.write_table(table, work / "bad.parquet")
    doubled = pa.table({"image": [jpeg(200 + number) for number in range(3)], "id": ["same", "same", None]})
    pq.write_table(doubled, work / "doubled.parquet")

    by_id = {"id_column": "id"}
    jobs = {"tar": ("bad.tar", {}, 0), "ids": ("bad.parquet", by_id, 100), "same": ("doubled.parquet", by_id, 200)}
    before = everything_below(tmp_path)
    for name, (file, settings, first) in jobs.items():
        output = work / "out" / name
        where = {"uri": str(output), "visualize": {"style": "lite"}}
        sr.run(sr.Job.load(write_job(work / file, name=name, input=settings, output=where)))
        rows = read_output(output).to_pylist()
        assert len(rows) == (3 if name == "same" else len(NAMES))
        assert [row["error"] for row in rows if row["error_kind"]] == []
        pictures = {row["visualization"] for row in rows}
        assert len(pictures) == len(rows), "every image has a picture of its own"
        on_disk = [path for path in (output / "visualizations").rglob("*.jpg") if path.is_file()]
        assert {str(path.relative_to(output)) for path in on_disk} == pictures
        for row in rows:  # the picture belongs to this image
            drawn = cv2.imread(str(output / row["visualization"]))
            original = cv2.imdecode(np.frombuffer(jpeg(first + row["index"]), np.uint8), cv2.IMREAD_COLOR)
            panel = cv2.resize(drawn[:, : drawn.shape[1] // 2], (24, 32))
            assert np.abs(panel.astype(int) - original.astype(int)).mean() < 12, row["image_id"]
    ids = read_output(work / "out" / "ids")["image_id"].to_pylist()
    assert ids == with_nul, "ids are kept as they are"
    new = everything_below(tmp_path) - before
    inside = ("deep/er/out", *(f"{name}.yaml" for name in jobs))
    assert all(name.startswith(inside) for name in new), sorted(name for name in new if not name.startswith(inside))
    assert not Path("/etc/absolute.jpg").exists()


def png_that_says(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b""
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100_000)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunks


LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><svg xmlns="http://www.w3.org/2000/svg"><text>&c;</text></svg>"""


def test_decompression_bombs_and_polyglot_files(cluster, write_job, tmp_path):
    folder = tmp_path / "photos"
    write_photos(folder, 1)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("evil.py", "print('no')")
    (folder / "bomb.png").write_bytes(png_that_says(100_000, 100_000))
    (folder / "huge.pgm").write_bytes(b"P5 100000 100000 255\n" + b"\0" * 1000)
    (folder / "laughs.jpg").write_bytes(LAUGHS)
    (folder / "polyglot.jpg").write_bytes(jpeg(1) + zipped.getvalue())
    (folder / "script.png").write_bytes(b"#!/bin/sh\ntouch /tmp/owned\n")
    (folder / "tar.jpg").write_bytes(tarfile.TarInfo("x.jpg").tobuf() + b"\0" * 1024)
    sr.run(sr.Job.load(write_job(folder, max_error_fraction=1.0)))
    table = read_output(tmp_path / "job-out")
    kinds = dict(zip(table["image_id"].to_pylist(), table["error_kind"].to_pylist(), strict=True))
    assert kinds == {
        "000.jpg": None, "bomb.png": "too_large", "huge.pgm": "too_large", "laughs.jpg": "not_an_image",
        "polyglot.jpg": None, "script.png": "not_an_image", "tar.jpg": "not_an_image",
    }  # fmt: skip


def test_files_that_are_not_what_their_names_say(cluster, sapiens_ray, write_job, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "empty.tar").write_bytes(b"")
    with zipfile.ZipFile(folder / "zip.tar", "w") as archive:
        archive.writestr("a.jpg", jpeg(0))
    (folder / "text.tar").write_text("not a tar at all " * 100)
    done = sapiens_ray("run", write_job(f"{folder}/*.tar"))
    assert done.code == 1 and "Traceback" not in done.text, done.text
    assert "3 of 3 images are error rows, more than max_error_fraction = 0.5" in done.err
    table = read_output(tmp_path / "job-out")
    assert set(table["error_kind"].to_pylist()) == {"shard_damaged"}
    assert sorted(set(table["image_id"].to_pylist())) == ["empty.tar", "text.tar", "zip.tar"]

    pq.write_table(pa.table({"image": ["text", "instead"]}), tmp_path / "lying.parquet")
    with pytest.raises(sr.errors.InputError, match="none of image is of type bytes"):
        sr.run(sr.Job.load(write_job(tmp_path / "lying.parquet", name="lying")))
    pq.write_table(pa.table({"image": [{"bytes": 3, "path": 4}]}), tmp_path / "struct.parquet")
    with pytest.raises(sr.errors.InputError, match="none of image is of type bytes"):
        sr.run(sr.Job.load(write_job(tmp_path / "struct.parquet", name="struct")))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("!!python/object/apply:os.system ['touch /tmp/owned']", "not valid YAML"),
        ("input: !!python/name:os.system {}", "not valid YAML"),
        ("a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{chr(ord(last) + 1)}: &{chr(ord(last) + 1)} [{', '.join([f'*{last}'] * 9)}]\n" for last in "abcdefgh"
        ), "values after its anchors are expanded"),
        ("name: one\nname: two\n", "key 'name' is there twice"),
        ("[" * 5000, "nested too deeply"),
        ("# " + "x" * 2_000_000, "the limit is 1048576"),
        ("\xff\xfe", "holds no text in UTF-8"),
        ("name: 2020-99-99", "not valid YAML: month must be"),
        ("? [1, 2]\n: x", "not valid YAML"),
        ("name: " + "9" * 5001, "not valid YAML: Exceeds the limit"),
    ],
    ids=["object", "name", "laughs", "doubled", "deep", "long", "bytes", "date", "list", "number"],
)  # fmt: skip
def test_malicious_job_files_are_refused(tmp_path, text, says):
    path = tmp_path / "job.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(sr.errors.ConfigError, match=says):
        sr.Job.load(path)
    assert not Path("/tmp/owned").exists()


def test_merge_keys_are_not_duplicate_keys(tmp_path, write_job):
    job = yaml.safe_load(write_job(tmp_path).read_text())
    text = "common: &common {batch_size: 1}\n" + yaml.safe_dump(job)
    (tmp_path / "merged.yaml").write_text(text.replace("- checkpoint", "- <<: *common\n  checkpoint"))
    with pytest.raises(sr.errors.ConfigError, match="common: unknown key"):
        sr.Job.load(tmp_path / "merged.yaml")


def test_ten_megabytes_of_one_csv_line(cluster, sapiens_ray, write_job, tmp_path):
    (tmp_path / "long.csv").write_text("path,n\n" + "x" * 10_000_000 + ",1\n")
    done = sapiens_ray("run", write_job(tmp_path / "long.csv"))
    assert done.code == 2 and "long.csv, line 1: not valid CSV: field larger" in done.err and len(done.err) < 2000
    lists = {
        "long.txt": "y" * 10_000_000 + "\n", "more.csv": "image\na.jpg,extra,more\n", "deep.jsonl": "[" * 100_000,
        "half.jsonl": '{"path": "\\ud800.jpg"}\n',
    }  # fmt: skip
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        columns = {"columns": ["foo"]} if name == "more.csv" else {}
        done = sapiens_ray("check", write_job(tmp_path / name, name=name, input=columns))
        assert done.code == 2 and f"{name}, line" in done.err and len(done.err) < 2000, (name, done.text[:3000])
    done = sapiens_ray("check", write_job(f"{tmp_path}/{{000..999999999}}.tar", name="range"))
    assert done.code == 2 and "names 1000000000 files" in done.err
