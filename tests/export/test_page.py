"""Every command and snippet of docs/exports.md works, on outputs that look like those of a run."""

from __future__ import annotations

import re
import shlex

import pytest

from sapiens_ray.export import EXPORTS
from tests.conftest import ROOT
from tests.export.made import folder_output, tar_output
from tests.export.test_points import POINTS

PAGE = (ROOT / "docs" / "exports.md").read_text()
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", PAGE, re.DOTALL)
FORMATS = ("webdataset", "label-studio", "cvat", "fiftyone", "depth16", "normals", "ply")
FIFTYONE = "import fiftyone"  # tests/export/test_fiftyone.py opens a dataset with it
PRINTED = [
    ["a.png (160, 120) (64, 48) 1", "b/c.png (160, 120) (64, 48) 1"],
    ["a.png (160, 120) 0.0 1.0", "b/c.png (160, 120) 0.0 1.0"],
]


def test_the_page_works_from_top_to_bottom(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder_output(tmp_path / "runs" / "demo", tmp_path / "images", ["a.png", "b/c.png"])
    folder_output(tmp_path / "runs" / "points", tmp_path / "images", ["a.png"], tasks=POINTS)
    tar_output(tmp_path / "runs" / "tars", tmp_path / "photos", {"00000": ["a.png", "bad.png", "c.png"]})
    used, printed = [], []
    for language, code in BLOCKS:
        if language == "bash":
            for line in code.splitlines():
                program, *arguments = shlex.split(line)
                done = command(*arguments)
                assert (program, done.code) == ("sapiens-ray", 0), done.text
                used.append(arguments[arguments.index("--format") + 1])
        elif FIFTYONE not in code:
            exec(compile(code, "docs/exports.md", "exec"), {})
            printed.append(capsys.readouterr().out.splitlines())
    assert printed[0] == PRINTED[0] and printed[2] == PRINTED[1]
    assert [line.split()[0] for line in printed[1]] == ["a", "c"] and all("PNG" in line for line in printed[1])
    assert set(used) == {*FORMATS} <= set(EXPORTS)


def test_the_page_names_every_option():
    for name in FORMATS:
        section = PAGE.split(f"\n## {name}\n")[1].partition("\n## ")[0]
        for option in EXPORTS[name].options:
            assert f"--{option.name.replace('_', '-')}" in section, (name, option.name)


@pytest.mark.parametrize("link", re.findall(r"\]\((\w+\.md)#([\w-]+)\)", PAGE))
def test_links_lead_to_headings(link):
    page, heading = link
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    assert heading in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
