"""The report of an output on S3."""

from __future__ import annotations

import json

import pytest

from tests.reporting.made import error_row, labelled_photo, write_rows
from tests.s3_server import S3, s3_server


@pytest.fixture(scope="module")
def s3():
    with s3_server() as s3:
        yield s3


def options(s3: S3) -> list[str]:
    return [part for key, value in s3.options.items() for part in ("--storage-option", f"{key}={value}")]


def test_the_report_of_an_output_on_s3_is_that_of_the_same_folder(command, s3, tmp_path):
    rows = [labelled_photo(tmp_path / "photos", f"{seed}.png", seed) for seed in range(20)]
    direct = s3.direct
    direct.mkdir("reports")
    for row in rows:
        direct.put_file(row["uri"], f"reports/photos/{row['image_id']}")
        row["uri"] = f"s3://reports/photos/{row['image_id']}"
    output = write_rows(tmp_path / "out", [*rows, error_row("bad.jpg")], files=3)
    direct.put(output.uri, "reports/labels", recursive=True)
    local = command("report", output.uri, "--to", tmp_path / "local.html", "--json", "--thumbnails", 0)
    s3.seen.clear()
    remote = command("report", "s3://reports/labels", "--to", "s3://reports/page.html", "--json", *options(s3))
    assert (local.code, remote.code) == (0, 0), remote.err
    page = direct.cat_file("reports/page.html").decode()
    assert page.count("data:image/webp;base64,") >= 20 * 5, "photos and labels come from S3 as well"
    found, expected = json.loads(remote.out), json.loads(local.out)
    for key in ("images", "ok", "errors", "photos", "tasks", "models"):
        assert found[key] == expected[key], key
