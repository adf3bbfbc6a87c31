"""The job file: expansion, overrides, paths, messages, fingerprint."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from sapiens_ray.errors import ConfigError
from sapiens_ray.job.config import Job, fingerprint

MINIMAL = {"input": {"uri": "photos"}, "output": {"uri": "out"}, "tasks": [{"task": "seg", "checkpoint": "m.pt2"}]}


@pytest.fixture
def write(tmp_path):
    def write(raw) -> str:
        path = tmp_path / "sub" / "job.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw))
        return str(path)

    return write


def test_relative_paths_are_relative_to_the_file(write, tmp_path, monkeypatch):
    job = Job.load(write({**MINIMAL, "input": {"uri": ["photos/", "../a.tar", "s3://b/c", "/abs"]}}))
    assert job.input.uri == [f"{tmp_path}/sub/photos/", f"{tmp_path}/a.tar", "s3://b/c", "/abs"]
    assert (job.output.uri, job.tasks[0].checkpoint) == (f"{tmp_path}/sub/out", f"{tmp_path}/sub/m.pt2")
    assert job.name == "job"
    monkeypatch.chdir(tmp_path)
    job = Job.load(write(MINIMAL), ["input.uri=here", "tasks.0.checkpoint=n.pt2", "output.visualize.fraction=0.5"])
    assert job.input.uri == [f"{tmp_path}/here"]
    assert job.tasks[0].checkpoint == f"{tmp_path}/n.pt2"
    assert job.output.visualize.fraction == 0.5


def test_environment(write, monkeypatch):
    monkeypatch.setenv("BUCKET", "photos-eu")
    raw = {**MINIMAL, "input": {"uri": "s3://${BUCKET}/x", "storage_options": {"key": "${NOT_SET_ANYWHERE:-anon}"}}}
    job = Job.load(write(raw))
    assert job.input.uri == ["s3://photos-eu/x"] and job.input.storage_options == {"key": "anon"}
    assert "anon" not in str(job.public_dict()) and "anon" not in repr(job)
    signed = Job.load(write({**MINIMAL, "input": {"uri": "https://me:pw@host/a.tar?sig=S3CRET"}}))
    assert signed.public_dict()["input"]["uri"] == ["https://host/a.tar"]
    with pytest.raises(ConfigError) as caught:
        Job.load(write({**MINIMAL, "output": {"uri": "x", "storage_options": "S3CRET"}}))
    assert "output.storage_options" in str(caught.value) and "S3CRET" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"output\.uri: environment variable NOT_SET_ANYWHERE is not set"):
        Job.load(write({**MINIMAL, "output": {"uri": "${NOT_SET_ANYWHERE}"}}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b", "a job file is a mapping"),
        ("a: [", r"not valid YAML: line 1, column 5: expected the node content"),
        ("input: {uri: ${PHOTOS}}", r'line 1, column 15: .*; between { } or \[ \], write "\$\{NAME\}" in quotes$'),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a:\n  b: 1\n c: 2", r"line 3, column 2: .*; indent with spaces, and all lines of a section"),
        ("a:\n\tb: 1", r"line 2, column 1: .*; indent with spaces"),
        ("input: photos", "input: should be a mapping of `key: value` lines"),
    ],
)
def test_files_that_are_not_job_files(write, text, message):
    with pytest.raises(ConfigError, match=message):
        Job.load(write(text))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nonsense", "write it as key=value"),
        ("tasks.7.mode=x", "there is no entry 7; its only entry is 0"),
        ("tasks[1]=x", "there is no entry 1; its only entry is 0"),
        ("name.x=1", "plain value"),
    ],
)
def test_overrides_that_do_not_fit(write, override, message):
    with pytest.raises(ConfigError, match=message):
        Job.load(write({**MINIMAL, "name": "n"}), [override])


def test_two_tasks_need_two_columns(write):
    task = MINIMAL["tasks"][0]
    with pytest.raises(ConfigError, match=r"tasks\[1\]: would write column 'seg', as tasks\[0\] does"):
        Job.load(write({**MINIMAL, "tasks": [task, task]}))
    job = Job.load(write({**MINIMAL, "tasks": [task, {**task, "name": "seg_small"}]}))
    assert [one.column for one in job.tasks] == ["seg", "seg_small"]


def test_messages_name_the_task_that_asks_for_a_column_or_a_detector():
    pose = {"task": "pose", "checkpoint": "p.pt2", "keypoints": 17}
    job = Job.parse({
        **MINIMAL,
        "input": {"uri": "photos", "columns": ["caption"], "id_column": "name"},
        "tasks": [
            MINIMAL["tasks"][0],
            {**pose, "name": "a", "boxes": {"column": "people"}},
            {**pose, "name": "b", "boxes": "detector"},
            {**pose, "name": "c", "boxes": {"detector": {"score": 0.9}}},
            {**pose, "name": "d", "boxes": "detector"},
            {"task": "depth", "checkpoint": "d.pt2", "mask": {"column": "masks"}},
            {"task": "normal", "checkpoint": "n.pt2", "mask": {"column": "masks"}},
        ],
    })  # fmt: skip
    assert job.entries == [*(f"tasks[{n}]" for n in range(7)), "tasks[2].boxes.detector", "tasks[3].boxes.detector"]
    assert len(job.entries) == len(job.models)
    named = {column: job.reading.field_of(column) for column in ("caption", "name", "people", "masks")}
    assert named == {
        "caption": "input.columns", "name": "input.id_column",
        "people": "tasks[1].boxes.column", "masks": "tasks[5].mask.column",
    }  # fmt: skip


def test_the_fingerprint_covers_results_and_nothing_else(write):
    def of(**changes) -> str:
        return fingerprint(Job.load(write({**MINIMAL, **changes})).result_settings(["abc"]))

    same = of()
    assert of(name="other") == of(input={"uri": "more"}) == of(unit_size=3) == same
    assert of(output={"uri": "out", "visualize": {"fraction": 0.1, "style": "lite"}}) == of(device="cpu") == same
    assert of(tasks=[{"task": "seg", "checkpoint": "moved.pt2", "batch_size": 3, "actors": 2}]) == same
    assert of(max_pixels=7) != same
    assert of(input={"uri": "photos", "id_column": "name"}) != same
    assert of(input={"uri": "photos", "include": ["*.jpg"]}) != same, "it decides the index of a member of a tar"
    assert fingerprint(Job.load(write(MINIMAL)).result_settings(["other model"])) != same


@pytest.mark.parametrize("checkpoint", ["m.pt2", "m.pth", "m.safetensors", "seg-1b"])
def test_float32_is_the_default_and_was_called_torchscript(write, checkpoint):
    """Outputs that were begun under the older name, which is in their fingerprint, are continued by any spelling."""
    task = {"task": "seg", "checkpoint": checkpoint}
    jobs = [Job.load(write({**MINIMAL, "tasks": [{**task, **mode}]})) for mode in (
        {}, {"mode": "float32"}, {"mode": "torchscript"}, {"mode": "bfloat16"},
    )]  # fmt: skip
    assert [job.tasks[0].mode for job in jobs] == ["float32", "float32", "float32", "bfloat16"]
    settings = [job.result_settings(["abc"]) for job in jobs]
    assert settings[0] == settings[1] == settings[2] != settings[3]
    assert settings[0]["tasks"][0]["mode"] == "torchscript"


def test_tf32_is_recorded_and_strict_products_are_not(write):
    """Outputs that were begun before there was a choice have no such setting, and are continued."""
    task = {"task": "seg", "checkpoint": "m.pth"}
    none, strict, tf32 = (
        Job.load(write({**MINIMAL, "tasks": [{**task, **matmul}]})).result_settings(["abc"])
        for matmul in ({}, {"matmul": "strict"}, {"matmul": "tf32"})
    )
    assert none == strict and "matmul" not in none["tasks"][0]
    assert tf32["tasks"][0] == {**none["tasks"][0], "matmul": "tf32"}
    assert fingerprint(tf32) != fingerprint(none)


def test_overrides_may_be_written_as_messages_write_fields(write):
    job = Job.load(write(MINIMAL), ["tasks[0].mode=bfloat16", "tasks.0.batch_size=3"])
    assert (job.tasks[0].mode, job.tasks[0].batch_size) == ("bfloat16", 3)


def test_a_job_file_is_read_without_ray_and_torch():
    code = "import sys, sapiens_ray.cli; from sapiens_ray import Job; print({'ray', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_shipped_configs_are_valid(monkeypatch):
    from tests.conftest import ROOT

    for path in (ROOT / "configs").glob("*.yaml"):
        assert Job.load(path).tasks


def test_secrets_are_removed_from_all_urls():
    url = "https://user:PASSWORD@host/masks?sig=SECRET"
    job = Job.parse(
        {
            "input": {"uri": url},
            "output": {"uri": "y"},
            "tasks": [{"task": "depth", "checkpoint": url, "mask": {"folder": url}}],
        }
    )
    for public in (job.public_dict(), job.result_settings(["0" * 64])):
        assert "SECRET" not in str(public) and "PASSWORD" not in str(public)
        assert public["tasks"][0]["mask"]["folder"] == "https://host/masks"


def test_equivalent_settings_have_the_same_fingerprint():
    def settings(**task: object) -> dict[str, object]:
        tasks = [{"task": "seg", "checkpoint": "a"}, {"task": "depth", "checkpoint": "b", **task}]
        return Job.parse({"input": {"uri": "x"}, "output": {"uri": "y"}, "tasks": tasks}).result_settings(["1", "2"])

    assert settings() == settings(name="depth") == settings(mask="seg") == settings(mask={"seg": "seg"}, actors=3)
    assert settings(mask={"folder": "m"}) == settings(mask={"folder": "m/"}) != settings()
    assert settings(resolution="original") != settings() != settings(dtype="float32")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"task": "pose", "boxes": "none"}, "tasks[0].keypoints: is missing; one of 17, 133, 308"),
        ({"task": "pose", "keypoints": 18}, "tasks[0].keypoints: should be 17, 133 or 308"),
        ({"task": "pose", "keypoints": 17, "boxes": "seg"}, "tasks[0].boxes: the job has no seg task"),
        ({"task": "pose", "keypoints": 17, "boxes": {"colum": "b"}}, "boxes.colum: unknown key; did you mean 'column'"),
        (
            {"task": "pose", "keypoints": 17, "boxes": {"column": "b", "seg": "s"}},
            "boxes: give only one of column, seg",
        ),
        ({"task": "pose", "keypoints": 17, "boxes": {"detector": {"scor": 1}}}, "did you mean 'score'"),
        ({"task": "pose", "keypoints": 17, "boxes": {"detector": {"model": "torchscript"}}}, "needs a `checkpoint`"),
        ({"task": "pose", "keypoints": 17, "boxes": "detectors"}, "should be one of none, seg, detector"),
        ({"task": "seg", "checkpoint": ""}, "tasks[0].checkpoint: is empty"),
        ({"task": "seg", "checkpoint": "a", "matmul": "tf16"}, "tasks[0].matmul: should be 'strict' or 'tf32'"),
        (
            {"task": "seg", "checkpoint": "a", "matmul": "tf32", "mode": "bfloat16"},
            "tasks[0].matmul: tf32 is for mode float32",
        ),
        ({"task": "seg", "checkpoint": None}, "tasks[0].checkpoint: has no value"),
        (
            {"task": "depht"},
            "tasks[0].task: 'depht' is not one of seg, depth, normal, pose, features, pointmap, matting; did you mean "
            "'depth'?",
        ),
        ({}, "tasks[0].task: is missing"),
        ({"task": "depth", "mask": {"source": "none", "folder": "x"}}, "source none has no folder"),
        ({"task": "normal", "mask": {"seg": "s"}}, "tasks[0].mask: the job has no seg task named 's'"),
        ({"task": "features", "save": "all"}, "tasks[0].save: should be 'mean', 'map' or 'both'"),
    ],
)
def test_wrong_task_options_are_one_line_each(task, message):
    raw = {"input": {"uri": "x"}, "output": {"uri": "y"}, "tasks": [{"checkpoint": "c", **task}]}
    with pytest.raises(ConfigError) as caught:
        Job.parse(raw)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("actors", "least", "most"), [(3, 3, 3), ({"min": 2, "max": 8}, 2, 8), ({"max": 8}, 1, 8), ({"min": 2}, 2, None)]
)
def test_the_size_of_a_pool(actors, least, most):
    job = Job.parse({**MINIMAL, "actors": actors})
    assert job.actors is not None and (job.actors.min, job.actors.max) == (least, most)


@pytest.mark.parametrize(
    ("actors", "message"),
    [
        (0, "actors: should be a whole number from 1 on, or {min: 1, max: 8} (got 0)"),
        ("four", "actors: should be a whole number from 1 on, or {min: 1, max: 8} (got 'four')"),
        ({"min": 3, "max": 2}, "max 2 is less than min 3"),
        ({"least": 3}, "least"),
    ],
)
def test_a_wrong_size_of_a_pool_is_one_line(actors, message):
    with pytest.raises(ConfigError) as raised:
        Job.parse({**MINIMAL, "actors": actors})
    assert message in str(raised.value) and "\n" not in str(raised.value), raised.value
