"""A job as a script runs it: `run --json`, then `check`, `export` and `status` of its output; and `--quiet`."""

from __future__ import annotations

import json

from tests.conftest import write_photos

SHORT = {"image_id": "003.jpg", "error": "cannot be decoded: truncated or damaged (3 bytes)"}
EMPTY = {"image_id": "001.jpg", "error": "the file has no bytes"}


def test_a_job_for_a_script(cluster, command, write_job, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    files = write_photos(tmp_path / "photos", 5)
    files[1].write_bytes(b"")
    files[3].write_bytes(b"\xff\xd8\xff")
    path = write_job(tmp_path / "photos", unit_size=2, output={"visualize": {"fraction": 0}})
    output = str(tmp_path / "job-out")

    done = command("run", path, "--json")
    assert done.code == 0, done.text
    events = [json.loads(line) for line in done.out.splitlines()]
    assert [one["event"] for one in (events[0], events[-1])] == ["started", "finished"]
    assert {one["event"] for one in events[1:-1]} == {"progress"}
    assert all(list(one)[:2] == ["event", "time"] for one in events)
    plan = events[0]["plan"]
    assert (plan["images"], plan["pending"], plan["models"][0]["actors"]) == (5, True, 1)
    assert plan["cluster"] == {"where": "the cluster of 1 node", "nodes": 1, "gpus": 0, "cpus": 2.0}
    assert list(events[1]) == [
        "event", "time", "images", "expected", "ok", "errors", "repeated", "elapsed_s", "images_per_s", "left_s",
    ]  # fmt: skip
    last = events[-1]
    assert last["stages"].keys() == {"read", "prepare", "seg", "draw", "write"}
    assert last["elapsed_s"] > 0 and last["images_per_s"] > 0
    changing = ("time", "device", "stages", "elapsed_s", "images_per_s", "repeated")
    assert {key: value for key, value in last.items() if key not in changing} == {
        "event": "finished", "name": "job", "output": output, "images": 5, "expected": 5, "ok": 3,
        "errors": {"corrupt": 1, "empty": 1}, "examples": {"corrupt": [SHORT], "empty": [EMPTY]}, "already_done": 0,
        "error": None, "kind": None, "exit_code": 0,
    }  # fmt: skip
    for line in ("images        5 (3 ok, 2 errors)", f"    001.jpg: {EMPTY['error']}", "read a row:"):
        assert line in done.err.splitlines(), "people see the same on stderr"
    assert "pictures" not in done.err, "none were asked for"
    summary = json.loads((tmp_path / "job-out" / "summary.json").read_text())
    assert summary["examples"] == last["examples"]

    (again,) = command("run", path, "--json", "--quiet").out.splitlines()
    result = json.loads(again)
    assert (result["event"], result["images"], result["already_done"], result["stages"]) == ("finished", 5, 5, {})
    assert result["examples"] == last["examples"], "errors of earlier runs are read from the files"
    quiet = command("run", path, "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.out == f"done: every image already had its row; 5 images (3 ok, 2 errors) in {output}\n"

    strict = command("run", path, "--json", "--quiet", "--set", "max_error_fraction=0.1")
    failed = json.loads(strict.out)
    assert (failed["event"], failed["kind"], failed["exit_code"], failed["ok"]) == ("failed", "ErrorLimitError", 1, 3)
    assert strict.code == 1 and strict.err == f"sapiens-ray: {failed['error']}\n"

    checked = json.loads(command("check", path, "--json").out)
    assert (checked["pending"], checked["already_done"], checked["shards_done"]) == (False, 5, 1)
    status = json.loads(command("status", output, "--json").out)
    assert (status["state"], status["run"], status["examples"]) == ("failed", None, last["examples"])
    exported = command("export", output, "--format", "masks", "--to", tmp_path / "masks", "--json")
    assert json.loads(exported.out) == {
        "output": output, "to": str(tmp_path / "masks"), "format": "masks", "images": 3, "skipped": 2,
        "renamed": 0, "unmatched": 0, "left_out": {},
    }  # fmt: skip
    short = command("export", output, "--format", "masks", "--to", tmp_path / "masks", "--quiet")
    assert (short.out, short.err) == ("3 images exported, 2 error rows skipped\n", "")
