"""What is said about settings that differ from those of an output."""

from __future__ import annotations

import copy

import pytest

from sapiens_ray.job.changes import changes
from sapiens_ray.job.config import Job

TASKS = [
    {"task": "seg", "checkpoint": "seg.pt2"},
    {"task": "pose", "keypoints": 17, "checkpoint": "pose.pt2", "boxes": {"detector": {"score": 0.3}}},
    {"task": "depth", "checkpoint": "depth.pt2", "mask": {"folder": "/masks"}},
]
OLD = {"input": {"uri": "photos", "columns": ["a"]}, "output": {"uri": "out"}, "tasks": TASKS}
FILES = {"s": "seg.pt2", "p": "pose.pt2", "d": "depth.pt2", "w": "weights.pth"}


def said(change, hashes="spdw", files=FILES):
    new = copy.deepcopy(OLD)
    change(new)
    before = Job.parse(OLD).result_settings(list("spdw"))
    return changes(before, Job.parse(new).result_settings(list(hashes)), FILES, files)


def setting(place, value):
    """A change of a nested value."""

    def change(job):
        *path, last = place
        for key in path:
            job = job[key]
        job[last] = value

    return change


def test_nothing_changed():
    assert said(lambda job: None) == []


@pytest.mark.parametrize(
    ("place", "value", "line"),
    [
        (["max_pixels"], 5, "max_pixels: was 134217728, now 5"),
        (["input", "columns"], [], "input.columns: was [a], now []"),
        (["input", "id_column"], "name", "input.id_column: was not given, now name"),
        (["tasks", 0, "name"], "parts", "tasks[0].name: was not given, now parts"),
        (["tasks", 0, "mode"], "bfloat16", "tasks[0].mode: was float32, now bfloat16"),
        (["tasks", 0, "matmul"], "tf32", "tasks[0].matmul: was strict, now tf32"),
        (["tasks", 1, "keypoints"], 133, "tasks[1].keypoints: was 17, now 133"),
        (["tasks", 1, "flip_test"], True, "tasks[1].flip_test: was false, now true"),
        (["tasks", 1, "boxes", "detector", "score"], 0.5, "tasks[1].boxes.detector.score: was 0.3, now 0.5"),
        (["tasks", 2, "mask"], {"column": "m"}, "tasks[2].mask: was {folder: /masks}, now {column: m}"),
        (["tasks", 2, "mask"], "none", "tasks[2].mask: was {folder: /masks}, now none"),
        (["tasks", 2, "task"], "normal", "tasks[2]: was depth, now normal"),
        (["tasks"], TASKS[:1], "tasks: were seg, pose, depth, now seg"),
    ],
)
def test_the_words_are_those_of_the_job_file(place, value, line):
    hashes = "s" if place == ["tasks"] else "spdw"
    assert said(setting(place, value), hashes) == [line]


def test_boxes_from_elsewhere():
    lines = said(setting(["tasks", 1, "boxes"], {"column": "people"}), "spd")
    assert len(lines) == 1
    assert lines[0].startswith("tasks[1].boxes: was {detector: {model: fasterrcnn_resnet50_fpn_v2,")
    assert lines[0].endswith(", now {column: people}")


def test_files_are_named():
    other = {**FILES, "n": "other.pt2", "v": "weights.pth"}
    assert said(lambda job: None, "npdv", other) == [
        "tasks[0].checkpoint: was seg.pt2, now other.pt2",
        "tasks[1].boxes.detector: weights.pth is another file than it was (its SHA-256 differs)",
    ]


def test_a_file_that_is_not_here_equals_any():
    assert said(lambda job: None, ["", "p", "d", ""]) == []


def test_names_of_the_catalogue_are_compared_before_a_download():
    tasks = [{"task": "seg", "checkpoint": "seg-1b"}]
    old = {"input": {"uri": "photos"}, "output": {"uri": "out"}, "tasks": tasks}
    before, after = (Job.parse(old).result_settings([digest]) for digest in ("s", ""))
    assert changes(before, after, {"s": "seg-0.3b"}, {}, ["seg-1b"]) == [
        "tasks[0].checkpoint: was seg-0.3b, now seg-1b"
    ]
    assert changes(before, after, {"s": "seg-1b"}, {}, ["seg-1b"]) == []
    assert changes(before, after, {"s": "/files/seg.pt2"}, {}, ["seg-1b"]) == [], "it may be the same file"


def test_of_long_names_the_first_that_differs_is_told():
    """Two texts that are cut before the difference would look the same."""
    names = [f"class_{number}" for number in range(100)]

    def of(classes: object) -> list[str]:
        return changes(before, job(classes).result_settings(["s"]), {}, {})

    def job(classes: object) -> Job:
        tasks = [{"task": "seg", "checkpoint": "s", "classes": classes}]
        return Job.parse({"input": {"uri": "photos"}, "output": {"uri": "out"}, "tasks": tasks})

    before = job(names).result_settings(["s"])
    assert of([*names[:59], "hat", *names[60:]]) == ["tasks[0].classes.names[59]: was class_59, now hat"]
    assert of([*names, "hat"]) == ["tasks[0].classes.names[100]: was not given, now hat"]
