"""Damaged tars: one row per readable member, and one for every place of damage."""

from __future__ import annotations

import json

import sapiens_ray as sr
from tests.archives import tar_bytes
from tests.conftest import photo, read_output


def test_damaged_tars_lose_nothing_silently(cluster, write_job, tmp_path):
    import cv2

    members = [(f"{number}.jpg", cv2.imencode(".jpg", photo(60, 40, number))[1].tobytes()) for number in range(4)]
    whole, boundary = tar_bytes(members), tar_bytes(members, end=False)
    last = boundary.rindex(b"3.jpg")
    folder = tmp_path / "tars"
    folder.mkdir()
    broken_header = bytearray(whole)
    second = whole.index(b"1.jpg")
    broken_header[second : second + 300] = b"\xaa" * 300
    tars = {
        "whole.tar": whole,
        "header.tar": boundary[: last + 200],
        "data.tar": boundary[: last + 512 + 100],
        "boundary.tar": boundary,
        "garbage.tar": boundary + b"\x13garbage!" * 200,
        "after_end.tar": whole + b"\x13garbage!" * 200,
        "broken_header.tar": bytes(broken_header),
        "empty.tar": b"",
        "concatenated.tar": whole + whole,
    }
    for name, data in tars.items():
        (folder / name).write_bytes(data)
    sr.run(sr.Job.load(write_job(folder, unit_size=3)))

    rows: dict[str, list[tuple[str, str | None]]] = {}
    for row in read_output(tmp_path / "job-out").to_pylist():
        shard, _, member = row["image_id"].partition("/")
        rows.setdefault(shard, []).append((member, row["error_kind"]))
    good = [(f"{number}.jpg", None) for number in range(4)]
    damage = ("", "shard_damaged")
    assert rows == {
        "whole.tar": good,
        "header.tar": [*good[:3], damage],
        "data.tar": [*good[:3], ("3.jpg", "unreadable"), damage],
        "boundary.tar": [*good, damage],
        "garbage.tar": [*good, damage],
        "after_end.tar": [*good, damage],
        "broken_header.tar": [good[0], damage, *good[2:]],
        "empty.tar": [damage],
        "concatenated.tar": [*good, *((f"{name}#2", None) for name, _ in good)],
    }
    summary = json.loads((tmp_path / "job-out" / "summary.json").read_text())
    assert summary["errors"] == {"shard_damaged": 7, "unreadable": 1}
    assert summary["images"] == sum(map(len, rows.values())) == summary["expected"]
