"""What the pages for users show runs, and prints what they say: sources, tasks, coming from Sapiens-Lite,
troubleshooting."""

from __future__ import annotations

import ast
import itertools
import re

import pytest
import yaml

from sapiens_ray import Job
from sapiens_ray.models.catalogue import CATALOGUE
from tests.conftest import ROOT
from tests.e2e.pages import Block, blocks, run_page
from tests.s3_server import CREDENTIALS, s3_server

DOCS = ROOT / "docs"


@pytest.fixture
def checkout(demo, monkeypatch):
    """The checkout after the demo, as the current folder."""
    folder, _ = demo
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def bucket(monkeypatch):
    """A server for the environment of a user, with two photos below s3://bucket/photos."""
    with s3_server() as server:
        for name, value in (*CREDENTIALS.items(), ("S3_ENDPOINT", server.server)):
            monkeypatch.setenv(name, value)
        server.direct.mkdir("bucket")
        for photo in sorted((ROOT / "sapiens_ray" / "samples").glob("*.jpg")):
            server.direct.put_file(str(photo), f"bucket/photos/{photo.name}")
        yield


def assert_printed(page: list[Block]) -> None:
    """What a block of text shows stands, line by line and in order, in what the block of commands before it printed."""
    for before, shown in itertools.pairwise(page):
        if before.language == "bash" and shown.language == "text":
            printed = [" ".join(line.split()) for line in before.printed.splitlines()]
            for line in shown.code.splitlines():
                assert " ".join(line.split()) in printed, f"{before.code}printed\n{before.printed}"
                printed = printed[printed.index(" ".join(line.split())) + 1 :]


def test_sources(checkout, bucket, command):
    page = run_page(DOCS / "sources.md", checkout, command)
    assert_printed(page)
    assert sum(block.printed.count("images        ") for block in page) == 10
    assert not (checkout / "try" / "labels").exists(), "check writes nothing"


def test_tasks(checkout, command):
    page = run_page(DOCS / "tasks.md", checkout, command)
    printed = [block.printed for block in page if block.language == "python"]
    assert printed[0] == "astronaut.jpg 512 512\n"
    assert "% torso" in printed[1] and printed[3].startswith("(512, 512, 3) ")
    assert float(printed[3].split()[-1]) == pytest.approx(1, abs=1e-4)
    assert "of 308 visible" in printed[4] and printed[5].startswith("[[ 1. ")


def test_tasks_names_what_there_is():
    for block in blocks(DOCS / "tasks.md"):
        if block.language == "yaml":
            section = yaml.safe_load(block.code)
            tasks = section if isinstance(section, list) else section["tasks"]
            if any(task.get("boxes") == "seg" for task in tasks) and tasks[0]["task"] != "seg":
                tasks = [{"task": "seg", "checkpoint": "seg-1b"}, *tasks]
            Job.parse({"input": {"uri": "photos"}, "output": {"uri": "labels"}, "tasks": tasks})
            named = [task["checkpoint"] for task in tasks if not task["checkpoint"].endswith(".safetensors")]
            assert all(name in CATALOGUE for name in named)


def test_coming_from_sapiens_lite(checkout, command, cluster):
    page = run_page(DOCS / "from-sapiens-lite.md", checkout, command)
    ran, exported, _, read, inspected, checked = [block for block in page if block.language in ("bash", "python")][:6]
    assert "5 (5 ok, 0 errors)" in ran.printed and "5 images exported" in exported.printed, ran.printed
    assert read.language == "python" and "torchscript" in inspected.printed.lower()
    assert "5 in 1 shard (images)" in checked.printed
    pictures = {path.name for path in (checkout / "runs" / "like-lite" / "visualizations").glob("*.jpg")}
    assert pictures == {"astronaut.jpg", "grace_hopper.jpg"}


def test_troubleshooting(checkout, command):
    page = [block for block in run_page(DOCS / "troubleshooting.md", checkout, command) if block.language == "bash"]
    assert "loads in" in page[0].printed and "5 of 5 (100.0 %)" in page[0].printed
    hints = [block.printed for block in page if "exit 2" in block.printed]
    assert len(hints) == 1 and "tasks[0].mode: was float32, now bfloat16" in hints[0]
    assert (checkout / "look" / "preview.html").exists()


def test_messages_of_troubleshooting_are_those_of_the_code():
    """Each line of text is a message of the code, with … for what varies."""
    messages = [text for path in (ROOT / "sapiens_ray").rglob("*.py") for text in texts(path.read_text())]
    shown = [block.code.strip() for block in blocks(DOCS / "troubleshooting.md") if block.language == "text"]
    assert len(shown) >= 15
    for message in shown:
        parts = [part.strip() for part in message.split("…") if re.search(r"\w{2}", part)]
        pattern = re.compile(".*".join(map(re.escape, parts)), re.S)
        assert any(map(pattern.search, messages)), f"no message of the code is like {message}"


def texts(source: str) -> list[str]:
    """The texts of a module, with … for the expressions in them."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found
