"""What commands answer to people at 80 columns, and to scripts with `--json`: exact keys, also for errors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from sapiens_ray.cli import plan
from sapiens_ray.execution.cluster import Cluster, Node
from sapiens_ray.models import catalogue, conversion
from sapiens_ray.models.inspection import inspect
from tests.conftest import Finished, write_photos
from tests.small_models import small, write


@pytest.fixture(autouse=True)
def eighty(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("RAY_ADDRESS", "SAPIENS_LITE_CHECKPOINT_ROOT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def machine(monkeypatch):
    """A machine of two CPUs."""
    two = Cluster.of([Node(2.0)], "this machine")
    monkeypatch.setattr(plan, "this_machine", lambda: two)


def answer(done: Finished) -> object:
    """The JSON of a command that did its work without a word to people."""
    assert (done.code, done.err) == (0, ""), done.text
    return json.loads(done.out)


def refusal(done: Finished) -> dict[str, object]:
    """The JSON of a command that failed; the message is on stderr, too."""
    found: dict[str, object] = json.loads(done.out)
    assert found.keys() == {"error", "kind", "exit_code"} and done.code == found["exit_code"]
    assert done.err.endswith(f"{found['error']}\n")
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_check(command, machine, write_job, tmp_path, model):
    write_photos(tmp_path / "photos", 5)
    path = write_job(tmp_path / "photos", input={"shard_size": 2})
    assert answer(command("check", path, "--json")) == {
        "name": "job",
        "pending": True,
        "input": [str(tmp_path / "photos")],
        "images": 5,
        "already_done": 0,
        "shards": 3,
        "shards_done": 0,
        "subset": "",
        "hidden": 0,
        "videos": 0,
        "photos": 0,
        "unnamed": 0,
        "outputs": 0,
        "notes": [],
        "formats": ["images"],
        "models": [
            {
                "kind": "task", "column": "seg", "task": "seg", "mode": "float32", "recipe": "lite",
                "rope": "bfloat16", "matmul": "strict",
                "batch_size": None, "compile": "none",
                "description": "", "checkpoint": str(model), "bytes": model.stat().st_size, "sha256": sha256(model),
                "pool": "seg", "actors": 1, "most_actors": 1,
                    "gpus_per_actor": 0.0, "cpus_per_actor": 1.0, "trial": None,
            }
        ],
        "needs": {"gpus": 0.0, "cpus": 1.25},
        "cluster": {"where": "this machine", "nodes": 1, "gpus": 0.0, "cpus": 2.0},
        "output": str(tmp_path / "job-out"),
        "bytes_per_image": {"labels": 60000, "pictures": 350000},
        "visualize_fraction": 1.0,
    }  # fmt: skip
    assert not (tmp_path / "job-out").exists()


def test_the_table_of_check_fits(command, machine, write_job, tmp_path, model):
    """Two models, so that their shares are fractions; long paths stand on lines of their own, whole."""
    photos = tmp_path / ("long" * 20) / "photos"
    write_photos(photos, 2)
    detector = tmp_path / "detector.pt"
    torch.jit.script(torch.nn.Identity()).save(str(detector))
    boxes = {"detector": {"model": "torchscript", "checkpoint": str(detector), "label": 1}}
    tasks = [
        {"task": "seg", "checkpoint": str(model)},
        {"task": "pose", "keypoints": 17, "checkpoint": str(model), "boxes": boxes},
    ]
    done = command("check", write_job(photos, tasks=tasks))
    assert done.code == 0, done.text
    lines = done.out.splitlines()
    assert lines[:5] == [
        "job: ready to run, models not tried",
        "input",
        f"  {photos}",
        "images        2 in 1 shard (images)",
        "already done  0 images, 0 whole shards",
    ]
    for line in (
        "task          persons: pose, mode float32, 17 keypoints, persons: detector",
        "              (torchscript), crop trained",
        "detector      torchscript, label 1, score at least 0.3",
        f"  sha256      {sha256(model)}",
        "actors        1 with 1 CPU each; each holds seg, persons, detector",
        "models        not tried; check --load runs each once",
        "needs         at least 1.3 CPUs; this machine has 2 CPUs",
        "              about 120.4 kB of labels and 1.4 MB of pictures still to write",
    ):
        assert line in lines, done.out
    assert [line for line in lines if len(line) > 80 and str(tmp_path) not in line] == [], "paths are never broken"


def test_wishes_for_a_cluster_are_noted_on_a_laptop(command, machine, write_job, tmp_path):
    write_photos(tmp_path / "photos", 2)
    job = write_job(tmp_path / "photos", actors=50, num_gpus=1)
    plan = answer(command("check", job, "--json"))
    assert isinstance(plan, dict) and plan["notes"] == [
        "num_gpus: has no effect here; the models run on the CPUs of this machine",
        "actors: 50 actors share the 2 CPUs of this machine; each holds its models in memory, and more than one per "
        "CPU is not faster",
    ]
    assert "note          num_gpus: has no effect here; the models run on the CPUs of this" in command("check", job).out


def test_a_wrong_command_line(command):
    assert refusal(command("status", "--json")) == {
        "error": "the following arguments are required: output", "kind": "UsageError", "exit_code": 2,
    }  # fmt: skip
    run = command("run", "--json")
    event = json.loads(run.out)
    assert (run.code, event["event"], event["kind"], event["exit_code"]) == (2, "failed", "UsageError", 2)
    done = command("status", "x", "--errors", "--per-kind", "0", "--json")
    assert refusal(done)["error"] == "argument --per-kind: should be a whole number from 1 on (got '0')"
    plain = command("statsu")
    assert plain.code == 2 and plain.out == "" and plain.err.startswith("usage: sapiens-ray [-h] [--version] COMMAND")


def test_the_usage_of_the_command_is_shown_that_has_no_such_option(command):
    done = command("status", "x", "--bogus")
    first, *_, last = done.err.splitlines()
    assert first.startswith("usage: sapiens-ray status [-h]") and done.code == 2
    assert last == "sapiens-ray status: error: unrecognized arguments: --bogus"
    assert command("checkpoints", "list", "--bogus").err.startswith("usage: sapiens-ray checkpoints list [-h]")


def test_a_quiet_check_says_only_what_is_wrong(command, write_job, tmp_path):
    write_photos(tmp_path / "photos", 1)
    assert command("check", write_job(tmp_path / "photos"), "--quiet") == Finished(0, "", "")
    done = command("check", write_job(tmp_path / "none"), "-q")
    assert (done.code, done.out, done.err) == (2, "", f"sapiens-ray: input.uri: {tmp_path}/none does not exist\n")


def test_what_is_no_job_file(command, tmp_path):
    assert command("check", tmp_path).err == f"sapiens-ray: {tmp_path}: is a folder; name a YAML job file\n"
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    said = f"sapiens-ray: {tmp_path}/photo.jpg: is not a YAML job file: it holds no text in UTF-8\n"
    assert command("check", tmp_path / "photo.jpg").err == said


def test_a_wrong_job(command, write_job, tmp_path):
    path = write_job(tmp_path / "nowhere")
    message = f"input.uri: {tmp_path}/nowhere does not exist"
    assert refusal(command("check", path, "--json")) == {"error": message, "kind": "InputError", "exit_code": 2}
    done = command("run", path, "--json")
    (event,) = [json.loads(line) for line in done.out.splitlines()]
    assert (event["event"], event["error"], event["kind"], event["exit_code"]) == ("failed", message, "InputError", 2)
    assert (done.code, done.err) == (2, f"sapiens-ray: {message}\n"), "nothing is said twice"


def test_an_error_that_nobody_expected_is_told_as_well(command, monkeypatch, write_job, tmp_path):
    def broken(job, subset, download):
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr(plan, "prepare_job", broken)
    out: list[str] = []
    monkeypatch.setattr("sapiens_ray.cli.commands.print", lambda line, **_: out.append(line), raising=False)
    with pytest.raises(ZeroDivisionError):
        command("check", write_job(tmp_path / "photos"), "--json")
    assert [json.loads(line) for line in out] == [
        {"error": "by accident", "kind": "ZeroDivisionError", "exit_code": 1},
    ]  # fmt: skip


def test_checkpoints_list(command, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("SAPIENS_LITE_CHECKPOINT_ROOT", str(tmp_path))
    file = tmp_path / "sapiens_lite_host" / "torchscript" / catalogue.published("seg-0.3b").tree_path("torchscript")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    files = answer(command("checkpoints", "list", "--json"))
    assert len(files) == 26 * 3
    assert files[0] == {
        "name": "seg-0.3b", "task": "seg", "size": "0.3b", "mode": "torchscript",
        "repository": "facebook/sapiens-seg-0.3b-torchscript", "file": file.name, "gigabytes": 1.36,
        "licence": "CC-BY-NC 4.0", "accuracy": "mIoU 76.7", "here": str(file),
    }  # fmt: skip
    lines = command("checkpoints", "list").out.splitlines()
    assert lines[:3] == [
        "NAME           ACCURACY         TORCHSCRIPT    BFLOAT16    ORIGINAL",
        "seg-0.3b       mIoU 76.7               1.36 *      0.68        1.36",
        "seg-0.6b       mIoU 77.8               2.68        1.34        2.68",
    ]
    assert len(lines) == 27 + 2 + 6 + 5 and max(map(len, lines)) <= 80, "one line per model"
    monkeypatch.delenv("COLUMNS")
    assert command("checkpoints", "list").out.splitlines()[-1].endswith("Not released: seg-2b, pose308-2b.")
    assert len(command("checkpoints", "list").out.splitlines()) == 27 + 2 + 6 + 2, "nothing is wrapped in a pipe"
    long = command("checkpoints", "list", "--long", "--mode", "torchscript").out.splitlines()
    assert long[:5] == [
        "seg-0.3b, torchscript, 1.36 GB, mIoU 76.7",
        "  repository  facebook/sapiens-seg-0.3b-torchscript",
        f"  file        {file.name}",
        f"  here        {file}",
        "",
    ]


def test_checkpoints_pull(command, tmp_path):
    """Files that are there already, as lines; the first that cannot be had ends it."""
    files = []
    for name in ("seg-0.3b", "seg-1b"):
        tree = catalogue.published(name).tree_path("torchscript")
        files.append(tmp_path / "sapiens_lite_host" / "torchscript" / tree)
        files[-1].parent.mkdir(parents=True)
        files[-1].write_bytes(b"x")
    done = command("checkpoints", "pull", "seg-0.3b", "seg-1b", "--to", tmp_path, "--json")
    assert (done.code, done.err) == (0, "")
    assert [json.loads(line) for line in done.out.splitlines()] == [
        {"name": "seg-0.3b", "mode": "torchscript", "path": str(files[0])},
        {"name": "seg-1b", "mode": "torchscript", "path": str(files[1])},
    ]
    quiet = command("checkpoints", "pull", "seg-0.3b", "--to", tmp_path, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, f"{files[0]}\n", "")
    wrong = refusal(command("checkpoints", "pull", "seg-2b", "--json"))
    assert wrong["kind"] == "CheckpointError" and "'seg-2b' is not in the catalogue" in str(wrong["error"])


def test_checkpoints_inspect(command, tmp_path, model):
    path = write(tmp_path / "x.pt2", small("pose17"), "old export")
    found = answer(command("checkpoints", "inspect", path, "--json"))
    assert found.keys() == {
        "path", "bytes", "sha256", "container", "tensors", "parameters", "dtypes", "architecture", "modes", "problem",
    }  # fmt: skip
    assert (found["path"], found["sha256"], found["container"]) == (str(path), sha256(path), "old export")
    wrong = refusal(command("checkpoints", "inspect", tmp_path / "none", "--json"))
    assert wrong == {"error": f"{tmp_path}/none does not exist", "kind": "CheckpointError", "exit_code": 2}
    lines = command("checkpoints", "inspect", path).out.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    assert lines[2] == f"sha256   {sha256(path)}" and "modes    float32: native module" in lines, lines


def test_convert(command, tmp_path, monkeypatch):
    """Without the conversion, which takes long and has tests of its own."""
    source = write(tmp_path / "model.pth", small("depth"), "pth")
    target = tmp_path / "model.safetensors"

    def convert(source: Path, to: str, target: Path) -> conversion.Converted:
        target.write_bytes(b"12345")
        return conversion.Converted(target, inspect(source).architecture, 0.00125, 0.0005)

    monkeypatch.setattr(conversion, "convert", convert)
    assert answer(command("convert", source, "--to", "safetensors", "--json")) == {
        "source": str(source), "path": str(target), "to": "safetensors", "bytes": 5,
        "model": "Sapiens depth model (32 wide, 2 layers)", "largest_difference": 0.00125, "rms_difference": 0.0005,
    }  # fmt: skip
    quiet = command("convert", source, "--to", "safetensors", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, f"{target}\n", "")
    lines = command("convert", source, "--to", "safetensors").out.splitlines()
    assert lines[-4:] == [
        "model     Sapiens depth model (32 wide, 2 layers)",
        "verified  loaded again, its outputs for batches of 1 and 2 differ from those of",
        "          the source by at most 0.0013 of the largest value, rms 0.0005 of the",
        "          standard deviation",
    ]
