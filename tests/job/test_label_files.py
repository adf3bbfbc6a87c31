"""Files that describe classes and keypoints: where they are found, what becomes of them, and which are refused."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
import yaml

from sapiens_ray.errors import ConfigError
from sapiens_ray.job.changes import changes
from sapiens_ray.job.config import Job, fingerprint

JOB = {"input": {"uri": "photos"}, "output": {"uri": "out"}}
CLASSES = "names: [sky, hat, coat]\nbackground: sky\nflip_pairs: [[hat, coat]]\n"


def load(folder: Path, classes: object = "classes.yaml", *overrides: str) -> Job:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({**JOB, "tasks": [{"task": "seg", "checkpoint": "m.pth", "classes": classes}]}))
    return Job.load(path, overrides)


def test_a_path_is_relative_to_the_job_file_or_to_the_folder_of_an_override(tmp_path, monkeypatch):
    (tmp_path / "classes.yaml").write_text(CLASSES)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "other.yaml").write_text("[a, b]")
    monkeypatch.chdir(tmp_path / "here")
    assert load(tmp_path).tasks[0].table.names == ("sky", "hat", "coat")
    assert load(tmp_path, "gone.yaml", "tasks[0].classes=other.yaml").tasks[0].table.names == ("a", "b")
    assert load(tmp_path, "gone.yaml", "tasks[0].classes=[x, y]").tasks[0].table.names == ("x", "y")
    assert load(tmp_path, ["x", "y"]).tasks[0].table.names == ("x", "y"), "a list is names, not paths"


def test_a_file_may_be_a_url(tmp_path):
    fs = fsspec.filesystem("memory")
    with fs.open("/labels/classes.json", "wb") as file:
        file.write(b'{"names": ["sky", "hat"]}')
    assert load(tmp_path, "memory://labels/classes.json").tasks[0].table.names == ("sky", "hat")
    with pytest.raises(ConfigError, match=r"tasks\[0\]\.classes: memory://labels/gone.yaml does not exist"):
        load(tmp_path, "memory://labels/gone.yaml")


def test_the_content_is_a_part_of_the_job_and_its_place_is_not(tmp_path):
    (tmp_path / "classes.yaml").write_text(CLASSES)
    (tmp_path / "moved.yaml").write_text("flip_pairs: [[2, 1]]\nbackground: 0\nnames:\n- sky\n- hat\n- coat\n")
    (tmp_path / "changed.yaml").write_text(CLASSES.replace("hat", "cap"))
    job = load(tmp_path)
    settings = job.result_settings(["abc"])
    assert settings["tasks"][0]["classes"] == {"names": ["sky", "hat", "coat"], "flip_pairs": [[1, 2]]}
    assert load(tmp_path, "moved.yaml").result_settings(["abc"]) == settings
    inline = yaml.safe_load(CLASSES)
    assert load(tmp_path, inline).result_settings(["abc"]) == settings
    public = job.public_dict()["tasks"][0]["classes"]
    assert public["names"] == ["sky", "hat", "coat"] and "yaml" not in str(public)
    assert Job.parse(job.model_dump(mode="json")) == job
    other = load(tmp_path, "changed.yaml").result_settings(["abc"])
    assert fingerprint(other) != fingerprint(settings)
    assert changes(settings, other, {}, {}) == [
        "tasks[0].classes.names: was [sky, hat, coat], now [sky, cap, coat]",
    ]
    none = load(tmp_path, None).result_settings(["abc"])
    assert "classes" not in none["tasks"][0], "as in outputs that were begun before there was a choice"
    assert changes(none, settings, {}, {}) == [
        "tasks[0].classes: was not given, now {names: [sky, hat, coat], flip_pairs: [[1, 2]]}"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds neither a list of names nor a mapping with `names`"),
        (b"17", "holds neither a list of names nor a mapping with `names`"),
        (b"\x89PNG\r\n\x1a\n", "is not YAML: it holds no text in UTF-8"),
        (b"names: [a, b", "not valid YAML: line 1"),
        (b"names: [a, b]\nnames: [c, d]", "key 'names' is there twice"),
        (b"names: !!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"- " + b"x" * (1 << 20), "bytes; a file of names has at most 1048576"),
        (b"[" * 5000, "nested too deeply"),
        (b"names: [a, a]", r"classes\.names\[1\]: 'a' is the name of entry 0, too; .* \(in .*classes.yaml\)$"),
        (b"nmaes: [a, b]", r"classes\.nmaes: unknown key; did you mean 'names'\? \(in .*classes.yaml\)"),
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path, content, message):
    (tmp_path / "classes.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path)
    assert "job.yaml: tasks[0].classes" in str(caught.value) and "classes.yaml" in str(caught.value)


def test_what_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match=r"tasks\[0\]\.classes: .*/gone\.yaml does not exist; give the path"):
        load(tmp_path, "gone.yaml")
    with pytest.raises(ConfigError, match=r"tasks\[0\]\.classes: .* is a folder; name a YAML file"):
        load(tmp_path, ".")
    with pytest.raises(ConfigError, match=r"tasks\[0\]\.classes: is empty"):
        load(tmp_path, "")
    with pytest.raises(ConfigError, match="not a regular file"):
        load(tmp_path, "/dev/zero")
