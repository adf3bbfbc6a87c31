"""`sapiens-ray status`: counts, the state of the last run, and its errors, from the files alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sapiens_ray.output.lock import _this_process
from sapiens_ray.output.summary import Summary
from sapiens_ray.storage import Folder
from tests.outputs import Image, write_lock, write_output

GOOD: Image = ("good.jpg", None, None)
BAD: list[Image] = [
    ("a/1.jpg", "corrupt", "truncated or damaged (3 bytes)"),
    ("2.jpg", "corrupt", "truncated or damaged (4 bytes)"),
    ("3.jpg", "empty", "the file has no bytes"),
    ("4.jpg", "corrupt", "truncated\nor \x1b[31mdamaged " + "x" * 100),
]
HOST = _this_process()["host"]


@pytest.fixture(autouse=True)
def eighty(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def output(tmp_path):
    """Two complete shards, with errors, that a run wrote which ended properly."""
    output = write_output(tmp_path / "out", [GOOD, *BAD[:2]], [GOOD, *BAD[2:]])
    Summary("job", output.uri, expected=6, state="done").write(output)
    return output


def written_at(output) -> str:
    return json.loads(output.read("summary.json"))["written_at"]


def last_run(output) -> dict[str, object]:
    return {"state": "done", "message": "", "subset": "", "images_per_s": 0.0, "written_at": written_at(output)}


def test_the_table(command, output):
    assert command("status", output.uri).out.splitlines() == [
        f"output  {output.uri}",
        "images  6 of 6 (100.0 %): 2 ok, 4 errors",
        "errors  3 corrupt",
        "        1 empty",
        "shards  2 of 2 complete",
        "state   complete",
    ]


def test_one_line(command, output):
    assert command("status", output.uri, "-q").out == "6 of 6 (100.0 %): 2 ok, 4 errors; complete\n"
    Summary("job", output.uri, expected=6, state="failed", message="4 of 6 images are error rows").write(output)
    said = f"6 of 6 (100.0 %): 2 ok, 4 errors; complete; failed at {written_at(output)}: 4 of 6 images are error rows\n"
    assert command("status", output.uri, "-q").out == said
    both = command("status", output.uri, "-q", "--errors")
    assert both.code == 2 and "--quiet: prints one line" in both.err


def test_a_trial_is_not_a_share_of_the_input(command, output):
    trial = Summary("job", output.uri, expected=6, state="done", subset="a sample of 6 images, seed 0")
    trial.write(output)
    said = f"6: 2 ok, 4 errors; done at {written_at(output)}: a sample of 6 images, seed 0\n"
    assert command("status", output.uri, "-q").out == said


def test_the_table_with_examples(command, output):
    done = command("status", output.uri, "--errors")
    assert done.out.splitlines()[2:7] == [
        "errors  3 corrupt",
        "    a/1.jpg: truncated or damaged (3 bytes)",
        "    2.jpg: truncated or damaged (4 bytes)",
        "errors  1 empty",
        "    3.jpg: the file has no bytes",
    ]
    more = command("status", output.uri, "--errors", "--per-kind", 3).out.splitlines()
    assert more[5] == "    4.jpg: truncated or \\x1b[31mdamaged", "and what follows, on the next lines"
    assert more[6].startswith("      " + "x" * 39)
    less = command("status", output.uri, "--errors", "--per-kind", 1).out.splitlines()
    assert less[2:6] == [
        "errors  3 corrupt",
        "    a/1.jpg: truncated or damaged (3 bytes)",
        "errors  1 empty",
        "    3.jpg: the file has no bytes",
    ]
    wrong = command("status", output.uri, "--per-kind", 1)
    assert (wrong.code, wrong.err) == (2, "sapiens-ray: --per-kind: limits the rows of --errors, which is not given\n")


def test_json(command, output):
    assert json.loads(command("status", output.uri, "--json").out) == {
        "output": output.uri,
        "state": "done",
        "subset": "",
        "complete": True,
        "images": 6,
        "expected": 6,
        "ok": 2,
        "errors": {"corrupt": 3, "empty": 1},
        "examples": {
            "corrupt": [
                {"image_id": "a/1.jpg", "error": "truncated or damaged (3 bytes)"},
                {"image_id": "2.jpg", "error": "truncated or damaged (4 bytes)"},
            ],
            "empty": [{"image_id": "3.jpg", "error": "the file has no bytes"}],
        },
        "shards": 2,
        "shards_complete": 2,
        "run": None,
        "last_run": last_run(output),
    }


def test_error_rows_as_lines_of_json(command, output):
    rows = [json.loads(line) for line in command("status", output.uri, "--errors", "--json").out.splitlines()]
    assert rows[0] == {
        "image_id": "a/1.jpg", "uri": "/photos/a/1.jpg", "shard": 0, "index": 1, "error_kind": "corrupt",
        "error": "truncated or damaged (3 bytes)",
    }  # fmt: skip
    assert [row["image_id"] for row in rows] == ["a/1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert rows[3]["error"] == BAD[3][2], "nothing is cut"
    few = command("status", output.uri, "--errors", "--json", "--per-kind", 1).out.splitlines()
    assert [json.loads(line)["image_id"] for line in few] == ["a/1.jpg", "3.jpg"]


def test_a_run_that_is_alive(command, output):
    write_lock(output)
    shown = command("status", output.uri).out.splitlines()[-1]
    assert shown == f"state   running since 2026-01-31T12:00:00Z: process {os.getpid()} on {HOST}"
    status = json.loads(command("status", output.uri, "--json").out)
    assert status["state"] == "running" and status["run"] == {
        "host": HOST, "pid": os.getpid(), "since": "2026-01-31T12:00:00Z", "last_seen": "2026-01-31T12:34:56Z",
        "alive": True,
    }  # fmt: skip


def unfinished(output) -> None:
    """Remove the last file, and leave the summary that a running job writes."""
    sorted((Path(output.uri) / "data").iterdir())[-1].unlink()
    Summary("job", output.uri, expected=6).write(output)


def test_a_run_that_was_killed(command, output):
    unfinished(output)
    write_lock(output, pid=2**22 + 1, host="machine-of-the-run")
    assert command("status", output.uri).out.splitlines()[-4:] == [
        "shards  1 of 2 complete",
        "state   stopped without a word at 2026-01-31T12:34:56Z: process 4194305 on",
        "        machine-of-the-run",
        "        run the job again to continue",
    ]
    status = json.loads(command("status", output.uri, "--json").out)
    assert (status["state"], status["complete"], status["run"]["alive"]) == ("killed", False, False)


def test_a_run_that_was_killed_and_whose_lock_was_removed(command, output):
    unfinished(output)
    assert command("status", output.uri).out.splitlines()[-2:] == [
        f"state   stopped without a word at {written_at(output)}",
        "        run the job again to continue",
    ]
    assert json.loads(command("status", output.uri, "--json").out)["state"] == "killed"


def test_a_run_that_failed(command, output):
    unfinished(output)
    Summary("job", output.uri, expected=6, state="failed", message="the storage does not answer").write(output)
    assert command("status", output.uri).out.splitlines()[-2:] == [
        f"state   failed at {written_at(output)}: the storage does not answer",
        "        run the job again to continue",
    ]


def test_a_folder_that_is_no_output(command, tmp_path):
    message = f"{tmp_path} is not an output folder of sapiens-ray: it has no plan.parquet"
    done = command("status", tmp_path, "--json")
    assert (done.code, done.err) == (2, f"sapiens-ray: {message}\n")
    assert json.loads(done.out) == {"error": message, "kind": "OutputError", "exit_code": 2}


def test_status_starts_without_torch_and_ray(output):
    code = (
        "import sys; from sapiens_ray.cli import main; code = main(['status', sys.argv[1], '--errors']); "
        "print(code, {'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, output.uri], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 set()"


def test_a_run_that_failed_before_it_began(command, tmp_path):
    folder = Folder(str(tmp_path / "labels"))
    Summary("job", folder.uri, expected=6, state="failed", message="no cluster").write(folder)
    done = command("status", folder.uri)
    assert done.code == 0 and done.out.splitlines()[-2:] == [
        f"state   failed at {written_at(folder)}: no cluster",
        "        run the job again to continue",
    ]
    assert command("status", folder.uri, "--watch", "-q").code == 1
    status = json.loads(command("status", folder.uri, "--json").out)
    assert (status["state"], status["complete"], status["images"], status["expected"]) == ("failed", False, 0, None)
