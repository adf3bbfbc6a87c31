"""check, run, status, export and their exit codes, as subprocesses."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import sapiens_ray as sr
from sapiens_ray.imaging.images import decode_map
from tests.conftest import read_output, write_photos


def test_check_shows_the_plan_and_does_nothing(cluster, sapiens_ray, write_job, tmp_path, model):
    import hashlib

    write_photos(tmp_path / "photos", 5)
    done = sapiens_ray("check", write_job(tmp_path / "photos", input={"shard_size": 2}), "--load")
    assert done.code == 0, done.text
    assert "5 in 3 shards" in done.out
    assert hashlib.sha256(model.read_bytes()).hexdigest() in done.out
    assert "1 x 28 x 512 x 384" in done.out, "--load runs the model once"
    assert "the cluster of 1 node has 2 CPUs" in done.out
    assert "0 images, 0 whole shards" in done.out
    assert not (tmp_path / "job-out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": [{}]}, "task: unknown key; did you mean 'tasks'?"),
        ({"tasks": [{"task": "seg", "checkpoint": "x", "bath_size": 3}]}, "did you mean 'batch_size'?"),
        (
            {"tasks": [{"task": "seg", "checkpoint": "x", "batch_size": 0}]},
            "tasks[0].batch_size: should be a whole number from 1 to 1024, or auto (got 0)",
        ),
        ({"tasks": [{"task": "seg", "checkpoint": "nowhere.pt2"}]}, "tasks[0].checkpoint:"),
        ({"tasks": [{"task": "seg", "checkpoint": "seg-2b"}]}, "tasks[0].checkpoint: 'seg-2b' is not in the catalogue"),
        ({"tasks": [{"task": "seg", "checkpoint": "x", "compile": "yes"}]}, "tasks[0].compile: should be 'none'"),
        ({"input": {"uri": "/no/such/folder"}}, "input.uri: /no/such/folder does not exist"),
        ({"input": {"uri": "${NO_SUCH_VARIABLE}"}}, "input.uri: environment variable NO_SUCH_VARIABLE is not set"),
        ({"tasks": []}, "tasks: the list is empty"),
        ({"output": {}}, "output.uri: is missing"),
        ({"device": "tpu"}, "device: should be 'auto', 'cpu' or 'cuda' (got 'tpu')"),
        ({"device": "cuda"}, "device: cuda was asked for, but the cluster of 1 node has no GPU"),
    ],
)
def test_a_wrong_job_is_one_message_and_exit_2(cluster, sapiens_ray, write_job, tmp_path, change, message):
    write_photos(tmp_path / "photos", 1)
    path = write_job(tmp_path / "photos")
    raw = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**raw, **change}))
    done = sapiens_ray("check", path)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.text


def test_a_file_that_is_not_a_checkpoint_is_named(cluster, sapiens_ray, write_job, tmp_path):
    write_photos(tmp_path / "photos", 1)
    (tmp_path / "model.pt2").write_bytes(b"not a model at all")
    tasks = [{"task": "seg", "checkpoint": str(tmp_path / "model.pt2")}]
    path = write_job(tmp_path / "photos", tasks=tasks)
    for command in ("check", "run"):
        done = sapiens_ray(command, path)
        assert done.code == 2 and "tasks[0].checkpoint" in done.err and "is not a checkpoint" in done.err
        assert "Traceback" not in done.err
    pinned = write_job(tmp_path / "photos", tasks=[{**tasks[0], "sha256": "0" * 64}])
    refused = sapiens_ray("check", pinned)
    assert refused.code == 2 and "pins 0000" in refused.err


def test_the_checkpoint_of_another_task_is_named(cluster, sapiens_ray, write_job, tmp_path):
    import torch

    class Pose(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.zeros(images.shape[0], 17, 256, 192)

    torch.jit.script(Pose()).save(str(tmp_path / "pose.pt2"))
    write_photos(tmp_path / "photos", 1)
    path = write_job(tmp_path / "photos", tasks=[{"task": "seg", "checkpoint": str(tmp_path / "pose.pt2")}])
    done = sapiens_ray("check", path, "--load")
    assert done.code == 2 and "1 x 17 x 256 x 192 for 1 images" in done.err, done.text
    assert "Traceback" not in done.err


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_an_address_without_a_cluster_is_one_line(sapiens_ray, write_job, tmp_path, address):
    write_photos(tmp_path / "photos", 1)
    done = sapiens_ray("run", write_job(tmp_path / "photos"), "--address", address)
    assert done.code == 2 and f"--address {address}: " in done.err and "Traceback" not in done.err
    if ":" in address:
        assert "no Ray cluster answers there" in done.err, (
            "the address is tried before Ray, which would wait for a minute"
        )


def test_a_trial_has_an_output_of_its_own(cluster, command, write_job, tmp_path):
    """Unless one is named; then the run of the whole job goes on with it."""
    write_photos(tmp_path / "photos", 5)
    path = write_job(tmp_path / "photos", output={"visualize": {"fraction": 0}})
    done = command("check", path, "--limit", 2)
    assert done.code == 0 and f"{tmp_path}/job-out-limit-2" in done.out, done.text
    assert "2 in 1 shard (images); the first 2 images" in done.out
    done = command("run", path, "--sample", 2, "--seed", 5)
    assert done.code == 0 and "2 (2 ok, 0 errors)" in done.out, done.text
    sampled = read_output(tmp_path / "job-out-sample-2-seed-5")["image_id"].to_pylist()
    assert len(sampled) == 2 and not (tmp_path / "job-out").exists()
    status = command("status", tmp_path / "job-out-sample-2-seed-5")
    assert "a sample of 2 images, seed 5" in status.out, status.out
    done = command("run", path, "--limit", 2, "--set", f"output.uri={tmp_path}/job-out")
    assert done.code == 0 and read_output(tmp_path / "job-out")["image_id"].to_pylist() == ["000.jpg", "001.jpg"]
    done = command("run", path)
    assert done.code == 0 and "5 (5 ok, 0 errors)" in done.out and "already done  2" in done.out, done.text
    assert len(read_output(tmp_path / "job-out")) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "0"], "argument --limit: should be a whole number from 1 on (got '0')"),
        (["--sample", "many"], "argument --sample: should be a whole number from 1 on (got 'many')"),
        (["--limit", "1", "--sample", "1"], "argument --sample: not allowed with argument --limit"),
    ],
)
def test_wrong_options_of_a_trial(sapiens_ray, options, message):
    done = sapiens_ray("run", "job.yaml", *options)
    assert done.code == 2 and message in done.err


def test_run_resume_grow_status_and_export(cluster, sapiens_ray, write_job, tmp_path):
    photos = tmp_path / "photos"
    write_photos(photos / "a", 3)
    write_photos(photos / "b", 3, 50, 40)
    (photos / "b" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (photos / "b" / "000.png").write_bytes((photos / "b" / "000.jpg").read_bytes())  # equal stems
    path = write_job(photos, unit_size=2, input={"shard_size": 5})
    output = tmp_path / "job-out"

    first = sapiens_ray("run", path)
    assert first.code == 0, first.text
    assert "8 (7 ok, 1 error)" in first.out and str(output) in first.out
    before = {file.name: file.stat().st_mtime_ns for file in (output / "data").iterdir()}

    speed = json.loads((output / "summary.json").read_text())["images_per_s"]
    again = sapiens_ray("run", path)
    assert json.loads((output / "summary.json").read_text())["images_per_s"] == speed > 0, (
        "that of the run that labelled"
    )
    assert again.code == 0 and "every image already had its row" in again.out
    assert {file.name: file.stat().st_mtime_ns for file in (output / "data").iterdir()} == before

    pictures = sapiens_ray("check", path, "--set", "output.visualize.style=lite")
    said = " ".join(pictures.out.split())
    assert (
        pictures.code == 0 and "output.visualize: style changed; images that have their row keep the pictures" in said
    )

    write_photos(photos / "c", 2)
    grown = sapiens_ray("run", path)
    assert grown.code == 0, grown.text
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["images"], summary["already_done"], summary["ok"]) == (10, 8, 9)
    assert before.items() <= {file.name: file.stat().st_mtime_ns for file in (output / "data").iterdir()}.items()

    status = json.loads(sapiens_ray("status", output, "--json").out)
    assert (status["images"], status["expected"], status["complete"]) == (10, 10, True)
    assert status["errors"] == {"corrupt": 1}
    assert "10 of 10 (100.0 %): 9 ok, 1 error" in sapiens_ray("status", output).out

    exported = sapiens_ray("export", output, "--format", "lite", "--to", tmp_path / "lite")
    assert exported.code == 0 and "9 images exported, 1 error row skipped\n" in exported.out, exported.text
    inside = sapiens_ray("export", output, "--format", "masks", "--to", photos / "masks")
    assert inside.err == f"{photos / 'masks'} lies in the input folder {photos}: its pictures will count as photos\n"
    shutil.rmtree(photos / "masks")
    (tmp_path / "link").symlink_to(output)
    for place in (output, output / "data", f"{output}/visualizations/x", tmp_path / "link", f"file://{output}/data"):
        refused = sapiens_ray("export", output, "--format", "lite", "--to", place)
        assert refused.code == 2 and "holds the labels themselves; name another folder" in refused.err
    rows = {row["image_id"]: row for row in read_output(output).to_pylist()}
    names = {"a/000.jpg": "a/000", "b/001.jpg": "b/001", "b/000.jpg": "b/000.jpg", "b/000.png": "b/000.png"}
    for image_id, name in names.items():
        class_map = np.load(tmp_path / "lite" / "seg" / f"{name}_seg.npy")
        mask = np.load(tmp_path / "lite" / "seg" / f"{name}.npy")
        assert class_map.dtype == np.int64 and mask.dtype == np.bool_
        assert np.array_equal(class_map, decode_map(rows[image_id]["seg"])) and np.array_equal(mask, class_map > 0)
    assert len(list((tmp_path / "lite").rglob("*.npy"))) == 18

    other = sapiens_ray("run", path, "--set", "max_pixels=1000")
    assert other.code == 2 and "max_pixels: was 134217728, now 1000" in other.err
    elsewhere = write_photos(tmp_path / "elsewhere", 1)[0].parent
    with pytest.raises(sr.errors.OutputError, match="holds labels of another input"):
        sr.run(sr.Job.load(path, [f"input.uri={elsewhere}"]))


def test_a_changed_tar_is_named_or_redone(cluster, sapiens_ray, write_job, tmp_path):
    from tests.archives import write_tar

    files = write_photos(tmp_path / "photos", 4)
    write_tar(tmp_path / "a.tar", files[:2])
    write_tar(tmp_path / "b.tar", files[2:])
    path = write_job([str(tmp_path / "a.tar"), str(tmp_path / "b.tar")])
    assert sr.run(sr.Job.load(path)).images == 4
    write_tar(tmp_path / "b.tar", files[1:])
    refused = sapiens_ray("run", path)
    assert refused.code == 2 and "b.tar has changed since it was planned" in refused.err
    assert sr.run(sr.Job.load(path), redo_changed=True).images == 5
    ids = read_output(tmp_path / "job-out")["image_id"].to_pylist()
    assert ids == ["a.tar/000.jpg", "a.tar/001.jpg", "b.tar/001.jpg", "b.tar/002.jpg", "b.tar/003.jpg"]


def test_status_of_an_unfinished_output_and_of_nothing(sapiens_ray, tmp_path):
    nothing = sapiens_ray("status", tmp_path)
    assert nothing.code == 2 and "is not an output folder" in nothing.err


def test_schema_equals_the_file_in_configs(sapiens_ray):
    printed = json.loads(sapiens_ray("schema").out)
    stored = json.loads((Path(__file__).parents[2] / "configs" / "job.schema.json").read_text())
    assert printed == stored, "run: sapiens-ray schema > configs/job.schema.json"


def test_the_files_hold_what_the_docs_say(cluster, write_job, tmp_path, model):
    import sapiens_ray as sr

    write_photos(tmp_path / "photos", 2)
    path = write_job(
        tmp_path / "photos", output={"visualize": {"fraction": 0}}, input={"storage_options": {"key": "S3CRET"}}
    )
    sr.run(sr.Job.load(path))
    output = tmp_path / "job-out"
    (file,) = (output / "data").iterdir()
    metadata = pq.read_schema(file).metadata
    about = json.loads(metadata[b"sapiens_ray.job"])
    assert about["tasks"]["seg"]["class_names"][22] == "Upper_Clothing"
    assert about["models"]["seg"]["checkpoint"] == model.name
    job = yaml.safe_load((output / "job.yaml").read_text())
    assert job["fingerprint"] == about["fingerprint"]
    assert job["job"]["unit_size"] == "auto"
    assert not any(b"S3CRET" in path.read_bytes() for path in output.rglob("*") if path.is_file())
    assert read_output(output)["visualization"].to_pylist() == [None, None]
    assert [path for path in (output / "visualizations").rglob("*") if path.is_file()] == []


def test_the_bar_on_a_terminal(cluster, write_job, tmp_path):
    write_photos(tmp_path / "photos", 6)
    path = write_job(tmp_path / "photos", unit_size=2)
    master, slave = pty.openpty()
    executable = Path(sys.executable).parent / "sapiens-ray"
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    process = subprocess.Popen([executable, "run", path], stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    screen = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        if not part:
            break
        screen += part
    assert process.wait() == 0
    text = screen.decode()
    assert "images/s" in text and "6/6" in text and "0 errors" in text
