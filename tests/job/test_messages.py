"""What is wrong with a job file, one line for each thing."""

from __future__ import annotations

from typing import Any

import pytest

from sapiens_ray.errors import ConfigError
from sapiens_ray.job.config import Job

SEG = {"task": "seg", "checkpoint": "m.pt2"}
POSE = {"task": "pose", "checkpoint": "m.pt2", "keypoints": 17}


def lines(**changes: Any) -> list[str]:
    """The lines about a job that differs from a good one; a value of None removes the section."""
    raw = {"input": {"uri": "x"}, "output": {"uri": "y"}, "tasks": [SEG], **changes}
    with pytest.raises(ConfigError) as caught:
        Job.parse({key: value for key, value in raw.items() if value is not None}, source="job.yaml")
    said = str(caught.value).splitlines()
    assert all(line.startswith("job.yaml: ") for line in said)
    return [line.removeprefix("job.yaml: ") for line in said]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tsks": []}, "tsks: unknown key; did you mean 'tasks'?"),
        ({"input": {"uri": "x", "shard_sise": 3}}, "input.shard_sise: unknown key; did you mean 'shard_size'?"),
        (
            {"output": {"uri": "y", "visualize": {"zzz": 1}}},
            "output.visualize.zzz: unknown key; known keys: fraction, style, max_side, format, quality, "
            "opacity, keypoint_score",
        ),
        ({"tasks": [{**SEG, "bath_size": 1}]}, "tasks[0].bath_size: unknown key; did you mean 'batch_size'?"),
        ({"tasks": [SEG, {**POSE, "crp": 1}]}, "tasks[1].crp: unknown key; did you mean 'crop'?"),
        (
            {"tasks": [{**POSE, "boxes": {"zzz": 1}}]},
            "tasks[0].boxes.zzz: unknown key; known keys: column, seg, detector, coco",
        ),
        (
            {"tasks": [{**POSE, "boxes": {"detector": {"modl": "x"}}}]},
            "tasks[0].boxes.detector.modl: unknown key; did you mean 'model'?",
        ),
        ({"input": None}, "input: is missing"),
        ({"output": {}}, "output.uri: is missing"),
        ({"tasks": [{"task": "seg"}]}, "tasks[0].checkpoint: is missing"),
        ({"tasks": [{"checkpoint": "x"}]}, "tasks[0].task: is missing"),
        ({"tasks": ["seg"]}, "tasks[0]: should be a mapping of `key: value` lines (got 'seg')"),
        ({"tasks": [None]}, "tasks[0]: should be a mapping of `key: value` lines (got None)"),
        (
            {"tasks": [{**SEG, "task": "sge"}]},
            "tasks[0].task: 'sge' is not one of seg, depth, normal, pose, features, pointmap, matting; did you mean "
            "'seg'?",
        ),
        (
            {"tasks": [{**SEG, "task": "zzz"}]},
            "tasks[0].task: 'zzz' is not one of seg, depth, normal, pose, features, pointmap, matting",
        ),
        ({"tasks": "seg"}, "tasks: should be a list, each entry on a line that starts with `- ` (got 'seg')"),
        ({"tasks": []}, "tasks: the list is empty"),
        ({"input": {"uri": None}}, "input.uri: has no value"),
        (
            {"output": {"uri": "y", "visualize": False}},
            "output.visualize: should be a mapping, such as {fraction: 0} for no pictures, or {fraction: 0.01} "
            "(got False)",
        ),
        ({"output": "y"}, "output: should be a mapping of `key: value` lines (got 'y')"),
        ({"output": []}, "output: should be a mapping of `key: value` lines"),
        (
            {"tasks": [{**SEG, "name": "1st"}]},
            "tasks[0].name: does not have the right form, ^[A-Za-z][A-Za-z0-9_]*$ (got '1st')",
        ),
        ({"unit_size": 0}, "unit_size: should be a whole number from 1 to 4096, or auto (got 0)"),
        ({"device": "tpu"}, "device: should be 'auto', 'cpu' or 'cuda' (got 'tpu')"),
        (
            {"tasks": [{**SEG, "batch_size": 0}]},
            "tasks[0].batch_size: should be a whole number from 1 to 1024, or auto (got 0)",
        ),
        (
            {"tasks": [{**SEG, "num_gpus": 1.5}]},
            "tasks[0].num_gpus: above 1 it must be a whole number of GPUs (got 1.5)",
        ),
        (
            {"tasks": [{**SEG, "num_gpus": 0.001}]},
            "tasks[0].num_gpus: should be at least 0.05: every actor is a process that holds its models (got 0.001)",
        ),
        ({"input": {"uri": []}}, "input.uri: name at least one folder, file or glob"),
        ({"tasks": [SEG, SEG]}, "tasks[1]: would write column 'seg', as tasks[0] does; give one of them a `name:`"),
        (
            {"tasks": [SEG, {**POSE, "boxes": {"seg": "other"}}]},
            "tasks[1].boxes: the job has no seg task named 'other'; its seg tasks are seg",
        ),
    ],
)
def test_what_is_wrong_is_one_line(changes, message):
    assert lines(**changes) == [message]


def test_everything_that_is_wrong_has_its_line():
    assert lines(input={}, unit_size="many", tasks=[{**SEG, "mode": "fast"}]) == [
        "input.uri: is missing",
        "tasks[0].mode: should be 'float32', 'bfloat16' or 'torchscript' (got 'fast')",
        "unit_size: should be a whole number from 1 to 4096, or auto (got 'many')",
    ]


@pytest.mark.parametrize("section", ["input", "output"])
def test_credentials_are_not_repeated(section):
    (line,) = lines(**{section: {"uri": "x", "storage_options": "S3CRET"}})
    assert line == f"{section}.storage_options: should be a mapping of `key: value` lines"
