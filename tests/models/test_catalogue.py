"""The catalogue: names, Sapiens-Lite's folder tree, downloads from a local hub."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sapiens_ray.errors import CheckpointError
from sapiens_ray.job.config import Job
from sapiens_ray.models import catalogue
from sapiens_ray.models.resolving import resolve_model
from sapiens_ray.tasks.seg import SegOptions
from tests.conftest import SHARED, read_output, write_photos
from tests.hub_server import Hub
from tests.small_models import small, write

SEG = "sapiens_0.3b_goliath_best_goliath_mIoU_7673_epoch_194"
TREE = f"seg/checkpoints/sapiens_0.3b/{SEG}_torchscript.pt2"


def test_names_and_files():
    assert len(catalogue.CATALOGUE) == 26
    seg = catalogue.published("seg-1b")
    assert seg.on_hub("torchscript") == (
        "facebook/sapiens-seg-1b-torchscript",
        "sapiens_1b_goliath_best_goliath_mIoU_7994_epoch_151_torchscript.pt2",
    )
    assert catalogue.published("pose17-2b").on_hub("bfloat16") == (
        "noahcao/sapiens-pose-coco",
        "sapiens_lite_host/bfloat16/pose/checkpoints/sapiens_2b/sapiens_2b_coco_best_coco_AP_822_bfloat16.pt2",
    )
    assert catalogue.published("pretrain-1b").on_hub("original")[1] == "sapiens_1b_epoch_173_clean.pth"
    for wrong, near in (("seg-2b", "seg-1b"), ("pose-1b", "pose17-1b"), ("normals-1b", "normal-1b")):
        assert catalogue.is_name(wrong)
        with pytest.raises(CheckpointError, match=near):
            catalogue.published(wrong)
    assert not any(map(catalogue.is_name, ("seg-1b.pt2", "./seg-1b", "models/seg-1b", "s3://b/seg-1b", "seg1b")))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs shared/facts")
def test_the_catalogue_equals_the_facts():
    facts = json.loads((SHARED / "facts" / "models.json").read_text())["v1"]
    layout = json.loads((SHARED / "facts" / "checkpoint_layout.json").read_text())["parameter_counts"]
    found = {}
    for one in facts["checkpoints"]:
        name = f"{one['task']}{one.get('keypoints', '')}-{one['size']}"
        found[name] = {mode: tuple(file) for mode, file in one["files"].items()}
    assert found == {
        name: {mode: model.on_hub(mode) for mode in catalogue.MODES} for name, model in catalogue.CATALOGUE.items()
    }
    for name, model in catalogue.CATALOGUE.items():
        if model.kind != "pretrain":
            assert abs(model.parameters - layout[model.kind][model.size] / 1e6) < 0.06, name


def test_a_name_in_a_job_is_not_a_path(tmp_path):
    raw = {"input": {"uri": "photos-1b"}, "output": {"uri": "out"}, "tasks": [{"task": "seg", "checkpoint": "seg-1b"}]}
    job = Job.parse(raw)
    assert job.tasks[0].checkpoint == "seg-1b" and job.input.uri == [str(Path.cwd() / "photos-1b")]


@pytest.mark.parametrize("level", [".", "sapiens_lite_host", "sapiens_lite_host/torchscript"])
def test_an_existing_tree_is_used(tmp_path, monkeypatch, level):
    """At any level of it that the variable names, and with any numbers in the file names."""
    file = tmp_path / "sapiens_lite_host" / "torchscript" / TREE
    file.parent.mkdir(parents=True)
    monkeypatch.setenv("SAPIENS_LITE_CHECKPOINT_ROOT", str(tmp_path / level))
    renamed = file.with_name(file.name.replace("7673_epoch_194", "7000_epoch_1"))
    renamed.write_bytes(b"old")
    assert catalogue.find_here("seg-0.3b", "torchscript") == (renamed, "torchscript")
    file.write_bytes(b"new")
    assert catalogue.find_here("seg-0.3b", "torchscript") == (file, "torchscript")
    assert catalogue.find_here("seg-0.3b", "bfloat16") == (file, "torchscript"), "any file format gives bfloat16"
    other = tmp_path / "sapiens_lite_host" / "bfloat16" / TREE.replace("torchscript", "bfloat16")
    other.parent.mkdir(parents=True)
    assert catalogue.find_file("seg-0.3b", "torchscript") == file, "a node uses the file that the driver found"
    other.write_bytes(b"half")
    assert catalogue.find_here("seg-0.3b", "bfloat16") == (other, "bfloat16")
    assert catalogue.find_here("seg-0.3b", "torchscript") == (file, "torchscript")


def test_where_a_pulled_file_goes(tmp_path):
    """Below the given folder, unless that is itself a level of the tree."""
    seg = catalogue.published("seg-0.3b")
    (tmp_path / "own" / "torchscript").mkdir(parents=True)
    for root, folder in {
        "new": "new/sapiens_lite_host/torchscript",
        "torchscript": "torchscript/sapiens_lite_host/torchscript",
        "sapiens_lite_host": "sapiens_lite_host/torchscript",
        "sapiens_lite_host/torchscript": "sapiens_lite_host/torchscript",
        "sapiens_lite_host/bfloat16": "sapiens_lite_host/torchscript",
        "own": "own/torchscript",
    }.items():
        target = catalogue.target_in_tree(tmp_path / root, seg, "torchscript")
        assert target == tmp_path / folder / TREE, root
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"x")
        assert catalogue.in_tree(tmp_path / root, seg, "torchscript") == target, "it is found there"
        target.unlink()


def test_float32_takes_the_torchscript_file_or_else_the_original(command, tmp_path, monkeypatch):
    monkeypatch.setenv("SAPIENS_LITE_CHECKPOINT_ROOT", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    seg = catalogue.published("seg-0.3b")
    original = tmp_path / "sapiens_host" / seg.tree_path("original")
    script = tmp_path / "sapiens_lite_host" / "torchscript" / seg.tree_path("torchscript")
    for path, kind in ((original, "pth"), (script, "torchscript")):
        path.parent.mkdir(parents=True)
        write(path, small("seg"), kind)
        for mode in ("float32", "torchscript"):
            options = SegOptions(task="seg", checkpoint="seg-0.3b", mode=mode)
            found = resolve_model(options, "tasks[0].checkpoint", {})
            assert (found.local_file(), found.kind) == (path, "catalogue")
    pulled = command("checkpoints", "pull", "seg-0.3b", "--mode", "float32", "--to", tmp_path)
    assert (pulled.code, pulled.out) == (0, f"{script}\n")
    listed = json.loads(command("checkpoints", "list", "--mode", "float32", "--json").out)
    assert {one["mode"] for one in listed} == {"torchscript"}
    assert [one["here"] for one in listed if one["here"]] == [str(script)]


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    """A hub with a small segmenter as seg-0.3b; this process and its commands use it, with an empty cache."""
    files = {}
    model = small("seg")
    for mode, file_format in (("torchscript", "torchscript"), ("bfloat16", "old export")):
        repository, file = catalogue.published("seg-0.3b").on_hub(mode)
        files[repository] = {file: write(tmp_path / "x", model, file_format).read_bytes()}
    coco, path = catalogue.published("pose17-1b").on_hub("torchscript")
    files[coco] = {path: b"pose"}
    (tmp_path / "x").unlink()
    hub = Hub(files)
    environment = {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "",
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SAPIENS_LITE_CHECKPOINT_ROOT", raising=False)
    yield hub
    hub.server.shutdown()


def test_pull_into_a_tree(hub, sapiens_ray, tmp_path):
    done = sapiens_ray("checkpoints", "pull", "seg-0.3b", "pose17-1b", "--to", tmp_path / "tree")
    assert done.code == 0, done.text
    seg = tmp_path / "tree" / "sapiens_lite_host" / "torchscript" / TREE
    repository, file = catalogue.published("seg-0.3b").on_hub("torchscript")
    assert seg.read_bytes() == hub.files[repository][file]
    pose = tmp_path / "tree" / catalogue.published("pose17-1b").on_hub("torchscript")[1]
    assert pose.read_bytes() == b"pose"
    assert done.out.split() == [str(seg), str(pose)]
    assert "CC-BY-NC 4.0, not for commercial use" in done.err and "about 1.4 GB" in done.err
    before = len(hub.requests)
    again = sapiens_ray("checkpoints", "pull", "seg-0.3b", "--to", tmp_path / "tree")
    assert again.code == 0 and len(hub.requests) == before, "a file that exists is not requested again"
    listed = sapiens_ray("checkpoints", "list", "--json", env={"SAPIENS_LITE_CHECKPOINT_ROOT": str(tmp_path / "tree")})
    here = {(one["name"], one["mode"]): one["here"] for one in json.loads(listed.out) if one["here"]}
    assert here == {("seg-0.3b", "torchscript"): str(seg), ("pose17-1b", "torchscript"): str(pose)}


def test_an_interrupted_download_continues(hub, sapiens_ray, tmp_path):
    repository, file = catalogue.published("depth-0.3b").on_hub("bfloat16")
    data = os.urandom(25 << 20)
    hub.files[repository] = {file: data}
    hub.break_after = 21 << 20
    pull = ("checkpoints", "pull", "depth-0.3b", "--mode", "bfloat16", "--to", tmp_path)
    done = sapiens_ray(*pull)
    if done.code != 0:  # the library may retry automatically
        assert "sapiens-ray: cannot download" in done.err and "Traceback" not in done.text
        done = sapiens_ray(*pull)
    assert done.code == 0, done.text
    assert Path(done.out.strip()).read_bytes() == data
    headers = [{name.lower(): value for name, value in headers.items()} for method, path, headers in hub.requests
               if method == "GET" and "resolve" in path]  # fmt: skip
    starts = [int(one["range"].removeprefix("bytes=").partition("-")[0]) for one in headers if "range" in one]
    assert any(10 << 20 <= start <= 21 << 20 for start in starts), headers


def test_tokens_refusals_and_renamed_files(hub, sapiens_ray, tmp_path, monkeypatch):
    hub.token = "hf_secret"
    done = sapiens_ray("checkpoints", "pull", "seg-0.3b", env={"HF_TOKEN": "hf_wrong"})
    assert done.code == 2 and "cannot download" in done.err and "Traceback" not in done.text
    assert "hf_wrong" not in done.text and "SAPIENS_LITE_CHECKPOINT_ROOT" in done.err
    done = sapiens_ray("checkpoints", "pull", "seg-0.3b", env={"HF_TOKEN": "hf_secret"})
    assert done.code == 0 and Path(done.out.strip()).is_file(), done.text
    hub.token = None
    repository, file = catalogue.published("seg-0.3b").on_hub("bfloat16")
    renamed = file.replace("7673_epoch_194", "8000_epoch_7")
    hub.files[repository] = {"README.md": b"", renamed: hub.files[repository][file]}
    done = sapiens_ray("checkpoints", "pull", "seg-0.3b", "--mode", "bfloat16")
    assert done.code == 0 and done.out.strip().endswith(renamed), done.text
    listed = sapiens_ray("checkpoints", "list", "--mode", "bfloat16", "--json", env={"HF_HUB_OFFLINE": "1"})
    here = [one["here"] for one in json.loads(listed.out) if one["here"]]
    assert here == [done.out.strip()], "it is found under its new name, also offline"
    offline = sapiens_ray("checkpoints", "pull", "normal-1b", env={"HF_HUB_OFFLINE": "1"})
    assert offline.code == 2 and "cannot download" in offline.err and "Traceback" not in offline.text
    for name in ("seg-2b", "nonsense"):
        done = sapiens_ray("checkpoints", "pull", name)
        assert done.code == 2 and f"{name!r} is not in the catalogue" in done.err


def test_a_job_names_a_published_model(hub, sapiens_ray, command, write_job, tmp_path):
    """`check` says what a run would download; with --load it is downloaded once, then found, also offline."""
    write_photos(tmp_path / "photos", 2)
    tasks = [{"task": "seg", "checkpoint": "seg-0.3b", "mode": "bfloat16"}]
    job = write_job(tmp_path / "photos", tasks=tasks)
    done = command("check", job)
    assert done.code == 0 and not hub.downloads, done.text
    assert "size        about 679.0 MB\n" in done.out and "downloaded when the job runs, or by check --load" in done.out
    assert "downloads     1 checkpoint, about 679.0 MB\n" in done.out
    done = sapiens_ray("check", job, "--load")
    assert done.code == 0 and len(hub.downloads) == 1, done.text
    assert "CC-BY-NC 4.0" in done.err
    again = sapiens_ray("check", job, env={"HF_HUB_OFFLINE": "1"})
    assert again.code == 0 and len(hub.downloads) == 1, again.text
    assert "not on this machine" not in again.out and "sha256" in again.out


@pytest.mark.parametrize(
    ("task", "name", "fitting"),
    [
        ({"task": "seg"}, "depth-1b", "depth; the task needs one for seg: seg-0.3b, seg-0.6b, seg-1b"),
        ({"task": "pose", "keypoints": 133}, "pose17-1b", "pose17; the task needs one for pose133: pose133-0.3b"),
    ],
)
def test_a_published_model_of_another_task_is_refused_by_its_name(
    hub, command, write_job, tmp_path, task, name, fitting
):
    write_photos(tmp_path / "photos", 1)
    done = command("check", write_job(tmp_path / "photos", tasks=[{**task, "checkpoint": name}]))
    assert done.code == 2 and f"tasks[0].checkpoint: {name} is a model for {fitting}" in done.err, done.err
    assert not hub.requests


def test_nothing_is_downloaded_for_a_job_that_cannot_run(hub, command, write_job, tmp_path):
    tasks = [{"task": "seg", "checkpoint": "seg-0.3b", "mode": "bfloat16"}]
    path = write_job(tmp_path / "nothing", tasks=tasks)
    for call in (["check", path], ["check", "--load", path], ["run", path]):
        done = command(*call)
        assert (done.code, done.err) == (2, f"sapiens-ray: input.uri: {tmp_path}/nothing does not exist\n")
    write_photos(tmp_path / "photos", 1)
    (tmp_path / "file").write_text("")
    path = write_job(tmp_path / "photos", tasks=tasks, output={"uri": str(tmp_path / "file" / "out")})
    done = command("run", path)
    assert done.code == 2 and f"output.uri: cannot write to {tmp_path}/file/out: NotADirectoryError" in done.err
    assert not hub.downloads


@pytest.mark.nightly  # the library waits 23 s between its attempts
def test_each_retry_of_a_download_is_told_once(sapiens_ray, tmp_path):
    """Nothing listens at this endpoint."""
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = sapiens_ray("checkpoints", "pull", "seg-0.3b", env=environment)
    assert done.code == 2
    retries = [line for line in done.err.splitlines() if line.startswith("Retrying")]
    assert retries and len(retries) == len(set(retries)), done.err


@pytest.mark.nightly
def test_outputs_record_the_published_file(hub, sapiens_ray, write_job, tmp_path):
    write_photos(tmp_path / "photos", 2)
    job = write_job(tmp_path / "photos", tasks=[{"task": "seg", "checkpoint": "seg-0.3b", "mode": "bfloat16"}])
    wanted = sapiens_ray("checkpoints", "inspect", "seg-0.3b")
    assert wanted.code == 2 and "sapiens-ray checkpoints pull seg-0.3b" in wanted.err
    assert sapiens_ray("check", "--load", job).code == 0 and len(hub.downloads) == 1
    # A separate cluster: the workers of the session's cluster have another environment.
    done = sapiens_ray("run", job, env={"HF_HUB_OFFLINE": "1", "RAY_ADDRESS": ""})
    assert done.code == 0, done.text
    assert len(hub.downloads) == 1
    rows = read_output(tmp_path / "job-out")
    assert rows["error_kind"].null_count == 2
    models = json.loads(rows.schema.metadata[b"sapiens_ray.job"])["models"]
    assert models["seg"]["checkpoint"] == "seg-0.3b" and len(models["seg"]["sha256"]) == 64
    inspected = json.loads(sapiens_ray("checkpoints", "inspect", "seg-0.3b", "--json").out)
    assert inspected["sha256"] == models["seg"]["sha256"] and inspected["container"] == "old export"
