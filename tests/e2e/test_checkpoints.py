"""Checkpoints from the command line: inspect, convert, and jobs in both modes from several file formats."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch

import sapiens_ray as sr
from sapiens_ray.errors import CheckpointError
from sapiens_ray.execution.stages import cache_of
from tests.conftest import read_output, write_photos
from tests.small_models import small, write


def depths(folder) -> list[np.ndarray]:
    return [np.load(io.BytesIO(one)) for one in read_output(folder)["depth"].to_pylist()]


@pytest.mark.nightly
def test_jobs_in_both_modes_from_converted_files(cluster, sapiens_ray, write_job, tmp_path):
    """Float32 labels do not depend on the file format; bfloat16 labels are close to them."""
    write_photos(tmp_path / "photos", 3)
    source = write(tmp_path / "model.pth", small("depth"), "pth")
    write(tmp_path / "model_torchscript.pt2", small("depth"), "torchscript")
    done = sapiens_ray("convert", source, "--to", "bfloat16")
    assert done.code == 0 and "loaded again, its outputs" in done.out, done.text
    files = {"model.pth": "float32", "model_torchscript.pt2": "torchscript", "model_bfloat16.pt2": "bfloat16"}
    assert {path.name for path in tmp_path.glob("model*")} == set(files)
    labels = {}
    for name, mode in files.items():
        task = {"task": "depth", "checkpoint": str(tmp_path / name), "mode": mode, "dtype": "float32", "batch_size": 2}
        done = sapiens_ray("run", write_job(tmp_path / "photos", name=name, tasks=[task]))
        assert done.code == 0, done.text
        labels[name] = np.stack(depths(tmp_path / f"{name}-out"))
    native, script, rounded = (labels[name] for name in files)
    assert np.abs(native - script).max() < 1e-4
    assert 0 < np.sqrt(np.mean((rounded - script) ** 2)) / script.std() < 0.03
    # The mode is one of the settings that decide the labels: the output refuses the other mode.
    refused = sapiens_ray("check", tmp_path / "model.pth.yaml", "--set", "tasks.0.mode=bfloat16")
    assert refused.code == 2 and "tasks[0].mode: was float32, now bfloat16" in refused.err


@pytest.mark.nightly
def test_a_job_reports_how_its_models_started(cluster, sapiens_ray, write_job, tmp_path):
    """Here without a compiler; other cases are in tests/models/test_compiling.py."""
    write_photos(tmp_path / "photos", 3)
    source = write(tmp_path / "model.pth", small("depth", layers=1), "pth")
    task = {"task": "depth", "checkpoint": str(source), "mode": "bfloat16", "compile": "default", "batch_size": 2}
    job = write_job(tmp_path / "photos", tasks=[task], cache=str(tmp_path / "cache"))
    done = sapiens_ray("run", job, env={"CXX": "/nonexistent", "RAY_ADDRESS": ""})
    assert done.code == 0, done.text
    (note,) = json.loads((tmp_path / "job-out" / "summary.json").read_text())["notes"]
    assert note.startswith("depth: not compiled, runs eagerly: no C++ compiler (/nonexistent) on node ")
    assert note in done.err.replace("\n", ""), "the note is in the log too"
    assert len(depths(tmp_path / "job-out")) == 3
    cache = cache_of(sr.Job.load(job, ["output.storage_options.anon=true"]))
    assert cache is not None and (cache.uri, cache.options) == (str(tmp_path / "cache"), {"anon": True})


def test_files_that_do_not_fit_are_refused_before_any_work(write_job, tmp_path):
    write_photos(tmp_path / "photos", 1)
    source = write(tmp_path / "model.pth", small("normal"), "pth")
    pose = write(tmp_path / "pose.safetensors", small("pose17"), "safetensors")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")

    def refusal(**task: object) -> str:
        with pytest.raises(CheckpointError) as caught:
            sr.run(sr.Job.load(write_job(tmp_path / "photos", tasks=[task])))
        assert not (tmp_path / "job-out").exists()
        return str(caught.value)

    text = refusal(task="seg", checkpoint=str(source))
    assert f"tasks[0].checkpoint: {source} is a Sapiens normal model (32 wide, 2 layers)" in text
    assert "the job asks for task seg" in text
    assert "the job asks for 308 keypoints" in refusal(task="pose", keypoints=308, checkpoint=str(pose))
    assert "not those of a Sapiens model" in refusal(task="seg", checkpoint=str(tmp_path / "other.pth"))


def test_inspect_without_json(command, tmp_path, model):
    done = command("checkpoints", "inspect", write(tmp_path / "x.pt2", small("pose17"), "old export"))
    assert done.code == 0
    for line in ("old export", "Sapiens pose model (32 wide, 2 layers, 17 keypoints)", "2 heads, padding 2",
                 "float32: native module", "float32)"):  # fmt: skip
        assert line in done.out, done.out
    done = command("checkpoints", "inspect", model)
    assert done.code == 0 and "not a known Sapiens model" in done.out and "as it is, cast" in done.out
    state = small("seg").state_dict()
    del state["backbone.ln1.weight"]
    torch.save(state, tmp_path / "broken.pth")
    done = command("checkpoints", "inspect", tmp_path / "broken.pth")
    assert done.code == 1 and "tensor backbone.ln1.weight of shape (32,) is missing" in done.out
    done = command("checkpoints", "inspect", tmp_path / "nothing.pth")
    assert done.code == 2 and "does not exist" in done.err


def test_convert_refuses_impossible_conversions(command, tmp_path, model):
    done = command("convert", model, "--to", "safetensors", "--out", tmp_path / "x.safetensors")
    assert done.code == 2 and "not those of a Sapiens model" in done.err and not list(tmp_path.iterdir())
    broken = small("seg")
    broken.decode_head.conv_seg.bias[3] = float("nan")
    source = write(tmp_path / "nan.pth", broken, "flat pth")
    done = command("convert", source, "--to", "torchscript")
    assert done.code == 2 and "are not finite" in done.err and list(tmp_path.iterdir()) == [source]
    done = command("convert", source, "--to", "torchscript", "--out", "/dev/null/x.pt2")
    assert done.code == 2 and "--out /dev/null/x.pt2: cannot write it" in done.err and "Traceback" not in done.text
    source.unlink()
    source = write(tmp_path / "x.safetensors", small("seg"), "safetensors")
    before = source.read_bytes()
    done = command("convert", source, "--to", "safetensors")
    assert done.code == 2 and "is the source file itself" in done.err
    assert source.read_bytes() == before and list(tmp_path.iterdir()) == [source]
