"""`export --format huggingface --push`: uploads to a local server that speaks the protocol of the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.export.test_huggingface import write
from tests.hub_uploads import UploadHub

# Small files, so that there are three of them.
CODE = """
import sys
from sapiens_ray.export.huggingface import shards
shards.SHARD_BYTES, shards.GROUP_ROWS = 40_000, 2
from sapiens_ray.cli import main
sys.exit(main(sys.argv[1:]))
"""
FILES = [f"data/train-{number:05d}-of-00003.parquet" for number in range(3)]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("made"))


def environment(hub: UploadHub, home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}


def start(hub: UploadHub, output: Path, to: Path, *options: str) -> subprocess.Popen[str]:
    """The command in a process of its own, since huggingface_hub reads its settings once."""
    env = {**environment(hub, to.parent), "HF_TOKEN": hub.token}
    command = [sys.executable, "-c", CODE, "export", str(output), "--format", "huggingface", "--to", str(to), "--quiet"]
    return subprocess.Popen([*command, *options], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def push(hub: UploadHub, output: Path, to: Path, *options: str) -> tuple[int, str, str]:
    process = start(hub, output, to, *options)
    out, err = process.communicate()
    return process.returncode, out, err


def test_an_upload_that_was_killed_goes_on_with_the_rest(output, tmp_path):
    hub = UploadHub()
    process = start(hub, output, tmp_path / "to", "--push", "me/people", "--private")

    def arrives(number: int) -> bool:
        if number == 0:
            return True
        while not hub.sent:
            time.sleep(0.01)
        process.kill()
        return False

    hub.on_upload = arrives
    process.communicate()
    assert process.returncode == -9 and len(hub.sent) == 1
    assert hub.datasets == {"me/people": {}} and hub.private == {"me/people": True}, "nothing is committed"
    hub.on_upload = lambda number: True
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "to").rglob("*.parquet")}
    code, out, err = push(hub, output, tmp_path / "to", "--push", "me/people", "--private")
    assert (code, err) == (0, ""), out + err
    assert len(hub.sent) == len(set(hub.sent)) == 3, "the first file is not sent again"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "to").rglob("*.parquet")} == before
    stored = hub.datasets["me/people"]
    assert sorted(stored) == ["README.md", *FILES]
    assert all(data == (tmp_path / "to" / name).read_bytes() for name, data in stored.items())
    assert hub.commits == ["Labels of sapiens-ray: 4 of 4 files"] and hub.cards == [stored["README.md"].decode()] * 2


def test_other_labels_replace_those_of_an_earlier_upload(output, tmp_path):
    hub = UploadHub()
    hub.datasets["me/people"] = {"notes.txt": b"theirs"}
    hub.private["me/people"] = False
    assert push(hub, output, tmp_path / "to", "--push", "me/people")[0] == 0
    code, out, err = push(hub, output, tmp_path / "some", "--push", "me/people", "--where", "len(persons) = 0")
    assert (code, err) == (0, ""), out + err
    assert sorted(hub.datasets["me/people"]) == ["README.md", "data/train-00000-of-00001.parquet", "notes.txt"]


def test_the_dataset_of_someone_else_stays_as_it_is(output, tmp_path):
    """What `push_to_hub` of datasets leaves, with a card and without; and a card that was edited on the hub."""
    hub = UploadHub()
    cats = {"data/train-00000-of-00002.parquet": b"0", "data/test-00000-of-00001.parquet": b"t"}
    hub.datasets |= {"me/cats": {"README.md": b"# My cats", **cats}, "me/dogs": dict(cats), "me/people": {}}
    hub.private |= dict.fromkeys(hub.datasets, False)
    assert push(hub, output, tmp_path / "to", "--push", "me/people")[0] == 0
    ours = hub.datasets["me/people"]
    edited = ours["README.md"].replace(b"# made", b"# Our people")
    assert edited != ours["README.md"]
    ours["README.md"] = edited
    before = {name: dict(files) for name, files in hub.datasets.items()}
    wrong = (
        ("me/cats", "README.md there was not written by this export; delete README.md and data/ there, or name"),
        ("me/dogs", "holds data files of a dataset without README.md; delete README.md and data/ there, or name"),
        ("me/people", "README.md there was edited; keep your text, and delete README.md and data/ there, or name"),
    )
    base = ["export", str(output), "--format", "huggingface", "--to", str(tmp_path / "to"), "--push"]
    for (name, said), (code, err) in zip(wrong, many(hub, tmp_path, [("hf_test", [*base, n]) for n, _ in wrong]),
                                         strict=True):  # fmt: skip
        assert code == 2 and err == f"sapiens-ray: --push {name}: {said} another dataset\n"
    assert hub.datasets == before
    (tmp_path / "to" / "README.md").write_bytes(edited)  # who edits the card before the upload has it there
    assert push(hub, output, tmp_path / "to", "--push", "me/people")[0] == 0
    assert hub.datasets == before


MANY = """
import contextlib, io, json, os, sys
from sapiens_ray.cli import main
answers = []
for token, arguments in json.loads(sys.argv[1]):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    with contextlib.redirect_stderr(io.StringIO()) as said:
        answers.append((main(arguments), said.getvalue()))
print(json.dumps(answers))
"""


def many(hub: UploadHub, home: Path, asked: list[tuple[str | None, list[str]]]) -> list[tuple[int, str]]:
    """What several commands answer, each with a token."""
    command = [sys.executable, "-c", MANY, json.dumps(asked)]
    done = subprocess.run(command, env=environment(hub, home), capture_output=True, text=True, check=True)
    return [(code, said) for code, said in json.loads(done.stdout)]


def test_what_is_wrong_is_one_line_before_any_work(output, tmp_path):
    hub = UploadHub(readers=("them",))
    hub.datasets |= {"me/open": {}, "them/open": {}}
    hub.private |= {"me/open": False, "them/open": False}
    no_token, forbidden = (
        "there is no token, or the hub does not know it: run `hf auth login`",
        "your token may not write",
    )
    cases = (
        ("me/people", [], None, no_token),
        ("me/people", [], "hf_old", no_token),
        ("them/people", [], "hf_test", forbidden),
        ("them/open", [], "hf_test", forbidden),
        ("nobody/people", [], "hf_test", "there is no such user or organisation"),
        ("me/open", ["--private"], "hf_test", "is public; make it private in its settings, or leave out --private"),
    )
    base = ["export", str(output), "--format", "huggingface", "--to", str(tmp_path / "to"), "--push"]
    asked = [(token, [*base, name, *options]) for name, options, token, _ in cases]
    for (name, _, _, said), (code, err) in zip(cases, many(hub, tmp_path, asked), strict=True):
        assert code == 2 and err.startswith(f"sapiens-ray: --push {name}: {said}") and err.count("\n") == 1, err
    assert not (tmp_path / "to").exists() and not hub.sent
