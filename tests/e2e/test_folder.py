"""A job on a folder with everything that people keep in folders of photos."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import sapiens_ray as sr
from sapiens_ray.imaging.images import decode_map
from tests.conftest import photo, read_output


def _jpeg(width: int, height: int, seed: int) -> bytes:
    return cv2.imencode(".jpg", photo(width, height, seed))[1].tobytes()


def _png_header(width: int, height: int) -> bytes:
    """A complete PNG with a wrong size in its header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def _good_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Writes the good files; returns (width, height) as decoded, by image id."""
    (folder / "one").mkdir(parents=True)
    (folder / "two" / "deep").mkdir(parents=True)
    expected: dict[str, tuple[int, int]] = {}

    def put(name: str, data: bytes, width: int, height: int) -> None:
        (folder / name).write_bytes(data)
        expected[name] = (width, height)

    def save(name: str, image: Image.Image, width: int, height: int, **options: object) -> None:
        image.save(folder / name, **options)
        expected[name] = (width, height)

    rgb = Image.fromarray(photo(90, 60, 1))
    put("plain.jpg", _jpeg(120, 80, 2), 120, 80)
    put("upper.JPEG", _jpeg(64, 200, 3), 64, 200)
    put("one/same.jpg", _jpeg(50, 70, 4), 50, 70)
    put("two/same.jpg", _jpeg(70, 50, 5), 70, 50)
    put("two/deep/a.b.c.jpg", _jpeg(33, 47, 6), 33, 47)
    put("with space & ünïcode 人.jpg", _jpeg(47, 33, 7), 47, 33)
    put("same.png", cv2.imencode(".png", photo(40, 30, 8))[1].tobytes(), 40, 30)
    put("same.jpg", _jpeg(40, 30, 9), 40, 30)
    put("big.jpg", _jpeg(1600, 1100, 10), 1600, 1100)
    put("one_pixel.png", cv2.imencode(".png", photo(1, 1, 11))[1].tobytes(), 1, 1)
    put("line.png", cv2.imencode(".png", photo(5000, 1, 12))[1].tobytes(), 5000, 1)
    sixteen = photo(60, 40, 13).astype(np.uint16) * 257
    put("sixteen.png", cv2.imencode(".png", sixteen)[1].tobytes(), 60, 40)
    save("grey.png", rgb.convert("L"), 90, 60)
    save("grey_alpha.png", rgb.convert("LA"), 90, 60)
    save("rgba.png", rgb.convert("RGBA"), 90, 60)
    save("palette.png", rgb.convert("P"), 90, 60)
    save("cmyk.jpg", rgb.convert("CMYK"), 90, 60)
    save("photo.webp", rgb, 90, 60)
    save("photo.TIFF", rgb, 90, 60)
    save("photo.bmp", rgb, 90, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees
    save("rotated.jpg", rgb, 60, 90, exif=exif)
    return expected


def _broken_files(folder: Path) -> dict[str, str]:
    """Writes the broken files; returns the error kind by image id."""
    whole = _jpeg(300, 200, 20)
    kinds = {"empty.jpg": "empty", "text.jpg": "not_an_image", "page.jpg": "not_an_image"}
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"this is not a photo")
    (folder / "page.jpg").write_bytes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>")
    for percent in (2, 30, 60, 90, 99):
        (folder / f"cut{percent:02d}.jpg").write_bytes(whole[: len(whole) * percent // 100])
        kinds[f"cut{percent:02d}.jpg"] = "corrupt"
    (folder / "cut_end.jpg").write_bytes(whole[:-2])
    kinds["cut_end.jpg"] = "corrupt"
    png = cv2.imencode(".png", photo(200, 150, 21))[1].tobytes()
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    kinds["cut.png"] = "corrupt"
    (folder / "zero.png").write_bytes(_png_header(0, 100))
    (folder / "bomb.png").write_bytes(_png_header(100_000, 100_000))
    kinds |= {"zero.png": "zero_size", "bomb.png": "too_large"}
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "inside.jpg").write_bytes(_jpeg(20, 20, 22))
    kinds["folder.jpg"] = "unreadable"
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    kinds["dangling.jpg"] = "missing"
    (folder / "loop.jpg").symlink_to("loop.jpg")  # unreadable for everybody, also for root
    kinds["loop.jpg"] = "unreadable"
    os.mkfifo(folder / "pipe.jpg")
    kinds["pipe.jpg"] = "unreadable"
    if os.geteuid() != 0:
        (folder / "secret.jpg").write_bytes(whole)
        (folder / "secret.jpg").chmod(0)
        kinds["secret.jpg"] = "unreadable"
    return kinds


def test_every_file_of_a_mixed_folder_has_its_row(cluster, write_job, tmp_path):
    folder = tmp_path / "photos"
    sizes = _good_files(folder)
    kinds = _broken_files(folder)
    sizes["folder.jpg/inside.jpg"] = (20, 20)
    (folder / "notes.txt").write_text("not an image, so no row")
    (folder / "data.csv").write_text("a,b")

    lite = {"visualize": {"style": "lite"}}
    sr.run(sr.Job.load(write_job(folder, unit_size=7, input={"shard_size": 20}, output=lite)))

    output = tmp_path / "job-out"
    rows = {row["image_id"]: row for row in read_output(output).to_pylist()}
    assert set(rows) == set(sizes) | set(kinds)
    assert read_output(output).num_rows == len(rows)
    for image_id, (width, height) in sizes.items():
        row = rows[image_id]
        assert (row["error_kind"], row["width"], row["height"]) == (None, width, height), image_id
        class_map = decode_map(row["seg"])
        assert class_map.shape == (height, width), image_id
        classes, counts = np.unique(class_map, return_counts=True)
        assert row["seg_classes"] == classes.tolist()
        np.testing.assert_allclose(row["seg_area"], counts / class_map.size, rtol=1e-6)
        picture = cv2.imread(str(output / row["visualization"]))
        scale = min(1, 1280 / max(width, height))
        assert picture.shape[:2] == (max(1, round(height * scale)), 2 * max(1, round(width * scale)))
    for image_id, kind in kinds.items():
        row = rows[image_id]
        assert row["error_kind"] == kind, (image_id, row["error"])
        assert row["error"]
        assert row["seg"] is row["seg_classes"] is row["visualization"] is row["width"] is None

    summary = json.loads((output / "summary.json").read_text())
    by_kind = {kind: list(kinds.values()).count(kind) for kind in set(kinds.values())}
    assert summary["images"] == len(rows) and summary["expected"] == len(rows)
    assert summary["ok"] == len(sizes)
    assert summary["errors"] == by_kind
    assert summary["already_done"] == 0
    assert set(summary["stages"]) == {"read", "prepare", "seg", "draw", "write"}
    assert summary["images_per_s"] > 0 and summary["elapsed_s"] > 0
    pictures = [path for path in (output / "visualizations").rglob("*") if path.is_file()]
    assert len(pictures) == len(sizes)


def test_a_job_of_bad_images_fails_unless_max_error_fraction_allows_them(cluster, sapiens_ray, write_job, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(b"nothing")
    assert sr.run(sr.Job.load(write_job(folder, max_error_fraction=1.0))).failed == 3
    assert read_output(tmp_path / "job-out")["error_kind"].to_pylist() == ["not_an_image"] * 3

    strict = write_job(folder, name="strict")
    with pytest.raises(sr.errors.ErrorLimitError, match=r"3 of 3 .* max_error_fraction"):
        sr.run(sr.Job.load(strict))
    assert read_output(tmp_path / "strict-out").num_rows == 3, "everything written is kept"
    again = sapiens_ray("run", strict)
    assert again.code == 1 and "3 of 3" in again.err, "the result is the same if an earlier run wrote the rows"
