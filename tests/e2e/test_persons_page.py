"""The commands and the job of docs/persons.md work."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import yaml

from sapiens_ray import Job
from sapiens_ray.errors import ConfigError
from tests.conftest import ROOT
from tests.export.groups import broken, row, write_group

PAGE = (ROOT / "docs" / "persons.md").read_text()


def test_the_commands_of_the_page(command, tmp_path, monkeypatch):
    for name, stored in (("made", False), ("stored", True)):
        rows = [row("a.jpg", [10, 46], stored), broken("b.jpg"), row("c.jpg", [5, 80, 120], stored)]
        if stored:
            for person in rows[0]["persons"]:
                person["seg_area"] *= 10  # more than 10000 pixels each
        write_group(tmp_path / name / "runs" / "group", rows, stored)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for name, lines in (("stored", "".join(blocks)), ("made", blocks[1])):
        monkeypatch.chdir(tmp_path / name)
        for line in lines.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            done = command(*arguments)
            assert program == "sapiens-ray" and done.code == 0, f"{line}\n{done.text}"
            assert "2 images exported, 1 error row skipped" in done.out or (
                arguments[0] == "query" and "a.jpg" in done.out and "c.jpg" not in done.out
            )
    for file in ("coco/persons.json", "panoptic/panoptic_seg.json", "whole/panoptic_seg.json", "yolo-seg/data.yaml",
                 "yolo-pose/data.yaml"):  # fmt: skip
        places = [tmp_path / name / "runs" / file for name in ("stored", "made")]
        stored, made = (place.read_text().replace(f"/{place.parents[2].name}/", "/") for place in places)
        assert stored == made, "exports make the map that a job stores"
    persons = json.loads((tmp_path / "made" / "runs" / "coco" / "persons.json").read_text())["annotations"]
    assert len(persons) == 5 and all(one["area"] > 3000 for one in persons)


def test_the_job_of_the_page():
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    job = Job.parse({"input": {"uri": "photos"}, "output": {"uri": "out"}, **yaml.safe_load(text)})
    assert job.tasks[1].instances.seg == "seg"
    alone = {"input": {"uri": "photos"}, "output": {"uri": "out"}, "tasks": [yaml.safe_load(text)["tasks"][1]]}
    with pytest.raises(ConfigError, match=r"tasks\[0\].instances: the job has no seg task; add one to `tasks`"):
        Job.parse(alone)
